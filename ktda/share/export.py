"""A trained model as one file for other programs: ONNX, or a program of torch.export.

Normalisation and softmax are inside, what serves the training alone is not. What was written is
loaded again and compared with the model before it takes its name.
"""

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ktda.data.folder import open_data
from ktda.errors import InputError
from ktda.files import replacing, write_json
from ktda.share.segmenter import Segmenter
from ktda.share.stac import describe_file

STRIDE = 32  # sides of images are multiples of it
TOLERANCE = 1e-4  # of a probability


class Pool(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two matrix products, which ONNX has for any size of an image."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, size, size)."""
        rows, columns = (self._means(side).to(x) for side in x.shape[-2:])
        return rows @ x @ columns.T

    def _means(self, side: int) -> Tensor:
        """(size, side): row i is a mean over places from i side / size to (i + 1) side / size."""
        cells = torch.arange(self.size)[:, None]
        places = torch.arange(side)
        inside = places >= cells * side // self.size
        inside &= places * self.size < (cells + 1) * side  # the end is rounded up
        return inside / inside.sum(1, keepdim=True)


def export_model(
    segmenter: Segmenter, out: Path, tile: int = 0, data: str | None = None, metres: float = 0
) -> dict[str, Any]:
    """Write ``out`` and, beside it, its STAC item ``out.json``.

    Args:
        segmenter: on the CPU; not to be used afterwards, its pooling is another.
        out: ``.onnx``, with the metadata that QGIS Deepness reads, or ``.pt2``.
        tile: side of the square images that the file takes; 0: any multiples of `STRIDE`. The batch
            may be of any size.
        data: data set whose images are compared on too.
        metres: on the ground, side of a pixel; 0 says nothing.

    Returns:
        ``difference``, the largest, of a probability, the ``shapes`` compared, and the ``item``.

    Raises:
        InputError: a library is missing, or the file gives another answer; then it is not kept.
    """
    writers = {".onnx": _write_onnx, ".pt2": _write_program}
    if out.suffix not in writers:
        raise InputError(f"--out {out}; expected a name that ends with {' or '.join(writers)}")
    if tile % STRIDE or tile < 0:
        raise InputError(f"--tile {tile}; expected a multiple of {STRIDE}")
    if not tile and segmenter.content["model"] == "teacher":
        raise InputError("a frozen teacher is exported for one size of images; give --tile")
    segmenter.network.auxiliary_head = None
    segmenter.requires_grad_(False)
    batches = _batches(segmenter, data, [(tile, tile)] * 2 if tile else [(128, 192), (256, 160)])
    expected = [segmenter(batch) for batch in batches]
    dim = torch.export.Dim
    shapes = {0: dim("batch", min=1, max=1024)}
    if not tile:
        shapes[2] = STRIDE * dim("height", min=2, max=1024)
        shapes[3] = STRIDE * dim("width", min=2, max=1024)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        arguments = (segmenter, batches[0], {"images": shapes}, partial)
        try:
            with warnings.catch_warnings(action="ignore"):  # the exporters', of themselves
                run = writers[out.suffix](*arguments, _metadata(segmenter, tile, metres))
            pairs = zip(map(run, batches), expected, strict=True)
            difference = max(float((found - wanted).abs().max()) for found, wanted in pairs)
        except InputError:
            raise
        except Exception as error:  # each library raises its own kinds
            reason = " ".join(str(error).split())[:200]
            cure = "try the other format" if tile else "give --tile"
            raise InputError(f"{out.name} does not come about ({reason}); {cure}") from error
        if not difference <= TOLERANCE:
            what = f"the exported model differs by {difference:.2g} of a probability"
            raise InputError(f"{what}, more than {TOLERANCE:g}; nothing was kept")
    item = out.with_name(f"{out.name}.json")
    write_json(item, describe_file(segmenter, out, tile, metres))
    return {"difference": difference, "shapes": [tuple(b.shape) for b in batches], "item": item}


def _batches(segmenter: Segmenter, data: str | None, sizes: list[tuple]) -> list[Tensor]:
    """Raw values, a batch of two and one of one: random ones, and an image of a data set."""
    low, high = segmenter.limits.view(-1, 2, 1, 1).unbind(1)  # (C, 1, 1) each
    generator = torch.Generator().manual_seed(0)
    found = []
    for count, size in zip((2, 1), sizes, strict=True):
        # a little beyond the stretch, which clips
        found.append(1.1 * torch.rand(count, len(low), *size, generator=generator) - 0.05)
    if data:
        tile_set = open_data(data)
        first = tile_set.read_image(tile_set.pairs(tile_set.splits()[0])[0].image)  # (H, W, bands)
        bands = segmenter.content["normalisation"].get("bands") or (1, 2, 3)
        image = torch.from_numpy(first[..., np.array(bands) - 1]).permute(2, 0, 1) / 255
        for count, (height, width) in zip((2, 1), sizes, strict=True):
            times = (1, -(-height // image.shape[1]), -(-width // image.shape[2]))
            tiled = image.repeat(times)[:, :height, :width]
            found.append(torch.stack([tiled.roll(17 * shift, -1) for shift in range(count)]))
    return [low + values * (high - low) for values in found]


def _metadata(segmenter: Segmenter, tile: int, metres: float) -> dict[str, str]:
    """For QGIS Deepness, which divides bytes by 255 first: the deviation undoes that."""
    values = {
        "model_type": "Segmentor",
        "class_names": dict(enumerate(segmenter.content["classes"])),
        "tiles_overlap": 25,  # percent, as `ktda predict`
        "standardization_mean": [0.0] * len(segmenter.limits),
        "standardization_std": [1 / 255] * len(segmenter.limits),
    }
    values |= {"tile_size": tile} if tile else {}
    values |= {"resolution": 100 * metres} if metres else {}  # centimetres per pixel
    return {name: json.dumps(value) for name, value in values.items()}


def _write_onnx(
    segmenter: Segmenter, example: Tensor, shapes: dict, path: Path, metadata: dict[str, str]
) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime  # an extra, as is what torch.onnx needs
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError("ONNX needs: pip install 'ktda[export]'") from error
    pools = [n for n, m in segmenter.named_modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    for name in pools if len(shapes["images"]) > 1 else ():
        size = segmenter.get_submodule(name).output_size
        segmenter.set_submodule(name, Pool(size if isinstance(size, int) else size[0]))
    names = {"input_names": ["images"], "output_names": ["probabilities"]}
    options = {"dynamo": True, "dynamic_shapes": shapes, "verbose": False, **names}
    program = torch.onnx.export(segmenter, (example,), **options)
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])


def _write_program(
    segmenter: Segmenter, example: Tensor, shapes: dict, path: Path, metadata: dict[str, str]
) -> Callable[[Tensor], Tensor]:
    program = torch.export.export(segmenter, (example,), dynamic_shapes=shapes)
    written = io.BytesIO()  # by a path, the library wants the name's ending
    torch.export.save(program, written, extra_files=metadata)
    path.write_bytes(written.getbuffer())
    return torch.export.load(io.BytesIO(path.read_bytes())).module()
