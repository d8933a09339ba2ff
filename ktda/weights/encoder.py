"""An SMP encoder by name, with its weights and their provenance."""

import difflib
import functools
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
from segmentation_models_pytorch.encoders import encoders as smp_encoders
from segmentation_models_pytorch.encoders import get_encoder
from timm.models import adapt_input_conv
from torch import Tensor, nn

from ktda.errors import InputError
from ktda.files import file_sha256
from ktda.weights.hub import hub_file
from ktda.weights.tensors import WeightsRecord, load_by_timm, load_strict, read_tensors

# The student of preset grid, pretrained on source worlds without labels; see the card beside it.
SOURCE_STUDENT = Path(__file__).parent / "source_student.safetensors"
_STRIDES = "has not the strides 4, 8, 16, 32 that a student needs"


def make_encoder(
    name: str,
    weights: str | Path = "none",
    options: dict | None = None,
    in_channels: int = 3,
) -> tuple[nn.Module, WeightsRecord]:
    """An SMP encoder with five stages, and where its weights came from.

    Arguments and errors as `ktda.student.Student`'s.
    """
    check_encoder(name)
    is_timm = name.startswith("tu-")
    if options and not is_timm:
        cure = f"takes no options, got {', '.join(options)}; timm's do: tu-NAME"
        raise InputError(f"encoder {name} {cure}")
    build = functools.partial(_build, name, in_channels=in_channels, **(options or {}))
    weights = str(weights)
    if weights == "none":
        return build(), WeightsRecord("random start", kind="random")
    if weights == "imagenet":
        return _from_hub(name, build)
    path = SOURCE_STUDENT if weights == "source" else Path(weights)
    return _from_file(name, build, path), WeightsRecord(path.name, file_sha256(path), kind="file")


def check_encoder(name: str) -> None:
    """Raise `InputError` with near names unless SMP (or timm, for ``tu-``) knows the encoder."""
    prefix = "tu-" if name.startswith("tu-") else ""
    plain, _, tag = name.removeprefix(prefix).partition(".")
    known = timm.list_models() if prefix else list(smp_encoders)
    if tag and plain in known:
        tags = [t.removeprefix(f"{plain}.") for t in timm.list_pretrained(f"{plain}.*")]
        if not prefix or tag not in tags:
            what = f"timm's {plain} has no weights {tag}; it has {', '.join(tags) or 'none'}"
            raise InputError(f"unknown student encoder {name!r}: {what}")
    if plain not in known:
        near = [prefix + match for match in difflib.get_close_matches(plain, known)]
        hint = f"near names: {', '.join(near)}" if near else "timm's encoders are written tu-NAME"
        raise InputError(f"unknown student encoder {name!r}; {hint}")


def _build(name: str, pretrained: bool = False, **options) -> nn.Module:
    weights = True if pretrained else None
    try:
        encoder = get_encoder(name, depth=5, weights=weights, **options)
    except TypeError as error:
        raise InputError(f"encoder {name} refused its options {options}: {error}") from error
    except ValueError as error:  # SMP: "Unsupported model downsampling pattern."
        raise InputError(f"encoder {name} {_STRIDES}") from error
    if len(encoder.out_channels) != 6:
        raise InputError(f"encoder {name} {_STRIDES}")
    return encoder


def _from_file(name: str, build: functools.partial, path: Path) -> nn.Module:
    """An encoder with a file in our layout (also that of a whole model) or in timm's own."""
    tensors = read_tensors(path)
    message = f"{path} does not fit encoder {name}"
    encoder = build()
    expected = encoder.state_dict()
    for prefix in ("", "student.encoder.", "encoder."):
        given = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if given.keys() >= expected.keys():
            load_strict(encoder, _widened(given, expected), message)
            return encoder
    if not name.startswith("tu-"):
        missing = next(k for k in expected if k not in tensors)
        raise InputError(f"{message}: tensor {missing} is missing")
    return load_by_timm(build, path, f"encoder {name}")


def _widened(given: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The expected tensors; a first convolution of RGB is brought to other bands, as timm does it.

    Its three channels are repeated and scaled by 3 / bands: on bands alike, it answers the same.
    """
    tensors = {key: given[key] for key in expected if key in given}
    for key, value in tensors.items():
        bands = expected[key].shape[1] if value.ndim == 4 else 3
        rest = value.shape[:1] + value.shape[2:], expected[key].shape[:1] + expected[key].shape[2:]
        if bands != 3 and value.shape[1] == 3 and rest[0] == rest[1]:
            tensors[key] = adapt_input_conv(bands, value)
    return tensors


def _from_hub(name: str, build: functools.partial) -> tuple[nn.Module, WeightsRecord]:
    """An encoder with the weights that timm or SMP publishes for it."""
    if name.startswith("tu-"):
        cfg = timm.get_pretrained_cfg(name[3:], allow_unregistered=False)
        if cfg is None or not cfg.hf_hub_id:
            cure = "use student_weights=none or a file"
            raise InputError(f"timm publishes no weights for {name}; {cure}")
        path = hub_file(cfg.hf_hub_id, cfg.hf_hub_filename or "model.safetensors")
        encoder = load_by_timm(build, path, f"encoder {name}")
        return encoder, WeightsRecord(cfg.hf_hub_id, file_sha256(path), cfg.license)
    settings = smp_encoders[name]["pretrained_settings"].get("imagenet")
    if settings is None:
        cure = "use none or a file"
        raise InputError(f"SMP {smp.__version__} publishes no ImageNet weights for {name}; {cure}")
    path = hub_file(settings["repo_id"], revision=settings["revision"])
    encoder = build()
    tensors = _widened(read_tensors(path), encoder.state_dict())
    load_strict(encoder, tensors, f"{path} does not fit encoder {name}")
    return encoder, WeightsRecord(settings["repo_id"], file_sha256(path))
