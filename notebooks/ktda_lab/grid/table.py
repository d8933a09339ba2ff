"""The table of a grid: one YAML file whose rows are the ablations, read strictly.

A row is a few overrides of one baseline. Whatever could make a row mean something else than it says (an unknown name,
a wrong type, a row twice, a row that changes nothing) is an error before anything runs.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ktda.config import PRESETS, Config, make_config
from ktda.errors import InputError, suggest_name

MAX_OVERRIDES = 3


@dataclass(frozen=True)
class Row:
    """One ablation: overrides of the table's preset and settings."""

    name: str
    group: str
    says: str
    overrides: dict[str, Any]
    needs_gpu: bool


@dataclass(frozen=True)
class Table:
    """A checked table.

    Attributes:
        name: stem of the file; text: its content.
        data: names or folders; seeds: of which each row is run with each data set.
        settings: overrides that all rows share.
    """

    name: str
    text: str
    question: str
    preset: str
    data: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str
    settings: dict[str, Any]
    rows: tuple[Row, ...]

    def overrides(self, row: Row) -> list[str]:
        """Settings and overrides of a row as ``key=value``, the row's last."""
        return [f"{key}={_text(value)}" for key, value in (self.settings | row.overrides).items()]

    def config(self, row: Row, data: str, seed: int) -> Config:
        """The resolved settings of one run, by the same way as the notebook resolves them."""
        return make_config(self.preset, [*self.overrides(row), f"seed={seed}"], data)


def read_table(path: Path | str, data: tuple[str, ...] = (), seeds: int | None = None) -> Table:
    """Read and check a table.

    Args:
        path: YAML file.
        data: instead of the table's own data sets.
        seeds: so many (0, 1, ...) instead of the table's own.

    Raises:
        InputError: the file cannot be read, or something in it is not as it must be.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    try:
        _check_form(content, _TABLE, "table")
        content |= {"data": list(data)} if data else {}
        content |= {} if seeds is None else {"seeds": seeds}
        rows = tuple(_row(row) for row in content["rows"])
        table = Table(
            name=path.stem,
            text=text,
            question=content["question"],
            preset=content["preset"],
            data=tuple(content["data"]),
            seeds=_seeds(content.get("seeds", 1)),
            baseline=content["baseline"],
            settings=content.get("settings") or {},
            rows=rows,
        )
        _check(table)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return table


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, which YAML 1.1 takes for text, and refuses a key that stands twice in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+"), list("-+0123456789"))


def _words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v.strip() for v in value)


def _text_given(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _named(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


# key -> (required, what fits, how to say it)
_TABLE = {
    "question": (True, _text_given, "one sentence"),
    "preset": (True, lambda v: isinstance(v, str) and v in PRESETS, f"one of {', '.join(PRESETS)}"),
    "data": (True, _words, "a list of names or folders"),
    "seeds": (False, lambda v: isinstance(v, int | list), "a number of seeds, or a list of them"),
    "baseline": (True, _text_given, "the name of a row"),
    "settings": (False, lambda v: v is None or _named(v), "a mapping of settings"),
    "rows": (True, lambda v: isinstance(v, list) and v, "a list of rows"),
}
_ROW = {
    "name": (True, lambda v: isinstance(v, str) and re.fullmatch(r"[\w.+-]+", v), "letters, digits and _ . + -"),
    "group": (True, _text_given, "a word"),
    "says": (False, _text_given, "a few words"),
    "set": (
        False,
        lambda v: _named(v) and len(v) <= MAX_OVERRIDES,
        f"a mapping of at most {MAX_OVERRIDES} settings",
    ),
    "needs": (False, lambda v: v == "gpu", "gpu"),
}


def _check_form(content: Any, form: dict, what: str) -> None:
    """Refuse what is no mapping, unknown and missing keys, and values that do not fit."""
    if not isinstance(content, dict):
        raise InputError(f"{what} is {content!r:.60}; expected a mapping with {', '.join(form)}")
    for key, value in content.items():
        if key not in form:
            raise InputError(f"{what} has the key {key!r}; {suggest_name(key, form)}")
        if not form[key][1](value):
            raise InputError(f"{what}: {key} is {value!r:.80}; expected {form[key][2]}")
    missing = [key for key, (required, *_) in form.items() if required and key not in content]
    if missing:
        raise InputError(f"{what} has no {missing[0]}; expected {form[missing[0]][2]}")


def _row(content: Any) -> Row:
    _check_form(content, _ROW, f"row {content['name']}" if isinstance(content, dict) and "name" in content else "row")
    name, group, says = content["name"], content["group"], content.get("says", "")
    return Row(name, group, says, content.get("set", {}), content.get("needs") == "gpu")


def _seeds(given: int | list) -> tuple[int, ...]:
    seeds = list(range(given)) if isinstance(given, int) and not isinstance(given, bool) else given
    fits = isinstance(seeds, list) and seeds and all(type(s) is int and s >= 0 for s in seeds)
    if not fits or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds is {given!r}; expected at least 1, or a list of different whole numbers")
    return tuple(seeds)


def _check(table: Table) -> None:
    """Refuse double data and names, a missing baseline, bad overrides and rows that are the same run."""
    names = [row.name for row in table.rows]
    for what, given in (("row", names), ("data", table.data)):
        double = [name for i, name in enumerate(given) if name in given[:i]]
        if double:
            raise InputError(f"{what} {double[0]} stands there twice")
    if table.baseline not in names:
        raise InputError(f"baseline {table.baseline!r} is no row; {suggest_name(table.baseline, names)}")
    baseline = table.rows[names.index(table.baseline)]
    ordered = [baseline, *(row for row in table.rows if row is not baseline)]
    for given in (table.settings, *(row.overrides for row in table.rows)):
        if "seed" in given:
            raise InputError("seed is set among the overrides; say `seeds: [...]` in the table")
    for data in table.data:
        seen: dict[Config, str] = {}
        for row in ordered:
            try:
                make_config(table.preset, table.settings | row.overrides, data)  # the types, which text cannot show
                config = table.config(row, data, 0)
            except InputError as error:
                raise InputError(f"row {row.name}: {error}") from None
            if config in seen:
                same = "the baseline" if seen[config] == table.baseline else f"row {seen[config]}"
                raise InputError(f"row {row.name} has the same settings as {same} ({seen[config]}) on {data}")
            seen[config] = row.name


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def select(table: Table, only: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the rows to run: those given, or all.

    Raises:
        InputError: no such row.
    """
    names = tuple(row.name for row in table.rows)
    for name in only:
        if name not in names:
            raise InputError(f"--only {name} is no row of {table.name}; {suggest_name(name, names)}")
    return only or names
