"""What every module of the method keeps: shapes, gradients, a repeatable eval mode, refusals of one line."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from ktda.errors import InputError
from ktda.fam import FeatureAlignment
from ktda.fmm import FeatureModulation
from ktda.heads import AuxiliaryHead, DecodeHead
from ktda.losses import cross_entropy, distillation_loss, kl_divergence
from ktda.neck import Neck
from ktda.student import Student

ATTO = {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
WIDTHS = (8, 12, 16, 24)
GRIDS = ((16, 12), (8, 6), (4, 3), (2, 1))  # a pyramid, finest first


def levels(channels: tuple = WIDTHS, grids: tuple = GRIDS) -> list[Tensor]:
    """Maps (2, C_i, h_i, w_i) of a fixed random draw."""
    g = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, *grid, generator=g) for c, grid in zip(channels, grids, strict=True)]


def shapes(channels: tuple, grids: tuple) -> list[tuple]:
    return [(2, c, *grid) for c, grid in zip(channels, grids, strict=True)]


# name -> (module, its arguments, the shapes of what it returns)
IMAGE = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
STRIDES = tuple((64 // s, 96 // s) for s in (4, 8, 16, 32))
ODD = ((76, 148), (38, 74), (19, 37), (9, 18))  # the authors' grids at two sizes
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple, list[tuple]]] = {
    "student resnet": (partial(Student, "resnet18"), (IMAGE,), shapes((64, 128, 256, 512), STRIDES)),
    "student timm": (partial(Student, "tu-convnext_atto", options=ATTO), (IMAGE,), shapes((8, 8, 16, 16), STRIDES)),
    "student without norms": (
        partial(Student, "tu-convnext_atto", norm=False, options=ATTO),
        (IMAGE,),
        shapes((8, 8, 16, 16), STRIDES),
    ),
    "fam": (partial(FeatureAlignment, WIDTHS, 10), (levels(), (6, 5)), shapes((10,) * 4, ((6, 5),) * 4)),
    "fam of a hierarchy": (
        partial(FeatureAlignment, WIDTHS, (10, 6, 4, 8)),
        (levels(), GRIDS),
        shapes((10, 6, 4, 8), GRIDS),
    ),
    "neck of a hierarchy": (partial(Neck, WIDTHS, WIDTHS, (1,) * 4), (levels(),), shapes(WIDTHS, GRIDS)),
    "neck": (
        partial(Neck, WIDTHS, 6, (2, 1, 0.5, 0.25)),
        (levels(grids=((13, 7),) * 4),),
        shapes((6,) * 4, ((26, 14), (13, 7), (6, 3), (3, 1))),
    ),
    "fmm vit": (partial(FeatureModulation, WIDTHS, "vit", 3, heads=2), (levels(),), shapes(WIDTHS, GRIDS)),
    "fmm mlp": (partial(FeatureModulation, WIDTHS, "mlp", 3), (levels(),), shapes(WIDTHS, GRIDS)),
    **{
        f"fmm {kind}": (partial(FeatureModulation, WIDTHS, kind, 2), (levels(),), shapes(WIDTHS, GRIDS))
        for kind in ("conv", "mona", "ssf")
    },
    "upernet": (partial(DecodeHead, WIDTHS, 5, "upernet", 16), (levels(),), [(2, 5, 16, 12)]),
    "upernet odd": (partial(DecodeHead, WIDTHS, 5, "upernet", 16), (levels(grids=ODD),), [(2, 5, 76, 148)]),
    "segformer": (partial(DecodeHead, WIDTHS, 5, "segformer", 16), (levels(),), [(2, 5, 16, 12)]),
    "auxiliary": (partial(AuxiliaryHead, 8, 5, 6, dropout=0.5), (levels()[0],), [(2, 5, 16, 12)]),
}
# Modules with dropout of channels: two passes in training mode differ.
RANDOM = {"upernet", "upernet odd", "segformer", "auxiliary"}


@pytest.fixture(params=MODULES)
def case(request: pytest.FixtureRequest) -> tuple[str, nn.Module, tuple, list[tuple]]:
    make, arguments, expected = MODULES[request.param]
    torch.manual_seed(0)
    return request.param, make(), arguments, expected


def as_list(out: Tensor | list[Tensor]) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else list(out)


def test_shapes(case: tuple) -> None:
    _, module, arguments, expected = case
    assert [tuple(m.shape) for m in as_list(module(*arguments))] == expected


def test_gradients_reach_every_parameter_and_every_input(case: tuple) -> None:
    _, module, (given, *rest), _ = case
    inputs = [x.clone().requires_grad_() for x in as_list(given)]
    out = module(inputs[0] if isinstance(given, Tensor) else inputs, *rest)
    g = torch.Generator().manual_seed(1)  # a plain sum of normalised maps has no gradient
    sum((m * torch.randn(m.shape, generator=g)).sum() for m in as_list(out)).backward()
    silent = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert all(x.grad.any() for x in inputs)


def test_eval_mode_repeats_itself_and_training_mode_drops_channels(case: tuple) -> None:
    name, module, arguments, _ = case
    a, b = as_list(module(*arguments)), as_list(module(*arguments))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True)) is (name not in RANDOM)
    module.eval()
    a, b = as_list(module(*arguments)), as_list(module(*arguments))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_an_image_does_not_depend_on_its_batch(case: tuple) -> None:
    _, module, (given, *rest), _ = case
    module.eval()
    first = [x[:1] for x in as_list(given)]
    alone = as_list(module(first[0] if isinstance(given, Tensor) else first, *rest))
    for x, y in zip(alone, as_list(module(given, *rest)), strict=True):
        torch.testing.assert_close(x, y[:1], atol=1e-5, rtol=1e-5)


MAP = torch.zeros(1, 2, 3, 4)
REFUSED: dict[str, tuple[Callable, type[Exception], str]] = {
    "encoder": (partial(Student, "resnet19"), InputError, "unknown student encoder 'resnet19'; near names: resnet1"),
    "encoder without tu": (partial(Student, "convnext_bass"), InputError, "timm's encoders are written tu-NAME"),
    "timm encoder": (partial(Student, "tu-convnext_attto"), InputError, "near names: tu-convnext_atto"),
    "encoder's tag": (
        partial(Student, "tu-convnext_atto.nonsense"),
        InputError,
        "has no weights nonsense; it has d2_in1k",
    ),
    "strides": (partial(Student, "tu-vit_tiny_patch16_224"), InputError, "has not the strides 4, 8, 16, 32"),
    "options of SMP's": (
        partial(Student, "resnet18", options={"drop_path_rate": 0.1}),
        InputError,
        "takes no options, got drop_path_rate",
    ),
    "options": (partial(Student, "tu-convnext_atto", options={"colour": 1}), InputError, "refused its options"),
    "levels of fam": (lambda: FeatureAlignment(WIDTHS, 6)(levels()[:3], (4, 4)), ValueError, "zip"),
    "widths of fam": (partial(FeatureAlignment, WIDTHS, (6, 6)), ValueError, "one value, or one per level"),
    "neck scales": (partial(Neck, WIDTHS, 3, (2, 1, 0.5)), ValueError, "3 neck scales for 4 levels"),
    "neck on a small grid": (
        lambda: Neck((2,), 3, (0.25,))([torch.zeros(1, 2, 3, 3)]),
        InputError,
        r"grid of 3x3 patches times neck scale 0\.25",
    ),
    "fmm kind": (partial(FeatureModulation, (16,), "cnn"), ValueError, "FMM kind 'cnn'"),
    "fmm depth": (partial(FeatureModulation, (16,), depth=0), ValueError, "depth 0"),
    "fmm heads": (
        partial(FeatureModulation, (16,), heads=5),
        InputError,
        r"5 FMM heads do not divide the channels \(16,\)",
    ),
    "head": (partial(DecodeHead, WIDTHS, 3, "fcn"), ValueError, "decode head 'fcn'"),
    "kl axis": (partial(kl_divergence, MAP, MAP, "height"), ValueError, "axis 'height'"),
    "reduction": (partial(kl_divergence, MAP, MAP, reduction="sum"), ValueError, "reduction 'sum'"),
    "levels": (partial(distillation_loss, [MAP], [MAP, MAP]), ValueError, "1 student maps but 2 teacher maps"),
    "shapes": (partial(distillation_loss, [MAP], [MAP[..., :3]]), ValueError, r"\(1, 2, 3, 4\).*\(1, 2, 3, 3\)"),
    "widths": (partial(distillation_loss, [MAP], [MAP[:, :1]]), ValueError, r"\(1, 2, 3, 4\).*\(1, 1, 3, 4\)"),
    "distillation": (partial(distillation_loss, [MAP], [MAP], kind="fitnet"), ValueError, "distillation 'fitnet'"),
    "grids": (
        partial(distillation_loss, [MAP], [MAP[..., :3]], kind="relational"),
        ValueError,
        r"\(1, 2, 3, 4\).*\(1, 2, 3, 3\)",
    ),
    "average": (
        partial(cross_entropy, MAP, torch.zeros(1, 3, 4, dtype=torch.long), average="all"),
        ValueError,
        "ce_average 'all'",
    ),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_mistakes_are_one_line(mistake: str) -> None:
    call, kind, message = REFUSED[mistake]
    with pytest.raises(kind, match=message) as error:
        call()
    assert "\n" not in str(error.value)
