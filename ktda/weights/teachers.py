"""Teachers that were tried: what each is, and under which licence; `ktda teachers` prints the table.

Any timm backbone that gives features at any image size can teach; these are the ones of interest for
dense prediction. Names, sizes and licences are timm's and tested against it; every row but the large
ones was called on an image of 200 x 152 pixels, with random weights.
"""

from typing import NamedTuple


class Known(NamedTuple):
    """A row.

    Attributes:
        name: timm's, as setting ``teacher`` takes it.
        patches: pixels per place of the four maps.
        widths: channels of the four maps.
        prefix: class and register tokens, which are dropped.
        licence: of the weights, by timm's card.
        gated: whether the hub wants an account that accepted terms; None: not looked up.
        last_norm: False where the last norm does nothing, so ``teacher_norm`` changes nothing.
        note: what else to know.
    """

    name: str
    patches: tuple[int, ...]
    widths: tuple[int, ...]
    prefix: int
    licence: str
    gated: bool | None = None
    last_norm: bool = True
    note: str = ""


_APACHE, _DINOV3 = "apache-2.0", "dinov3-license"


def _plain(name: str, patch: int, width: int, *rest: object, **more: object) -> Known:
    return Known(name, (patch,) * 4, (width,) * 4, *rest, **more)


def _pyramid(name: str, widths: tuple[int, ...], *rest: object, **more: object) -> Known:
    return Known(name, (4, 8, 16, 32), widths, 0, *rest, **more)


_SATELLITE = "learned from satellite images (SAT-493M), with their own mean and deviation"
_DRIFTS = "its position embedding is exact at 512 pixels only"
KNOWN = (
    _plain("vit_small_patch14_dinov2.lvd142m", 14, 384, 1, _APACHE, False),
    _plain("vit_base_patch14_dinov2.lvd142m", 14, 768, 1, _APACHE, False, note="the authors' teacher"),
    _plain("vit_large_patch14_dinov2.lvd142m", 14, 1024, 1, _APACHE, False),
    _plain("vit_base_patch14_reg4_dinov2.lvd142m", 14, 768, 5, _APACHE, False),
    _plain("vit_large_patch14_reg4_dinov2.lvd142m", 14, 1024, 5, _APACHE, False),
    _plain("vit_small_patch16_dinov3.lvd1689m", 16, 384, 5, _DINOV3, False),
    _plain("vit_base_patch16_dinov3.lvd1689m", 16, 768, 5, _DINOV3, False),
    _plain("vit_large_patch16_dinov3.lvd1689m", 16, 1024, 5, _DINOV3, False),
    _plain("vit_large_patch16_dinov3.sat493m", 16, 1024, 5, _DINOV3, False, note=_SATELLITE),
    _pyramid("convnext_tiny.dinov3_lvd1689m", (96, 192, 384, 768), _DINOV3, False, False),
    _pyramid("convnext_base.dinov3_lvd1689m", (128, 256, 512, 1024), _DINOV3, False, False),
    _plain("vit_base_patch16_lingbot.robbyant", 16, 768, 5, _APACHE),
    _plain("vit_base_patch14_reg1_tipsv2.webli", 14, 768, 2, _APACHE, note="takes RGB in [0, 1] as it is"),
    _plain("vit_pe_spatial_tiny_patch16_512.fb", 16, 192, 1, _APACHE, last_norm=False),
    _plain("vit_pe_spatial_base_patch16_512.fb", 16, 768, 1, _APACHE, last_norm=False),
    _plain("vit_base_patch16_radio_v3.c_radio", 16, 768, 8, "nvidia-open-model-license", None, False, _DRIFTS),
    _pyramid("swin_tiny_patch4_window7_224.ms_in22k", (96, 192, 384, 768), "mit"),
    _pyramid("tf_efficientnet_lite0.in1k", (24, 40, 112, 320), _APACHE, None, False),
)
