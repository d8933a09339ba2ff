"""The pages of a report: a notebook as HTML, and the index. Nothing in them loads from the network."""

import json
import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

# nbconvert's own page, without its scripts: they come from the network, and figures and tables need none.
_TEMPLATE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}<style>
body.jp-Notebook { padding: 0.5rem; }
body.jp-Notebook main { max-width: 60rem; margin: 0 auto; }
.ktda-home { font: 15px system-ui, sans-serif; margin: 0.5rem 0 1rem; }
.ktda-home a { color: #2a6f97; }
.jp-OutputArea-output, .jp-InputArea-editor .highlight { overflow-x: auto; }
.jp-RenderedImage img, .jp-RenderedMarkdown img { max-width: 100%; height: auto; }
@media (max-width: 50rem) { .jp-InputPrompt, .jp-OutputPrompt { display: none; } }
</style>{%- endblock -%}
{%- block body_header -%}{{ super() }}
<nav class="ktda-home"><a href="../index.html">&larr; Report</a></nav>{%- endblock -%}
"""

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #2a6f97; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
a { color: var(--accent); }
@media (prefers-color-scheme: dark) { :root { --accent: #7cc4ec; } }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem .7rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; }
td.number, th.number { text-align: right; white-space: nowrap; }
.note { opacity: .75; font-size: .9rem; overflow-wrap: anywhere; }
.failed { color: #b3261e; font-weight: 600; }
@media (prefers-color-scheme: dark) { .failed { color: #ff8a80; } }
figure { margin: 1.2rem 0; padding: .8rem; background: var(--soft); border-radius: .4rem; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; background: #fff; }
figcaption { margin-top: .6rem; font-size: .92rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; }
dt { opacity: .75; } dd { margin: 0; overflow-wrap: anywhere; }
"""


def notebook_page(executed: Path, source_folder: Path, folder: Path, names: Sequence[str]) -> str:
    """An executed notebook as one HTML page without scripts.

    Args:
        executed: The executed copy.
        source_folder: Where the notebook's own relative links start.
        folder: Where the page will lie; links are rewritten for it, those to other notebooks to their pages.
        names: Stems of the notebooks that have a page.
    """
    import nbformat
    from nbconvert import HTMLExporter

    content = nbformat.read(executed, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "markdown":
            cell.source = _relink(cell.source, source_folder, folder, names)
        for output in cell.get("outputs", []):
            # A widget needs scripts to be shown; its text form does not.
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    content.metadata.pop("widgets", None)
    exporter = HTMLExporter(raw_template=_TEMPLATE, embed_images=False)
    page, _ = exporter.from_notebook_node(content, {"metadata": {"name": executed.stem, "path": str(source_folder)}})
    return page


def index_page(results: Sequence[Any], build: Path, provenance: dict[str, Any]) -> str:
    """The report's front page.

    Args:
        results: ``ktda.runs.report.Result`` in order.
        build: The folder beside the page in which the notebooks' results lie.
        provenance: Shown at the end, by name.
    """
    parts = [
        "<h1>Knowledge transfer and domain adaptation for remote-sensing segmentation</h1>",
        f'<p class="note">Report of {len(results)} notebooks at the preset <b>{escape(provenance["preset"])}</b>'
        + (", which shows that everything runs; its numbers mean nothing." if provenance["preset"] == "smoke" else ".")
        + "</p>",
        _headline(results, build),
        "<h2>Notebooks</h2>",
        _notebooks(results, build),
    ]
    for result in results:
        parts.append(_section(result, build))
    rows = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(_plain(v))}</dd>" for k, v in provenance.items())
    parts.append(f"<h2>Provenance</h2><dl>{rows}</dl>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>KTDA report</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _headline(results: Sequence[Any], build: Path) -> str:
    """Scores of every run folder, read from its metrics.json."""
    rows = []
    for result in results:
        for path in sorted((build / result.name).rglob("metrics.json")):
            metrics, manifest = json.loads(path.read_text()), _json(path.with_name("manifest.json"))
            data, config = manifest.get("data", {}), manifest.get("config", {})
            # The numbers come second: on a phone the rest of the row is reached by scrolling.
            where = f"{result.name} / {path.parent.relative_to(build / result.name).as_posix()}"
            numbers = [metrics["miou"], metrics["overall_accuracy"]]
            rest = [
                data.get("name", ""),
                config.get("model", ""),
                config.get("teacher", ""),
                f"{metrics['split']}, {metrics['protocol']}",
            ]
            cells = "".join(f'<td class="number">{_percent(value)}</td>' for value in numbers)
            cells += "".join(f"<td>{escape(str(value))}</td>" for value in rest)
            rows.append(f"<tr><td>{escape(where)}</td>{cells}</tr>")
    if not rows:
        return ""
    head = '<th>run</th><th class="number">mIoU, %</th><th class="number">OA, %</th>'
    head += "".join(f"<th>{name}</th>" for name in ("data", "model", "teacher", "split, protocol"))
    return f'<h2>Scores</h2><div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _notebooks(results: Sequence[Any], build: Path) -> str:
    """A row per notebook: link, status, seconds."""
    rows = []
    for result in results:
        label = f"{escape(result.name)}<br>{escape(result.title)}"
        if (build / f"{result.name}.html").is_file():
            label = f'<a href="build/{result.name}.html">{escape(result.name)}</a><br>{escape(result.title)}'
        reason = f'<br><span class="note">{escape(result.reason)}</span>' if result.reason else ""
        seconds = "" if result.seconds is None else f"{result.seconds:.1f}"
        rows.append(
            f'<tr><td>{label}{reason}</td><td class="{result.status}">{result.status}</td>'
            f'<td class="number">{seconds}</td></tr>'
        )
    head = '<tr><th>notebook</th><th>status</th><th class="number">seconds</th></tr>'
    return f"<table>{head}{''.join(rows)}</table>"


def _section(result: Any, build: Path) -> str:
    """Figures with captions, and links to the tables, of one notebook; empty where it made none."""
    folder = build / result.name
    parts = []
    for sidecar in sorted(folder.rglob("figures.json")):
        for figure in json.loads(sidecar.read_text()):
            path = (sidecar.parent / figure["file"]).relative_to(build.parent).as_posix()
            title, caption = escape(figure["title"]), escape(figure["caption"])
            parts.append(
                f'<figure><img src="{escape(path)}" alt="{title}" loading="lazy">'
                f"<figcaption><b>{title}.</b> {caption}</figcaption></figure>"
            )
    tables = [path.relative_to(build.parent).as_posix() for path in sorted(folder.rglob("*.csv"))]
    if tables:
        links = ", ".join(f'<a href="{escape(path)}">{escape(Path(path).name)}</a>' for path in tables)
        parts.append(f'<p class="note">Tables: {links}</p>')
    return f"<h2>{escape(result.title)}</h2>{''.join(parts)}" if parts else ""


def _relink(text: str, source_folder: Path, folder: Path, names: Sequence[str]) -> str:
    """Relative links of a Markdown cell, made right for a page in another folder."""

    def replace(match: re.Match) -> str:
        target, _, anchor = match[2].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        if Path(target).suffix == ".ipynb" and Path(target).stem in names:
            moved = f"{Path(target).stem}.html"
        else:
            moved = Path(os.path.relpath(source_folder / target, folder)).as_posix()
        return f"{match[1]}{moved}{'#' + anchor if anchor else ''})"

    return re.sub(r"(\]\()([^)\s]+)\)", replace, text)


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _plain(value: Any) -> str:
    return {None: "unknown", True: "yes", False: "no"}.get(value, str(value)) if not isinstance(value, dict) else ""
