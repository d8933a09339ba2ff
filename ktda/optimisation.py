"""What is trained, what its blocks keep, and at which rate: the authors' AdamW and schedule."""

import functools

import torch
from timm.models.convnext import ConvNeXtBlock
from timm.models.vision_transformer import Block
from torch import nn
from torch.utils.checkpoint import checkpoint

from ktda.config import Config
from ktda.errors import InputError

_ENCODER = ("student.encoder.", "network.encoder.")  # of KTDA, of the baselines
_DISTILLED = ("student", "fam")


def freeze(model: nn.Module, config: Config) -> list[nn.Module]:
    """Take the gradients of parts that the settings leave as they are.

    Returns:
        The parts that stay in eval mode while the others train.

    Raises:
        InputError: no such part.
    """
    if not config.segmentation_weight:  # only what the distillation reaches
        for name, part in model.named_children():
            part.requires_grad_(name in _DISTILLED)
    if not config.student_frozen:
        return []
    holder = getattr(model, "student", getattr(model, "network", None))
    if holder is None:
        raise InputError("student_frozen=true, but model=teacher has no student")
    return [holder.encoder.requires_grad_(False)]


def arrange(model: nn.Module, config: Config) -> None:
    """Let a model run as the settings want, in place; names and values of its tensors stay.

    With ``checkpoint_activations``, transformer and ConvNeXt blocks keep their input only. None
    of them holds a BatchNorm, which would count a batch twice.
    """
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.checkpoint_activations:
        for block in model.modules():
            if isinstance(block, (Block, ConvNeXtBlock)):
                block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    if config.sync_batch_norm:  # in place but for a model that is itself one
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if config.compile:
        for part in model.children():
            part.compile()


def is_exempt_from_decay(name: str) -> bool:
    """Whether a parameter is exempt from weight decay, by our name.

    The authors exempt what has "norm" in *their* name: the block norms of ConvNeXt, the four output
    norms of the student, the norms of FMM. Their stem and downsampling LayerNorms, every BatchNorm,
    biases and layer scales have none and decay. SMP calls lateral convolutions ``conv_norm_relu``:
    the decoder is never exempt. The baselines' encoder follows the same rule as the student.
    """
    return name.startswith(("student.", "network.encoder.", "fmm.")) and "norm" in name


def parameter_groups(model: nn.Module, weight_decay: float, encoder_rate: float = 1) -> list[dict]:
    """AdamW groups of the trained parameters: decayed, and exempt.

    Args:
        model: with parameters named as in `KTDA` or `Baseline`.
        weight_decay: of the decayed.
        encoder_rate: factor on the encoder's learning rate. Other than 1, it gives the encoder two
            groups of its own, behind the others.

    Returns:
        Groups with the factor on the learning rate as ``rate``.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    rates = {name: encoder_rate if name.startswith(_ENCODER) else 1.0 for name, _ in trained}
    groups = []
    for rate in dict.fromkeys((1.0, encoder_rate)):  # once, where both are 1
        part = [(name, p) for name, p in trained if rates[name] == rate]
        decayed = [p for name, p in part if not is_exempt_from_decay(name)]
        exempt = [p for name, p in part if is_exempt_from_decay(name)]
        groups.append({"params": decayed, "weight_decay": weight_decay, "rate": rate})
        groups.append({"params": exempt, "weight_decay": 0.0, "rate": rate})
    return groups


def learning_rate(step: int, config: Config) -> float:
    """The rate of a step, 0-based: linear warm-up times polynomial decay to 0, where they apply.

    As the authors' framework counts: warm-up reaches 1 at step ``warmup_steps - 1``, the decay runs
    from ``poly_begin`` to 0 at the last step.
    """
    rate = config.learning_rate
    if config.warmup_steps > 1:
        start = config.warmup_start
        rate *= min(1.0, start + (1 - start) * step / (config.warmup_steps - 1))
    length = config.steps - config.poly_begin - 1
    if length > 0 and step > config.poly_begin:
        rate *= max(0.0, 1 - (step - config.poly_begin) / length) ** config.poly_power
    return rate
