"""``ktda settings``: what can be set, as the settings themselves describe it."""

import textwrap
from typing import Annotated, Any

import typer


def settings(name: Annotated[str | None, typer.Argument(help="One setting; all if not given.")] = None) -> None:
    """List the settings of a run: default, meaning, allowed values, and what each preset changes."""
    from ktda.config import PAPER_CLOUD, PRESETS
    from ktda.settings import GROUPS, Config, allowed, check_name

    fields = Config.model_fields
    presets = PRESETS | {"paper on cloud": PAPER_CLOUD}
    changes = {
        preset: {key: value for key, value in values.items() if value != fields[key].default}
        for preset, values in presets.items()
    }

    def describe(key: str) -> None:
        field = fields[key]
        _echo(f"{key} = {_text(field.default)}  ({allowed(key)})")
        _echo(field.description, indent=6)

    if name:
        check_name(name)
        describe(name)
        for preset, values in changes.items():
            if name in values:
                _echo(f"preset {preset}: {_text(values[name])}")
        return

    titles = {first: title for title, first in GROUPS.items()}
    for key in fields:
        if key in titles:
            typer.echo(f"{titles[key]}:")
        describe(key)
    typer.echo("Presets, where they differ from these defaults:")
    for preset, values in changes.items():
        _echo(f"{preset}: {' '.join(f'{key}={_text(value)}' for key, value in values.items())}")


def _echo(text: str, indent: int = 2) -> None:
    """Print a paragraph of at most 80 columns."""
    wrap = textwrap.TextWrapper(80, " " * indent, " " * 6, break_on_hyphens=False)
    typer.echo(wrap.fill(text))


def _text(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return (",".join(map(str, value)) or "(empty)") if isinstance(value, tuple) else str(value)
