"""Teacher: what it returns, what it never does, and where it comes from."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import ktda.extractors
from ktda.errors import InputError
from ktda.images import IMAGENET_MEAN, IMAGENET_STD
from ktda.losses import distillation_loss
from ktda.targets import channel_statistics, standardise
from ktda.teacher import Teacher, default_blocks
from ktda.weights.vision_transformer import METADATA_KEY

SIZES = {"img_size": 56, "patch_size": 14, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 0}


def transformer(seed: int = 0, **changes: object) -> VisionTransformer:
    torch.manual_seed(seed)
    model = VisionTransformer(**SIZES | changes, dynamic_img_size=True)
    nn.init.normal_(model.pos_embed)
    return model


def images(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("patch", "grid"), [(8, (8, 13)), (14, (5, 8)), (16, (4, 7))])
def test_one_map_per_block_on_the_grid_of_the_padded_image(patch: int, grid: tuple) -> None:
    teacher = Teacher(transformer(patch_size=patch, img_size=4 * patch), blocks=(0, 2, 3))
    maps = teacher(images(64, 100))
    assert [tuple(m.shape) for m in maps] == [(2, 24, *grid)] * 3
    assert all(m.is_contiguous() for m in maps)


@pytest.mark.parametrize("changes", [{}, {"reg_tokens": 3}, {"reg_tokens": 2, "no_embed_class": True}])
def test_equals_timm_where_nothing_needs_padding_or_resampling(changes: dict) -> None:
    """Class and register tokens are dropped, and only the last map passes the norm."""
    model, x = transformer(**changes), images(56, 56)
    nn.init.normal_(model.norm.weight)
    normalised = (x - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with torch.no_grad():
        raw = model.eval().forward_intermediates(normalised, norm=False, intermediates_only=True)
        normed = model.forward_intermediates(normalised, norm=True, intermediates_only=True)
    last, every = Teacher(model)(x), Teacher(model, norm="all")(x)
    for ours, theirs in zip(last, [*raw[:3], normed[3]], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    for ours, theirs in zip(every, normed, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(last[0], every[0])


@pytest.mark.parametrize("size", [(60, 60), (84, 28), (50, 120)])
def test_normalised_then_padded_then_timms_own_resampling(size: tuple[int, int]) -> None:
    model, x = transformer(), images(*size)
    normalised = (x - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    padded = torch.zeros(2, 3, *(-(-s // 14) * 14 for s in size))  # zeros after the normalisation: not black
    padded[..., : size[0], : size[1]] = normalised
    with torch.no_grad():
        expected = model.eval().forward_intermediates(padded, norm=False, intermediates_only=True)
    for ours, theirs in zip(Teacher(model)(x)[:3], expected, strict=False):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_statistics_are_the_models_own() -> None:
    model, x = transformer(), images(56, 56)
    imagenet = Teacher(model)(x)
    model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    teacher = Teacher(model)
    assert teacher.std == (0.25, 0.25, 0.25)
    rescaled = (x - 0.5) / 0.25 * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    assert not torch.allclose(teacher(x)[3], imagenet[3])
    model.pretrained_cfg = {}
    torch.testing.assert_close(teacher(x)[3], Teacher(model)(rescaled)[3], atol=1e-5, rtol=1e-4)


def test_the_embedding_is_resampled_once_per_size(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, original = [], ktda.extractors.resample_abs_pos_embed

    def counted(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(kwargs["new_size"])
        return original(*args, **kwargs)

    monkeypatch.setattr(ktda.extractors, "resample_abs_pos_embed", counted)
    model = transformer()
    stored = model.pos_embed.detach().clone()
    teacher = Teacher(model)
    first = teacher(images(84, 84))
    teacher(images(40, 70))
    again = teacher(images(84, 84))
    assert calls == [[6, 6], [3, 5]]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(model.pos_embed, stored)  # each size starts from the stored one
    authors = Teacher(transformer(), resample="authors")(images(28, 28))
    timms = Teacher(transformer())(images(28, 28))
    assert not torch.allclose(authors[3], timms[3], atol=1e-3)


def test_a_call_that_fails_leaves_a_module_as_it_was() -> None:
    model = transformer()
    stored, grid = model.pos_embed, model.patch_embed.grid_size
    teacher, x = Teacher(model), images(40, 70)
    expected = teacher(x)
    with pytest.raises(RuntimeError):
        teacher(torch.zeros(1, 5, 40, 70))  # five bands
    assert model.pos_embed is stored
    assert model.patch_embed.grid_size == grid
    assert all(torch.equal(a, b) for a, b in zip(teacher(x), expected, strict=True))


def test_never_a_gradient_but_a_target_for_backward() -> None:
    model = transformer().train()
    teacher = Teacher(model)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    x = images(60, 60)
    with torch.inference_mode():
        teacher(x)  # an embedding made in inference mode serves training too
    model.train()  # a careless owner
    maps = teacher(x)
    assert not model.training
    assert not any(m.requires_grad or m.is_inference() for m in maps)
    students = [torch.zeros_like(m, requires_grad=True) for m in maps]
    distillation_loss(students, maps).backward()
    assert all(s.grad.abs().sum() > 0 for s in students)


def test_random_is_seeded_and_small(random_teacher: Teacher) -> None:
    assert random_teacher.record.source == "seed 0"
    assert random_teacher.parameters < 3e6
    assert random_teacher.blocks == (1, 2, 4, 5)
    x = images(30, 50)
    assert torch.equal(random_teacher(x)[0], Teacher("random")(x)[0])
    assert not torch.equal(random_teacher(x)[0], Teacher("random", seed=1)(x)[0])
    assert [tuple(m.shape) for m in random_teacher(x)] == [(2, 192, 4, 7)] * 4


def test_a_move_changes_nothing() -> None:
    teacher, x = Teacher(transformer()), images(84, 84)
    before = teacher(x)[3]
    assert torch.equal(teacher.to("cpu")(x)[3], before)


def test_plain_callables_and_modules() -> None:
    def pool(x: torch.Tensor) -> list[torch.Tensor]:
        y = nn.functional.avg_pool2d(x, 16, ceil_mode=True)
        return [y, 2 * y, 3 * y]

    teacher = Teacher(pool, blocks=(0, 2))
    assert (teacher.dim, teacher.patch, teacher.blocks, teacher.name) == (3, 16, (0, 2), "pool")
    x = images(32, 40)
    assert torch.equal(teacher(x)[1], 3 * teacher(x)[0])
    assert teacher(x)[0].shape == (2, 3, 2, 3)
    module = nn.Sequential(nn.Conv2d(3, 8, 14, 14), nn.BatchNorm2d(8)).train()
    teacher = Teacher(module)
    before = module[1].running_mean.clone()
    assert teacher(x)[0].shape == (2, 8, 2, 2)
    module.train()
    teacher(x)
    assert torch.equal(module[1].running_mean, before)  # always in eval
    assert not any(p.requires_grad for p in module.parameters())

    @torch.inference_mode()
    def inference(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(x, 16)

    target = Teacher(inference)(x)
    student = torch.zeros_like(target[0], requires_grad=True)
    distillation_loss([student], target).backward()
    with pytest.raises(InputError, match="must return maps"):
        Teacher(lambda x: x.flatten(1))
    with pytest.raises(InputError, match="has 0 to 0"):
        Teacher(inference, blocks=(0, 1))


def test_default_blocks() -> None:
    assert default_blocks(12) == (2, 5, 8, 11)
    assert default_blocks(24) == (7, 11, 15, 23)
    assert default_blocks(4) == (0, 1, 2, 3)
    assert default_blocks(6) == (1, 2, 4, 5)
    with pytest.raises(InputError, match="3 blocks cannot give 4 maps"):
        default_blocks(3)


@pytest.mark.parametrize("blocks", [(0, 6), (-1, 2), (3, 1), (2, 2), ()])
def test_wrong_blocks(blocks: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="random has 0 to 5"):
        Teacher("random", blocks)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit_base_patch14_dinov", {}, "unknown teacher.*near names: vit_base_patch14_dinov2"),
        ("random", {"norm": "first"}, "teacher norm 'first'; expected one of last, all"),
        ("random", {"resample": "nearest"}, "resample 'nearest'"),
        ("beit_base_patch16_224", {"pretrained": False}, "does not take images of any size .*dynamic_img_size=True"),
        ("vit_tiny_patch16_224.nonsense", {}, "unknown teacher weights.*augreg_in21k"),
        ("no/such/repository", {}, "neither a file here nor a hub id"),
        ("absent.safetensors", {}, "no teacher weights at absent.safetensors"),
    ],
)
def test_mistakes_are_one_line(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        Teacher(name, **arguments)
    assert "\n" not in str(error.value)


def test_a_module_of_one_image_size() -> None:
    with pytest.raises(InputError, match=r"VisionTransformer does not take.*dynamic_img_size=True"):
        Teacher(VisionTransformer(**SIZES))


def test_a_rotary_transformer_with_registers() -> None:
    model = timm.create_model("vit_small_patch16_dinov3", dynamic_img_size=True, depth=4, embed_dim=64, num_heads=1)
    x = images(40, 50)
    assert [tuple(m.shape) for m in Teacher(model)(x)] == [(2, 64, 3, 4)] * 4


def test_from_a_file_that_describes_itself(tmp_path: Path) -> None:
    model, x = transformer(patch_size=8, img_size=32), images(40, 40)
    description = {"vision_transformer": SIZES | {"patch_size": 8, "img_size": 32}, "mean": [0.1] * 3, "std": [0.2] * 3}
    path = tmp_path / "small.safetensors"
    save_file(model.state_dict(), path, {METADATA_KEY: json.dumps(description)})
    teacher = Teacher(str(path))
    assert (teacher.patch, teacher.mean, teacher.record.kind) == (8, (0.1,) * 3, "file")
    assert len(teacher.record.sha256) == 64
    model.pretrained_cfg = {"mean": [0.1] * 3, "std": [0.2] * 3}
    assert torch.equal(teacher(x)[3], Teacher(model)(x)[3])


def test_from_a_file_by_config_or_by_name(tmp_path: Path) -> None:
    changes = {"embed_dim": 24, "depth": 4, "num_heads": 2, "img_size": 32}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **changes)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="does not say what model it is"):
        Teacher(tmp_path / "weights.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "model_args": changes, "pretrained_cfg": {"mean": [0.5] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    teacher = Teacher(tmp_path / "weights.safetensors")
    assert (teacher.dim, teacher.patch, teacher.mean) == (24, 16, (0.5,) * 3)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_of_another_world"}))
    with pytest.raises(InputError, match="vit_of_another_world, which timm"):
        Teacher(tmp_path / "weights.safetensors")
    (tmp_path / "config.json").unlink()
    named = (tmp_path / "weights.safetensors").rename(tmp_path / "vit_tiny_patch16_224.safetensors")
    with pytest.raises(InputError, match="does not fit vit_tiny_patch16_224"):  # the real one is larger
        Teacher(named)
    full = timm.create_model("vit_tiny_patch16_224")  # with a classifier, which is left aside
    save_file(full.state_dict(), named)
    assert Teacher(named).dim == 192
    named.write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="not a readable safetensors"):
        Teacher(named)


def test_channel_statistics_by_hand(random_teacher: Teacher) -> None:
    batches = [images(32, 32, seed=i) for i in range(3)]
    statistics = channel_statistics(random_teacher, batches)
    maps = random_teacher(torch.cat(batches))
    for m, s, z in zip(maps, statistics, standardise(maps, statistics), strict=True):
        assert s.shape == (2, 192)
        torch.testing.assert_close(s[0], m.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(s[1], m.std((0, 2, 3), correction=0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(192), atol=1e-3, rtol=0)
        torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(192), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="no images"):
        channel_statistics(random_teacher, [])
