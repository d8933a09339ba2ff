"""What is trained, and at which rate: the authors' parameter groups of AdamW and their schedule."""

from torch import nn

from ktda.config import Config
from ktda.errors import InputError


def freeze_encoder(model: nn.Module) -> nn.Module:
    """The student's encoder, without gradients from now on."""
    holder = getattr(model, "student", getattr(model, "network", None))
    if holder is None:
        raise InputError("student_frozen=true, but model=teacher has no student")
    return holder.encoder.requires_grad_(False)


def is_exempt_from_decay(name: str) -> bool:
    """Whether a parameter is exempt from weight decay, by our name.

    The authors exempt what has "norm" in *their* name: the block norms of ConvNeXt, the four output
    norms of the student, the norms of FMM. Their stem and downsampling LayerNorms, every BatchNorm,
    biases and layer scales have none and decay. SMP calls lateral convolutions ``conv_norm_relu``:
    the decoder is never exempt. The baselines' encoder follows the same rule as the student.
    """
    return name.startswith(("student.", "network.encoder.", "fmm.")) and "norm" in name


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two AdamW groups of the trained parameters: decayed, and exempt."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in trained if not is_exempt_from_decay(name)]
    exempt = [p for name, p in trained if is_exempt_from_decay(name)]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]


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
