"""Settings: presets, overrides as values and as text, and every refusal."""

import json
import re
import subprocess
import sys

import pytest
import torch

from ktda.build import build, describe, make_teacher
from ktda.cli.settings import settings as print_settings
from ktda.config import PRESETS, Config, make_config, read_override
from ktda.errors import InputError
from ktda.settings import _ALSO, GROUPS, _setting

# As computed when these settings were first published: a run made then must be known as the same run.
HASHES = {
    "smoke": "a0923bab82a41893564fd19a00d1ebc03bcea981f6a1a3337dd3a8f351e8b2b6",
    "demo": "e87224633419fba6dc5c5a66887403921c18a17ecf5c78c5999d500d73728cd5",
    "paper": "d8a55e9578ed10fb52fcd9d33578fe09afe1ae13c951d3beb64a58876beeb492",
    "few_labels": "771e94d530c92d706c7d119fb649c5a60911d1c0f15466e25e39095408fb1625",
    "grid": "024918b8281fcbcaeb324c1e066b0c8c7fef78727d938e3b6d8fffda4ecf1bbe",
}
# Of these presets before they had two heads.
EIGHT_HEADS = {
    "smoke": "b364a4fe7853e97b45a5d2b42231d7b848f85e8f3fce0f88cdee6f99db715856",
    "demo": "2c52735255b35b6a8ce41a1a1d053de43b5d0a5c545082cc7d1a6de74cc5d2fb",
    "few_labels": "08737df9ccf786d92224d2814a88b13645ec65bcef8351bedc038a7b33d02ae6",
}
CLOUD_HASH = "93c02d7118a51948802bbd1f1b06c5d47d70752d62f4fbf05c8de2c03cda678e"
DEFAULT_HASH = "3b45ca5570fef1f18b195d5a64feffd650826a330cd71264d8824dad89ee3b53"
OVERRIDDEN_HASH = "03bc674d2f736059ced998d635c9e24505499506a691cb1a9cb7f510b529fa64"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_makes_plain_values(preset: str) -> None:
    config = make_config(preset)
    values = json.loads(json.dumps(config.as_dict()))
    assert make_config(preset, values) == config
    assert values.keys() == Config.model_fields.keys()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_hash_of_a_preset_never_changes(preset: str) -> None:
    assert make_config(preset).config_hash == HASHES[preset]
    if preset in EIGHT_HEADS:
        assert make_config(preset, {"fmm_heads": 8}).config_hash == EIGHT_HEADS[preset]


def test_the_hash_of_other_settings_never_changes() -> None:
    assert Config().config_hash == DEFAULT_HASH
    assert make_config("paper", data="cloud").config_hash == CLOUD_HASH
    values = {"neck_scales": [], "neck_width": 0, "alpha": 1, "class_weights": [1, 2], "student": "resnet18"}
    words = ["neck_scales=", "neck_width=0", "alpha=1", "class_weights=1,2", "student=resnet18"]
    for given in (values | {"fmm_heads": 8}, [*words, "fmm_heads=8"]):
        assert make_config("smoke", given).config_hash == OVERRIDDEN_HASH


def test_a_setting_added_later_changes_the_hash_only_when_it_is_used() -> None:
    class Later(Config):
        ema: float = _setting(0.0, "decay of averaged weights", 0, 1, added=True)
        other: int = _setting(0, "not marked as added", 0, 1)

    later = Later.model_construct()
    assert "ema" in later.as_dict()
    assert later.identity() == Config().identity() | {"other": 0}
    assert Later.model_construct(ema=0.5).identity() == Config().identity() | {"other": 0, "ema": 0.5}


def test_settings_are_compared_and_hashed_by_value_and_never_change() -> None:
    assert {make_config("smoke"): 1}[make_config("smoke", {"steps": 4})] == 1
    with pytest.raises(ValueError, match="frozen"):
        make_config("smoke").steps = 5


def run_fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_a_mistake_in_settings_does_not_wait_for_torch() -> None:
    code = """
import sys
from ktda.cli.main import main
sys.argv = ["ktda", *{arguments!r}]
try:
    main()
except SystemExit as error:
    print(error.code, *sorted({{"torch", "pydantic"}} & set(sys.modules)))
"""
    assert run_fresh(code.format(arguments=["train", "x", "--set", "alpah=1"])) == "2 pydantic\n"
    assert run_fresh(code.format(arguments=["settings", "alpah"])) == "2 pydantic\n"
    assert run_fresh(code.format(arguments=["--help"])).splitlines()[-1] == "0"


def test_the_command_prints_every_setting_in_80_columns(capsys: pytest.CaptureFixture) -> None:
    print_settings()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    starts = [line.split(" = ")[0].strip() for line in lines if line.startswith("  ") and " = " in line]
    assert starts == list(Config.model_fields)
    assert [line for line in lines if not line.startswith(" ")][:5] == [f"{title}:" for title in GROUPS]
    text = " ".join(" ".join(lines).split())
    assert "alpha = 0.5 (a number from 0 to 1) share of KL" in text
    assert "protocol = honest (one of honest, paper)" in text
    assert "paper on cloud: steps=80000 batch_size=2 warmup_steps=2000 poly_begin=1000" in text
    listed = text.split("defaults: ")[1]
    for preset in PRESETS:  # what is printed is what `--set` takes
        given = re.search(rf"(?:^| ){preset}:((?: [a-z_0-9]+=\S*)+)", listed)[1].split()
        assert Config(**dict(map(read_override, given))) == make_config(preset)


def test_one_setting_with_its_presets(capsys: pytest.CaptureFixture) -> None:
    print_settings("fmm_depth")
    expected = ["fmm_depth = 4  (a whole number from 1 to 64)", "blocks of the FMM per level"]
    expected += [f"preset {preset}: 1" for preset in ("smoke", "demo", "few_labels", "grid")]
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == expected


@pytest.mark.parametrize("preset", ["smoke", "demo"])
def test_small_presets_build_a_model_for_a_tile_of_their_crop(preset: str) -> None:
    config = make_config(preset)
    model = build(describe(config, 5, make_teacher(config))).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, config.crop, config.crop)).shape == (1, 5, config.crop, config.crop)


def test_paper_preset_builds_the_published_sizes() -> None:
    class Stub:
        dims, patches = (768,) * 4, (14,) * 4

    with torch.device("meta"):  # sizes without memory
        model = build(describe(make_config("paper"), 5, Stub()))
    millions = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in model.named_children()}
    expected = {"student": 87.6, "fam": 1.5, "neck": 23.6, "fmm": 113.4, "decode_head": 32.3, "auxiliary_head": 1.8}
    assert {name: round(value, 1) for name, value in millions.items()} == expected


def test_paper_preset_is_the_published_protocol() -> None:
    grass = make_config("paper", data="grass")
    published = {
        "steps": 23_000,
        "batch_size": 4,
        "learning_rate": 6e-4,
        "weight_decay": 0.01,
        "warmup_steps": 1_150,
        "warmup_start": 1e-3,
        "poly_power": 0.9,
        "poly_begin": 1_150,
        "student_drop_path": 0.4,
        "student_norm": True,
        "alpha": 0.5,
        "temperature": 1.0,
        "kl_axis": "width",
        "reduction": "authors",
        "ce_average": "authors",
        "student_passes": 2,
        "neck_scales": (4.0, 2.0, 1.0, 0.5),
        "fmm": "vit",
        "fmm_depth": 4,
        "fmm_heads": 8,
        "decoder_channels": 512,
        "auxiliary_channels": 256,
        "auxiliary_weight": 0.4,
        "dropout": 0.1,
        "hflip": 0.5,
        "vflip": 0.0,
        "rot90": False,
        "photometric": True,
        "crop": 0,
        "precision": "fp32",
        "protocol": "paper",
        "standardise": False,
    }
    assert {key: getattr(grass, key) for key in published} == published


@pytest.mark.parametrize("data", ["cloud", "l8_biome_sample", "some/where/l8_biome_sample", "some/where/cloud/"])
def test_cloud_has_a_schedule_of_its_own(data: str) -> None:
    config = make_config("paper", data=data)
    assert (config.steps, config.batch_size, config.warmup_steps, config.poly_begin) == (80_000, 2, 2_000, 1_000)
    assert make_config("paper", ["steps=10"], data).steps == 10  # an override wins


def test_every_setting_is_explained_and_every_number_bounded() -> None:
    for name, field in Config.model_fields.items():
        assert field.description, name
        if type(field.default) in (int, float) and name != "student_passes":
            assert {type(bound).__name__ for bound in field.metadata} == {"Ge", "Le"}, name
            high = next(bound.le for bound in field.metadata if hasattr(bound, "le"))
            assert getattr(
                make_config("paper", {name: high, "neck_scales": [1] * 4, "tiles": 1, "unlabelled": 1} | {name: high}),
                name,
            )
            with pytest.raises(InputError, match=f"{name}=.*expected a .*number from .* to {high:,}"):
                make_config("paper", {name: 2 * high + 1})


def test_groups_and_other_names_lead_to_settings() -> None:
    assert set(GROUPS.values()) <= Config.model_fields.keys()
    assert list(GROUPS.values()) == [name for name in Config.model_fields if name in GROUPS.values()]
    assert set(_ALSO.values()) <= Config.model_fields.keys()
    assert not _ALSO.keys() & Config.model_fields.keys()


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("alpha=0.3", "alpha", 0.3),
        ("alpha=1", "alpha", 1.0),
        ("learning_rate=1e-3", "learning_rate", 1e-3),
        (" steps = 7 ", "steps", 7),
        ("student=resnet18", "student", "resnet18"),
        ("teacher=/a=b/c.safetensors", "teacher", "/a=b/c.safetensors"),
        ("neck_scales=2,1,0.5,.25", "neck_scales", (2.0, 1.0, 0.5, 0.25)),
        ("neck_scales=[2, 1, 1, 1]", "neck_scales", (2.0, 1.0, 1.0, 1.0)),
        ("distill_levels=3", "distill_levels", (3,)),
        ("teacher_blocks=(0,1,2,5)", "teacher_blocks", (0, 1, 2, 5)),
        ("class_weights=", "class_weights", ()),
        *[(f"rot90={word}", "rot90", True) for word in ("true", "True", "1", "yes")],
        *[(f"fam={word}", "fam", False) for word in ("false", "FALSE", "0", "no")],
    ],
)
def test_text_becomes_the_value_of_its_field(text: str, field: str, value: object) -> None:
    found = getattr(make_config("smoke", [text]), field)
    assert found == value
    assert type(found) is type(value)


def test_no_neck_from_text_needs_the_teachers_width() -> None:
    assert make_config("smoke", ["neck_scales=", "neck_width=0"]).neck_scales == ()
    with pytest.raises(InputError, match="without a neck the width is the teacher's"):
        make_config("smoke", ["neck_scales="])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["alpah=0.3"], "unknown setting 'alpah'; did you mean alpha?"),
        ({"alpah": 0.3}, "unknown setting 'alpah'; did you mean alpha?"),
        (["zzzzz=1"], "unknown setting 'zzzzz'; `ktda settings` lists all"),
        (["alpha"], "override 'alpha'; expected KEY=VALUE, such as alpha=0.3"),
        (["steps=2.5"], "steps=2.5; expected a whole number"),
        (["steps=many"], "steps=many; expected a whole number"),
        (["alpha=high"], "alpha=high; expected a number"),
        (["fam=perhaps"], "fam=perhaps; expected true or false"),
        (["neck_scales=1,two"], "neck_scales=1,two; expected four positive factors"),
        (["teacher_blocks=1.5"], "teacher_blocks=(1.5,); expected four, one per level"),
        ({"steps": 2.5}, "steps=2.5; expected a whole number"),
        ({"steps": "2"}, "steps='2'; expected a whole number"),
        ({"steps": True}, "steps=True; expected a whole number"),
        ({"fam": 1}, "fam=1; expected true or false"),
        ({"student": 18}, "student=18; expected a word"),
        ({"neck_scales": 2.0}, "neck_scales=2.0; expected four positive factors"),
        ({"distill_levels": [0.5]}, "distill_levels=[0.5]; expected some of 0, 1, 2, 3"),
        (["model=unit"], "model='unit'; expected one of ktda, unet,"),
        (["kl_axis=height"], "kl_axis='height'; expected one of width, channel, spatial"),
        (["student_passes=3"], "student_passes=3; expected one of 1, 2"),
        (["alpha=1.5"], "alpha=1.5; expected a number from 0 to 1"),
        (["alpha=nan"], "alpha=nan; expected a number from 0 to 1"),
        (["learning_rate=inf"], "learning_rate=inf; expected a number from 0 to 100"),
        (["temperature=0"], "temperature=0.0; expected a number from 0.001 to 1,000"),
        (["batch_size=1"], "batch_size=1; expected a whole number from 2 to 65,536"),
        (["steps=0"], "steps=0; expected a whole number from 1 to 100,000,000"),
        (["seed=-1"], "seed=-1; expected a whole number from 0 to 9,223,372,036,854,775,807"),
        (["neck_scales=1,1,1"], "expected four positive factors"),
        (["neck_scales=1,1,1,0"], "expected four positive factors"),
        (["neck_scales=1,1,1,nan"], "expected four positive factors"),
        (["distill_levels=4"], "expected some of 0, 1, 2, 3"),
        (["distill_levels="], "expected some of 0, 1, 2, 3"),
        (["teacher_blocks=1,2"], "expected four, one per level"),
        (["crop=31"], "crop=31; expected 0, the whole tile, or at least 32"),
        (["class_weights=1,-1"], "expected factors of at least 0"),
        (["class_weights=1,nan"], "expected factors of at least 0"),
        ({"alpha": True}, "alpha=True; expected a number from 0 to 1"),
        (["seed=9223372036854775808"], "seed=9223372036854775808; expected a whole number from 0"),
        (["steps=" + "9" * 5000], "steps=999"),
        (["alpha=a\nb"], "alpha=a b; expected a number"),
        (["lr=0.1"], "unknown setting 'lr'; did you mean learning_rate?"),
        (["epochs=3"], "unknown setting 'epochs'; did you mean steps?"),
        (["iterations=3"], "did you mean steps?"),
        (["wd=0"], "did you mean weight_decay?"),
        ({"bs": 4}, "did you mean batch_size?"),
        (["learning-rate=0.1"], "did you mean learning_rate?"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(overrides: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_config("smoke", overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_preset() -> None:
    with pytest.raises(InputError, match="unknown preset 'big'; expected one of smoke, demo, paper"):
        make_config("big")


def test_a_list_or_an_integer_will_do_where_a_tuple_or_a_float_is_meant() -> None:
    config = make_config("smoke", {"neck_scales": [2, 1, 1, 1], "alpha": 1})
    assert config.neck_scales == (2.0, 1.0, 1.0, 1.0)
    assert isinstance(config.alpha, float)


@pytest.mark.parametrize(
    ("overrides", "distils"),
    [
        ({}, True),
        ({"distill_weight": 0.0}, False),
        ({"fam": False}, False),
        ({"model": "upernet"}, False),
        ({"model": "teacher"}, False),
    ],
)
def test_what_asks_the_teacher(overrides: dict, distils: bool) -> None:
    assert make_config("smoke", overrides).distils is distils


def test_what_transfers_knowledge() -> None:
    assert make_config("smoke").transfers
    assert make_config("smoke", {"model": "teacher"}).transfers
    for nothing in ({"teacher": "random"}, {"teacher_pretrained": False}, {"distill_weight": 0.0}, {"model": "unet"}):
        assert not make_config("smoke", nothing).transfers
