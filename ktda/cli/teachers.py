"""``ktda teachers``: the table of teachers that were tried."""

import typer

from ktda.cli.text import columns


def teachers() -> None:
    """List teachers that were tried: pixels per place, width, dropped tokens, licence."""
    from ktda.weights.teachers import KNOWN

    rows = [("teacher", "patch", "width", "tokens", "licence", "gated", "remarks")]
    for row in KNOWN:
        gated = {True: "yes", False: "no", None: "?"}[row.gated]
        remarks = ["no last norm"] * (not row.last_norm) + [row.note] * bool(row.note)
        numbers = _span(row.patches), _span(row.widths), str(row.prefix)
        rows.append((row.name, *numbers, row.licence, gated, ", ".join(remarks)))
    typer.echo(columns(rows))
    typer.echo("Set one by --set teacher=NAME. One with patch 4-32 is a pyramid: neck_scales=1,1,1,1.")
    typer.echo("For satellite images: --set teacher=vit_large_patch16_dinov3.sat493m")
    typer.echo("tokens: class and registers, dropped. gated ?: not looked up.")
    typer.echo("Whether a student falls under the licence of the teacher that it learned from is unsettled.")


def _span(values: tuple[int, ...]) -> str:
    """First and last of values, or the one that all share."""
    return str(values[0]) if len(set(values)) == 1 else f"{values[0]}-{values[-1]}"
