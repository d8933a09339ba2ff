"""The authors' parameter groups and learning-rate schedule (AdamW, linear warm-up times polynomial decay)."""

from torch import nn

from ktda.config import Config


def is_exempt_from_decay(name: str) -> bool:
    """Whether a parameter is exempt from weight decay, by our name.

    The authors exempt what has "norm" in *their* name: the block norms of ConvNeXt, the four output norms of the
    student, the norms of FMM. Their stem and downsampling LayerNorms, every BatchNorm, biases and layer scales
    have none and decay. SMP calls lateral convolutions ``conv_norm_relu``: the decoder is never exempt. The
    baselines' encoder follows the same rule as the student.
    """
    return name.startswith(("student.", "network.encoder.", "fmm.")) and "norm" in name


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two AdamW groups of the trained parameters: decayed, and exempt."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for n, p in named if not is_exempt_from_decay(n)], "weight_decay": weight_decay},
        {"params": [p for n, p in named if is_exempt_from_decay(n)], "weight_decay": 0.0},
    ]


def learning_rate(step: int, config: Config) -> float:
    """The rate of a step, 0-based: linear warm-up and polynomial decay to 0, each where it applies, multiplied.

    As the authors' framework counts: warm-up reaches 1 at step ``warmup_steps - 1``, the decay runs from
    ``poly_begin`` to 0 at the last step.
    """
    rate = config.learning_rate
    if config.warmup_steps > 1:
        rate *= min(1.0, config.warmup_start + (1 - config.warmup_start) * step / (config.warmup_steps - 1))
    length = config.steps - config.poly_begin - 1
    if length > 0 and step > config.poly_begin:
        rate *= max(0.0, 1 - (step - config.poly_begin) / length) ** config.poly_power
    return rate
