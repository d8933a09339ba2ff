"""Multiply-adds and parameters of every part of a form, counted on tensors without content: no weight is computed."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from ktda.build import build, describe, make_teacher
from ktda_lab.benchmark.forms import CLASSES, Wish, settings

PARTS = ("student", "fam", "neck", "fmm", "decode_head", "auxiliary_head", "teacher")
GIGA_MULTIPLY_ADDS = 2e9  # operations; matrix products, convolutions and attention are counted


def count_parts(names: Sequence[str], wish: Wish) -> pd.DataFrame:
    """One labelled image forward in training, without the tiles that have no labels.

    Args:
        names: of forms, see `ktda_lab.benchmark.forms.FORMS`.
        wish: preset and side of the image.

    Returns:
        A line per form and part: ``form``, ``part``, ``gmac``, ``parameters``.
    """
    lines = []
    for name in names:
        model, teacher, config = _empty(name, wish)
        images = torch.empty(2, 3, wish.size, wish.size, device="meta")
        with FlopCounterMode(display=False) as counter:
            model.train()(images, outputs=True)
        counts = counter.get_flop_counts()
        operations = {part: sum(counts.get(f"{type(model).__name__}.{part}", {}).values()) for part in PARTS}
        parameters = {part: _parameters(getattr(model, part, None)) for part in PARTS}
        if config.distils:
            operations["teacher"] = _operations(teacher, images)
            parameters["teacher"] = teacher.parameters
        for part in PARTS:
            if parameters[part]:
                gmac = operations[part] / len(images) / GIGA_MULTIPLY_ADDS
                lines.append({"form": name, "part": part, "gmac": gmac, "parameters": parameters[part]})
    return pd.DataFrame(lines)


def count_totals(names: Sequence[str], wish: Wish) -> pd.DataFrame:
    """What a form costs as a whole.

    Returns:
        A line per form, of one labelled image: ``step`` and ``prediction`` in 10^9 multiply-adds (a step counts the
        backward pass, the teacher, and the tiles without labels that come with the image), ``trained`` and
        ``predicting`` parameters.
    """
    lines = []
    for name in names:
        model, teacher, config = _empty(name, wish)
        images = torch.empty(wish.batch + config.unlabelled, 3, wish.size, wish.size, device="meta")
        with FlopCounterMode(display=False) as counter:
            second = config.student_passes == 2 and config.distils
            out = model.train()(images, outputs=True, second_pass=second)
            results = [out.logits, out.auxiliary_logits, *(out.aligned or [])]
            sum(result.sum() for result in results if result is not None).backward()
        step = counter.get_total_flops() + (_operations(teacher, images) if config.distils else 0)
        apart = ("auxiliary_head", *getattr(model, "training_only", ()))
        predicting = sum(p.numel() for key, p in model.named_parameters() if not key.startswith(apart))
        with torch.no_grad():
            prediction = _operations(model.eval(), images[:1])
        lines.append(
            {
                "form": name,
                "step": step / wish.batch / GIGA_MULTIPLY_ADDS,
                "prediction": prediction / GIGA_MULTIPLY_ADDS,
                "trained": _parameters(model),
                "predicting": predicting,
            }
        )
    return pd.DataFrame(lines)


def _empty(name: str, wish: Wish) -> tuple[Any, Any, Any]:
    """Model, teacher and settings of a form, without memory for their weights."""
    config = settings(name, wish)
    with torch.device("meta"):
        teacher = make_teacher(config)
        return build(describe(config, CLASSES, teacher)), teacher, config


def _parameters(module: torch.nn.Module | None) -> int:
    return sum(p.numel() for p in module.parameters()) if module is not None else 0


def _operations(call: Any, images: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        call(images)
    return counter.get_total_flops()
