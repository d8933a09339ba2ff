"""Images of any bands: what student and teacher see of them, statistics, and widened weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_runs import SPEC, make_set, tiny
from tiny_sets import needs_sample, put_eight_bands

from ktda import build as building
from ktda.data.bands import band_statistics, describe_bands, teacher_bands
from ktda.data.folder import open_data
from ktda.errors import InputError
from ktda.images import IMAGENET_MEAN, model_input
from ktda.scores.evaluate import evaluate_run
from ktda.targets import Targets
from ktda.teacher import Teacher
from ktda.training import train
from ktda.weights.encoder import make_encoder

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
FOUR = SPEC + "bands: [blue, green, red, nir]\nrgb: [3, 2, 1]\n"


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """The tiny set with four bands of bytes: its own three, and noise of a fifth of the range."""
    rasterio = pytest.importorskip("rasterio")
    root = make_set(tmp_path / "four", {"train": 4, "val": 2})
    for number, path in enumerate(sorted((root / "img_dir").glob("*/*.png"))):
        with rasterio.open(path) as file:
            pixels = file.read()  # (3, H, W)
        more = np.random.default_rng(number).integers(0, 51, pixels.shape[1:])
        shape = {"count": 4, "height": pixels.shape[1], "width": pixels.shape[2]}
        with rasterio.open(path.with_suffix(".tif"), "w", driver="GTiff", dtype="uint8", **shape) as file:
            file.write(np.concatenate([pixels, more[None].astype(np.uint8)]))
        path.unlink()
    (root / "dataset.yaml").write_text(FOUR)
    return root


def test_statistics_are_those_of_all_pixels(four):
    data = open_data(four)
    pairs = data.pairs("train")
    pixels = np.concatenate([data.read(pair)[0].reshape(-1, 4) for pair in pairs]) / 255
    mean, std = band_statistics(data, pairs)
    assert mean == pytest.approx(pixels.mean(0))
    assert std == pytest.approx(pixels.std(0))
    assert band_statistics(data, pairs[::-1]) == (mean, std)
    assert mean[3] == pytest.approx(0.1, abs=0.005)


def test_what_a_model_is_told_of_its_bands(four):
    data = open_data(four)
    pairs = data.pairs("train")
    told = describe_bands(data, pairs, (4, 1))
    mean, _ = band_statistics(data, pairs)
    assert told["mean"] == [mean[3], mean[0]]
    assert (told["bands"], told["of"], told["names"]) == ([4, 1], 4, ["nir", "blue"])
    assert teacher_bands(data) == (2, 1, 0)
    with pytest.raises(InputError, match=r"bands=5; four has bands 1 to 4"):
        describe_bands(data, pairs, (5,))
    with pytest.raises(InputError, match=r"bands=1,1; .*name each once"):
        describe_bands(data, pairs, (1, 1))
    (four / "dataset.yaml").write_text(FOUR + "mean: [0.1, 0.2, 0.3, 0.4]\nstd: [1, 2, 3, 4]\n")
    assert describe_bands(open_data(four), pairs, (2,))["mean"] == [0.2]


def test_rgb_is_told_as_ever(tiny_set):
    data = open_data(tiny_set)
    told = describe_bands(data, data.pairs("train"))
    assert told["mean"] == list(IMAGENET_MEAN)
    assert set(told) == {"mean", "std", "input"}
    assert teacher_bands(data) == ()


def test_the_teacher_sees_the_named_three_and_nothing_else():
    seen = []

    def teacher(images):
        seen.append(images)
        return images[:, :, ::8, ::8]

    targets = Targets(Teacher(teacher), bands=(2, 1, 0))
    images = torch.rand(2, 4, 16, 16)
    changed = images.clone()
    changed[:, 3] = 0
    maps = targets(images, torch.device("cpu"))
    assert torch.equal(seen[-1], images[:, [2, 1, 0]])
    assert torch.equal(maps[0], targets(changed, torch.device("cpu"))[0])
    standardised = Targets(Teacher(teacher), standardised=True, bands=(2, 1, 0))
    standardised.measure(images, torch.device("cpu"))
    expected = images[:, [2, 1, 0], ::8, ::8].mean((0, 2, 3))
    torch.testing.assert_close(standardised.statistics[0][0], expected)


def test_the_student_sees_its_bands_normalised():
    model = torch.nn.Identity()
    model.mean, model.std, model.bands = (0.5, 0.25), (0.5, 2.0), (3, 1)
    images = torch.rand(2, 4, 5, 5)
    found = model_input(model, images)
    torch.testing.assert_close(found[:, 0], (images[:, 3] - 0.5) / 0.5)
    torch.testing.assert_close(found[:, 1], (images[:, 1] - 0.25) / 2)


def test_a_run_on_four_bands_scores_again_and_a_run_on_two_of_them_needs_fewer_weights(four, tmp_path):
    settings = {"photometric": False, "tiles": 0, "steps": 2}
    metrics = train(str(four), tiny(**settings), tmp_path / "all")
    assert evaluate_run(tmp_path / "all")["confusion_matrix"] == metrics["confusion_matrix"]
    content = json.loads((tmp_path / "all/config.json").read_text())
    assert content["arguments"]["in_channels"] == len(content["normalisation"]["mean"]) == 4
    model, _ = building.load_model(tmp_path / "all")
    assert next(model.student.parameters()).shape[1] == 4

    train(str(four), tiny(**settings, bands=(4, 3), distill_weight=0.0), tmp_path / "two")
    model, description = building.load_model(tmp_path / "two")
    assert model.bands == (3, 2)
    assert next(model.student.parameters()).shape[1] == 2
    assert description["normalisation"]["names"] == ["nir", "red"]
    with pytest.raises(InputError, match=r"trained on images of 4 bands, rgb has 3"):
        evaluate_run(tmp_path / "two", str(make_set(tmp_path / "rgb", {"test": 1})))


@pytest.mark.parametrize("model", ["unet", "teacher", "upernet"])
def test_every_model_trains_on_four_bands(four, tmp_path, model):
    config = tiny(model=model, photometric=False, steps=1, student="tu-test_convnext")
    train(str(four), config, tmp_path / "run")
    found, _ = building.load_model(tmp_path / "run")
    assert found.bands == ((2, 1, 0) if model == "teacher" else (0, 1, 2, 3))


def test_the_photometric_distortion_is_for_rgb(four, tmp_path):
    with pytest.raises(InputError, match="defined for RGB, not for 4 bands; set photometric=false"):
        train(str(four), tiny(), tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("tu-test_convnext", lambda: make_encoder("tu-test_convnext")[0]),
        ("tu-test_convnext", lambda: timm.create_model("test_convnext")),
        ("resnet18", lambda: make_encoder("resnet18")[0]),
    ],
    ids=["our layout", "timm's layout", "SMP's own encoder"],
)
def test_a_pretrained_first_convolution_is_widened_as_timm_does_it(tmp_path, name, given):
    tensors = given().state_dict()
    save_file(tensors, tmp_path / "rgb.safetensors")
    wide, _ = make_encoder(name, tmp_path / "rgb.safetensors", in_channels=8)
    first = next(value for value in tensors.values() if value.ndim == 4)
    widened, *others = wide.parameters()
    torch.testing.assert_close(widened, first[:, [0, 1, 2, 0, 1, 2, 0, 1]] * 3 / 8)
    given_others = [value for value in tensors.values() if value.shape == others[-1].shape]
    assert any(torch.equal(others[-1], value) for value in given_others)  # the rest as it was


@needs_sample
def test_the_eight_bands_of_the_sample_train_and_score(tmp_path):
    pytest.importorskip("rasterio")
    root = put_eight_bands(tmp_path / "eight")
    config = tiny(photometric=False, crop=64, tiles=0, steps=2)
    metrics = train(str(root), config, tmp_path / "run")
    assert evaluate_run(tmp_path / "run")["miou"] == metrics["miou"]
    content = json.loads((tmp_path / "run/config.json").read_text())
    told = content["normalisation"]
    assert told["input"] == "bands 1, 2, 3, 4, 5, 6, 7, 8 of 8 in [0, 1]"
    assert told["stretch"][7] == [200, 320]
    data = open_data(root)
    assert told["mean"] == list(band_statistics(data, data.pairs("train"))[0])
