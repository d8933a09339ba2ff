"""The command line: ``ktda data | train | settings | teachers | evaluate | grid | status | notebook | report``.

A user's mistake ends in one line and exit code 2. Heavy imports stay inside the commands, so that help is quick.
"""

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

import ktda
from ktda.cli import data as data_commands
from ktda.cli.predict import predict
from ktda.cli.settings import settings
from ktda.cli.share import convert, export
from ktda.cli.teachers import teachers
from ktda.cli.text import MODEL
from ktda.errors import InputError
from ktda.files import read_json, write_json
from ktda_lab.commands.benchmark import benchmark
from ktda_lab.commands.grid import grid, status
from ktda_lab.commands.notebook import NotebookCommand, notebook, report
from ktda_lab.commands.show import can_draw, show

app = typer.Typer(
    help="KTDA: knowledge transfer and domain adaptation for remote-sensing image segmentation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_commands.app, name="data")
app.command()(grid)
app.command()(status)
app.command(cls=NotebookCommand)(notebook)
app.command()(report)
app.command()(show)
app.command()(benchmark)
app.command()(predict)
app.command()(convert)
app.command()(export)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ktda {ktda.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    data: Annotated[str, typer.Argument(help="Name of a data set (ktda data list) or a folder in its layout.")],
    preset: Annotated[str, typer.Option(help="smoke (seconds), demo (minutes), few_labels, grid or paper.")] = "demo",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one of `ktda settings`; may be repeated."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of weights, order, augmentation and dropout; 0 if not given.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; runs/DATA-PRESET-seedN if not given.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    init: Annotated[
        str | None, typer.Option(help="Start from the weights of a run folder or checkpoint (the authors' .pth too).")
    ] = None,
    init_part: Annotated[
        str, typer.Option(help="What to take of them: all, or encoder (the rest may be of another kind).")
    ] = "all",
    unlabelled: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Images without masks: a folder, a .txt list or a file; may be repeated."),
    ] = None,
) -> None:
    """Train on DATA, keep the weights that score best on the selection tiles, and evaluate them."""
    from ktda.config import make_config
    from ktda.data.folder import check_layout

    # Settings and folders first: a mistake shall not wait for torch to be imported.
    config = make_config(preset, [*(set_ or []), *([] if seed is None else [f"seed={seed}"])], data)
    check_layout(data)
    from accelerate import PartialState

    from ktda.training import train as run

    out = out or Path("runs") / f"{Path(data).name}-{preset}-seed{config.seed}"
    metrics = run(data, config, out, resume, init, init_part, unlabelled or ())
    if PartialState().is_main_process:
        _tell(out, metrics, config.segmentation_weight > 0)


def _tell(out: Path, metrics: dict, scored: bool) -> None:
    """What a run came to, and where its pictures are; a picture that fails costs a line, not the run."""
    manifest = read_json(out / "manifest.json")
    data = manifest["data"]
    found = zip(data["classes"], metrics["precision"], metrics["recall"], strict=True)
    never = [name for name, precision, recall in found if precision is None and recall is not None]
    if scored and never:
        data["notes"].append(f"never predicted on {metrics['split']}: {', '.join(never)}")
    for note in data["notes"]:
        typer.echo(f"note: {note}")
    for part, count in (manifest.get("init_tensors") or {}).items():
        typer.echo(f"{part}: {count['taken']} tensors of {manifest['init']}, {count['anew']} started anew")
    if scored:
        typer.echo(_summary(metrics, manifest["data"]["classes"]))
    else:
        typer.echo(f"distilled alone, nothing to score; go on with: --init {out} --init-part encoder")
    typer.echo(f"run folder: {out}")
    if scored and can_draw():
        try:
            from ktda_lab.run_pictures import draw_run

            typer.echo(f"pictures: {draw_run(out)[0].parent}")
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            typer.echo(f"ktda: no pictures: {reason:.200}; try again by `ktda show {out}`", err=True)


app.command()(settings)
app.command()(teachers)


@app.command()
def export_encoder(
    run: Annotated[Path, typer.Argument(help="Run folder of ktda train.")],
    out: Annotated[Path, typer.Option(help="Weights to write, such as encoder.safetensors.")],
) -> None:
    """Save the student's encoder of a RUN as plain weights, for timm, SMP or --set student_weights=FILE."""
    from ktda.warm_start import export_encoder as export

    typer.echo(f"{out}: weights of {export(run, out)}")


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    data: Annotated[str | None, typer.Option(help="Another data set with classes of the same names.")] = None,
    split: Annotated[str | None, typer.Option(help="Split to score; the run's reported one by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the scores to this json file.")] = None,
) -> None:
    """Score a trained MODEL on a split; prints a table."""
    from ktda.scores.evaluate import evaluate_run

    result = evaluate_run(run, data, split)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, result)
    typer.echo(_summary(result, result["classes"]))


def _summary(metrics: dict, classes: list[str]) -> str:
    """The scores as a small table."""

    def percent(value: float | None) -> str:
        return "     -" if value is None else f"{100 * value:6.2f}"

    how = metrics.get("evaluation", "whole image")  # as all were, before it was written down
    about = f"(percent; {metrics['split']}, protocol {metrics['protocol'] or 'not recorded'}, {how})"
    lines = [f"{'class':16} {'IoU':>6} {'F1':>6} {'prec.':>6} {'recall':>6}   {about}"]
    for i, name in enumerate(classes):
        row = " ".join(percent(metrics[key][i]) for key in ("iou", "f1", "precision", "recall"))
        lines.append(f"{name[:16]:16} {row}")
    lines.append(
        f"mIoU {percent(metrics['miou']).strip()}   overall accuracy {percent(metrics['overall_accuracy']).strip()}   "
        f"F1 {percent(metrics['mean_f1']).strip()} (mmsegmentation's mean: {percent(metrics['mean_f1_mmseg']).strip()})"
    )
    return "\n".join(lines)


def main() -> None:
    """Entry point: one line and exit code 2 for a user's mistake."""
    try:
        sys.exit(app(prog_name="ktda", standalone_mode=False) or 0)
    except InputError as error:
        # A loader's worker process hands on its whole traceback; the end of it is the message.
        _fail(str(error).rpartition(f"\n{InputError.__module__}.InputError: ")[2].strip())
    except BrokenPipeError:  # the reader of our output went away: ktda ... | head
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        _fail(f"{error.filename or 'while writing'}: {error.strerror}")
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        # typer's own, of a class that it keeps to itself: an unknown command or option, a missing argument
        command, help_asked = error.ctx.command_path if error.ctx else "ktda", "NoArgs" in type(error).__name__
        if help_asked:
            typer.echo(error.format_message(), err=True)
            sys.exit(2)
        _fail(f"{' '.join(error.format_message().split())} See `{command} --help`.")


def _fail(message: str) -> None:
    # One line, whatever a file's name holds: a terminal would obey its control characters.
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
    typer.echo(f"ktda: {line}", err=True)
    sys.exit(2)
