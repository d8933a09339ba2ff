"""A STAC item of an exported model, by the Machine Learning Model extension 1.4."""

import re
from pathlib import Path
from typing import Any

import torch

from ktda.build import inference_tensors
from ktda.files import file_sha256, now, read_json
from ktda.share.segmenter import Segmenter

ITEM = Path(__file__).parent / "item.json"  # all that every item says; it has no place on Earth
_FRAMEWORKS = {"onnx": ("ONNX", "onnx"), "pt2": ("PyTorch", "torch.export.save")}


def describe_file(segmenter: Segmenter, path: Path, tile: int, metres: float = 0) -> dict[str, Any]:
    """The item of a file of `ktda.share.export`, which lies beside it.

    Args:
        segmenter: what was exported.
        path: the file.
        tile: side of its images, 0 for any.
        metres: on the ground, side of a pixel; 0 says nothing.
    """
    content = segmenter.content
    normalisation = content["normalisation"]
    channels = len(normalisation["mean"])
    names = normalisation.get("names") or normalisation.get("bands") or ("red", "green", "blue")
    framework, artifact = _FRAMEWORKS[path.suffix[1:]]
    item = read_json(ITEM)
    item["id"] = path.stem
    properties = item["properties"]
    properties |= {
        "datetime": now().replace("+00:00", "Z"),
        "mlm:name": f"ktda {content['model']}",
        "mlm:architecture": content["model"],
        "mlm:framework": framework,
        "mlm:total_parameters": sum(v.numel() for v in inference_tensors(segmenter).values()),
    }
    if metres:
        properties["gsd"] = metres
    if framework == "PyTorch":
        properties["mlm:framework_version"] = torch.__version__
    (inputs,), (outputs,) = properties["mlm:input"], properties["mlm:output"]
    side = tile or -1
    inputs["bands"] = list(map(str, names))
    inputs["input"]["shape"] = [-1, channels, side, side]
    outputs["result"]["shape"] = [-1, len(content["classes"]), side, side]
    outputs["classification:classes"] = [
        {
            "value": value,
            "name": re.sub(r"[^0-9A-Za-z_-]+", "-", name),
            "description": name,
            "color_hint": "".join(f"{int(part):02X}" for part in colour),
        }
        for value, (name, colour) in enumerate(
            zip(content["classes"], content["palette"], strict=True)
        )
    ]
    item["assets"]["model"] |= {
        "href": f"./{path.name}",
        "type": f"application/octet-stream; framework={framework.lower()}",
        "mlm:artifact_type": artifact,
        "eo:bands": [{"name": str(name)} for name in names],
        "file:size": path.stat().st_size,
        "file:checksum": f"1220{file_sha256(path)}",  # a multihash: SHA-256, 32 bytes
    }
    return item
