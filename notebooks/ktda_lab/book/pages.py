"""The pages of a report as Markdown: the front page, the gallery, the modules of `ktda`."""

from collections.abc import Sequence
from typing import Any

from ktda_lab.book.executed import Made
from ktda_lab.book.text import plain, table


def status_line(made: Sequence[Made], preset: str) -> str:
    """What was run, and what failed."""
    text = f"{len(made)} notebooks at the preset `{preset}`"
    if preset == "smoke":
        text += ", which shows that everything runs; the scores and pictures of its runs mean nothing"
    failed = ", ".join(notebook.name for notebook in made if notebook.status == "failed")
    return f"{text}. **Failed: {plain(failed)}.**" if failed else f"{text}."


def notebook_table(made: Sequence[Made], addresses: dict[str, str]) -> str:
    """Question, status and seconds of each, with a link to its page where it has one."""
    rows = []
    for notebook in made:
        name = plain(notebook.name)
        name = f"[{name}]({addresses[notebook.name]})" if notebook.name in addresses else name
        reason = f"<br>{plain(notebook.reason)}" if notebook.reason else ""
        seconds = "" if notebook.seconds is None else f"{notebook.seconds:.0f}"
        rows.append([name, plain(notebook.question or notebook.title) + reason, notebook.status, seconds])
    rows.append(["all", "", "", f"{sum(notebook.seconds or 0 for notebook in made):.0f}"])
    text = "*unchanged*: nothing that it depends on has changed since it ran; the time is that of that run.\n"
    return table(["notebook", "question", "status", "seconds:"], rows) + "\n" + text


def run_table(made: Sequence[Made]) -> str:
    """The runs of the notebooks; empty where there are none."""
    rows = []
    for run in (run for notebook in made for run in notebook.runs):
        metrics, manifest = run["metrics"], run["manifest"]
        scores = [metrics["miou"], metrics["overall_accuracy"]]
        cells = [manifest["data"]["name"], manifest["config"]["model"], manifest["config"]["teacher"]]
        cells = [run["folder"], *("" if s is None else f"{100 * s:.2f}" for s in scores), *cells]
        rows.append([*map(plain, cells), plain(f"{metrics['split']}, {metrics['protocol']}")])
    names = ["run", "mIoU, %:", "OA, %:", "data", "model", "teacher", "split, protocol"]
    text = "One training each: a check that training works, no evidence about a method.\n\n"
    return text + table(names, rows) if rows else ""


def provenance_table(provenance: dict[str, Any]) -> str:
    """What the report was made from."""
    said = {None: "unknown", True: "yes", False: "no"}
    return table(["", ""], [[plain(name), plain(said.get(value, value))] for name, value in provenance.items()])


def caption(figure: dict[str, Any]) -> str:
    """Title and caption of a figure."""
    title = figure["title"]
    return f"**{plain(title if title.endswith(('?', '.')) else title + '.')}** {plain(figure['caption'])}"


def table_links(notebook: Made, addresses: dict[str, str]) -> str:
    """A line of links to the tables that a notebook wrote; empty where it wrote none."""
    found = [
        f"{plain(name)} (" + ", ".join(f"[{kind}]({addresses[path]})" for kind, path in formats.items()) + ")"
        for name, formats in notebook.tables.items()
    ]
    return f"Tables: {', '.join(found)}\n" if found else ""


def directive(name: str, argument: str, body: str, **options: str) -> str:
    """A directive of MyST around Markdown, in which there may be one more level of directives."""
    settings = "".join(f":{key}: {value}\n" for key, value in options.items())
    fence = "`" * (8 if "````" in body else 4)
    return f"{fence}{{{name}}} {argument}\n{settings}\n{body.strip()}\n{fence}\n"


def contents(parts: dict[str, Sequence[str]]) -> str:
    """The sidebar, or a part of it: pages by heading."""
    trees = []
    for heading, names in parts.items():
        options = {"caption": heading} if heading else {}
        trees.append(directive("toctree", "", "\n".join(names), hidden="", maxdepth="1", **options))
    return "\n".join(trees)
