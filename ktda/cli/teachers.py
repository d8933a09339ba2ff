"""``ktda teachers``: the table of teachers that were tried."""

import typer


def teachers() -> None:
    """List teachers that were tried: pixels per place, width, dropped tokens, licence."""
    from ktda.weights.teachers import KNOWN

    width = max(len(row.name) for row in KNOWN)
    typer.echo(f"{'teacher':{width}} patch {'width':9} tokens {'licence':25} gated  remarks")
    for row in KNOWN:
        gated = {True: "yes", False: "no", None: "?"}[row.gated]
        remarks = [] if row.last_norm else ["no last norm"]
        remarks += [row.note] if row.note else []
        words = [f"{row.name:{width}}", f"{_span(row.patches):5}", f"{_span(row.widths):9}", f"{row.prefix:6}"]
        typer.echo(" ".join([*words, f"{row.licence:25}", f"{gated:5}", f" {', '.join(remarks)}"]).rstrip())
    typer.echo("Set one by --set teacher=NAME. One with patch 4-32 is a pyramid: neck_scales=1,1,1,1.")
    typer.echo("For satellite images: --set teacher=vit_large_patch16_dinov3.sat493m")
    typer.echo("tokens: class and registers, dropped. gated ?: not looked up.")
    typer.echo("Whether a student falls under the licence of the teacher that it learned from is unsettled.")


def _span(values: tuple[int, ...]) -> str:
    """First and last of values, or the one that all share."""
    return str(values[0]) if len(set(values)) == 1 else f"{values[0]}-{values[-1]}"
