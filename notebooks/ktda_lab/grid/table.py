"""The table of a grid: one YAML file whose rows are the ablations, read strictly.

A row is a few overrides of one baseline. Whatever could make a row mean something else than it says (an unknown name,
a wrong type, a row twice, a row that changes nothing) is an error before anything runs.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ktda.config import PRESETS, Config, make_config
from ktda.errors import InputError, suggest_name
from ktda.schema import Strict, parse
from ktda.yaml_files import read_yaml

MAX_OVERRIDES = 5


def _different_seeds(given: int | tuple[int, ...]) -> tuple[int, ...]:
    """A number of seeds stands for 0, 1, ..."""
    seeds = tuple(range(given)) if isinstance(given, int) else given
    if len(set(seeds)) < len(seeds):
        raise ValueError
    return seeds


_Text = Annotated[str, Field(pattern=r"\S")]
_Seed = Annotated[int, Field(ge=0, lt=2**63)]
_Seeds = Annotated[int, Field(ge=1, le=1000)] | Annotated[tuple[_Seed, ...], Field(min_length=1)]


class Row(Strict):
    """One ablation: overrides of the table's preset and settings; `says` describes it.

    With `init` it goes on from the weights of another row's run, all of them or the encoder's.
    """

    name: str = Field(pattern=r"^[\w.+-]+$", description="letters, digits and _ . + -")
    group: _Text = Field(description="a word")
    says: _Text = Field("", description="a few words")
    overrides: dict[str, Any] = Field(
        {}, alias="set", max_length=MAX_OVERRIDES, description=f"a mapping of at most {MAX_OVERRIDES} settings"
    )
    init: str = Field("", description="the name of a row above: its run of the same data and seed gives the weights")
    init_part: Literal["all", "encoder"] = Field("all", description="all or encoder, as of ktda train")
    needs: Literal["gpu"] = Field(None, description="gpu")

    @property
    def needs_gpu(self) -> bool:
        """Whether it is left out where there is no GPU."""
        return self.needs == "gpu"


class _Keys(Strict):
    """The keys of the file."""

    question: _Text = Field(description="one sentence")
    preset: Literal[*PRESETS] = Field(description=f"one of {', '.join(PRESETS)}")
    data: tuple[_Text, ...] = Field(min_length=1, description="a list of names or folders")
    seeds: Annotated[_Seeds, AfterValidator(_different_seeds)] = Field(
        (0,), description="at least 1, or a list of different whole numbers"
    )
    baseline: _Text = Field(description="the name of a row")
    settings: Annotated[dict[str, Any], BeforeValidator(lambda given: {} if given is None else given)] = Field(
        {}, description="a mapping of settings"
    )
    rows: tuple[Any, ...] = Field(min_length=1, description="a list of rows")
    contrasts: tuple[tuple[_Text, _Text, _Text], ...] = Field(
        (), description="a list of [row, rival, what a difference above zero says], the most important first"
    )


class Table(_Keys):
    """A checked table.

    Attributes:
        name: stem of the file; text: its content.
        data: names or folders; seeds: of which each row is run with each data set.
        settings: overrides that all rows share.
    """

    name: str
    text: str
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
    content = read_yaml(path)
    if isinstance(content, dict):
        content |= {"data": list(data)} if data else {}
        content |= {} if seeds is None else {"seeds": seeds}
    keys = parse(_Keys, content, str(path))
    rows = tuple(_row(row, path) for row in keys.rows)
    text = path.read_text(encoding="utf-8")
    table = Table(name=path.stem, text=text, **dict(keys) | {"rows": rows})
    try:
        _check(table)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return table


def _row(content: Any, path: Path) -> Row:
    named = isinstance(content, dict) and isinstance(content.get("name"), str)
    return parse(Row, content, f"{path}: row {content['name']}" if named else f"{path}: row")


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
    for row, rival, _ in table.contrasts:
        unknown = next((name for name in (row, rival) if name not in names), None)
        if unknown or row == rival:
            raise InputError(f"contrast of {row} and {rival}; expected two different rows of the table")
    for number, row in enumerate(table.rows):
        if row.init and row.init not in names[:number]:
            raise InputError(f"row {row.name}: init={row.init!r} is no row above it")
        if row.init_part != "all" and not row.init:
            raise InputError(f"row {row.name}: init_part is set, but no init")
    ordered = [baseline, *(row for row in table.rows if row is not baseline)]
    for given in (table.settings, *(row.overrides for row in table.rows)):
        if "seed" in given:
            raise InputError("seed is set among the overrides; say `seeds: [...]` in the table")
    for data in table.data:
        seen: dict[tuple[Config, str, str], str] = {}
        for row in ordered:
            try:
                make_config(table.preset, table.settings | row.overrides, data)  # the types, which text cannot show
                config = table.config(row, data, 0)
            except InputError as error:
                raise InputError(f"row {row.name}: {error}") from None
            key = (config, row.init, row.init_part)
            if key in seen:
                same = "the baseline" if seen[key] == table.baseline else f"row {seen[key]}"
                raise InputError(f"row {row.name} has the same settings as {same} ({seen[key]}) on {data}")
            seen[key] = row.name


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
