"""A trained model for others: opened by any name, converted, with a card, on a hub, as a file for other programs."""

import base64
import hashlib
import http.server
import json
import pickle
import re
import shutil
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_official import _SEGMENTER_RULES, SIZES, Malicious, their_names
from test_weights import python
from tiny_runs import make_set, tiny
from torch import nn
from typer.testing import CliRunner

from ktda.build import load_model
from ktda.cli.main import app
from ktda.errors import InputError
from ktda.images import model_input
from ktda.model import KTDA
from ktda.scores.evaluate import evaluate_run, match_classes
from ktda.scores.metrics import mean_iou
from ktda.share import export as exporting
from ktda.share.card import interval, model_card, plain
from ktda.share.export import Pool, export_model
from ktda.share.segmenter import Segmenter
from ktda.share.stac import describe_file
from ktda.trained import open_model
from ktda.training import train
from ktda_lab.paper.published import facts

ROOT = Path(__file__).resolve().parents[1]
ABOUT = {"classes": ("low", "middle", "high"), "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}


def run(*words: object) -> str:
    """Output of a command that ends well."""
    done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def images() -> torch.Tensor:
    """Bytes as floats, (2, 3, 64, 96)."""
    return torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0)).float()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timm.models.convnext.trunc_normal_", lambda *_, **__: None)  # slow, in a ConvNeXt-B


@pytest.fixture(scope="module")
def authors() -> KTDA:
    with mock.patch("timm.models.convnext.trunc_normal_"):
        return KTDA(**SIZES | {"neck_scales": None}).eval()


@pytest.fixture
def checkpoint(authors: KTDA, tmp_path: Path) -> Path:
    return save_checkpoint(authors, tmp_path / "theirs.pth", {"epoch": 1, "dataset_meta": ABOUT})


def save_checkpoint(model: KTDA, path: Path, meta: object, log: object = None) -> Path:
    tensors = their_names(model.state_dict(), _SEGMENTER_RULES)
    torch.save({"meta": meta, "state_dict": tensors, "message_hub": log or {}}, path)
    return path


def test_a_model_opens_by_each_of_its_names(
    finished_run: Path, authors: KTDA, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, content = load_model(finished_run)
    assert open_model(str(finished_run))[1] == content
    monkeypatch.setenv("KTDA_DATA", str(tmp_path))
    by_hand = tmp_path / "weights" / "demo"  # where the file of a hub may be put
    by_hand.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(finished_run / name, by_hand)
    model, found = open_model("someone/demo")
    assert found == content
    kept = load_model(finished_run)[0].state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    model, found = open_model(checkpoint)
    x = torch.randn(1, 3, 70, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), authors(x))
    assert (found["classes"], found["palette"]) == (list(ABOUT["classes"]), ABOUT["palette"])
    assert found["arguments"]["neck_scales"] == []


def test_a_name_that_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished_run: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match=r"there is no folder me/mine, and as a hub id: .*put it at .*mine/config.json"
    ):
        open_model("me/mine")
    (tmp_path / "me").mkdir()  # then it is a path
    for name in ("me/mine", "mine", "/none/of/these", "a/b/c"):
        with pytest.raises(InputError, match="holds no trained model"):
            open_model(name)
    with pytest.raises(InputError, match="no weights file at"):
        open_model("me/mine.pth")


def test_a_checkpoint_without_names_and_some_with_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(about: dict) -> list[str]:
        arguments = {"num_classes": 3, "encoder": "tu-convnext_base", "neck_scales": None}
        monkeypatch.setattr("ktda.trained.open_checkpoint", lambda _: (nn.Identity(), arguments, about))
        return open_model("a.pth")[1]["classes"]

    assert opened({}) == ["0", "1", "2"]
    for about, message in (
        ({"classes": 3}, "no list of words"),
        ({"classes": ("a", "b")}, "names 2 classes, but num_classes is 3"),
        ({"classes": ("a", "b", b"c")}, "no list of words"),
        ({"palette": [[1, 2]]}, "palette; expected"),
    ):
        with pytest.raises(InputError, match=message):
            opened(about)


def test_a_training_log_beside_the_tensors_is_passed_over(authors: KTDA, tmp_path: Path) -> None:
    """As the authors' framework writes it: an object of its own with arrays, and methods named by `getattr`."""

    class HistoryBuffer:
        def mean(self) -> None: ...

        def __getstate__(self) -> dict:
            return {"_log_history": np.ones(3), "methods": {"mean": HistoryBuffer.mean}, "last": np.float64(1)}

    name = "mmengine.logging.history_buffer"
    module = ModuleType(name)
    module.HistoryBuffer = HistoryBuffer
    for thing, qualified in ((HistoryBuffer, "HistoryBuffer"), (HistoryBuffer.mean, "HistoryBuffer.mean")):
        thing.__module__, thing.__qualname__ = name, qualified
    path = tmp_path / "log.pth"
    with mock.patch.dict(sys.modules, {name: module, "mmengine": module, "mmengine.logging": module}):
        save_checkpoint(authors, path, {"dataset_meta": ABOUT}, {"log_scalars": OrderedDict(loss=HistoryBuffer())})
    with pytest.raises(pickle.UnpicklingError, match="HistoryBuffer"):
        torch.load(path, weights_only=True)
    assert open_model(path)[1]["classes"] == list(ABOUT["classes"])
    harmed = tmp_path / "harmed"
    with pytest.raises(InputError, match="weights_only"):
        open_model(save_checkpoint(authors, path, {}, Malicious(harmed)))
    assert not harmed.exists()


def test_a_checkpoint_converted(checkpoint: Path, tmp_path: Path, images: torch.Tensor) -> None:
    out = tmp_path / "folder"
    assert "classes low, middle, high" in run("convert", checkpoint, "--out", out)
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    model, content = open_model(checkpoint)
    again = Segmenter.from_pretrained(out)
    assert again.content == content
    assert torch.equal(again(images), model(model_input(model, images / 255)).softmax(1))
    assert "No record of a training" in (out / "README.md").read_text()
    run("convert", out, "--out", tmp_path / "named", "--classes", "a,b,c")
    assert open_model(tmp_path / "named")[1]["classes"] == ["a", "b", "c"]
    data = make_set(
        tmp_path / "set", {"val": 1}, spec="classes: [x, y, z]\npalette: [[9, 9, 9], [1, 1, 1], [2, 2, 2]]\n"
    )
    run("convert", out, "--out", tmp_path / "by_data", "--data", data)
    found = open_model(tmp_path / "by_data")[1]
    assert (found["classes"], found["palette"][0]) == (["x", "y", "z"], [9, 9, 9])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "a,b"], r"the model has 3 classes, 2 are named \(a, b\)"),
        (["--data", "grass"], r"the model has 3 classes, 5 are named \(low, middle-low"),
        (["--data", "grass", "--classes", "a,b,c"], "both name the classes; give one"),
        (["--classes", "a,,c"], "config.json is no description of a model: classes are"),
        (["--data", "nowhere"], "'nowhere' is neither a folder nor a built-in data set"),
    ],
)
def test_what_is_not_converted(finished_run: Path, tmp_path: Path, options: list[str], message: str) -> None:
    out = tmp_path / "folder"
    with pytest.raises(InputError, match=message):
        run("convert", finished_run, "--out", out, *options)
    assert not out.exists() or not (out / "config.json").exists()
    out.mkdir(exist_ok=True)
    with pytest.raises(InputError, match="is there already; choose another --out"):
        run("convert", finished_run, "--out", out)


def test_the_goldens_survive_conversion(parity: Path, tmp_path: Path) -> None:
    run("convert", parity / "checkpoint.pth", "--out", tmp_path / "folder")
    goldens = np.load(parity / "io.npz")
    model, _ = open_model(tmp_path / "folder")
    with torch.inference_mode():
        logits = model(torch.from_numpy(goldens["input"]))
        torch.testing.assert_close(logits, torch.from_numpy(goldens["predict_logits"]), atol=1e-4, rtol=0)
        found = Segmenter.from_pretrained(tmp_path / "folder")(torch.from_numpy(goldens["image_rgb_uint8"]).float())
        torch.testing.assert_close(found, logits.softmax(1), atol=1e-4, rtol=0)


def test_a_folder_saved_and_loaded_is_the_same(finished_run: Path, tmp_path: Path, images: torch.Tensor) -> None:
    model = Segmenter.from_pretrained(finished_run)
    assert not model.training
    model.save_pretrained(tmp_path / "folder")
    assert (tmp_path / "folder" / "config.json").read_text() == (finished_run / "config.json").read_text()
    again = Segmenter.from_pretrained(tmp_path / "folder")
    assert torch.equal(again(images), model(images))
    torch.testing.assert_close(model(images).sum(1), torch.ones(2, 64, 96))
    (tmp_path / "folder" / "README.md").write_text("by hand")
    model.save_pretrained(tmp_path / "folder")
    assert (tmp_path / "folder" / "README.md").read_text() == "by hand"


def test_a_hostile_folder_is_refused(finished_run: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(finished_run / name, tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    hostile = [
        "x",
        content | {"more": 1},
        content | {"arguments": content["arguments"] | {"encoder_options": {"file": 1}}},
    ]
    for text in hostile:
        (tmp_path / "config.json").write_text(json.dumps(text))
        with pytest.raises(InputError, match=r"config\.json"):
            Segmenter.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(content))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"weights of .* do not fit this model"):
        Segmenter.from_pretrained(tmp_path)


def test_raw_values_are_stretched_as_in_training(tiny_model: KTDA) -> None:
    normalisation = {"mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3], "stretch": [[0, 1000], [100, 300], [-1, 1]]}
    tiny_model.mean, tiny_model.std = normalisation["mean"], normalisation["std"]
    seen = []
    with mock.patch.object(tiny_model, "forward", side_effect=lambda x: seen.append(x) or x):
        raw = torch.tensor([[500.0, 1e6], [100.0, 301.0], [0.0, -5.0]]).view(1, 3, 1, 2)
        Segmenter(tiny_model, {"normalisation": normalisation})(raw)
    steps = torch.tensor([[128, 255], [0, 255], [128, 0]]) / 255  # 127.5 is rounded to even
    mean, std = (torch.tensor(normalisation[key])[:, None] for key in ("mean", "std"))
    torch.testing.assert_close(seen[0].view(3, 2), (steps - mean) / std)


def test_a_card_says_what_the_run_recorded(finished_run: Path) -> None:
    content = json.loads((finished_run / "config.json").read_text())
    content["classes"] = ["a|b", "<b>*x*</b>", "[y](z)\n# c"]
    metrics = json.loads((finished_run / "metrics.json").read_text())
    text = str(model_card(content, finished_run))
    assert f"mIoU {100 * metrics['miou']:.2f}" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 3
    for row, name, iou in zip(
        rows, (r"a\|b", r"&lt;b&gt;\*x\*&lt;/b&gt;", r"\[y\](z) \# c"), metrics["iou"], strict=True
    ):
        assert row.startswith(f"| {name} | {100 * iou:.2f} |")
    with np.load(finished_run / "confusions.npz") as arrays:
        low, high = interval(torch.from_numpy(arrays["test"]))
    assert f"over the 2 images is {100 * low:.2f} to {100 * high:.2f}" in text
    assert "teacher" not in text.split("## Licences")[1].split("- ktda")[0]  # a random one: nothing was learned
    assert "data: not recorded" in text


def test_a_card_names_licences(finished_run: Path, tmp_path: Path) -> None:
    content = json.loads((finished_run / "config.json").read_text())
    manifest = json.loads((finished_run / "manifest.json").read_text())
    about = {"source": "x", "licence": None, "kind": "pretrained", "used": True}
    for source, name, used, expected in (
        ("grass", "vit_large_patch16_dinov3.sat493m", True, ("cc-by-nc-4.0", "dinov3-license")),
        ("demo_grass", "demo", True, ("simulated, none", "demo: apache-2.0")),
        ("mine", "vit_large_patch16_dinov3.sat493m", False, ("data: not recorded",)),
    ):
        weights = {"student": None, "teacher": about | {"name": name, "used": used}}
        recorded = manifest | {"data": manifest["data"] | {"source": source}, "weights": weights}
        (tmp_path / "manifest.json").write_text(json.dumps(recorded))
        text = str(model_card(content, tmp_path))
        assert all(plain(part) in text for part in expected)
        assert ("teacher: " in text) == used
        assert "| class |" not in text  # no scores


def test_the_interval_of_a_mean_over_images() -> None:
    same = torch.tensor([[[3, 1], [0, 4]]] * 5)
    assert interval(same) == pytest.approx([mean_iou(same.sum(0)).item()] * 2)
    right_and_wrong = torch.stack([torch.eye(2) * 10, torch.ones(2, 2) * 5] * 10)
    low, high = interval(right_and_wrong)
    alone = mean_iou(right_and_wrong.sum(0)).item()
    assert mean_iou(right_and_wrong[1]) < low < alone < high < 1
    drawn = np.random.default_rng(0).integers(20, size=(4000, 20))
    matrices = right_and_wrong.double().numpy()[drawn].sum(1)  # the same by another way
    ends = np.quantile(mean_iou(torch.from_numpy(matrices)), [0.025, 0.975])
    assert [low, high] == pytest.approx(ends, abs=0.01)


def test_classes_go_together_by_name(finished_run: Path, tiny_set: Path, tmp_path: Path) -> None:
    own = evaluate_run(finished_run)
    for spec in ("[c, A, b]", "[0, 1, 2]"):
        shutil.copytree(tiny_set, tmp_path / spec)
        order = [2, 0, 1] if "A" in spec else [0, 1, 2]
        lines = f"classes: {spec if 'A' in spec else ['0', '1', '2']}\n"
        lines += f"value_map: {{{', '.join(f'{old}: {new}' for new, old in enumerate(order))}}}\n"
        (tmp_path / spec / "dataset.yaml").write_text(lines)
        found = evaluate_run(finished_run, str(tmp_path / spec))
        assert found["classes"] == ["a", "b", "c"]
        assert found["confusion_matrix"] == own["confusion_matrix"]
    shutil.copytree(tiny_set, tmp_path / "others")
    (tmp_path / "others" / "dataset.yaml").write_text("classes: [a, b, d]\n")
    with pytest.raises(InputError, match=r"3 classes \(a, b, c\), others has 3 \(a, b, d\); they go together by name"):
        evaluate_run(finished_run, str(tmp_path / "others"))
    assert match_classes(["Thin Cloud", "clear"], mock.Mock(classes=("Clear", "thin_cloud"))) == [1, 0]


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_pooling_as_products_is_pooling(size: int) -> None:
    for height, width in ((6, 6), (7, 13), (2, 5), (19, 4)):
        x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(Pool(size)(x), nn.AdaptiveAvgPool2d(size)(x))


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("m.pt", [], r"expected a name that ends with \.onnx or \.pt2"),
        ("m.onnx", ["--format", "pt2"], r"such a file is called m\.pt2"),
        ("m.onnx", ["--tile", "100"], "--tile 100; expected a multiple of 32"),
        ("m.onnx", ["--data", "nowhere"], "'nowhere' is neither a folder nor a built-in data set"),
    ],
)
def test_what_is_not_exported(finished_run: Path, tmp_path: Path, out: str, options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run("export", finished_run, "--out", tmp_path / out, *options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (1e-3, "differs by 0.001 of a probability, more than 0.0001; nothing was kept"),
        (None, "m.pt2 does not come about"),
    ],
)
def test_a_file_with_other_answers_is_not_kept(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, added: float | None, message: str
) -> None:
    def wrong(segmenter: Segmenter, example: torch.Tensor, shapes: dict, path: Path, metadata: dict) -> object:
        path.write_text("a model")
        return lambda x: segmenter(x) + added

    monkeypatch.setattr(exporting, "_write_program", wrong)
    with pytest.raises(InputError, match=re.escape(message)):
        export_model(Segmenter.from_pretrained(finished_run), tmp_path / "m.pt2", 64)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_is_exported_for_one_size(finished_run: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.from_pretrained(finished_run)
    segmenter.content["model"] = "teacher"
    with pytest.raises(InputError, match="for one size of images; give --tile"):
        export_model(segmenter, tmp_path / "m.onnx")


def test_onnx_without_its_libraries(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=re.escape("ONNX needs: pip install 'ktda[export]'")):
        export_model(Segmenter.from_pretrained(finished_run), tmp_path / "m.onnx", 64)
    assert list(tmp_path.iterdir()) == []


def test_the_item_has_what_the_extension_requires(finished_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "a model.onnx"
    path.write_bytes(b"x" * 10)
    segmenter = Segmenter.from_pretrained(finished_run)
    item = describe_file(segmenter, path, 256, 30)
    properties, asset = item["properties"], item["assets"]["model"]
    assert (item["type"], item["stac_version"], item["geometry"]) == ("Feature", "1.0.0", None)
    assert {"id", "links", "stac_extensions"} <= set(item)
    for name in ("mlm/v1.4.0", "eo/v1.1.0"):  # bands that an input names are described by eo
        assert f"https://stac-extensions.github.io/{name}/schema.json" in item["stac_extensions"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", properties["datetime"])
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", properties["mlm:name"])
    assert {"mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"} <= set(properties)
    (inputs,), (outputs,) = properties["mlm:input"], properties["mlm:output"]
    assert {"name", "bands", "input"} <= set(inputs)
    assert {"name", "tasks", "result"} <= set(outputs)
    assert [band["name"] for band in asset["eo:bands"]] == inputs["bands"] == ["red", "green", "blue"]
    for structure, shape in ((inputs["input"], [-1, 3, 256, 256]), (outputs["result"], [-1, 3, 256, 256])):
        assert structure["shape"] == shape
        assert len(structure["dim_order"]) == 4
        assert structure["data_type"] == "float32"
    for number, entry in enumerate(outputs["classification:classes"]):
        assert entry["value"] == number
        assert re.fullmatch(r"[0-9A-Za-z_-]+", entry["name"])
        assert re.fullmatch(r"[0-9A-F]{6}", entry["color_hint"])
    assert "mlm:model" in asset["roles"]
    assert (asset["mlm:artifact_type"], asset["file:size"]) == ("onnx", 10)
    assert asset["file:checksum"] == "1220" + hashlib.sha256(b"x" * 10).hexdigest()
    assert properties["gsd"] == 30
    known = {"architecture", "artifact_type", "framework", "framework_version", "input", "name", "output"}
    known |= {"pretrained", "tasks", "total_parameters"}
    assert {key[4:] for key in (*properties, *asset) if key.startswith("mlm:")} <= known


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tile", "changes"),
    [
        (0, {}),
        (64, {"fam_path": "beside", "fmm": "none"}),
        (0, {"model": "unet", "student": "resnet18"}),
        (64, {"model": "teacher"}),
    ],
)
def test_exported_files_give_the_same_answers(
    tiny_set: Path, tmp_path: Path, tile: int, changes: dict, images: torch.Tensor
) -> None:
    import onnx
    import onnxruntime

    train(str(tiny_set), tiny(**changes), tmp_path / "run")
    size = ["--tile", tile] if tile else []
    for name in ("m.onnx", "m.pt2"):
        said = run("export", tmp_path / "run", "--out", tmp_path / name, "--data", tiny_set, "--resolution", 10, *size)
        assert float(re.search(r"largest difference (\S+) of", said)[1]) < 1e-5
        assert json.loads((tmp_path / f"{name}.json").read_text())["assets"]["model"]["href"] == f"./{name}"
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    raw = images[..., :64] if tile else images
    expected = Segmenter.from_pretrained(tmp_path / "run")(raw).detach()
    (found,) = session.run(None, {"images": raw.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    program = torch.export.load(tmp_path / "m.pt2")
    torch.testing.assert_close(program.module()(raw), expected, atol=1e-5, rtol=0)
    names = [*program.state_dict, *(tensor.name for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer)]
    apart = ("auxiliary_head", "network.fam") if changes.get("fam_path") else ("auxiliary_head",)
    assert not [name for name in names if any(part in name for part in apart)]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == {"0": "a", "1": "b", "2": "c"}
    assert json.loads(metadata["model_type"]) == "Segmentor"
    assert json.loads(metadata["resolution"]) == 1000  # centimetres
    assert metadata.get("tile_size") == (str(tile) if tile else None)
    # bytes as Deepness gives them: divided by 255, then by the mean and deviation of the metadata
    mean, std = (np.array(json.loads(metadata[f"standardization_{key}"]))[:, None, None] for key in ("mean", "std"))
    given = ((np.float32(raw.numpy() / 255) - mean) / std).astype(np.float32)
    np.testing.assert_allclose(session.run(None, {"images": given})[0], expected, atol=1e-5)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """A hub on this machine that takes what is pushed, and gives it again; its address."""
    store, commit = tmp_path / "store", "0123456789" * 4

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = store / self.path.rpartition("/")[2]
            found = "/resolve/" in self.path and path.is_file()
            content = path.read_bytes() if found else b""
            digest = hashlib.sha256(content).hexdigest()
            self._reply(content, 200 if found else 404, {"ETag": f'"{digest}"', "X-Repo-Commit": commit})

        do_HEAD = do_GET

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer: dict = {"url": f"http://{self.headers['Host']}/me/mine"}
            if "/preupload/" in self.path:
                names = [entry["path"] for entry in json.loads(body)["files"]]
                answer = {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
            elif "/commit/" in self.path:
                for entry in map(json.loads, body.splitlines()):
                    if entry["key"] == "file":
                        store.mkdir(exist_ok=True)
                        (store / entry["value"]["path"]).write_bytes(base64.b64decode(entry["value"]["content"]))
                answer = {"commitUrl": f"{answer['url']}/commit/{commit}", "commitOid": commit, "success": True}
            self._reply(json.dumps(answer).encode())

        def _reply(self, content: bytes, code: int = 200, headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_pushed_to_a_hub_and_loaded_from_it(
    hub: str, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    said = python(
        f"""
import torch
from ktda.share.segmenter import Segmenter
first = Segmenter.from_pretrained({str(finished_run)!r})
print(first.push_to_hub("me/mine"))
second = Segmenter.from_pretrained("me/mine", revision="{"0123456789" * 4}")
x = torch.rand(1, 3, 64, 64) * 255
print(torch.equal(first(x), second(x)), first.content == second.content)
""",
        tmp_path,
        hub,
    )
    assert said.splitlines() == [f"{hub}/me/mine/commit/{'0123456789' * 4}", "True True"]
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"README.md", "config.json", "model.safetensors"}


def test_the_guide_states_the_published_numbers() -> None:
    guide = (ROOT / "docs" / "share.md").read_text()
    sets = facts()["sets"]
    for name, about in sets.items():
        (method,) = [row for row in about["rows"] if row["method"] == about["method"]]
        (line,) = [line for line in guide.splitlines() if line.startswith(f"| {name}, ")]
        assert f"| {method['miou']:.2f} |" in line
        assert " ".join(f"{share:.2f}" for share in about["shares"]["percent"]) in line
    highest = max(sets["cloud"]["rows"], key=lambda row: row["miou"])
    assert f"{highest['miou']:.2f}, {highest['method']}'s" in " ".join(guide.split())
