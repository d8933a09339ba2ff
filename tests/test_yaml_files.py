"""The strict reader of YAML: what it takes as it stands, and what it refuses in one line."""

import os
from pathlib import Path

import pytest

from ktda.errors import InputError
from ktda.yaml_files import MAX_BYTES, MAX_DEPTH, MAX_NODES, read_yaml


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", None),
        ("\ufeffa: 1", {"a": 1}),
        ("a: 1e-3\nb: -2E5\nc: .5\nd: 0x10\ne: 0", {"a": 1e-3, "b": -2e5, "c": 0.5, "d": 16, "e": 0}),
        ("a: '010'\nb: '1:30'\nc: 'yes'\nd: yes", {"a": "010", "b": "1:30", "c": "yes", "d": True}),
        ("{1: a, '1': b}", {1: "a", "1": "b"}),
        (f"a: {'9' * 30}", {"a": int("9" * 30)}),
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None),
    ],
)
def test_plain_values(tmp_path: Path, text: str, content: object) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    found = read_yaml(path)
    while isinstance(found, list):
        found = found[0] if found else None
    assert found == content
    assert type(found) is type(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", "line 4: c stands there twice"),
        ("{1: a, true: b}", "true stands there twice"),  # which Python takes for the same key
        ("a: &x [1]\nb: *x", r"line 2: an alias \(\*x\); write the value out"),
        ("a: &x [*x]", "an alias"),
        ("a: !!python/object/apply:os.system [true]", "line 1: a tag"),
        ("a: !!int '3'", "a tag"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"more than {MAX_DEPTH} levels"),
        ("[" * (MAX_BYTES - 1), f"more than {MAX_DEPTH} levels"),
        ("- " * 1000, f"more than {MAX_DEPTH} levels"),
        ("[" + "1," * MAX_NODES + "]", f"or {MAX_NODES} values"),
        ("x" * (MAX_BYTES + 1), "larger than 1000 kB"),
        (f"a: {'9' * 31}", "line 1: the number 9+ has more than 30 digits"),
        (f"a: {'9' * 900_000}", "has more than 30 digits"),
        (f"a: {'1:' * 400_000}1.5", "a colon; if it is text, put it in quotes"),
        ("a: 010", "the number 010 .* a leading zero"),
        ("a: 1:30", "the number 1:30 .* or a colon"),
        ("a: 2026-13-01", "cannot be read as YAML: month must be"),
        ("a: [", "cannot be read as YAML"),
        ("a: 1\n---\na: 2", "cannot be read as YAML: expected a single document"),
        ("? [a]\n: 1", "cannot be read as YAML"),
        ("a: \0", "cannot be read as YAML"),
        (b"a: \xff", "cannot be read as YAML: 'utf-8' codec"),
    ],
)
def test_one_line_for_what_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError, match=message) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path, tmp_path / "pipe.yaml", Path("/dev/zero")):
        with pytest.raises(InputError, match="expected a regular file"):
            read_yaml(path)
    with pytest.raises(InputError, match="No such file"):
        read_yaml(tmp_path / "absent.yaml")
