"""Weights: by hand, from the cache, from a hub, and what is said without a network.

The hub is a server on this machine that speaks the protocol's part that a download needs.
"""

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from ktda.errors import InputError
from ktda.files import file_sha256
from ktda.student import Student
from ktda.teacher import Teacher
from ktda.weights import hub as weights
from ktda.weights.encoder import make_encoder
from ktda.weights.hub import hub_file
from ktda.weights.tensors import HASH, read_metadata, read_tensors, save_tensors

REPO = "someone/tiny-vit"
CHANGES = {"embed_dim": 24, "depth": 4, "num_heads": 2, "img_size": 32}
STUDENTS = [("tu-convnext_atto", "convnext_atto.d2_in1k"), ("resnet18", "resnet18.imagenet")]


class Hub:
    """A hub with the files of one folder, ``repository/file``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.requests = folder, []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def _answer(self, body: bool) -> None:
                hub.requests.append((self.command, self.path))
                owner_name, sign, rest = self.path.lstrip("/").partition("/resolve/")
                path = hub.folder / owner_name / rest.partition("/")[2]
                if not sign or not path.is_file():
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound" if path.parent.is_dir() else "RepoNotFound")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                content = path.read_bytes()
                self.send_response(200)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "0123456789" * 4)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def do_HEAD(self) -> None:
                self._answer(False)

            def do_GET(self) -> None:
                self._answer(True)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    folder = tmp_path / "hub" / REPO
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **CHANGES)
    save_file(model.state_dict(), folder / "model.safetensors")
    cfg = {"mean": [0.5] * 3, "std": [0.5] * 3, "license": "cc0-1.0"}
    config = {"architecture": "vit_tiny_patch16_224", "model_args": CHANGES, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(config))
    yield hub
    hub.close()


def closed_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{s.getsockname()[1]}"


def python(code: str, folder: Path, endpoint: str) -> str:
    """Output of a process with a hub cache of its own and a hub at the endpoint."""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "cache"), "KTDA_DATA": str(folder)}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "NO_PROXY": "*", "HF_HUB_DISABLE_TELEMETRY": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


def test_a_teacher_from_the_hub_then_from_the_cache(hub: Hub, tmp_path: Path) -> None:
    code = f"""
import torch
from ktda.errors import InputError
from ktda.teacher import Teacher
teacher = Teacher("{REPO}")
x = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
r = teacher.record
print(teacher.dim, teacher.patch, teacher.mean[0], r.source, r.licence, r.kind, r.sha256, float(teacher(x)[3].sum()))
try:
    Teacher("someone/absent")
except InputError as error:
    print(error)
"""
    first, absent = python(code, tmp_path, hub.url).splitlines()
    assert "the hub did not give config.json of someone/absent" in absent
    path = tmp_path / "hub" / REPO / "model.safetensors"
    assert first.split()[:7] == ["24", "16", "0.5", REPO, "cc0-1.0", "pretrained", file_sha256(path)]
    assert any(path.endswith("/config.json") for _, path in hub.requests)
    assert any(path.endswith("/model.safetensors") for _, path in hub.requests)
    hub.server.shutdown()
    hub.server.server_close()
    again, absent = python(code, tmp_path, hub.url).splitlines()
    assert again == first  # the same, without a server
    assert "the hub does not answer" in absent
    hub.close = lambda: None


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No hub, an empty cache, and an empty folder of weights."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", closed_port())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KTDA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "data" / "weights"


def ask_for_everything(offline: Path) -> None:
    """Teacher by name and by id, students of both kinds: each error names the file and its place."""
    asked = [
        (lambda: Teacher("vit_tiny_patch16_224.augreg_in21k"), "vit_tiny_patch16_224.augreg_in21k/model.safetensors"),
        (lambda: Teacher("someone/tiny-vit"), "tiny-vit/config.json"),
        *(
            (lambda name=name: Student(name, weights="imagenet"), f"{repo}/model.safetensors")
            for name, repo in STUDENTS
        ),
    ]
    for make, place in asked:
        with pytest.raises(InputError) as error:
            make()
        assert str(offline / place) in str(error.value)
        assert "put it at" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_refused_connection(offline: Path) -> None:
    ask_for_everything(offline)


def test_the_libraries_own_switch(offline: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="does not answer"):
        hub_file(REPO)
    assert hub.requests == []


def test_a_name_that_does_not_resolve_in_time(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request's time limit does not cover the resolver, which may wait for many seconds."""
    monkeypatch.setattr(weights, "PROBE_SECONDS", 0.3)

    released = threading.Event()  # after the answer: who waits for the name hangs

    def slow(*_: object, **__: object) -> None:
        released.wait()
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        with pytest.raises(InputError, match="does not answer"):
            hub_file(REPO)
    finally:
        released.set()


def test_a_server_that_never_answers(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(InputError, match="does not answer"):
            hub_file(REPO)


def test_the_probe_takes_any_status_for_an_answer(hub: Hub) -> None:
    assert weights._answers(hub.url)  # its root is a 404
    assert not weights._answers(closed_port())


def put(offline: Path, name: str, tensors: dict[str, torch.Tensor]) -> Path:
    path = offline / name / "model.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def test_files_put_by_hand_are_taken(offline: Path) -> None:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224.augreg_in21k")
    path = put(offline, "vit_tiny_patch16_224.augreg_in21k", vit.state_dict())
    teacher = Teacher("vit_tiny_patch16_224.augreg_in21k")
    assert teacher.record.sha256 == file_sha256(path)
    assert teacher.record.source == "timm/vit_tiny_patch16_224.augreg_in21k"
    assert teacher.mean == (0.5, 0.5, 0.5)
    assert torch.equal(teacher._model.blocks[7].attn.qkv.weight, vit.blocks[7].attn.qkv.weight)
    atto = timm.create_model("convnext_atto")
    path = put(offline, "convnext_atto.d2_in1k", atto.state_dict())
    student = Student("tu-convnext_atto", weights="imagenet")
    assert student.record.sha256 == file_sha256(path)
    assert torch.equal(student.encoder.model.stages_2.blocks[3].mlp.fc1.weight, atto.stages[2].blocks[3].mlp.fc1.weight)
    resnet, _ = make_encoder("resnet18")
    put(offline, "resnet18.imagenet", resnet.state_dict())
    student = Student("resnet18", weights="imagenet")
    assert torch.equal(student.encoder.layer4[1].conv2.weight, resnet.layer4[1].conv2.weight)
    assert student.record.kind == "pretrained"


def test_wrong_files_put_by_hand_are_refused(offline: Path) -> None:
    for name in ("vit_tiny_patch16_224.augreg_in21k", "convnext_atto.d2_in1k", "resnet18.imagenet"):
        put(offline, name, {"x": torch.zeros(2)})
    with pytest.raises(InputError, match="does not fit vit_tiny"):
        Teacher("vit_tiny_patch16_224.augreg_in21k")
    for name, _ in STUDENTS:
        with pytest.raises(InputError, match=f"does not fit encoder {name}"):
            Student(name, weights="imagenet")


def test_untrained_teachers_need_no_network(offline: Path) -> None:
    assert Teacher("vit_tiny_patch16_224.augreg_in21k", pretrained=False).record.kind == "random"


def test_save_and_read(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor(3), "c": torch.ones(2, requires_grad=True)}
    save_tensors(path, tensors, {"step": "7"})
    read = read_tensors(path)
    assert all(torch.equal(read[k], v) for k, v in tensors.items())
    assert load_file(path).keys() == tensors.keys()
    assert read_metadata(path).keys() == {"step", HASH}
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]  # nothing half-written is left
    assert path.stat().st_mode & 0o777 == 0o644
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "t.pth")
    assert read_tensors(tmp_path / "t.pth")["a"].item() == 1
    assert read_metadata(tmp_path / "t.pth") == {}
