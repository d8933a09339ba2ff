"""The card of a trained model, ``README.md`` of its folder, from what its run recorded."""

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelCardData
from torch import Tensor

from ktda.data.builtin import DEMOS, NAMES, built_in_spec
from ktda.files import read_json
from ktda.scores.metrics import mean_iou
from ktda.weights.teachers import KNOWN

TEMPLATE = Path(__file__).parent / "card.md"
DRAWS = 2000
_TAGS = ["remote-sensing", "semantic-segmentation", "knowledge-distillation"]
_RUN = {"data.name": str, "data.source": str, "data.hash": str, "weights": dict, "seed": int}
_SCORES = {"split": str, "protocol": str, "iou": list, "f1": list}


def model_card(content: dict, run: Path | None = None) -> ModelCard:
    """The card of a model.

    Args:
        content: its ``config.json``.
        run: folder of its run; without one the card says that nothing was recorded.
    """
    about = ModelCardData(library_name="ktda", pipeline_tag="image-segmentation", tags=_TAGS)
    classes = [plain(name) for name in content["classes"]]
    normalisation = content["normalisation"]
    bands = normalisation.get("names") or normalisation.get("bands") or ("red", "green", "blue")
    manifest = _read(run, "manifest.json", _RUN)
    scores = _read(run, "metrics.json", _SCORES) if manifest else {}
    data = manifest.get("data", {})
    values = {
        "model": content["model"],
        "encoder": plain(content["arguments"].get("encoder", "")),
        "bands": list(map(plain, bands)),
        "classes": classes,
        "data": plain(data.get("name", "")),
        "data_hash": plain(data.get("hash", ""))[:12],
        "seed": manifest.get("seed"),
        "data_licence": _data_licence(data.get("source")),
        "weights": _weights(manifest.get("weights", {})),
    }
    if scores and scores["miou"] is not None:
        table = zip(scores["iou"], scores["f1"], strict=True)
        values["rows"] = [
            (name, *map(_percent, row)) for name, row in zip(classes, table, strict=True)
        ]
        values |= {"split": plain(scores["split"]), "protocol": plain(scores["protocol"])}
        values |= {"miou": _percent(scores["miou"]), "draws": DRAWS}
        values["accuracy"] = _percent(scores["overall_accuracy"])
        if (run / "confusions.npz").is_file():
            with np.load(run / "confusions.npz", allow_pickle=False) as arrays:
                matrices = torch.from_numpy(arrays[scores["split"]])
            values |= {"interval": map(_percent, interval(matrices)), "images": len(matrices)}
    return ModelCard.from_template(about, template_path=str(TEMPLATE), **values)


def plain(text: Any) -> str:
    """Text of any origin as one line without markup, at most 100 characters of it."""
    printable = "".join(c if c.isprintable() else " " for c in str(text))
    line = html.escape(" ".join(printable.split())[:100])
    return re.sub(r"([\\`*_{}\[\]|#!~$])", r"\\\1", line)


def interval(matrices: Tensor, draws: int = DRAWS) -> list[float]:
    """Ends of the 95 % percentile bootstrap of mIoU over images; matrices (images, K, K)."""
    generator = torch.Generator().manual_seed(0)
    count = len(matrices)
    drawn = torch.randint(count, (draws, count), generator=generator)
    times = torch.zeros(draws, count, dtype=torch.float64)  # each image in each draw
    times.scatter_add_(1, drawn, torch.ones_like(times))
    sums = torch.einsum("di,ikl->dkl", times, matrices.double())
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return torch.nanquantile(mean_iou(sums), ends).tolist()


def _read(run: Path | None, name: str, needs: dict) -> dict[str, Any]:
    return read_json(run / name, needs) if run and (run / name).is_file() else {}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _data_licence(source: str | None) -> str:
    if source in DEMOS:
        return "simulated, none"
    return built_in_spec(source)["source"]["licence"] if source in NAMES else "not recorded"


def _weights(parts: dict) -> list[tuple[str, str, str]]:
    """Part, name and licence of what was learned elsewhere."""
    known = {teacher.name: teacher.licence for teacher in KNOWN} | {"demo": "apache-2.0"}
    learned = {
        k: v for k, v in parts.items() if v and v.get("used", True) and v["kind"] != "random"
    }
    found = []
    for part, about in learned.items():
        name = about.get("name") or about["source"]
        licence = about.get("licence") or known.get(name) or "not recorded"
        found.append((part, plain(name), plain(licence)))
    return found
