"""Starting from trained weights."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders import get_encoder
from tiny_runs import SPEC, make_set, manifest_of, results_of, tiny, train_until
from torch import nn

from ktda.build import build, describe, make_teacher, save_config
from ktda.config import Config
from ktda.errors import InputError
from ktda.model import KTDA
from ktda.training import train
from ktda.warm_start import count_parts, export_encoder, initialise
from ktda.weights.encoder import make_encoder
from ktda.weights.tensors import save_tensors

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("source", ["run", "model.safetensors", "checkpoint.safetensors"])
def test_init_takes_the_weights_over(finished_run: Path, source: str) -> None:
    config = tiny(seed=5)
    model = build(describe(config, 3, make_teacher(config)))
    path = finished_run if source == "run" else finished_run / source
    assert initialise(model, str(path)) == []
    prefix = "model/" if source.startswith("checkpoint") else ""
    held = load_file(finished_run / (source if source != "run" else "model.safetensors"))
    assert all(torch.equal(v, held[prefix + k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("model", ["ktda", "unet", "segformer"])
def test_init_with_another_class_count_starts_the_classifiers_anew_and_says_so(
    tiny_set: Path, tmp_path: Path, built: list, model: str
) -> None:
    train(str(tiny_set), tiny(steps=1, model=model), tmp_path / "first")
    spec = SPEC.replace("[a, b, c]", "[a, b, c, d]")
    make_set(tmp_path / "four", {"train": 4, "val": 2, "test": 2}, classes=4, spec=spec)
    source = str(tmp_path / "first")
    train(str(tmp_path / "four"), tiny(steps=1, model=model, learning_rate=0.0), tmp_path / "second", init=source)
    if model == "ktda":
        heads = [
            f"{head}.classifier.{kind}" for head in ("decode_head", "auxiliary_head") for kind in ("weight", "bias")
        ]
    else:
        heads = ["network.segmentation_head.0.weight", "network.segmentation_head.0.bias"]
    manifest = manifest_of(tmp_path / "second")
    assert (manifest["init"], sorted(manifest["left_fresh"])) == (source, sorted(heads))
    before = load_file(tmp_path / "first" / "model.safetensors")
    after = load_file(tmp_path / "second" / "model.safetensors")
    learnt = dict(built[-1].named_parameters())
    assert all(torch.equal(before[k], after[k]) for k in learnt if k not in heads)  # the rate was 0
    assert all(after[k].shape[0] == 4 for k in heads)


def test_init_from_something_else_is_refused(
    finished_run: Path, tiny_set: Path, tmp_path: Path, tiny_arguments: dict
) -> None:
    with pytest.raises(InputError, match=r"no weights file at .*nowhere"):
        train(str(tiny_set), tiny(), tmp_path / "run", init=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"weights of .* do not fit this model: .*shape .*, expected"):
        train(str(tiny_set), tiny(decoder_channels=8), tmp_path / "run", init=str(finished_run))
    with pytest.raises(InputError, match=r"do not fit this model: \d+ missing .*; \d+ unknown"):
        train(str(tiny_set), tiny(model="unet"), tmp_path / "run", init=str(finished_run))
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"is missing; expected the layout of the authors' checkpoints") as caught:
        initialise(KTDA(**tiny_arguments), str(tmp_path / "weights.pth"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_init_from_the_authors_checkpoint(shared: Path, tiny_set: Path, tmp_path: Path) -> None:
    path = shared / "parity" / "vit_blocks" / "checkpoint.pth"
    with pytest.raises(InputError, match="do not fit this model") as caught:
        train(str(tiny_set), tiny(), tmp_path / "run", init=str(path))
    assert "\n" not in str(caught.value)


def make(folder: Path, config: Config) -> nn.Module:
    """A model folder without a training."""
    folder.mkdir()
    description = describe(config, 3, make_teacher(config))
    model = build(description).eval()
    save_tensors(folder / "model.safetensors", model.state_dict())
    save_config(folder, description, ["a", "b", "c"], [(0, 0, 0)] * 3, 255)
    return model


@pytest.mark.parametrize(("source", "target"), [("ktda", "ktda"), ("ktda", "unet"), ("unet", "upernet")])
def test_an_encoder_goes_from_any_model_to_any_other(tmp_path: Path, source: str, target: str) -> None:
    trained = make(tmp_path / "run", tiny(model=source, seed=5))
    config = tiny(model=target, fmm="none")  # and whatever else differs
    model = build(describe(config, 3, make_teacher(config)))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fresh = initialise(model, str(tmp_path / "run"), "encoder")
    taken = [k for k in before if k not in fresh]
    places = [getattr(m, "student", getattr(m, "network", None)) for m in (trained, model)]
    theirs, ours = (place.encoder.state_dict() for place in places)
    assert all(torch.equal(theirs[k], v) for k, v in ours.items())
    assert all(torch.equal(before[k], model.state_dict()[k]) for k in fresh)
    norms = {source, target} == {"ktda"}
    assert len(taken) == len(ours) + 8 * norms
    counts = count_parts(model, fresh)
    assert counts["student.encoder" if target != "unet" else "network.encoder"]["taken"] == len(ours)
    assert sum(count["anew"] for count in counts.values()) == len(fresh)


def test_an_encoder_that_does_not_fit_is_refused(tmp_path: Path, finished_run: Path) -> None:
    config = tiny(student="tu-test_resnet")
    model = build(describe(config, 3, make_teacher(config)))
    with pytest.raises(InputError, match=r"no encoder for this model in .*: encoder.model.* is missing"):
        initialise(model, str(finished_run), "encoder")
    with pytest.raises(InputError, match="init part 'decoder'; expected one of all, encoder"):
        initialise(model, str(finished_run), "decoder")
    teacher = tiny(model="teacher")
    with pytest.raises(InputError, match="this model has no student"):
        initialise(build(describe(teacher, 3, make_teacher(teacher))), str(finished_run), "encoder")


def test_two_stages(tiny_set: Path, tmp_path: Path) -> None:
    """Distil alone, then learn the task; cut before its first checkpoint, the second stage still starts there."""
    beside = {"fam_path": "beside", "steps": 1}
    first, second, cut = (tmp_path / name for name in ("first", "second", "cut"))
    train(str(tiny_set), tiny(segmentation_weight=0, **beside), first)
    stage_two = tiny(encoder_rate=1e-6, learning_rate=1e-6, **beside)
    train(str(tiny_set), stage_two, second, init=str(first), init_part="encoder")
    before, after = (load_file(run / "model.safetensors") for run in (first, second))
    encoder = [k for k in before if k.startswith("student.encoder.") and before[k].ndim > 1]
    assert all(torch.allclose(before[k], after[k], rtol=1e-4, atol=1e-7) for k in encoder)
    manifest = manifest_of(second)
    assert (manifest["init"], manifest["init_part"], manifest["left_fresh"]) == (str(first), "encoder", [])
    assert manifest["init_tensors"]["decode_head"]["taken"] == 0
    assert manifest["init_tensors"]["student.encoder"]["anew"] == 0
    train_until(0, tiny_set, stage_two, cut, init=str(first), init_part="encoder")
    with pytest.raises(InputError, match="was started with --init-part encoder; resume so"):
        train(str(tiny_set), stage_two, cut, resume=True, init=str(first))
    train(str(tiny_set), stage_two, cut, resume=True)
    assert results_of(cut) == results_of(second)
    # all of it, but for the FAM that a run does not keep
    model = build(describe(stage_two, 3, make_teacher(stage_two)))
    fresh = initialise(model, str(first))
    assert fresh
    assert all(name.startswith("fam.") for name in fresh)
    assert initialise(model, str(first / "checkpoint.safetensors")) == []


@pytest.mark.parametrize("name", ["tu-test_convnext", "tu-mobilenetv3_small_050", "resnet18"])
def test_an_exported_encoder_loads_in_smp_and_timm(tmp_path: Path, name: str) -> None:
    trained = make(tmp_path / "run", tiny(student=name)).student.encoder
    file = tmp_path / "encoder.safetensors"
    assert export_encoder(tmp_path / "run", file) == name
    images = torch.rand(1, 3, 64, 64)
    overlay = {"pretrained_cfg_overlay": {"file": str(file)}}
    if name.startswith("tu-"):
        found = [get_encoder(name, depth=5, weights=True, **overlay).eval()]
        features = timm.create_model(name[3:], pretrained=True, features_only=True, **overlay).eval()
        whole = timm.create_model(name[3:], pretrained=True, num_classes=7, **overlay).state_dict()
        assert all(torch.equal(whole[k], v) for k, v in load_file(file).items())
        assert torch.equal(features(images)[-1], trained(images)[-1])
    else:
        found = [get_encoder(name, depth=5, weights=None).eval()]
        found[0].load_state_dict(load_file(file))
    found.append(make_encoder(name, file)[0].eval())
    for encoder in found:
        assert all(torch.equal(a, b) for a, b in zip(encoder(images), trained(images), strict=True))


def test_a_model_without_a_whole_encoder_exports_none(tmp_path: Path) -> None:
    make(tmp_path / "run", tiny(model="pspnet"))
    with pytest.raises(InputError, match=r"model=pspnet of .* holds no whole encoder of a student"):
        export_encoder(tmp_path / "run", tmp_path / "encoder.safetensors")
    assert not (tmp_path / "encoder.safetensors").exists()
