"""Explorers: hand-computed maps, attention against the fused kernel, and pictures that follow their controls."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("matplotlib")

import matplotlib.pyplot as plt
from PIL import Image

import ktda_lab
from ktda.data.folder import TileSet
from ktda.errors import InputError
from ktda.teacher import Teacher
from ktda_lab.explorers.predictions import (
    AGREE,
    NEITHER,
    ONLY_FIRST,
    ONLY_SECOND,
    PredictionExplorer,
    disagreement,
    swipe,
)
from ktda_lab.features.explorer import FeatureExplorer, padding_figure
from ktda_lab.features.tokens import attention, linear_cka, patch_coverage, queries_keys_values


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher("random", blocks=(0, 2))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 36, 48, generator=torch.Generator().manual_seed(0))  # 5 x 6 patches, the last row half


@pytest.fixture(scope="module")
def explorer(teacher, images) -> FeatureExplorer:
    return FeatureExplorer(teacher, images, ["a", "b"])


@pytest.fixture
def runs(tmp_path) -> PredictionExplorer:
    """Two tiles of 2 x 4 pixels; on the second both runs agree."""
    tile_set = TileSet("tiny", tmp_path, ("a", "b", "c"), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    masks = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 255]]] * 2)
    first = torch.tensor([[[0, 0, 1, 1], [2, 1, 2, 0]], [[0, 0, 0, 0]] * 2])
    second = torch.tensor([[[0, 1, 1, 0], [0, 2, 2, 1]], [[0, 0, 0, 0]] * 2])
    return PredictionExplorer(torch.zeros(2, 3, 2, 4), masks, {"A": first, "B": second}, tile_set)


# Tokens


def test_attention_gives_what_the_fused_kernel_gives(teacher, images):
    blocks = teacher._model.blocks
    seen = {}
    hooks = [blocks[b].attn.register_forward_hook(lambda _, i, out, b=b: seen.update({b: (i[0], out)})) for b in (0, 2)]
    parts = queries_keys_values(teacher, images)
    for hook in hooks:
        hook.remove()
    for (q, k, v), block in zip(parts, (0, 2), strict=True):
        weights = attention(q, k)
        assert weights.shape == (2, 3, 31, 31)  # class token and 30 patches
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 31))
        torch.testing.assert_close(weights @ v, F.scaled_dot_product_attention(q, k, v, scale=1.0))
        mixed = blocks[block].attn.proj((weights @ v).transpose(1, 2).flatten(2))
        torch.testing.assert_close(mixed, seen[block][1], rtol=1e-4, atol=1e-5)
    assert not any(block.attn._forward_pre_hooks for block in blocks)


def test_attention_wants_a_plain_vision_transformer(images):
    with pytest.raises(InputError, match=r"teacher <lambda> has no plain attention; take .*'demo'"):
        queries_keys_values(Teacher(lambda x: F.avg_pool2d(x, 8)), images)


def test_cka_sees_through_rotation_and_scale_and_is_nothing_for_a_constant():
    draw = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 4, 30, 30, generator=draw), torch.randn(2, 4, 30, 30, generator=draw)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=draw)).Q
    turned = 7 * torch.einsum("nchw,cd->ndhw", x, rotation) + 3
    assert linear_cka(x, turned) == pytest.approx(1, abs=1e-6)
    assert linear_cka(x, noise) < 0.02
    assert linear_cka(x, torch.ones(2, 3, 30, 30)) == 0
    # one channel: the squared correlation, here of (0, 1, 2) and (0, 1, 0)
    assert linear_cka(torch.tensor([0.0, 1, 2]).view(1, 1, 1, 3), torch.tensor([0.0, 1, 0]).view(1, 1, 1, 3)) < 1e-12
    assert linear_cka(torch.tensor([0.0, 1, 2]).view(1, 1, 1, 3), torch.tensor([0.0, 1, 1]).view(1, 1, 1, 3)) == (
        pytest.approx(0.75)
    )


def test_patch_coverage_by_hand():
    torch.testing.assert_close(patch_coverage(4, 7, 4), torch.tensor([[1, 0.75]]))
    torch.testing.assert_close(patch_coverage(5, 7, 4), torch.tensor([[1, 0.75], [0.25, 0.1875]]))


# Features


def test_a_pixel_asks_for_its_patch(explorer):
    assert explorer.patch_of(0, 47) == (0, 5)
    assert explorer.patch_of(35, 8) == (4, 1)
    similar = explorer.similarity(1, 0, 35, 8)
    assert similar.shape == (5, 6)
    assert similar[4, 1] == pytest.approx(1)
    vectors = explorer.maps[0][1] / explorer.maps[0][1].norm(dim=0)
    torch.testing.assert_close(similar, torch.einsum("dhw,d->hw", vectors, vectors[:, 4, 1]))
    for pixel in ((36, 0), (0, -1)):
        with pytest.raises(InputError, match="rows 0 to 35, columns 0 to 47"):
            explorer.patch_of(*pixel)


def test_attention_of_a_pixel_is_the_row_of_its_token(explorer, teacher, images):
    q, k, _ = queries_keys_values(teacher, images)[1]
    token = 1 + 4 * 6 + 1  # the class token, four rows of six patches, one patch
    expected = attention(q, k)[1, :, token, 1:].view(3, 5, 6)
    torch.testing.assert_close(explorer.attention(1, 1, 35, 8), expected)


def test_feature_figure_shows_the_arrays(explorer):
    figure = explorer.figure(1, [0, 1], 35, 8, "title")
    assert plt.get_fignums() == []
    panels = figure.axes[:8]
    assert [panels[0].get_ylabel(), panels[4].get_ylabel()] == ["block 0", "block 2"]
    np.testing.assert_allclose(panels[6].images[0].get_array(), explorer.similarity(1, 1, 35, 8))
    np.testing.assert_allclose(panels[7].images[0].get_array(), 100 * explorer.attention(1, 1, 35, 8).mean(0))
    for panel in panels:  # the frame lies on the patch: rows 32 to 39, columns 8 to 15
        assert panel.patches[0].get_bbox().extents.tolist() == [7.5, 31.5, 15.5, 39.5]


def test_padding_figure_pads_with_the_mean_colour(teacher, images):
    figure = padding_figure(images[0], teacher, torch.zeros(5, 6))
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert shown.shape == (40, 48, 3)
    np.testing.assert_allclose(shown[36:], np.broadcast_to(teacher.mean, (4, 48, 3)), rtol=1e-6)
    np.testing.assert_allclose(shown[:36], images[0].permute(1, 2, 0))


# Predictions


def test_swipe_covers_the_left_share():
    image, cover = np.full((1, 4, 3), 10), np.full((1, 4, 3), 200)
    assert swipe(image, cover, 0)[0, :, 0].tolist() == [10, 10, 10, 10]
    assert swipe(image, cover, 0.5)[0, :, 0].tolist() == [200, 0, 10, 10]
    assert swipe(image, cover, 1)[0, :, 0].tolist() == [200, 200, 200, 200]
    assert image.max() == 10


def test_disagreement_by_hand(runs):
    first, second = (p[0] for p in runs.predictions.values())
    found = disagreement(first, second, runs.masks[0])
    expected = [[AGREE, ONLY_FIRST, AGREE, ONLY_FIRST], [ONLY_SECOND, NEITHER, AGREE, NEITHER]]
    assert found.tolist() == expected


def test_prediction_figure(runs):
    titles = [axes.get_title() for axes in runs.figure(0).axes]
    assert titles == ["A", "B", "labels of 0: tile", "they disagree on 62 %"]
    assert runs.figure(1).axes[3].get_title() == "they disagree on 0 %"
    legend = [text.get_text() for text in runs.figure(0).legends[1].texts]
    assert legend == ["both alike", "only A is right", "only B is right", "neither is right"]
    with pytest.raises(InputError, match="1 runs to compare; give the predictions of two"):
        PredictionExplorer(runs.images, runs.masks, {"A": runs.masks}, runs.tile_set)


# Widgets


@pytest.mark.parametrize("kind", ["feature", "prediction"])
def test_every_control_changes_the_picture_and_back(kind, explorer, runs):
    widgets = pytest.importorskip("ktda_lab.explorers.widgets")
    made = widgets.feature_explorer(explorer) if kind == "feature" else widgets.prediction_explorer(runs)
    assert f"ktda-{kind}-explorer" in made._dom_classes
    assert made.children == (made.children[0], made.picture)
    assert set(made.children[0].children) == set(made.controls.values())
    before = made.picture.value
    assert Image.open(io.BytesIO(before)).width == 1000
    for control in made.controls.values():
        start = control.value
        control.value = 0 if start else 1
        assert made.picture.value != before
        control.value = start
        assert made.picture.value == before


def test_without_a_front_end_the_output_is_the_picture(runs):
    widgets = pytest.importorskip("ktda_lab.explorers.widgets")
    made = widgets.prediction_explorer(runs)
    bundle = made._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == made.picture.value
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "VBox" not in bundle["text/plain"]


def test_the_logic_needs_no_widgets():
    folder = Path(ktda_lab.__file__).parent
    imports = re.compile(r"^ *(import|from) ipywidgets", re.MULTILINE)
    users = [path.name for path in folder.rglob("*.py") if imports.search(path.read_text())]
    assert users == ["widgets.py"]
