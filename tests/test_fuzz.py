"""Readers of what strangers write: whatever the bytes are, only `InputError` comes out."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ktda.baselines import Baseline, TeacherSegmenter
from ktda.config import make_config, read_override
from ktda.data.pixels import read_image, read_mask
from ktda.data.spec import Spec, read_spec
from ktda.errors import InputError
from ktda.files import read_json
from ktda.model import KTDA
from ktda.settings import Config
from ktda.weights.model_folder import check_model_folder

FEW, MANY = 20, 500
CALM = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "derandomize": True}
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def only_input_errors(call: Callable, *arguments: object) -> None:
    with contextlib.suppress(InputError):
        call(*arguments)


def yaml_like() -> st.SearchStrategy[str]:
    """Files that are near to a ``dataset.yaml``: its keys, any values."""
    keys = st.sampled_from([*Spec.model_fields, "<<", "? a", "- b", "&x c"])
    lines = st.tuples(keys, VALUES | st.text(max_size=30)).map(lambda pair: f"{pair[0]}: {pair[1]}")
    as_json = st.dictionaries(st.sampled_from([*Spec.model_fields]), VALUES, max_size=5).map(json.dumps)
    return st.lists(lines, max_size=6).map("\n".join) | as_json


def fuzz_yaml(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "dataset.yaml"

    @settings(max_examples=examples, **CALM)
    @given(st.binary(max_size=300) | yaml_like().map(lambda text: text.encode("utf-8", "surrogatepass")))
    def fuzz(content: bytes) -> None:
        path.write_bytes(content)
        only_input_errors(read_spec, path)

    fuzz()


def fuzz_settings(tmp_path: Path, examples: int) -> None:
    names = st.sampled_from(sorted(Config.model_fields)) | st.text(max_size=10)

    @settings(max_examples=examples, **CALM)
    @given(names, VALUES, st.text(max_size=40))
    def fuzz(name: str, value: object, text: str) -> None:
        only_input_errors(make_config, "smoke", {name: value})
        only_input_errors(read_override, f"{name}={text}")
        only_input_errors(make_config, "smoke", [f"{name}={value}"])

    fuzz()


def fuzz_config_json(tmp_path: Path, examples: int, sound: dict) -> None:
    path = tmp_path / "config.json"
    models = {"ktda": KTDA, "teacher": TeacherSegmenter}
    places = [(name,) for name in sound] + [("arguments", name) for name in sound["arguments"]]
    places += [("normalisation", name) for name in ("mean", "std", "bands", "of", "names", "stretch", "input")]
    places += [("arguments", "encoder_options"), ("teacher",), ("arguments", "neu")]

    @settings(max_examples=examples, **CALM)
    @given(st.sampled_from(places), VALUES, st.binary(max_size=50))
    def fuzz(place: tuple[str, ...], value: object, junk: bytes) -> None:
        content = json.loads(json.dumps(sound))
        inner = content
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = value
        text = json.dumps(content).encode()
        for written in (text, text[: len(junk) * 20] + junk):
            path.write_bytes(written)

            def check() -> None:
                check_model_folder(read_json(path), path, lambda name: models.get(name, Baseline))

            only_input_errors(check)

    fuzz()


def fuzz_pixels(tmp_path: Path, examples: int) -> None:
    """PNG and TIFF with some bytes changed, cut off or put in."""
    from PIL import Image

    labels = np.arange(256, dtype=np.uint8).reshape(16, 16) % 3
    sound = []
    for suffix in (".png", ".tif"):
        for name, pixels in {
            "mask": labels,
            "wide": labels.astype(np.uint16),
            "image": np.stack([labels] * 3, 2),
        }.items():
            Image.fromarray(pixels).save(tmp_path / f"{name}{suffix}")
            sound.append((tmp_path / f"{name}{suffix}").read_bytes())

    @settings(max_examples=examples, **CALM)
    @given(
        st.sampled_from(sound), st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=4)), max_size=4), st.data()
    )
    def fuzz(content: bytes, changes: list[tuple[int, bytes]], data: st.DataObject) -> None:
        for place, new in changes:
            content = content[:place] + new + content[place + data.draw(st.integers(0, 4)) :]
        for suffix in (".png", ".tif"):
            path = tmp_path / f"fuzz{suffix}"
            path.write_bytes(content)
            only_input_errors(read_mask, path)
            only_input_errors(read_image, path)
            only_input_errors(read_image, path, 3)

    fuzz()


@pytest.fixture
def sound(finished_run: Path) -> dict:
    return json.loads((finished_run / "config.json").read_text())


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
class TestOnlyInputErrors:
    def test_yaml(self, tmp_path: Path, examples: int) -> None:
        fuzz_yaml(tmp_path, examples)

    def test_settings(self, tmp_path: Path, examples: int) -> None:
        fuzz_settings(tmp_path, examples)

    def test_config_json(self, tmp_path: Path, examples: int, sound: dict) -> None:
        fuzz_config_json(tmp_path, examples, sound)

    def test_pixels(self, tmp_path: Path, examples: int) -> None:
        fuzz_pixels(tmp_path, examples)
