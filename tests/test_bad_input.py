"""Bad input through the real command line: one line that names the thing, and exit code 2."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from tiny_runs import as_options

from ktda.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
NAMES = "classes: [a, b, c]\n"


class Case(NamedTuple):
    """What is typed, what the line must say, and what is broken before, in a folder with SET, RUN and MODEL."""

    words: str
    says: str
    make: Callable[[Path], object] = lambda place: None
    code: int = 2


def cases(words: str, *rows: tuple) -> list[Case]:
    """Rows of (what goes in for ``{}``, says) or (says, make) as cases of one command."""
    return [Case(words.replace("{}", a), b) if isinstance(b, str) else Case(words, a, b) for a, b in rows]


def put(name: str, content: bytes | str | dict) -> Callable[[Path], object]:
    """Write a file in place of another one."""

    def make(place: Path) -> None:
        path = place / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content) if isinstance(content, dict) else content
        path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)

    return make


def copied(source: str, name: str) -> Callable[[Path], object]:
    """Another file's content under this name; the old file may be a link to what other tests read."""
    return lambda place: put(name, (place / source).read_bytes())(place)


def fifo(name: str) -> Callable[[Path], object]:
    def make(place: Path) -> None:
        (place / name).unlink(missing_ok=True)
        os.mkfifo(place / name)

    return make


def link(name: str, target: str) -> Callable[[Path], object]:
    def make(place: Path) -> None:
        (place / name).unlink(missing_ok=True)
        (place / name).symlink_to(target)

    return make


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda place: put(name, change((place / name).read_bytes()))(place)


def both(*makes: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda place: [make(place) for make in makes]


def flipped(content: bytes) -> bytes:
    """One bit of the last kilobyte the other way."""
    return content[:-100] + bytes([content[-100] ^ 1]) + content[-99:]


# Settings: told before torch is imported (see below).

SETTINGS = cases(
    "train SET --preset smoke --set {} --out r",
    ("alpha=", "alpha=; expected a number from 0 to 1"),
    ("alpha=high", "alpha=high; expected a number"),
    ("alpha=nan", "alpha=nan; expected a number"),
    ("alpha=-inf", "alpha=-inf; expected"),
    ("alpha=1e400", "alpha=inf; expected"),
    ("alpha=0x1", "alpha=0x1; expected"),
    ("alpha=-0.1", "alpha=-0.1; expected a number from 0 to 1"),
    ("alpha=1.01", "alpha=1.01; expected"),
    ("alpha=0.3=4", "alpha=0.3=4; expected"),
    ("alpha", "override 'alpha'; expected KEY=VALUE"),
    ("=1", "unknown setting ''"),
    ("Alpha=1", "did you mean alpha?"),
    ("aplha=1", "did you mean alpha?"),
    ("__class__=1", "unknown setting '__class__'"),
    ("config_hash=1", "unknown setting 'config_hash'"),
    ("model_fields=1", "unknown setting 'model_fields'"),
    ("lr=1", "did you mean learning_rate?"),
    ("epochs=3", "did you mean steps?"),
    ("amp=true", "did you mean precision?"),
    ("backbone=x", "did you mean student?"),
    ("num_workers=2", "did you mean workers?"),
    ("tau=1", "did you mean temperature?"),
    ("steps=0", "steps=0; expected a whole number from 1"),
    ("steps=-1", "steps=-1; expected"),
    ("steps=1.5", "steps=1.5; expected a whole number"),
    ("steps=1e3", "steps=1e3; expected a whole number"),
    ("steps=true", "steps=true; expected"),
    (f"steps={'9' * 5000}", "expected a whole number from 1 to 100,000,000"),
    ("batch_size=1", "batch_size=1; expected a whole number from 2"),
    ("batch_size=65537", "batch_size=65537; expected"),
    ("accumulate=0", "accumulate=0; expected"),
    ("decoder_channels=1000000000000", "decoder_channels=1000000000000; expected a whole number from 1 to 8,192"),
    ("auxiliary_channels=0", "auxiliary_channels=0; expected"),
    ("neck_width=-1", "neck_width=-1; expected"),
    ("neck_scales=1,2", "neck_scales=(1, 2); expected four positive factors"),
    ("neck_scales=a,b,c,d", "neck_scales=a,b,c,d; expected four"),
    ("neck_scales=0,1,1,1", "expected four positive factors"),
    ("neck_scales=nan,1,1,1", "expected four positive factors"),
    ("neck_scales=65,1,1,1", "expected four positive factors up to 64"),
    ("neck_scales=", "neck_width is set but neck_scales is empty"),
    ("fmm_depth=65", "fmm_depth=65; expected"),
    ("fmm_heads=0", "fmm_heads=0; expected"),
    ("fmm=vit2", "fmm='vit2'; expected one of vit, mlp"),
    ("dropout=1", "dropout=1.0; expected"),
    ("student_drop_path=1", "student_drop_path=1.0; expected"),
    ("model=KTDA", "model='KTDA'; expected one of ktda, unet"),
    ("model=unetpp", "model='unetpp'; expected one of"),
    ("decoder=fpn", "decoder='fpn'; expected one of upernet, segformer"),
    ("auxiliary=both", "auxiliary='both'; expected one of"),
    ("fam=maybe", "fam=maybe; expected true or false"),
    ("fam=2", "fam=2; expected true or false"),
    ("fam_path=aside", "fam_path='aside'; expected one of through, beside"),
    ("teacher_blocks=1", "expected four, one per level"),
    ("teacher_blocks=-1,2,3,4", "expected four, one per level"),
    ("teacher_norm=first", "teacher_norm='first'; expected one of last, all"),
    ("distill_levels=", "distill_levels"),
    ("distill_levels=4", "distill_levels"),
    ("temperature=0", "temperature=0.0; expected"),
    ("kl_axis=rows", "kl_axis='rows'; expected one of"),
    ("reduction=avg", "reduction='avg'; expected one of"),
    ("distillation=l1", "distillation='l1'; expected one of"),
    ("class_weights=1,-1", "expected factors of at least 0"),
    ("class_weights=nan", "expected factors of at least 0"),
    ("dice_weight=-1", "dice_weight=-1.0; expected"),
    ("focal_weight=inf", "focal_weight=inf; expected"),
    ("protocol=Honest", "protocol='Honest'; expected one of honest, paper"),
    ("holdout=0", "holdout=0.0; expected a number from 0.01"),
    ("tiles=-1", "tiles=-1; expected"),
    ("unlabelled=2.5", "unlabelled=2.5; expected a whole number"),
    ("bands=0", "bands=(0,); expected numbers from 1"),
    ("bands=red", "bands=red; expected numbers from 1"),
    ("crop=31", "crop=31; expected 0, the whole tile, or at least 32"),
    ("crop=20000", "crop=20000; expected"),
    ("hflip=1.1", "hflip=1.1; expected a number from 0 to 1"),
    ("rot90=x", "rot90=x; expected true or false"),
    ("learning_rate=-1", "learning_rate=-1.0; expected"),
    ("encoder_rate=0", "encoder_rate=0.0; expected"),
    ("ema=1", "ema=1.0; expected"),
    ("precision=fp64", "precision='fp64'; expected one of fp32, bf16, fp16"),
    ("evaluate_epochs=0", "evaluate_epochs=0; expected"),
    ("log_with=x", "log_with='x'; expected one of none"),
    ("workers=257", "workers=257; expected a whole number from 0 to 256"),
    ("seed=9223372036854775808", "seed=9223372036854775808; expected"),
    ("fam_path=beside --set fam=false", "fam_path=beside, but fam=false"),
    ("class_tiles=2 --set tiles=0", "class_tiles is set but neither tiles nor scenes"),
    ("unlabelled=1 --set distill_weight=0", "unlabelled is set, but without distillation"),
    ("segmentation_weight=0 --set distill_weight=0", "segmentation_weight=0 without distillation trains nothing"),
    ("student_frozen=true --set encoder_rate=0.1", "encoder_rate is set but student_frozen=true"),
    ("alpha=\x1b[31m", r"alpha=\x1b[31m; expected"),  # which a terminal would obey
)
SETTINGS += [
    Case("train SET --preset Smoke", "unknown preset 'Smoke'; expected one of smoke, demo"),
    Case("train SET --seed 1.5", "'--seed'"),
    Case("train SET --bogus", "No such option: --bogus"),
    Case("train", "Missing argument"),
    Case("trane", "No such command"),
    Case("settings alphax", "unknown setting 'alphax'; did you mean alpha?"),
    Case("train nowhere", "'nowhere' is neither a folder nor a built-in data set"),
    Case("train cloudd", "built in are grass, cloud"),
]

# dataset.yaml

BOMB = "a: &a [x]\n" + "".join(f"{y}: &{y} [*{x}, *{x}]\n" for x, y in zip("abcdefgh", "bcdefghi", strict=True))
YAML = [
    Case("data check SET", says, put("set/dataset.yaml", text))
    for text, says in [
        ("[a]", "expected a mapping with classes"),
        ("hello", "got 'hello'; expected a mapping"),
        ("clases: [a, b, c]", "unknown key 'clases'; did you mean classes?"),
        ("null: 1", "unknown key None"),
        ("1: 2", "unknown key 1"),
        (f"{'x' * 500}: 1", f"unknown key '{'x' * 59}"),
        ("classes: abc", "expected a list of 1 to 255 different names"),
        ("classes: [1, 2, 3]", "numbers, yes and no in quotes"),
        ("classes: [yes, no, maybe]", "numbers, yes and no in quotes"),
        ("classes: [a, a, b]", "different names"),
        ("classes: []", "expected a list of 1 to 255"),
        ("classes: ['', b, c]", "expected a list of 1 to 255"),
        ("classes: null", "classes=None; expected"),
        ("classes: {a: 1}", "expected a list of 1 to 255"),
        ("classes: [[a], [b]]", "expected a list of 1 to 255"),
        ("classes: [a: b]", "expected a list of 1 to 255"),
        (f"classes: [{', '.join(f'c{i}' for i in range(256))}]", "expected a list of 1 to 255"),
        ('classes: ["\\e[31mred", b, c]', "expected names without line breaks and control characters"),
        ('classes: ["a\\nb", b, c]', "expected names without line breaks and control characters"),
        (f"{NAMES}palette: [[0, 0, 0]]", "palette has 1 colours for 3 classes; give one per class"),
        (f"{NAMES}palette: [[0, 0, 256], [0, 0, 0], [1, 1, 1]]", "integers from 0 to 255"),
        (f"{NAMES}palette: [[0.5, 0, 0], [0, 0, 0], [1, 1, 1]]", "integers from 0 to 255"),
        (f"{NAMES}palette: red", "expected a list of [red, green, blue]"),
        (f"{NAMES}palette: ['#ff0000', '#00ff00', '#0000ff']", "expected a list of [red, green, blue]"),
        (f"{NAMES}ignore_index: -1", "ignore_index=-1; expected an integer from 0 to 255"),
        (f"{NAMES}ignore_index: 256", "ignore_index=256; expected"),
        (f"{NAMES}ignore_index: 1", "ignore_index 1 is one of the 3 classes; use 255"),
        (f"{NAMES}ignore_index: true", "ignore_index=True; expected an integer"),
        (f"{NAMES}ignore_index: 0377", "a leading zero"),
        (f"{NAMES}ignore_index: 1:30", "or a colon"),
        (f"ignore_index: {'9' * 5000}", "has more than 30 digits"),
        (f"{NAMES}value_map: [1, 2]", "expected lines `mask value: class index`"),
        (f"{NAMES}value_map: {{a: 1}}", "expected lines `mask value: class index`"),
        (f"{NAMES}value_map: {{65536: 1}}", "expected lines `mask value: class index`"),
        (f"{NAMES}value_map: {{1: 1, 1: 2}}", "line 2: 1 stands there twice"),
        (f"{NAMES}scene: '('", "expected a regular expression"),
        (f"{NAMES}scene: abc", "with a group"),
        (f"{NAMES}scene: '^(a+)+$'", "without a repeat or | inside a repeat"),
        (f"{NAMES}scene: '(a|ab)*(c)'", "without a repeat or | inside a repeat"),
        (f"{NAMES}scene: '({'.*' * 7})x'", "with at most 6 of + * ?"),
        (f"{NAMES}scene: '({'a' * 300})'", "at most 200 characters"),
        (f"{NAMES}scene: '(a{{4294967295}})'", "expected a regular expression"),
        (f"{NAMES}scene: '(?<=a+)(b)'", "expected a regular expression"),
        (f"{NAMES}bands: 0", "bands=0; expected the number of bands"),
        (f"{NAMES}bands: 100000", "bands=100000; expected"),
        (f"{NAMES}bands: 4", "names 4 bands; add rgb"),
        (f"{NAMES}rgb: [1, 2, 9]", "rgb is [1, 2, 9], but the images have 3 bands"),
        (f"{NAMES}rgb: [1, 2]", "rgb=[1, 2]; expected the three bands"),
        (f"{NAMES}stretch: [[0, 1]]", "stretch has 1 entries for 3 bands"),
        (f"{NAMES}stretch: [[1, 0], [0, 1], [0, 1]]", "expected one [low, high] per band"),
        (f"{NAMES}stretch: [[.nan, 1], [0, 1], [0, 1]]", "expected one [low, high] per band"),
        (f"{NAMES}mean: [0, 0, 0]", "mean and std belong together"),
        (f"{NAMES}mean: [0, 0, 0]\nstd: [0, 1, 1]", "std=[0, 1, 1]; expected one number above 0"),
        (f"{NAMES}mean: [.inf, 0, 0]\nstd: [1, 1, 1]", "expected one number per band"),
        (f"{NAMES}source: [1]", "source=[1]; expected lines"),
        ("a: &a [x]\nclasses: *a", "line 2: an alias (*a); write the value out"),
        (BOMB, "line 2: an alias (*a)"),
        ("classes: " + "[" * 5000, "more than 50 levels"),
        (f"classes: [{'a,' * 30000}]", "or 20000 values"),
        ("# " + "x" * 1_000_000, "larger than 1000 kB"),
        ("classes: 2026-13-45", "cannot be read as YAML: month must be"),
        ("classes: 2026-01-01", "classes=datetime.date(2026, 1, 1); expected"),
        ("classes: !!python/object/apply:os.system [ls]", "line 1: a tag"),
        ("classes: [a]\nclasses: [b]", "line 2: classes stands there twice"),
        ("<<: {classes: [a]}", "cannot be read as YAML"),
        ("? [a]\n: b", "cannot be read as YAML"),
        (f"{NAMES}---\nx: 1", "expected a single document"),
        ("classes:\n\t- a", "cannot be read as YAML"),
        (NAMES.encode("utf-16"), "'utf-8' codec"),
        ("classes: [é]".encode("latin1"), "'utf-8' codec"),
        (b"\0\0\0", "cannot be read as YAML"),
        ('classes: ["\\ud800"]', "cannot be read as YAML"),
    ]
]
YAML += [
    Case("data check SET", "dataset.yaml: expected a regular file", fifo("set/dataset.yaml")),
    Case("train SET", "dataset.yaml: expected a regular file", link("set/dataset.yaml", "/dev/zero")),
    Case("data check SET", "No such file", link("set/dataset.yaml", "nowhere")),
    Case("data check SET", "Too many levels of symbolic links", link("set/dataset.yaml", "dataset.yaml")),
]

# Images and masks

COLOURS = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
LABELS = COLOURS[..., 0] % 3
IMAGE, MASK = "set/img_dir/train/train0_patch_0.png", "set/ann_dir/train/train0_patch_0.png"


def picture(name: str, image: Image.Image | np.ndarray, suffix: str = "", **more: object) -> Callable[[Path], object]:
    """Save a picture in place of another, perhaps with another suffix."""

    def make(place: Path) -> None:
        (place / name).unlink()
        target = (place / name).with_suffix(suffix) if suffix else place / name
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(target, **more)

    return make


def png_of(width: int, height: int, colours: int) -> bytes:
    """A PNG whose header promises more than follows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def renamed(name: str, new: str | bytes) -> Callable[[Path], object]:
    def make(place: Path) -> None:
        path = os.fsencode(place / name)
        os.rename(path, os.path.dirname(path) + b"/" + os.fsencode(new))  # noqa: PTH104, PTH120

    return make


def scene(name: str, pixels: np.ndarray) -> Callable[[Path], object]:
    """Write a picture where none was."""

    def make(place: Path) -> None:
        (place / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / name)

    return make


PLAIN = Image.fromarray(COLOURS)
TILES = [
    ("image file is truncated", edit(IMAGE, lambda content: content[:500])),
    ("cannot be read as PNG", edit(MASK, lambda content: content[:60])),
    ("cannot be read as PNG", put(IMAGE, b"")),
    ("cannot be read as PNG", put(IMAGE, "hello")),
    ("cannot be read as PNG", put(MASK, png_of(0, 0, 0))),
    ("cannot be read as PNG", edit(IMAGE, lambda content: content[:200] + b"xxxx" + content[204:])),
    ("exceeds limit", put(IMAGE, png_of(60_000, 60_000, 2))),
    ("exceeds limit", put(MASK, png_of(60_000, 60_000, 0))),
    ("truncated", put(IMAGE, png_of(12_000, 12_000, 2))),
    ("needs one image and one mask", fifo(IMAGE)),
    ("needs one image and one mask", link(MASK, "/dev/zero")),
    ("needs one image and one mask", link(IMAGE, "nowhere.png")),
    ("holds 1 band of uint8 (grey), expected 8-bit RGB", picture(IMAGE, LABELS)),
    ("holds 1 band of uint16 (grey)", picture(IMAGE, LABELS.astype(np.uint16))),
    ("holds 1 band of uint1 (grey)", picture(IMAGE, LABELS > 0)),
    ("holds 4 bands of uint8 (RGBA)", picture(IMAGE, PLAIN.convert("RGBA"))),
    ("(palette), expected 8-bit RGB", picture(IMAGE, PLAIN.quantize(8))),
    ("holds 4 bands of uint8 (CMYK)", picture(IMAGE, PLAIN.convert("CMYK"), ".jpg")),
    ("several pages; expected one", picture(IMAGE, PLAIN, ".tif", save_all=True, append_images=[PLAIN])),
    ("cannot identify image file", picture(IMAGE, PLAIN, format="GIF")),
    ("mask is RGB, expected one class index per pixel", picture(MASK, COLOURS)),
    ("mask holds 4 bands of uint8 (RGBA)", picture(MASK, PLAIN.convert("RGBA"))),
    ("grey and alpha", picture(MASK, PLAIN.convert("LA"))),
    ("mask holds 1 band of float32", picture(MASK, LABELS.astype(np.float32), ".tif")),
    ("holds values from 0 to 70002; labels are 0 to 65535", picture(MASK, LABELS.astype(np.int32) + 70_000, ".tif")),
    ("holds values from -1 to 1", picture(MASK, LABELS.astype(np.int32) - 1, ".tif")),
    ("labels 300, 301, 302 are neither a class", picture(MASK, LABELS.astype(np.uint16) + 300)),
    ("labels 5, 6, 7 are neither a class", picture(MASK, LABELS + 5)),
    ("needs one image and one mask", picture(MASK, LABELS, ".jpg")),
    ("the image is 40x40 pixels and its mask 40x36; make them equal", picture(MASK, LABELS[:36])),
    ("needs one image and one mask", lambda place: (place / MASK).unlink()),
    ("needs one image and one mask", lambda place: (place / IMAGE).unlink()),
    ("has img_dir/train/train0_patch_0.png, ann_dir/train/train0_patch_0.png, ann_dir/train/train0_patch_0.tif",
     lambda place: shutil.copy(place / MASK, (place / MASK).with_suffix(".tif"))),
    ("needs one image and one mask", lambda place: shutil.copy(place / IMAGE, (place / IMAGE).with_suffix(".jpg"))),
    # two forms of one name: both are meant, and the four files are told
    ("has img_dir/train/e\u0301.png, img_dir/train/\u00e9.png",
     both(*(lambda place, name=name, new=new: shutil.copy(place / name, (place / name).with_name(new))
            for name in (IMAGE, MASK) for new in ("\u00e9.png", "e\u0301.png")))),
    ("cannot be read as PNG", put("set/ann_dir/test/test0_patch_1.png", b"x")),
    ("labels 9, 10, 11 are neither", picture("set/ann_dir/test/test0_patch_1.png", LABELS + 9)),
    ("cannot be read as PNG", put("set/img_dir/val/val0_patch_0.png", b"x")),
]  # fmt: skip
CHECKED = [Case("data check SET", says, make, 1) for says, make in TILES]
LAYOUT = cases(
    "data check SET",
    (r"\xff.png': the name is not UTF-8; rename it", renamed(IMAGE, b"\xff.png")),
    (r"a\nb.png: the name holds control characters; rename it", renamed(IMAGE, "a\nb.png")),
    (r"a\x1b[31mb.png: the name holds control characters", renamed(IMAGE, "a\x1b[31mb.png")),
    ("found dataset.yaml, img_dir, expected", lambda place: shutil.rmtree(place / "set/ann_dir")),
    ("found ann_dir, dataset.yaml", both(lambda place: shutil.rmtree(place / "set/ann_dir"), put("set/ann_dir", ""))),
)
REFUSED = cases(
    "train SET TINY --out r",
    ("img_dir/train holds nothing; expected .png",
     lambda place: [p.unlink() for kind in ("img_dir", "ann_dir") for p in (place / "set" / kind / "train").iterdir()]),
    ("img_dir has test, val; training needs train", lambda place: shutil.rmtree(place / "set/img_dir/train")),
    ("no pixel of the training tiles has a class",
     lambda place: [picture(str(p.relative_to(place)), LABELS * 0 + 255)(place)
                    for p in (place / "set/ann_dir/train").iterdir()]),
    *((says, make) for says, make in TILES[-3:]),  # of tiles that are scored: told before anything is trained
)  # fmt: skip

# Model folders and checkpoints


def config(**changes: object) -> Callable[[Path], object]:
    """Change fields of the model's config.json; ``a__b`` is a field of a field."""

    def make(place: Path) -> None:
        content = json.loads((place / "model/config.json").read_text())
        for name, value in changes.items():
            *above, last = name.split("__")
            inner = content
            for key in above:
                inner = inner[key]
            inner[last] = value
        put("model/config.json", content)(place)

    return make


WEIGHTS, CHECKPOINT = "model/model.safetensors", "model/checkpoint.safetensors"
FIT = "weights of MODEL do not fit this model"
MODELS = cases(
    "export-encoder MODEL --out e.safetensors",
    ("has format 99; this version reads 1", config(format=99)),
    ("unknown field 'colour'; expected one of", config(colour=1)),
    ("model='../x'", config(model="../x")),
    ("arguments is null, expected an object", config(arguments=None)),
    ("unknown student encoder 'x'", config(arguments__encoder="x")),
    (FIT, config(arguments__encoder="tu-convnext_atto")),
    (FIT, config(arguments__width=17)),
    (FIT, config(arguments__decoder_channels=8192)),  # would be gigabytes
    (FIT, config(arguments__width=16384)),
    (FIT, config(arguments__fmm_hidden=65536)),
    (FIT, config(arguments__encoder_options={"dims": [65536] * 4})),
    ("depths is '[65536, 65536, 65536, 65536]'", config(arguments__encoder_options={"depths": [65536] * 4})),
    ("sets 'checkpoint_path', which no file may", config(arguments__encoder_options={"checkpoint_path": "x"})),
    ("sets 'pretrained', which no file may", config(arguments__encoder_options={"pretrained": True})),
    ("sets 'pretrained_cfg', which no file may", config(arguments__encoder_options={"pretrained_cfg": {"file": "x"}})),
    ("refused its options", config(arguments__encoder_options={"pos_embed": "learn"})),
    ("3 FMM heads do not divide", config(arguments__fmm_heads=3)),
    ("neck_scales is empty", config(arguments__neck_scales=[])),
    ("fam=1; expected true or false", config(arguments__fam=1)),
    ("seed=-1; expected", config(arguments__seed=-1)),
    ("unknown field 'teacher'", config(arguments__teacher="demo")),
    ("unknown field 'width'", config(model="unet")),
    ("unknown field 'encoder'", config(model="teacher")),
    ("expected words", config(classes=["a\nb", "b", "c"])),
    ("expected words", config(classes=["\ud800", "b", "c"])),
    ("it names 2 classes, but num_classes is 3", config(classes=["a", "b"])),
    ("palette; expected [red, green, blue]", config(palette=[[0, 0, 0]] * 2)),
    ("ignore_index is 1000000000, expected 0 to 65535", config(ignore_index=10**9)),
    ("mean is abc; expected 3 numbers", config(normalisation__mean="abc")),
    ("mean is [nan", config(normalisation__mean=[float("nan"), 0, 0])),
    ("stretch is text, expected a list", config(normalisation__stretch="x")),
    ("stretch has not one entry for each of 3 bands", config(normalisation__stretch=[[0, 1]] * 2)),
    ("expected [low, high]", config(normalisation__stretch=[[1, 0]] * 3)),
    ("names is a whole number, expected a list", config(normalisation__names=5)),
    ("input is a whole number, expected text", config(normalisation__input=5)),
    ("expected 3 numbers from 1 to -5", config(normalisation__bands=[1, 2, 3], normalisation__of=-5)),
    ("expected 1000 numbers", config(arguments__in_channels=1000)),
    ("weights are a file elsewhere, ../t.safetensors; put it", config(teacher={"name": "../t.safetensors"})),
    ("teacher: its weights are a file elsewhere, t.pth", config(teacher={"name": "t.pth"})),
    ("teacher: unknown field 'cache_dir'", config(teacher={"name": "demo", "cache_dir": "/"})),
    ("it is not json", put("model/config.json", "")),
    ("it holds a list, expected an object", put("model/config.json", "[]")),
    ("it is not json", put("model/config.json", "[" * 100_000)),
    ("it is not json", put("model/config.json", '{"format": ' + "9" * 10_000 + "}")),
    ("it is not json", put("model/config.json", b"\xff\xfe")),
    ("holds no trained model", fifo("model/config.json")),
    ("holds no trained model", link("model/config.json", "/dev/zero")),
    ("holds no trained model", link(WEIGHTS, "/dev/zero")),
    ("holds no trained model", lambda place: (place / WEIGHTS).unlink()),
    ("is not a readable safetensors file", edit(WEIGHTS, lambda content: content[:1000])),
    ("is not a readable safetensors file", put(WEIGHTS, b"")),
    ("is not a readable safetensors file", put(WEIGHTS, pickle.dumps({"a": 1}))),
    ("is not a readable safetensors file", edit(WEIGHTS, lambda content: b"\xff" * 8 + content[8:])),
    ("is damaged: it is not what its SHA-256 was taken of", edit(WEIGHTS, flipped)),
)  # fmt: skip


def unfinished(place: Path) -> None:
    (place / "model/metrics.json").unlink()
    manifest = json.loads((place / "model/manifest.json").read_text())
    put("model/manifest.json", manifest | {"status": "failed"})(place)


def manifest(**changes: object) -> Callable[[Path], object]:
    return edit("model/manifest.json", lambda content: json.dumps(json.loads(content) | changes).encode())


RESUMED = [
    Case(f"train SET TINY --out MODEL --resume{more}", says, both(unfinished, make))
    for more, says, make in [
        ("", "is damaged: it is not what its SHA-256", edit(CHECKPOINT, flipped)),
        ("", "is not a readable safetensors file", edit(CHECKPOINT, lambda content: content[:5000])),
        ("", "is not a readable safetensors file", edit(CHECKPOINT, lambda content: content[:4])),
        ("", "is not a readable safetensors file", put(CHECKPOINT, pickle.dumps({}))),
        ("", "is no training checkpoint (it has no state)", copied(WEIGHTS, CHECKPOINT)),
        (" --set steps=9", "was started with other settings (steps=4)", both()),
        (" --seed 5", "was started with other settings (seed=0)", both()),
        (" --init RUN", "was started without --init", both()),
        ("", "status is a whole number, expected text", manifest(status=3)),
        ("", "alpha='x'; expected", manifest(config={"alpha": "x"}, config_hash="0")),
        ("", "unknown setting 'alphax'", manifest(config={"alphax": 1}, config_hash="0")),
        ("", "it is not json", put("model/manifest.json", "{")),
        ("", "whose content was not that of", picture(MASK, LABELS)),
    ]
]
RUNS = [
    Case("train SET TINY --out RUN", "holds a run (finished); go on with --resume"),
    Case("train SET TINY --out .", "is not empty and holds no run"),
    Case("train SET TINY --out SET", "is inside the data set"),
    Case("train SET TINY --out SET/a/b", "is inside the data set"),
    Case("train SET TINY --out /dev/null", "/dev/null is no folder"),
    Case("train SET TINY --out SET/dataset.yaml/x", "dataset.yaml is no folder"),
    Case("train SET TINY --out r --init nowhere", "no weights file at nowhere"),
    Case("train SET TINY --out r --init SET", "no weights file at"),
    Case("train SET TINY --out r --init SET/dataset.yaml", "it is damaged, or holds more than tensors"),
    Case("train SET TINY --out r --init bomb.pth", "holds more than tensors", put("bomb.pth", pickle.dumps(print))),
    Case("train SET TINY --out r --init RUN --init-part head", "init part 'head'; expected one of all, encoder"),
    Case("train SET TINY --out r --init-part encoder", "--init-part says what to take of --init, which is not given"),
    Case("train SET TINY --out r --unlabelled SET", "--unlabelled is given, but unlabelled=0"),
    Case("evaluate nowhere", "nowhere holds no trained model"),
    Case("evaluate RUN --split winter", "has no split 'winter'; it has train, val, test"),
    Case("evaluate RUN --data nowhere", "'nowhere' is neither a folder"),
    Case("evaluate RUN --out SET/dataset.yaml/x.json", "dataset.yaml"),
    Case("evaluate MODEL", "manifest.json is damaged: it is not json", put("model/manifest.json", "{")),
    Case("show nowhere", "nowhere holds no finished run"),
    Case("show MODEL", "metrics.json is damaged: it has no field miou", put("model/metrics.json", "{}")),
    Case("show MODEL", "history.csv is damaged", put("model/history.csv", b"\xff\0,")),
    Case("show MODEL", "confusions.npz is damaged", put("model/confusions.npz", b"PK")),
    Case("show MODEL", "config.json is missing", lambda place: (place / "model/config.json").unlink()),
]  # fmt: skip
TRAINED = cases(
    "train SET TINY --out r --set {}",
    ("student=/", "unknown student encoder '/'"),
    ("student=../../etc/passwd", "unknown student encoder '../../etc/passwd'"),
    ("student=tu-", "unknown student encoder 'tu-'"),
    ("student=TU-resnet18", "near names: resnet18"),
    ("student=tu-test_resnet.nope", "timm's test_resnet has no weights nope"),
    ("student=tu-test_vit", "has not the strides 4, 8, 16, 32"),
    ("student=resnet18 --set student_drop_path=0.1", "encoder resnet18 takes no options"),
    ("student=tu-swin_tiny_patch4_window7_224", "the model does not take images of 32x32 pixels"),
    ("student=tu-dla34", "the model does not take images of 40x40 pixels"),  # which are scored whole
    ("student=tu-hrnet_w18_small", "the model does not take images of 40x40 pixels"),
    ("student=vgg11 --set model=deeplabv3plus", "model=deeplabv3plus does not take encoder vgg11"),
    ("student_weights=nowhere", "no weights file at nowhere"),
    ("student_weights=/dev/zero", "no weights file at /dev/zero"),
    ("student_weights=imagenet", "are not on this machine and the hub does not answer"),
    ("teacher=.", "unknown teacher '.'"),
    ("teacher=/dev/zero", "'/dev/zero' is neither a file here nor a hub id"),
    ("teacher=../x", "'../x' is neither a file here nor a hub id"),
    ("teacher=a//b", "'a//b' is neither a file here nor a hub id"),
    ("teacher=own/er/name", "'own/er/name' is neither a file here nor a hub id"),
    ("teacher=owner/name", "weights owner/name are not on this machine"),
    ("teacher=x.safetensors", "no teacher weights at x.safetensors"),
    ("teacher=/dev/zero.pth", "no teacher weights at /dev/zero.pth"),
    ("teacher=vit_tiny_patch16_223", "near names: vit_tiny_patch16_224"),
    ("teacher_blocks=1,2,3,99", "random has 0 to 5, give them rising"),
    ("teacher_blocks=5,4,3,2", "random has 0 to 5, give them rising"),
    ("model=teacher --set student_frozen=true", "model=teacher has no student"),
    ("bands=1,1", "name each once"),
    ("bands=4", "has bands 1 to 3"),
    ("fmm_heads=5", "5 FMM heads do not divide the channels"),
    ("class_weights=1,2", "2 class_weights for 3 classes"),
    ("tiles=99", "tiles=99, but set has 6 to train on"),
    ("scenes=99", "training scenes; 0 takes all"),
    ("tiles=4 --set class_tiles=100", "have every class in 100 of them"),
    ("batch_size=7", "6 training tiles do not fill one batch of 7"),
    ("crop=64", "crop 64 does not fit into a tile of 40x40 pixels"),
    ("unlabelled=2", "unlabelled=2, but 0 training tiles are left out"),
    ("unlabelled=2 --unlabelled nowhere", "nowhere is no image to learn from"),
    ("unlabelled=2 --unlabelled SET/dataset.yaml", "is no image to learn from"),
    ("unlabelled=2 --unlabelled /dev/zero", "/dev/zero is no image to learn from"),
    ("precision=fp16", "precision=fp16 needs a GPU"),
    ("log_with=dvclive", "log_with=dvclive needs its library"),
    ("decoder_channels=8192 --set crop=0", "training this model ("),
)
UNLABELLED = cases(
    "train SET TINY --out r --set unlabelled=2 --unlabelled extra",
    ("extra holds no images", lambda place: (place / "extra").mkdir()),
    ("holds 1 band of uint8", scene("extra/a.png", LABELS)),
    ("8x8 pixels; it is smaller than a tile", scene("extra/a.png", COLOURS[:8, :8])),
    ("cannot be read as PNG", put("extra/a.png", b"x")),
    (r"a\nb.png: the name holds control characters", put("extra/a\nb.png", b"x")),
)  # fmt: skip
UNLABELLED += cases(
    "train SET TINY --out r --set unlabelled=2 --unlabelled list.txt",
    ("list.txt holds no images", put("list.txt", "")),
    ("nowhere.png is no image to learn from", put("list.txt", "nowhere.png\n")),
    ("list.txt", put("list.txt", b"\xff\xfe")),
    ("list.txt is no image to learn from", fifo("list.txt")),
    ("is no image to learn from", put("list.txt", "/dev/zero\n")),
    ("is no image to learn from", put("list.txt", "../" * 30 + "etc/passwd\n")),
)

# Tables of a grid, notebooks

TABLE = "question: q\npreset: smoke\ndata: [demo_grass]\nbaseline: a\nrows:\n  - {name: a, group: g}\n"
ROW = "  - {name: b, group: g, set: {alpha: 0.5}}\n"
TABLES = [
    Case("status table.yaml", says, put("table.yaml", text))
    for text, says in [
        ("", "expected a mapping with question"),
        ("[]", "expected a mapping with question"),
        (TABLE.replace("question", "questions"), "unknown key 'questions'; did you mean question?"),
        (TABLE.replace("smoke", "tiny"), "preset='tiny'; expected one of smoke"),
        (TABLE.replace("[demo_grass]", "demo_grass"), "expected a list of names or folders"),
        (TABLE.replace("[demo_grass]", "[demo_grass, demo_grass]"), "data demo_grass stands there twice"),
        (TABLE.replace("baseline: a", "baseline: b"), "baseline 'b' is no row"),
        (TABLE.replace("rows:\n  - {name: a, group: g}", "rows: []"), "expected a list of rows"),
        (TABLE + "  - 5\n", "row: got 5; expected a mapping"),
        (TABLE + "  - {name: b}\n", "no group; expected a word"),
        (TABLE + "  - {name: a, group: g}\n", "row a stands there twice"),
        (TABLE + "  - {name: b, group: g}\n", "row b has the same settings as the baseline"),
        (TABLE + ROW.replace("name: b", "name: b/c"), "name='b/c'; expected letters, digits"),
        (TABLE + ROW.replace("name: b", "name: ../b"), "name='../b'; expected letters, digits"),
        (TABLE + ROW.replace("alpha", "alphx"), "unknown setting 'alphx'; did you mean alpha?"),
        (TABLE + ROW.replace("0.5", "'0.5'"), "alpha='0.5'; expected a number"),
        (TABLE + ROW.replace("0.5", "2"), "alpha=2; expected a number from 0 to 1"),
        (TABLE + ROW.replace("alpha: 0.5", "seed: 3"), "seed is set among the overrides"),
        (
            TABLE
            + ROW.replace("alpha: 0.5", "alpha: 0.5, temperature: 2, dropout: 0, hflip: 0, vflip: 0, rot90: false"),
            "a mapping of at most",
        ),
        (TABLE + ROW.replace("}}", "}, needs: tpu}"), "needs='tpu'; expected gpu"),
        (TABLE + "seeds: 0\n", "seeds=0; expected at least 1"),
        (TABLE + "seeds: [1, 1]\n", "a list of different whole numbers"),
        (TABLE + "seeds: 100000\n", "seeds=100000; expected at least 1"),
        (TABLE + "seeds: [-1]\n", "seeds=[-1]; expected"),
        (TABLE + "settings: [1]\n", "settings=[1]; expected a mapping of settings"),
        (TABLE + "x: &x 1\ny: *x\n", "an alias (*x)"),
        (b"\xff", "'utf-8' codec"),
    ]
]
TABLES += [
    Case("status nowhere.yaml", "nowhere.yaml"),
    Case("status table.yaml --only c", "--only c is no row of table", put("table.yaml", TABLE)),
    Case("status table.yaml", "expected a regular file", fifo("table.yaml")),
    Case("grid table.yaml --jobs 0", "'--jobs'", put("table.yaml", TABLE)),
    Case("grid table.yaml --serial --jobs 2 --out g", "--serial is one run after the other", put("table.yaml", TABLE)),
    Case("grid table.yaml --data nowhere --out g", "'nowhere' is neither a folder", put("table.yaml", TABLE)),
    Case("grid table.yaml --publish SET/dataset.yaml", "is a file; name a folder", put("table.yaml", TABLE)),
]
NOTEBOOKS = [
    Case("notebook 99_nothing.ipynb", "99_nothing.ipynb"),
    Case("notebook", "Missing argument"),
    Case("notebook 05_training.ipynb -p SEDE 1", "has no parameter SEDE"),
    Case("notebook 05_training.ipynb -p seed 1", "has no parameter seed"),
    Case("notebook 05_training.ipynb -p SEED one", "parameter SEED is 'one', expected int"),
    Case("notebook 05_training.ipynb -p SEED 1.5", "parameter SEED is 1.5, expected int"),
    Case("notebook 05_training.ipynb -p SEED", "-p SEED has no value"),
    Case("notebook broken.ipynb", "broken.ipynb", put("broken.ipynb", "{")),
    Case("notebook broken.ipynb", "broken.ipynb", put("broken.ipynb", "[]")),
    Case("notebook broken.ipynb", "broken.ipynb", put("broken.ipynb", '{"cells": 5}')),
    Case("notebook broken.ipynb", "broken.ipynb", fifo("broken.ipynb")),
    Case("report --preset big --out rep", "big"),
]

# Scenes, imports, archives


TWO = scene("s.png", COLOURS), scene("s.tif", COLOURS)
PREDICTED = cases(
    "predict RUN s.png --out maps {}",
    ("--tile 33", "--tile 33"),
    ("--tile 0", "--tile 0"),
    ("--tile -32", "--tile -32"),
    ("--overlap 1", "--overlap 1.0; expected 0 to 0.9"),
    ("--overlap nan", "--overlap nan; expected 0 to 0.9"),
    ("--stretch linear", "--stretch linear; expected one of fixed"),
    ("--bands red", "--bands red: expected numbers between commas"),
    ("--bands 1,2", "--bands 1,2: the model takes 3"),
    ("--bands 1,2,9", "has 1 to 3"),
    ("--bands 0,1,2", "has 1 to 3"),
    ("--nodata black", "--nodata black; expected a number or none"),
)
PREDICTED = [case._replace(make=scene("s.png", COLOURS)) for case in PREDICTED] + [
    Case("predict RUN nowhere.tif --out maps", "there is no scene at nowhere.tif"),
    Case("predict nowhere s.png --out maps", "nowhere holds no trained model", scene("s.png", COLOURS)),
    Case("predict RUN s.png --out SET/dataset.yaml", "dataset.yaml is a file", scene("s.png", COLOURS)),
    Case("predict RUN SET --out maps", "holds no raster"),
    Case("predict RUN s.png s.tif --out maps", "two scenes are called s", both(*TWO)),
    Case("predict RUN s.png --out maps", "is no raster that can be read", put("s.png", "hello")),
    Case("predict RUN s.png --out maps", "s.png", put("s.png", b"")),
    Case("predict RUN s.png --out maps", "has 1 bands, the model takes 3", scene("s.png", LABELS)),
    Case("predict RUN s.png --out maps --stretch fixed", "the training recorded no stretch",
         scene("s.png", LABELS.astype(np.uint16))),
    Case("predict RUN s.png --out maps", "there is no scene at s.png", fifo("s.png")),
    Case("predict RUN s.png --out maps", "s.png", both(TWO[0], edit("s.png", lambda content: content[:900]))),
]  # fmt: skip


def raw(place: Path, masks: np.ndarray = LABELS) -> None:
    """Images and masks in a layout of a stranger's."""
    for number in range(4):
        for kind, pixels in (("images", COLOURS), ("masks", masks)):
            (place / "raw" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / "raw" / kind / f"s{number}.png")


IMPORTED = cases(
    "data import raw --out new {}",
    ("--bands red", "--bands red: expected numbers between commas"),
    ("--bands 0", "--bands 0: bands are counted from 1"),
    ("--bands 9", "has 3 bands"),
    ("--bands 1,2", "name one, three or more"),
    ("--stretch high", "--stretch high"),
    ("--stretch 5,1", "--stretch 5,1: expected percentile"),
    ("--tile -1", "'--tile'"),
    ("--overlap 1", "'--overlap'"),
    ("--min-labelled 2", "'--min-labelled'"),
    ("--block 2", "--block counts tiles: give --tile too"),
    ("--split 0.5", "sum up to 1"),
    ("--split 0.5,0.6", "sum up to 1"),
    ("--split a,b", "expected numbers between commas"),
    ("--scene (", "expected a regular expression"),
    ("--scene ^(a+)+$", "without a repeat or | inside a repeat"),
    ("--scene (zz)", "does not fit the name"),
    ("--spec nowhere.yaml", "nowhere.yaml"),
    ("--spec raw/images/s0.png", "cannot be read as YAML"),
)
IMPORTED = [case._replace(make=raw) for case in IMPORTED] + [
    Case("data import nowhere", "nowhere"),
    Case("data import raw --out raw/new", "lies in the source", raw),
    Case("data import raw --out SET", "exists; name a new folder", raw),
    Case("data import raw", "no image with a mask", lambda place: (raw(place), shutil.rmtree(place / "raw/masks"))),
    Case("data import raw", "raw", lambda place: (place / "raw").mkdir()),
    Case("data import raw", "none of 4 pairs", both(raw, *(put(f"raw/masks/s{i}.png", b"x") for i in range(4)))),
    Case("data import raw", "none of 4 pairs can be read", lambda p: raw(p, LABELS[:30])),
]  # fmt: skip
FETCHED = [
    Case("data fetch moon", "'moon' cannot be fetched; choose one of grass, cloud"),
    Case("data fetch grass --out SET", "holds no img_dir", lambda place: shutil.rmtree(place / "set/img_dir")),
    Case("data fetch grass --out new --zip nowhere.zip", "nowhere.zip"),
    Case("data fetch grass --out new --zip a.zip", "not a zip archive", put("a.zip", "hello")),
    Case("data fetch grass --out new --zip a.zip", "a.zip: expected a regular file", fifo("a.zip")),
    Case("data fetch grass --out new --zip /dev/zero", "/dev/zero: expected a regular file"),
    Case("data fetch grass --out new", "cannot be reached"),
    Case("data make moon --out new", "moon"),
    Case("data make demo_grass --tiles 0 --out new", "tiles"),
    Case("data make demo_grass --size 1 --out new", "size"),
    Case("data make demo_grass --size 64", "say --out FOLDER"),
    Case("data make demo_grass --world moon --out new", "moon"),
    Case("data make demo_grass --out SET", "set"),
]  # fmt: skip

FAMILIES = {
    "settings": SETTINGS,
    "yaml": YAML,
    "tiles": CHECKED + LAYOUT,
    "refused": REFUSED,
    "models": MODELS,
    "resumed": RESUMED,
    "runs": RUNS,
    "trained": TRAINED,
    "unlabelled": UNLABELLED,
    "tables": TABLES,
    "notebooks": NOTEBOOKS,
    "predicted": PREDICTED,
    "imported": IMPORTED,
    "fetched": FETCHED,
}
ALL = [pytest.param(case, id=f"{name}{i}") for name, family in FAMILIES.items() for i, case in enumerate(family)]


@pytest.fixture
def place(tmp_path: Path, tiny_set: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a set and a model to be damaged, whose files are links to those of other tests."""
    shutil.copytree(tiny_set, tmp_path / "set", copy_function=os.link)
    shutil.copytree(finished_run, tmp_path / "model", copy_function=os.link)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KTDA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def typed(case: Case, place: Path, run: Path) -> list[str]:
    """The words of a case; TINY stands for the options of a short run."""
    names = {"SET": "set", "MODEL": "model", "RUN": str(run)}
    words = []
    for word in case.words.split(" "):
        first, slash, rest = word.partition("/")
        words += as_options() if word == "TINY" else [names.get(first, first) + slash + rest]
    return words


def check(case: Case, code: int, out: str, err: str) -> None:
    says = case.says.replace("MODEL", "model")
    assert code == case.code, out + err
    if code == 1:  # `data check` lists what is wrong
        assert any(line.startswith("error: ") and says in line for line in out.splitlines()), out
        return
    assert err.startswith("ktda: ")
    assert err.count("\n") == 1, err
    assert says in err
    assert len(err) < 1000
    assert err.rstrip("\n").isprintable()


def left(place: Path) -> list[str]:
    """What lies there but for locks."""
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if not path.name.startswith("."))


def test_there_are_many() -> None:
    assert len(ALL) >= 220
    assert len({(case.words, case.says, case.make) for family in FAMILIES.values() for case in family}) == len(ALL)


@pytest.mark.parametrize("case", ALL)
def test_one_line_and_the_exit_code(
    case: Case, place: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    case.make(place)
    monkeypatch.setattr(sys, "argv", ["ktda", *typed(case, place, finished_run)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main()
    check(case, caught.value.code, *capsys.readouterr())
    for name in ("r/model.safetensors", "e.safetensors", "maps/s.tif", "new", "g/results.csv"):
        assert not (place / name).exists()  # nothing half-written under a final name


def test_settings_are_told_without_torch(tiny_set: Path, tmp_path: Path) -> None:
    """All of them in one process, in which torch cannot be imported."""
    program = f"""
import contextlib, io, sys
sys.modules["torch"] = None
sys.path[:0] = {[str(ROOT / "tests")]!r}
import test_bad_input as table
for case in table.SETTINGS:
    err = io.StringIO()
    sys.argv = ["ktda", *table.typed(case, None, "run")]
    with contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
        table.main()
        raise AssertionError(case.words)
    table.check(case, 2, "", err.getvalue())
"""
    (tmp_path / "set").symlink_to(tiny_set)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# As processes of their own


def run(words: list[str], cwd: Path, before: Sequence[str] = ()) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'notebooks'}", "OMP_NUM_THREADS": "1"}
    words = [*before, sys.executable, "-m", "ktda", *words]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL[:: len(ALL) // 25])
def test_the_same_as_a_process(case: Case, place: Path, finished_run: Path) -> None:
    case.make(place)
    done = run(typed(case, place, finished_run), place)
    check(case, done.returncode, done.stdout, done.stderr)


LOCKED = [  # what nobody may not read, or not write into; with what is typed, and what is said
    ("set/dataset.yaml", 0, "data check SET", "set/dataset.yaml: cannot be read as YAML: [Errno 13] Permission denied"),
    (IMAGE, 0, "train SET TINY --out out/r --set tiles=6", "train0_patch_0.png"),
    (MASK, 0, "train SET TINY --out out/r", "train0_patch_0.png"),
    ("set/img_dir/train", 0, "data check SET", "set/img_dir/train: Permission denied"),
    ("set/img_dir", 0, "train SET TINY --out out/r", "Permission denied"),
    ("closed", 0o555, "train SET TINY --out closed/r", "closed/r: Permission denied"),
    ("closed", 0o555, "evaluate MODEL --out closed/x.json", "Permission denied"),
    ("closed", 0o555, "export-encoder MODEL --out closed/e.safetensors", "Permission denied"),
    ("closed", 0o555, "predict MODEL s.png --out closed/maps", "closed/maps: Permission denied"),
    ("s.png", 0, "predict MODEL s.png --out out/maps", "s.png"),
    (WEIGHTS, 0, "evaluate MODEL", "model.safetensors"),
    ("model/config.json", 0, "evaluate MODEL", "model/config.json: Permission denied"),
    ("model/manifest.json", 0, "train SET TINY --out MODEL --resume", "Permission denied"),
    ("table.yaml", 0, "status table.yaml", "table.yaml"),
    ("closed", 0o555, "data make demo_grass --tiles 4 --out closed/new", "Permission denied"),
]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can give files away")
@pytest.mark.parametrize(("name", "mode", "words", "says"), LOCKED)
def test_what_is_not_permitted(
    place: Path, tiny_set: Path, finished_run: Path, name: str, mode: int, words: str, says: str
) -> None:
    """As root without the right to pass over permissions, on files that are nobody's."""
    for folder, source in (("set", tiny_set), ("model", finished_run)):  # whose files are links
        shutil.rmtree(place / folder)
        shutil.copytree(source, place / folder)
    both(scene("s.png", COLOURS), put("table.yaml", TABLE))(place)
    for new in ("closed", "out"):
        (place / new).mkdir()
    (place / name).chmod(mode)
    os.chown(place / name, 65534, 65534)
    without = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    done = run(typed(Case(words, says), place, finished_run), place, before=without)
    check(Case(words, says), done.returncode, done.stdout, done.stderr)
