"""Student: an SMP encoder seen as four maps at strides 4, 8, 16 and 32, with an optional LayerNorm on each.

The authors' student is ConvNeXt-B with a LayerNorm on every stage output, which neither timm nor SMP has.
"""

import difflib
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
from segmentation_models_pytorch.encoders import encoders as smp_encoders
from segmentation_models_pytorch.encoders import get_encoder
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ktda.errors import InputError
from ktda.runs.weights import WeightsRecord, file_sha256, hub_file, read_tensors


class Student(nn.Module):
    """Encoder and its output norms.

    Args:
        encoder: SMP encoder name, ``tu-`` before any timm one (``tu-convnext_base``, ``resnet18``).
        norm: LayerNorm over the channels of every level, as the authors have it.
        weights: "none" (the current random state), "imagenet" (from the hub), or a file.
        options: further arguments of a ``tu-`` encoder, such as ``{"drop_path_rate": 0.4}``.

    Raises:
        InputError: unknown encoder, unreachable weights, or a file that does not fit the encoder.
    """

    def __init__(
        self, encoder: str, norm: bool = True, weights: str | Path = "none", options: dict | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.record = make_encoder(encoder, weights, options)
        self.channels = tuple(self.encoder.out_channels[-4:])
        self.norms = nn.ModuleList(LayerNorm2d(c, eps=1e-6) if norm else nn.Identity() for c in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised (N, 3, H, W) -> four (N, C_i, ~H / s, ~W / s) maps at strides s = 4, 8, 16, 32."""
        levels = self.encoder(images)[-4:]
        return [norm(x) for norm, x in zip(self.norms, levels, strict=True)]


def make_encoder(
    name: str, weights: str | Path = "none", options: dict | None = None
) -> tuple[nn.Module, WeightsRecord]:
    """An SMP encoder with five stages, and where its weights came from; arguments as `Student`'s."""
    options = dict(options or {})
    check_encoder(name)
    is_timm = name.startswith("tu-")
    if options and not is_timm:
        raise InputError(f"encoder {name} takes no options, got {', '.join(options)}; timm's do: tu-NAME")
    weights = str(weights)
    if weights == "none":
        return _build(name, options), WeightsRecord("random start", kind="random")
    if weights == "imagenet":
        return _hub_encoder(name, options)
    tensors = read_tensors(weights)
    encoder = _build(name, options)
    expected = encoder.state_dict()
    for prefix in ("", "student.encoder.", "encoder."):
        given = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if given.keys() >= expected.keys():
            wrong = [k for k in expected if given[k].shape != expected[k].shape]
            if wrong:
                shapes = f"{tuple(given[wrong[0]].shape)}, expected {tuple(expected[wrong[0]].shape)}"
                raise InputError(f"{weights} does not fit encoder {name}: {wrong[0]} has shape {shapes}")
            encoder.load_state_dict({k: given[k] for k in expected})
            break
    else:
        if not is_timm:
            missing = next(k for k in expected if k not in tensors)
            raise InputError(f"{weights} does not fit encoder {name}: tensor {missing} is missing")
        try:  # a file in timm's own layout: timm renames and filters
            encoder = _build(name, options | {"pretrained_cfg_overlay": {"file": weights}}, pretrained=True)
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{weights} does not fit encoder {name}: {reason}") from error
    return encoder, WeightsRecord(Path(weights).name, file_sha256(weights), kind="file")


def check_encoder(name: str) -> None:
    """Raise `InputError` with near names unless SMP (or timm, for ``tu-``) knows the encoder."""
    if name.startswith("tu-"):
        known, plain = timm.list_models(), name[3:].split(".")[0]
    else:
        known, plain = list(smp_encoders), name
    if plain not in known:
        near = [("tu-" if name.startswith("tu-") else "") + n for n in difflib.get_close_matches(plain, known)]
        hint = f"; near names: {', '.join(near)}" if near else "; timm's encoders are written tu-NAME"
        raise InputError(f"unknown student encoder {name!r}{hint}")


def _build(name: str, options: dict, pretrained: bool = False) -> nn.Module:
    try:
        encoder = get_encoder(name, depth=5, weights=True if pretrained else None, **options)
    except TypeError as error:
        raise InputError(f"encoder {name} refused its options {options}: {error}") from error
    except ValueError as error:  # SMP: "Unsupported model downsampling pattern."
        raise InputError(f"encoder {name} has not the strides 4, 8, 16, 32 that a student needs") from error
    if len(encoder.out_channels) != 6:
        raise InputError(f"encoder {name} has not the strides 4, 8, 16, 32 that a student needs")
    return encoder


def _hub_encoder(name: str, options: dict) -> tuple[nn.Module, WeightsRecord]:
    if name.startswith("tu-"):
        cfg = timm.get_pretrained_cfg(name[3:], allow_unregistered=False)
        if cfg is None or not cfg.hf_hub_id:
            raise InputError(f"timm publishes no weights for {name}; use student_weights=none or a file")
        path = hub_file(cfg.hf_hub_id, cfg.hf_hub_filename or "model.safetensors")
        encoder = _build(name, options | {"pretrained_cfg_overlay": {"file": str(path)}}, pretrained=True)
        return encoder, WeightsRecord(cfg.hf_hub_id, file_sha256(path), cfg.license)
    settings = smp_encoders[name]["pretrained_settings"].get("imagenet")
    if settings is None:
        raise InputError(f"SMP {smp.__version__} publishes no ImageNet weights for {name}; use none or a file")
    path = hub_file(settings["repo_id"], revision=settings["revision"])
    encoder = _build(name, options)
    encoder.load_state_dict(read_tensors(path))
    return encoder, WeightsRecord(settings["repo_id"], file_sha256(path))
