"""The report: order, what is run again, failures, pages that need no network, and what is published of it."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import ktda_lab.headless.report as module
import pandas as pd
import pytest
from ktda_lab.headless.headline import read_headline
from ktda_lab.headless.notebook import read_notebook
from ktda_lab.headless.page import notebook_page
from ktda_lab.headless.publish import publish_report
from ktda_lab.headless.report import build_report, notebook_parameters
from published_grid import make_published

from ktda.errors import InputError
from ktda.files import now, write_json
from ktda.runs.record import versions

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("papermill")
pytest.importorskip("nbconvert")

PNG = (
    "import io\nfrom PIL import Image\nbuffer = io.BytesIO()\n"
    "Image.new('RGB', (40, 30)).save(buffer, 'png')\nPIXEL = buffer.getvalue()\n"
)


def write_notebook(path: Path, parameters: str, *cells: str, text: str = "") -> None:
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    heading = new_markdown_cell(f"# About {path.stem}\n\n{text}")
    nbformat.write(new_notebook(cells=[heading, first, *map(new_code_cell, cells)]), path)


class Links(HTMLParser):
    """Everything that a page loads or links to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded, self.links = [], []
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if "src" in attributes:
            self.loaded.append(attributes["src"])
        if "href" in attributes:
            (self.loaded if tag == "link" else self.links).append(attributes["href"])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three notebooks, the second of which fails; reported once."""
    root = tmp_path_factory.mktemp("report")
    folder = root / "notebooks"
    folder.mkdir()
    (folder.parent / "NOTES.md").write_text("notes")
    sidecar = [{"file": "share_plot.png", "title": "Shares & more", "caption": "Share of pixels, in <percent>."}]
    write_notebook(
        folder / "00_first.ipynb",
        'PRESET: str = "demo"\nOUT: str = "reports/00_first"',
        PNG + "from pathlib import Path\nimport json\nout = Path(OUT)\n"
        "(out / 'share_plot.png').write_bytes(PIXEL)\n(out / 'shares.csv').write_text('a,b')\n"
        f"(out / 'figures.json').write_text(json.dumps({sidecar!r}))\nprint('preset is', PRESET)",
        "import ipywidgets\nipywidgets.IntSlider()",
        "from IPython.display import Image\nsave_figure = print\n"
        "save_figure(0, OUT, f'share_{chr(112)}lot', 'Shares.')\nImage(PIXEL)",
        "Image(PIXEL)",
        text="What comes *first*?\n\nGo on with [the next](01_second.ipynb#part) or [the notes](../NOTES.md), $x^2$.",
    )
    write_notebook(folder / "01_second.ipynb", "SEED: int = 0", "raise RuntimeError('no luck')")
    metrics = {"split": "test", "protocol": "honest", "miou": 0.4321, "overall_accuracy": 0.5, "iou": [0.4]}
    manifest = {"data": {"name": "demo_cloud"}, "config": {"model": "ktda", "teacher": "random"}}
    write_notebook(
        folder / "05_training.ipynb",
        'DATA: str = "demo_cloud"\nPRESET: str = "demo"\nOUT: str = "runs/05"\nOVERRIDES: list[str] = []',
        "from pathlib import Path\nimport json\nassert not Path(OUT).exists()\nPath(OUT).mkdir(parents=True)\n"
        f"(Path(OUT) / 'metrics.json').write_text(json.dumps({metrics!r}))\n"
        f"(Path(OUT) / 'manifest.json').write_text(json.dumps({manifest!r}))",
    )
    (folder / "scratch.ipynb").write_text("{}")
    lines = []
    results = build_report("smoke", root / "reports", notebooks=folder, echo=lines.append)
    shutil.copytree(root / "reports", root / "at_first")
    return root, results, lines


def test_runs_all_in_order_goes_on_after_a_failure_and_names_it(world):
    _, results, lines = world
    assert [(r.name, r.status) for r in results] == [
        ("00_first", "finished"),
        ("01_second", "failed"),
        ("05_training", "finished"),
    ]
    assert results[1].reason == "RuntimeError: no luck"
    assert re.fullmatch(r"00_first +finished +\d+ s", lines[0])
    assert "failed" in lines[1]
    assert "no luck" in lines[1]
    assert len(lines) == 3


def test_index_shows_status_scores_figures_and_provenance(world):
    page = (world[0] / "reports" / "index.html").read_text()
    for words in (
        "About 00_first", "What comes first?",
        "RuntimeError: no luck", "Shares &amp; more", "Share of pixels, in &lt;percent&gt;.",
        "43.21", "50.00", "demo_cloud", "random", "test, honest", "05_training/run", "shares.csv", "torch", "smoke",
    ):  # fmt: skip
        assert words in page, words


def test_pages_load_nothing_from_the_network_and_their_links_resolve(world):
    root = world[0]
    pages = [root / "reports" / "index.html", *sorted((root / "reports" / "build").glob("*.html"))]
    assert [p.name for p in pages] == ["index.html", "00_first.html", "01_second.html", "05_training.html"]
    for page in pages:
        found = Links(page)
        assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", page.read_text())
        for target in found.loaded + found.links:
            if target.startswith(("data:", "#")):
                continue
            assert not re.match(r"(?:https?:)?//", target), target
            assert (page.parent / re.split("[#?]", target)[0]).exists(), target
    assert any("MathJax.js" in target for target in Links(pages[1]).loaded)
    assert not Links(pages[0]).loaded or "MathJax" not in pages[0].read_text()
    first = Links(root / "reports" / "build" / "00_first.html")
    assert "01_second.html#part" in first.links
    assert "../../NOTES.md" in first.links
    text = (root / "reports" / "build" / "00_first.html").read_text()
    assert "preset is smoke" in text
    assert "open the notebook in JupyterLab" in text
    assert 'src="00_first/share_plot.png"' in text  # a saved figure is shown from its file
    assert text.count("data:image/png") == 1  # another picture is part of the page


def test_other_results_are_another_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert module.results_hash({"OUT": "x"}) is None
    assert module.results_hash({"RESULTS": "nowhere"}) is None
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "results.csv").write_text("id\n1\n")
    before = module.results_hash({"RESULTS": "made"})
    assert before == module.results_hash({"RESULTS": "made"})
    (tmp_path / "made" / "results.csv").write_text("id\n2\n")
    changed = module.results_hash({"RESULTS": "made"})
    assert changed != before
    (tmp_path / "made" / "report").mkdir()
    (tmp_path / "made" / "report" / "summary.csv").write_text("made from the results")
    assert module.results_hash({"RESULTS": "made"}) == changed
    (tmp_path / "lab" / "study").mkdir(parents=True)  # a folder of several, under a parameter of any name
    (tmp_path / "lab" / "study" / "results.csv").write_text("id\n1\n")
    before = module.results_hash({"LAB": "lab"})
    (tmp_path / "lab" / "study" / "results.csv").write_text("id\n2\n")
    assert before is not None
    assert module.results_hash({"LAB": "lab"}) != before
    assert module.results_hash({"OUT": "lab"}) is None  # what a notebook writes is no input


def test_runs_again_only_what_changed_or_failed(world, monkeypatch):
    root, _, _ = world
    folder, out = root / "notebooks", root / "reports"
    ran = []

    def run_notebook(path, parameters, output):
        ran.append(path.stem)
        shutil.copy(path, output)
        read = read_notebook(path)
        values = {name: parameter.default for name, parameter in read.parameters.items()} | parameters
        about = {"source_sha256": read.sha256, "parameters": values, "source_hash": module.source_hash()}
        about["results_sha256"] = module.results_hash(values)
        end = {"status": "finished", "start": now(), "end": now()}
        write_json(output.with_suffix(".manifest.json"), about | {"versions": versions()} | end)

    monkeypatch.setattr(module, "run_notebook", run_notebook)

    def statuses(preset="smoke"):
        ran.clear()
        return [r.status for r in build_report(preset, out, notebooks=folder)], list(ran)

    made = (out / "build" / "00_first" / "shares.csv").stat()
    assert statuses() == (["unchanged", "finished", "unchanged"], ["01_second"])
    assert (out / "build" / "00_first" / "shares.csv").stat() == made
    assert statuses()[1] == []
    assert statuses("demo")[1] == ["00_first", "05_training"]  # 01 declares no PRESET
    assert not list((out / "build" / "00_first").iterdir())  # nothing of the earlier run is taken for this one's
    content = nbformat.read(folder / "01_second.ipynb", as_version=4)
    content.cells[-1].source += "  # changed"
    nbformat.write(content, folder / "01_second.ipynb")
    assert statuses("demo")[1] == ["01_second"]
    monkeypatch.setattr(module, "source_hash", lambda: "another package")
    assert statuses("demo")[1] == ["00_first", "01_second", "05_training"]


def test_training_gets_a_run_folder_and_others_only_what_they_declare(world, monkeypatch):
    import ktda.data.builtin

    folder = world[0] / "notebooks"
    training = read_notebook(folder / "05_training.ipynb")
    for place, data in ((None, {}), (Path(), {"DATA": "l8_biome_sample"})):
        monkeypatch.setattr(ktda.data.builtin, "locate", lambda name, place=place: place)
        assert notebook_parameters(training, "demo", Path("b/05_training")) == {
            "PRESET": "demo",
            "OUT": "b/05_training/run",
            **data,
        }
    assert notebook_parameters(read_notebook(folder / "01_second.ipynb"), "demo", Path("b")) == {}


def test_wrong_preset_and_missing_notebooks_are_one_line(tmp_path):
    with pytest.raises(InputError, match="unknown preset 'paper'"):
        build_report("paper", tmp_path)
    with pytest.raises(InputError, match="no notebooks"):
        build_report("smoke", tmp_path, notebooks=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_notebook_that_breaks_the_rules_fails_alone(tmp_path):
    (tmp_path / "00_bad.ipynb").write_text("not json")
    results = build_report("smoke", tmp_path / "out", notebooks=tmp_path)
    assert [(r.name, r.status) for r in results] == [("00_bad", "failed")]
    assert "not a Jupyter notebook" in (tmp_path / "out" / "index.html").read_text()


def test_headline_says_what_the_statistics_say(tmp_path):
    folder = make_published(tmp_path / "study")
    assert read_headline([tmp_path / "none", tmp_path]) is None
    headline = read_headline([tmp_path / "none", folder])
    assert (headline.question, headline.baseline) == ("What matters?", "full")
    table = headline.tables["demo_grass"].set_index("row")
    assert list(table.index) == ["full", "no_fmm", "no_fam", "dice"]  # "big" was not run
    results = pd.read_csv(folder / "results.csv").query("data == 'demo_grass'")
    score = 100 * results.groupby("row")["miou"].mean()
    assert table.loc["full", "mIoU, % (95 %)"].startswith(f"{score['full']:.1f} (")
    assert table.loc["full", "verdict"] == "baseline"
    assert table.loc["full", "difference, points (95 %)"] == ""
    difference = f"{score['no_fmm'] - score['full']:+.1f} (".replace("-", "−")
    assert table.loc["no_fmm", "difference, points (95 %)"].startswith(difference)
    assert table.loc["dice", "mIoU, % (95 %)"] == f"{score['dice']:.1f}"  # one seed has no interval
    assert table.loc["no_fmm", "says"] == "about no_fmm"


@pytest.fixture
def finished(world, tmp_path):
    """What finished of the report, with another publication beside it; arguments for `publish_report`."""
    root, results, _ = world
    shutil.copytree(root / "at_first", tmp_path / "reports")
    shutil.copytree(root / "notebooks", tmp_path / "notebooks")
    shutil.copy(root / "NOTES.md", tmp_path)
    build = tmp_path / "reports" / "build"
    (tmp_path / "reports" / "published" / "study").mkdir(parents=True)
    (tmp_path / "reports" / "published" / "study" / "results.csv").write_text("kept")
    return [results[0], results[2]], build, tmp_path / "notebooks", {"preset": "demo", "commit": "abc"}


def test_publishes_markdown_with_each_figure_once(finished):
    _, build, *_ = finished
    folder = publish_report(*finished)
    assert folder == build.parent / "published" / "report"
    assert (folder.parent / "study" / "results.csv").read_text() == "kept"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    pictures = {name for name in files if name.endswith(".png")}
    assert "00_first/share_plot.png" in pictures
    assert len(pictures) == 2  # and the one that was shown and not saved
    assert files - pictures == {"README.md", "00_first.md", "05_training.md", "00_first/shares.csv"}
    for page in folder.glob("*.md"):
        text = page.read_text()
        assert "data:image" not in text
        for target in re.findall(r"\]\(([^)]+)\)", text) + re.findall('src="([^"]+)"', text):
            assert "://" in target or target == "01_second.md#part" or (folder / target).exists(), target
    text = (folder / "README.md").read_text()
    for words in ("What comes first?", "Share of pixels, in <percent>.", "43.2", "abc", "[csv](00_first/shares.csv)"):
        assert words in text, words
    assert publish_report(*finished) == folder  # again
    assert not list(folder.parent.glob(".*"))


@pytest.mark.parametrize("case", ["smoke", "failed", "large"])
def test_refuses_to_publish_and_changes_nothing(finished, world, case):
    results, build, notebooks, provenance = finished
    folder = publish_report(*finished)
    before = {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}
    limit = sum(map(len, before.values())) - (case == "large")
    wrong = {
        "smoke": ("preset smoke is not published", results, provenance | {"preset": "smoke"}),
        "failed": ("01_second failed", world[1], provenance),
        "large": ("at most", results, provenance),
    }[case]
    with pytest.raises(InputError, match=wrong[0]):
        publish_report(wrong[1], build, notebooks, wrong[2], limit)
    assert {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()} == before


def test_a_smoke_report_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(InputError, match="give --preset demo"):
        build_report("smoke", tmp_path, publish=True)
    assert not list(tmp_path.iterdir())


def test_all_that_is_published_is_small():
    published = Path(__file__).parents[1] / "reports" / "published"
    assert sum(path.stat().st_size for path in published.rglob("*") if path.is_file()) < 8_000_000


def test_styles_of_tables_and_progress_bars_are_left_out(tmp_path):
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    bar = {"text/plain": " 50%|#####     | 1/2", "application/vnd.jupyter.widget-view+json": {"model_id": "x"}}
    explorer = bar | {"text/plain": "An explorer", "image/png": "iVBORw0KGgo="}
    table = {"text/html": "<style scoped>\n.a {color: red}\n</style>\n<table><td>cost $5 and $6</td></table>"}
    outputs = [new_output("display_data", data=data) for data in (bar, explorer, table)]
    nbformat.write(new_notebook(cells=[new_code_cell("x", outputs=outputs)]), tmp_path / "00_x.ipynb")
    text = notebook_page(tmp_path / "00_x.ipynb", tmp_path)
    assert "<td>cost $5" in text
    assert text.count("<img") == 1  # the picture that an explorer starts with
    for words in ("color: red", "50%|", "Sliders", "An explorer"):
        assert words not in text
