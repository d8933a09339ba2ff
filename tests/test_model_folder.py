"""A stranger's model folder: every field is checked before anything is built, and nothing is run."""

import inspect
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from ktda.baselines import Baseline, TeacherSegmenter
from ktda.build import load_model
from ktda.errors import InputError
from ktda.model import KTDA
from ktda.settings import Config
from ktda.teacher import Teacher
from ktda.weights.model_folder import OPTIONS, RANGES, check_model_folder, check_options
from ktda.weights.vision_transformer import METADATA_KEY

CONSTRUCTORS = {"ktda": KTDA, "teacher": TeacherSegmenter}
REMOVED = object()


@pytest.fixture(scope="module")
def content(finished_run: Path) -> dict[str, Any]:
    return json.loads((finished_run / "config.json").read_text())


def check(content: object) -> None:
    check_model_folder(content, Path("run/config.json"), lambda name: CONSTRUCTORS.get(name, Baseline))


def changed(content: dict[str, Any], field: str, value: object) -> dict[str, Any]:
    """A copy with one field of another value; ``a.b`` is a field of a field."""
    copy = json.loads(json.dumps(content))
    *above, name = field.split(".")
    place = copy
    for key in above:
        place = place[key]
    if value is REMOVED:
        del place[name]
    else:
        place[name] = value
    return copy


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("exploded"),)


@pytest.fixture
def bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bomb.pth"
    path.write_bytes(pickle.dumps({"state_dict": Bomb()}))
    return path


def test_what_we_write_passes(content: dict) -> None:
    check(content)
    for model, encoder in (("unet", "resnet18"), ("segformer", "tu-convnext_atto")):
        arguments = {"num_classes": 3, "encoder": encoder, "seed": 1, "encoder_options": {}}
        check(content | {"model": model, "arguments": arguments})
    teacher = {"name": "demo", "blocks": None, "pretrained": True, "norm": "last"}
    teacher |= {"resample": "timm", "seed": 0}
    arguments = {"num_classes": 3, "decoder": "upernet", "neck_scales": [4, 2, 1, 0.5]}
    check(content | {"model": "teacher", "arguments": arguments, "teacher": teacher})
    bands = {"mean": [0.5] * 4, "std": [0.2] * 4, "bands": [1, 2, 4, 8], "of": 8, "input": "x"}
    bands |= {"names": ["a"] * 4, "stretch": [[0, 1]] * 4}
    of_bands = changed(content, "arguments.in_channels", 4)
    check(of_bands | {"normalisation": bands})
    with pytest.raises(InputError, match=r"bands is \[1, 2, 4, 9\]; expected 4 numbers from 1 to 8"):
        check(of_bands | {"normalisation": bands | {"bands": [1, 2, 4, 9]}})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", 99, r"has format 99; this version reads 1"),
        ("format", "1", "format is text, expected a whole number"),
        ("format", REMOVED, "it has no field format"),
        ("model", "../x", r"model='\.\./x'"),
        ("model", ["ktda"], "model is a list, expected text"),
        ("arguments", [], "arguments is a list, expected an object"),
        ("colour", 1, "unknown field 'colour'"),
        ("classes", ["a", "b"], "it names 2 classes, but num_classes is 3"),
        ("classes", ["a", "b", 3], "classes are .*, expected words"),
        ("classes", "abc", "classes is text, expected a list"),
        ("palette", [[0, 0, 0]] * 2, r"palette; expected \[red, green, blue\] for every class"),
        ("palette", [[0, 0, 256]] * 3, "palette; expected"),
        ("ignore_index", -1, "ignore_index is -1, expected 0 to 65535"),
        ("ignore_index", True, "ignore_index is true or false"),
        ("normalisation", {}, "normalisation: mean is None; expected 3 numbers"),
        ("normalisation.mean", [0.1, 0.2], "mean is .*; expected 3 numbers"),
        ("normalisation.mean", [0.1, 0.2, float("nan")], "mean is .*; expected 3 numbers"),
        ("normalisation.std", [0.1, 0.2, 0], "std is .*; expected 3 numbers from 1e-06"),
        ("normalisation.path", "x", "normalisation: unknown field 'path'"),
        ("arguments.num_classes", 10**12, "num_classes is 1000000000000, expected a whole number"),
        ("arguments.num_classes", True, "num_classes is True, expected a whole number"),
        ("arguments.width", -1, "width is -1, expected a whole number"),
        ("arguments.patch", 8.5, "patch is 8.5, expected a whole number"),
        ("arguments.encoder", 7, "student=7"),
        ("arguments.decoder", "none", "decoder='none'"),
        ("arguments.decoder_channels", 10**12, "decoder_channels="),
        ("arguments.fmm_depth", 10**8, "fmm_depth="),
        ("arguments.dropout", 2, "dropout="),
        ("arguments.neck_scales", [1, 2], "neck_scales="),
        ("arguments.fam", "yes", "fam='yes'"),
        ("arguments.teacher", "demo", "unknown field 'teacher'|teacher is no argument"),
        ("arguments.student_weights", "x.pth", "student_weights is no argument of a trained model"),
        ("arguments.model", "unet", "unknown field 'model'|model is no argument"),
        ("arguments.alpha", 0.5, "unknown field 'alpha'"),
        ("arguments.__class__", 1, "__class__"),
        ("arguments.encoder_options", [1], "encoder_options: it holds a list, expected an object"),
        ("arguments.encoder_options", {"checkpoint_path": "x"}, "sets 'checkpoint_path', which no file may"),
        ("arguments.encoder_options", {"pretrained": True}, "sets 'pretrained', which no file may"),
        ("arguments.encoder_options", {"pretrained_cfg": {"file": "x"}}, "sets 'pretrained_cfg'"),
        ("arguments.encoder_options", {"pretrained_cfg_overlay": {}}, "sets 'pretrained_cfg_overlay'"),
        ("arguments.encoder_options", {"features_only": False}, "sets 'features_only'"),
        ("arguments.encoder_options", {"depths": [10**9]}, "depths is .*expected a flag, a word, or numbers"),
        ("arguments.encoder_options", {"depths": {"a": 1}}, "depths is .*expected a flag, a word, or numbers"),
        ("arguments.encoder_options", {"depths": [1] * 65}, "depths is .*expected a flag, a word, or numbers"),
        ("teacher", {"name": 1}, "teacher: name is a whole number, expected text"),
        ("teacher", {"name": "demo", "cache_dir": "/"}, "teacher: unknown field 'cache_dir'"),
        ("teacher", {"name": "demo", "norm": "x"}, "teacher_norm='x'"),
        ("teacher", {"name": "demo", "blocks": [1]}, "teacher_blocks="),
    ],
)
def test_every_field_is_checked(content: dict, field: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        check(changed(content, field, value))
    assert "run/config.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_every_argument_of_every_model_can_be_checked() -> None:
    """A new one is a setting, or has a range."""
    known = {*Config.model_fields, *RANGES, "encoder", "encoder_options", "student_weights", "teacher"}
    for constructor in (KTDA, Baseline, TeacherSegmenter):
        assert set(inspect.signature(constructor).parameters) <= known


def test_no_option_names_a_file_or_fetches() -> None:
    assert not {name for name in OPTIONS if "pretrained" in name or "path" in name.replace("drop_path", "")}
    with pytest.raises(InputError, match="did you mean drop_path_rate"):
        check_options({"drop_path": 0.1}, "x")


@pytest.mark.parametrize("text", ["", "[]", "{", "\0", '"x"'])
def test_a_damaged_description_is_named(finished_run: Path, tmp_path: Path, text: str) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json is damaged: it (is not json|holds)"):
        load_model(tmp_path / "run")


def test_a_strangers_run_runs_nothing(finished_run: Path, tmp_path: Path, bomb: Path, content: dict) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    for options in ({"checkpoint_path": str(bomb)}, {"pretrained": True, "pretrained_cfg": {"file": str(bomb)}}):
        stranger = changed(content, "arguments.encoder_options", options)
        (tmp_path / "run" / "config.json").write_text(json.dumps(stranger))
        with pytest.raises(InputError, match="which no file may"):
            load_model(tmp_path / "run")
    assert not (tmp_path / "exploded").exists()


def test_a_strangers_teacher_runs_nothing(tmp_path: Path, bomb: Path) -> None:
    """Neither by timm's config.json beside the weights nor by a header of ours."""
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 4, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "model_args": sizes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Teacher(tmp_path / "weights.safetensors").dim == 24  # a sound one
    config["model_args"] = sizes | {"checkpoint_path": str(bomb)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="sets 'checkpoint_path', which no file may"):
        Teacher(tmp_path / "weights.safetensors")
    header = {METADATA_KEY: json.dumps({"vision_transformer": sizes | {"weight_init": "x"}})}
    save_file(model.state_dict(), tmp_path / "ours.safetensors", header)
    with pytest.raises(InputError, match="sets 'weight_init', which no file may"):
        Teacher(tmp_path / "ours.safetensors")
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="does not open with torch"):
        Teacher(bomb.rename(tmp_path / "vit_tiny_patch16_224.pth"))
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(pickle.UnpicklingError):  # and the bomb is one
        torch.load(tmp_path / "vit_tiny_patch16_224.pth", weights_only=True)
    pickle.loads((tmp_path / "vit_tiny_patch16_224.pth").read_bytes())
    assert (tmp_path / "exploded").exists()
