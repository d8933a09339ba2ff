"""Pretraining without labels: pairs know their places, objectives fall, the file that comes out is a teacher."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ktda.errors import InputError
from ktda.files import file_sha256
from ktda.student import Student
from ktda.teacher import Teacher
from ktda.weights.encoder import SOURCE_STUDENT
from ktda.weights.tensors import read_metadata
from ktda.weights.vision_transformer import DEMO, METADATA_KEY
from ktda_lab.pretraining.objectives import DenseContrast, MaskedAutoencoder, info_nce, visible_tokens
from ktda_lab.pretraining.pretrain import (
    SourceProbe,
    joined_map,
    new_student,
    new_transformer,
    pretrain,
    save_student,
    save_teacher,
)
from ktda_lab.pretraining.views import ViewPool, draw_pairs, render_pool


@pytest.fixture(scope="module")
def pool() -> ViewPool:
    return render_pool(["demo_grass", "demo_cloud"], 2, 128)


def numbered(size: int = 128) -> ViewPool:
    """Pictures that say where they are: red and green count the 8 px patches down and across, blue the scene."""
    y, x = np.mgrid[:size, :size] // 8
    pictures = np.stack([np.stack([y, x, np.full_like(y, scene)], -1) for scene in range(3)]).astype(np.uint8)
    return ViewPool(pictures, pictures)


def test_the_pool_shows_the_same_ground_twice_without_labels(pool: ViewPool) -> None:
    assert pool.first.shape == pool.second.shape == (4, 128, 128, 3)
    assert (pool.first != pool.second).any((1, 2, 3)).all()
    again = render_pool(["demo_grass", "demo_cloud"], 2, 128)
    assert (again.first == pool.first).all()


def test_equal_place_numbers_are_equal_places() -> None:
    batch = draw_pairs(numbered(), 24, 64, 8, np.random.default_rng(0))
    shared = 0
    truth = []
    for images, places in ((batch.first, batch.first_places), (batch.second, batch.second_places)):
        # crops start anywhere, so that a token holds parts of up to four patches: their mean says which
        cells = torch.nn.functional.avg_pool2d((images * 255).float(), 8).flatten(2).transpose(1, 2)  # (N, L, 3)
        truth.append((cells, places))
    for n in range(24):
        (a, pa), (b, pb) = ((cells[n], places[n]) for cells, places in truth)
        rows, columns = (pa[:, None] == pb).nonzero(as_tuple=True)
        shared += len(rows)
        assert len(pa.unique()) == 64
        torch.testing.assert_close(a[rows], b[columns])
    assert shared > 24 * 20
    assert not set(batch.first_places[0].tolist()) & set(batch.second_places[1].tolist())


def test_info_nce_by_hand() -> None:
    tokens = torch.eye(3)
    places = torch.arange(3)
    expected = -math.log(math.exp(1 / 0.5) / (math.exp(1 / 0.5) + 2))
    assert info_nce(tokens, 7 * tokens, places, places, 0.5) == pytest.approx(expected)
    assert info_nce(tokens, tokens[[1, 2, 0]], places, places[[1, 2, 0]], 0.5) == pytest.approx(expected)
    assert info_nce(tokens, tokens, places, places[[1, 2, 0]], 0.5) > 1
    with pytest.raises(ValueError, match="share no place"):
        info_nce(tokens, tokens, places, places + 3)


def test_all_tokens_visible_are_the_transformers_own(pool: ViewPool) -> None:
    network = new_transformer().eval()
    images = torch.rand(2, 3, 64, 64)
    tokens, kept = visible_tokens(network, images, 0.0)
    own = network.forward_features(images)[:, 1:]
    torch.testing.assert_close(tokens, own.gather(1, kept[..., None].expand_as(tokens)))
    assert visible_tokens(network, images, 0.75)[0].shape == (2, 16, 192)


@pytest.mark.parametrize("objective", [DenseContrast, MaskedAutoencoder])
def test_an_objective_falls_and_its_network_is_a_teacher(objective: type, pool: ViewPool, tmp_path: Path) -> None:
    network = new_transformer()
    torch.manual_seed(0)
    module = objective(network, 192) if objective is DenseContrast else objective(network)
    curve = pretrain(module, pool, 12, batch_size=4, probe=lambda network: {"score": 0.5}, probe_every=4)
    assert [row["step"] for row in curve] == [4, 8, 12]
    assert curve[-1]["loss"] < curve[0]["loss"]
    save_teacher(network, tmp_path / "own.safetensors", objective="test")
    teacher = Teacher(str(tmp_path / "own.safetensors"))
    images = torch.rand(2, 3, 64, 64)
    for found, expected in zip(teacher(images), Teacher(network)(images), strict=True):
        assert torch.equal(found, expected)
    assert teacher.patch == 8
    assert not torch.equal(teacher(images)[-1], Teacher(new_transformer())(images)[-1])
    assert [row["score"] for row in curve] == [0.5] * 3


def test_the_same_seed_gives_the_same_network(pool: ViewPool) -> None:
    def run(seed: int) -> torch.Tensor:
        network = new_transformer()
        torch.manual_seed(0)
        pretrain(DenseContrast(network, 192), pool, 2, batch_size=2, seed=seed)
        return network.norm.weight

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_a_plain_network_learns_from_its_maps(pool: ViewPool) -> None:
    network = torch.nn.Conv2d(3, 16, 8, 8)
    curve = pretrain(DenseContrast(network, 16), pool, 20, batch_size=4, learning_rate=1e-2, probe_every=10)
    assert curve[-1]["loss"] < curve[0]["loss"]


def test_a_loss_that_is_not_finite_stops_the_run(pool: ViewPool) -> None:
    module = DenseContrast(torch.nn.Conv2d(3, 16, 8, 8), 16)
    with torch.no_grad():
        module.network.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="no longer finite at step 2; lower learning_rate"):
        pretrain(module, pool, 2, batch_size=2)


def test_the_packaged_teacher_is_the_one_of_its_card() -> None:
    header = json.loads(read_metadata(DEMO)[METADATA_KEY])["pretraining"]
    card = DEMO.with_suffix(".md").read_text()
    assert file_sha256(DEMO) in card
    assert DEMO.stat().st_size < 12e6
    for world in ("demo_grass", "demo_cloud"):
        assert f"{100 * header[f'probe {world}']:.1f}" in card
    assert header["recipe"] in card
    assert f"{header['seconds']:,} s" in card


def test_the_packaged_teacher_reads_off_more_than_its_untrained_twin() -> None:
    """On a few held-out source scenes; the card has the figures over many."""
    probe = SourceProbe(4)
    demo, twin = Teacher("demo"), Teacher("demo", pretrained=False, seed=1)
    assert (demo.dim, demo.patch, demo.blocks) == (twin.dim, twin.patch, twin.blocks) == (192, 8, (1, 2, 4, 5))
    assert demo.record.kind == "file"
    assert twin.record.kind == "random"
    learned, untrained = (probe(lambda images, t=t: t(images)[-1]) for t in (demo, twin))
    assert learned["demo_grass"] > untrained["demo_grass"] + 0.08
    assert learned["demo_cloud"] > untrained["demo_cloud"] + 0.01


def test_a_student_learns_at_all_levels_and_its_file_fits_student_weights(pool: ViewPool, tmp_path: Path) -> None:
    network = new_student()
    before = {name: value.clone() for name, value in network.student.encoder.named_parameters()}
    torch.manual_seed(0)
    curve = pretrain(DenseContrast(network, network.dim), pool, 12, batch_size=4, probe_every=4)
    assert curve[-1]["loss"] < curve[0]["loss"]
    after = dict(network.student.encoder.named_parameters())
    assert not [name for name, value in before.items() if torch.equal(value, after[name])]  # the loss reaches each
    images = torch.rand(2, 3, 64, 64)
    assert joined_map(network)(images).shape == (2, network.dim, 8, 8)
    save_student(network, tmp_path / "student.safetensors", recipe="test")
    assert json.loads(read_metadata(tmp_path / "student.safetensors")["pretraining"]) == {"recipe": "test"}
    loaded = Student("tu-mobilenetv3_small_050", weights=tmp_path / "student.safetensors").eval()
    for found, expected in zip(loaded.encoder(images), network.eval().student.encoder(images), strict=True):
        assert torch.equal(found, expected)


def test_the_packaged_student_is_the_one_of_its_card() -> None:
    card = SOURCE_STUDENT.with_name("demo_teacher.md").read_text()
    assert file_sha256(SOURCE_STUDENT) in card
    about = json.loads(read_metadata(SOURCE_STUDENT)["pretraining"])
    assert str(about["seconds"]) in card.replace(",", "")
    packaged, fresh = Student("tu-mobilenetv3_small_050", weights="source"), new_student().student
    assert packaged.record.kind == "file"
    kernel = "encoder.model.conv_stem.weight"
    assert not torch.equal(packaged.state_dict()[kernel], fresh.state_dict()[kernel])
    with pytest.raises(InputError, match="does not fit encoder tu-convnext_atto"):
        Student("tu-convnext_atto", weights="source")
