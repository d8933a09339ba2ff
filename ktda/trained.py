"""A trained model by its name: a run or model folder, a hub id, or a checkpoint of the authors."""

import json
import re
from pathlib import Path

from torch import nn

from ktda.build import check_content, load_files, load_model, model_config
from ktda.data.spec import default_palette
from ktda.errors import InputError
from ktda.official import open_checkpoint
from ktda.weights.hub import hub_file

CHECKPOINTS = (".pth", ".pt")
_HUB_ID = r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?"


def open_model(name: Path | str) -> tuple[nn.Module, dict]:
    """A trained model and its description.

    Args:
        name: run folder; folder of ``config.json`` and ``model.safetensors``; hub id
            ``owner/name``, or ``owner/name@revision``; or an authors' checkpoint, ``.pth``, whose
            classes are "0", "1", ... where it names none.

    Returns:
        The model in eval mode, and the content of its ``config.json``.

    Raises:
        InputError: nothing there, or a file that is damaged, foreign or unsafe.
    """
    path = Path(name).expanduser()
    if path.suffix in CHECKPOINTS:
        return _open_checkpoint(path)
    hub_id = re.fullmatch(_HUB_ID, str(name))
    if path.exists() or hub_id is None or path.parent.is_dir():
        return load_model(path)
    repo, revision = hub_id.groups()
    try:
        files = [hub_file(repo, file, revision) for file in ("config.json", "model.safetensors")]
    except InputError as error:
        raise InputError(f"there is no folder {name}, and as a hub id: {error}") from error
    return load_files(*files, str(name))


def _open_checkpoint(path: Path) -> tuple[nn.Module, dict]:
    """An authors' checkpoint; its description is checked as if it had been read."""
    model, arguments, about = open_checkpoint(path)
    arguments["neck_scales"] = arguments["neck_scales"] or ()
    count = arguments["num_classes"]
    names = about.get("classes") or [str(index) for index in range(count)]
    colours = about.get("palette") or default_palette(count)
    try:
        content = model_config({"model": "ktda", "arguments": arguments}, names, colours)
        content = json.loads(json.dumps(content))  # tuples to lists, as in a file
    except TypeError as error:
        raise InputError(f"{path}: what it says of its classes is no list of words") from error
    check_content(content, path)
    return model, content
