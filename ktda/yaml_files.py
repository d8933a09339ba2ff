"""YAML as we read it: a small regular file of plain values, in which nothing is ambiguous.

A key that stands twice, an alias (a few lines of them can stand for gigabytes), a tag, deep nesting
and huge numbers are errors, and so are ``010`` and ``1:30``, which YAML 1.1 takes for 8 and 90;
``1e-3`` is a number, which YAML 1.1 takes for text.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ktda.errors import InputError

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_NODES = 20_000
MAX_DIGITS = 30
# libyaml's scanner where PyYAML was built with it: about ten times as fast as the one in Python.
_SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """Content of a YAML file; None for an empty one.

    Raises:
        InputError: not a regular file of at most `MAX_BYTES`, no YAML, or something named above.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: expected a regular file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(
                f"{path}: larger than {MAX_BYTES // 1000} kB; expected a short YAML file"
            )
        text = content.decode("utf-8-sig")
        _check_events(text)
        return yaml.load(text, _Loader)
    # ValueError: not UTF-8, or a date such as 2026-13-01.
    except (OSError, ValueError, yaml.YAMLError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as YAML: {reason:.300}") from None


def _check_events(text: str) -> None:
    """Refuse, before anything is built, what could grow without bound or mean something else."""
    depth = nodes = 0
    for event in yaml.parse(text, _SafeLoader):
        line = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"{line}: an alias (*{event.anchor}); write the value out")
        if isinstance(event, yaml.NodeEvent):
            nodes += 1
            if event.tag not in (None, "!"):  # "!" is a text in quotes
                raise yaml.YAMLError(f"{line}: a tag ({event.tag}); write a plain value")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise yaml.YAMLError(f"{line}: more than {MAX_DEPTH} levels or {MAX_NODES} values")


class _Loader(_SafeLoader):
    """Refuses a key that stands twice in a mapping, and a number that is not plainly one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        found = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in found:
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: {key_node.value} stands there twice")
            if isinstance(key, Hashable):  # of another, the loader itself complains
                found.add(key)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        text = node.value
        if len(text) > MAX_DIGITS or _OTHER_BASE.fullmatch(text):
            line = node.start_mark.line + 1
            raise yaml.YAMLError(
                f"line {line}: the number {text:.40} has more than {MAX_DIGITS} digits, a leading zero "
                "or a colon; if it is text, put it in quotes"
            )
        kind = self.construct_yaml_float if node.tag == _FLOAT else self.construct_yaml_int
        return kind(node)


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_OTHER_BASE = re.compile(r"[-+]?0[\d_]+|.*:.*")
_EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+")
_Loader.add_constructor(_INT, _Loader.construct_number)
_Loader.add_constructor(_FLOAT, _Loader.construct_number)
_Loader.add_implicit_resolver(_FLOAT, _EXPONENT, list("-+0123456789"))
