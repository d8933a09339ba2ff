"""The report: order, what is run again, failures, a book that needs no network, and what is published of it."""

import html
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from published_grid import make_published

import ktda_lab.book.build as book
import ktda_lab.headless.report as module
from ktda import losses
from ktda.errors import InputError
from ktda.files import now, write_json
from ktda.runs.record import versions
from ktda_lab.book.executed import made_by, readable
from ktda_lab.book.headline import read_headline
from ktda_lab.book.text import plain
from ktda_lab.folders import output_folder
from ktda_lab.headless.notebook import read_notebook
from ktda_lab.headless.publish import publish_report
from ktda_lab.headless.report import build_report, notebook_parameters

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("papermill")
pytest.importorskip("myst_nb")

EVIL = "<script>alert(1)</script> [x](javascript:alert(2)) <img src=y onerror=alert(3)> "
EVIL += r"$\href{javascript:alert(4)}{z}$ | `"
PNG = (
    "import io\nfrom PIL import Image\nbuffer = io.BytesIO()\n"
    "Image.new('RGB', (40, 30)).save(buffer, 'png')\nPIXEL = buffer.getvalue()\n"
)


def write_notebook(path: Path, parameters: str, *cells: str, text: str = "") -> None:
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    heading = new_markdown_cell(f"# About {path.stem}\n\n{text}")
    last = new_code_cell("print('version', 1 + 1)", metadata={"tags": ["remove-cell"]})
    nbformat.write(new_notebook(cells=[heading, first, *map(new_code_cell, cells), last]), path)


class Links(HTMLParser):
    """Everything that a page loads or links to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded, self.links, self.scripts = [], [], []
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.scripts += [value for name, value in attrs if name.startswith("on")]
        if "src" in attributes:
            self.loaded.append(attributes["src"])
        if "href" in attributes:
            (self.loaded if tag == "link" else self.links).append(attributes["href"])

    def handle_data(self, data):
        self.scripts += [data] if self.cdata_elem == "script" else []


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three notebooks, the second of which fails; reported once."""
    root = tmp_path_factory.mktemp("report")
    folder = root / "notebooks"
    folder.mkdir()
    (folder.parent / "NOTES.md").write_text("notes")
    (root / "docs").mkdir()
    (root / "docs" / "guide.md").write_text("# A guide\n\nSee [the first](../notebooks/00_first.ipynb).")
    (root / "README.md").write_text("# The front\n\n[loss](ktda/losses.py)\n\n## More\n\nNot on the front page.")
    sidecar = [
        {"file": "share_plot.png", "title": "Shares & more", "caption": f"Share of pixels, in <percent>. {EVIL}"}
    ]
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
        f"import pandas as pd\nfrom IPython.display import HTML, Javascript, Markdown, display\nname = {EVIL!r}\n"
        "display(Markdown(f'Classes: {name}, `{name}`'), HTML(f'<b>{name}</b>'), Javascript(name), name)\n"
        "display(pd.DataFrame({name: [1]}))\nimport warnings\nwarnings.warn('twice a warning')\nprint(name)",
        text="What comes *first*?\n\nGo on with [the next](01_second.ipynb#part) or [the notes](../NOTES.md), $x^2$.",
    )
    write_notebook(folder / "01_second.ipynb", "SEED: int = 0", "raise RuntimeError('no luck')")
    metrics = {"split": "test", "protocol": "honest", "miou": 0.4321, "overall_accuracy": 0.5, "iou": [0.4]}
    manifest = {"data": {"name": f"demo_cloud {EVIL}"}, "config": {"model": "ktda", "teacher": "random"}}
    write_notebook(
        folder / "05_training.ipynb",
        'DATA: str = "demo_cloud"\nPRESET: str = "demo"\nOUT: str = "runs/05"\nOVERRIDES: list[str] = []',
        "from pathlib import Path\nimport json\nassert not Path(OUT).exists()\nPath(OUT).mkdir(parents=True)\n"
        f"(Path(OUT) / 'metrics.json').write_text(json.dumps({metrics!r}))\n"
        f"(Path(OUT) / 'manifest.json').write_text(json.dumps({manifest!r}))",
    )
    (folder / "scratch.ipynb").write_text("{}")
    lines = []
    few = root / "few" / "ktda"  # the book of all modules is built in tests/test_browser.py
    few.mkdir(parents=True)
    shutil.copy(Path(losses.__file__), few)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(book, "PACKAGE", few)
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
    assert len(lines) == 3, "Sphinx warned"


def said(page: Path) -> str:
    """The text of a page's article."""
    text = re.search(r"<article.*</article>", page.read_text(), re.DOTALL)[0]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())


def test_the_front_page_shows_status_scores_and_provenance(world):
    text = said(world[0] / "reports" / "book" / "index.html")
    for words in (
        "The front", "Failed: 01_second", "What comes first?", "RuntimeError: no luck", "43.21", "50.00",
        f"demo_cloud {' '.join(EVIL.split())}", "random", "test, honest", "05_training/run", "torch", "smoke",
    ):  # fmt: skip
        assert words in text, words
    assert "Not on the front page" not in text
    assert "url=book/index.html" in (world[0] / "reports" / "index.html").read_text()


def test_the_gallery_shows_figures_with_captions_and_tables(world):
    page = world[0] / "reports" / "book" / "gallery.html"
    text = said(page)
    for words in ("About 00_first", f"Shares & more. Share of pixels, in <percent>. {EVIL}", "Tables: shares (csv)"):
        assert words in text, words
    (table,) = [target for target in Links(page).links if target.startswith("_downloads")]
    assert (page.parent / unquote(table)).read_text() == "a,b"


def test_the_book_loads_nothing_from_the_network_and_its_links_resolve(world):
    book = world[0] / "reports" / "book"
    pages = sorted(page for page in book.rglob("*.html") if page.parent.name != "_static")
    names = {page.relative_to(book).as_posix() for page in pages}
    assert {"notebooks/00_first.html", "notebooks/01_second.html", "docs/guide.html", "api/ktda.losses.html"} <= names
    for page in pages:
        found = Links(page)
        for target in found.loaded:
            assert not re.match(r"(?:https?:)?//", target), (page, target)
        for target in found.loaded + found.links:
            if not target.startswith(("data:", "#", "https:")):
                assert (page.parent / unquote(re.split("[#?]", target)[0])).exists(), (page, target)
    first = Links(book / "notebooks" / "00_first.html")
    assert "01_second.html#part" in first.links
    assert "../NOTES.html" in first.links
    assert "api/ktda.losses.html" in Links(book / "index.html").links
    assert "../notebooks/00_first.html" in Links(book / "docs" / "guide.html").links


def test_a_notebook_is_shown_without_versions_warnings_and_widgets(world):
    book = world[0] / "reports" / "book"
    text = said(book / "notebooks" / "00_first.html")
    for words in ("preset is smoke", "open the notebook in JupyterLab", "What comes first?"):
        assert words in text, words
    for words in ("version 2", "twice a warning\n", "UserWarning", "1 + 1"):
        assert words not in text, words
    failed = said(book / "notebooks" / "01_second.html")
    assert "It failed RuntimeError: no luck" in failed
    assert "raise RuntimeError" in failed


def test_text_of_data_and_captions_never_becomes_markup(world):
    for page in sorted((world[0] / "reports" / "book").rglob("*.html")):
        found = Links(page)
        assert not [script for script in found.scripts if "alert(" in script], page
        assert not [target for target in found.links + found.loaded if target.startswith(("javascript:", "y"))], page
        assert 'class="math' not in page.read_text() or "href{javascript" not in "".join(
            re.findall(r'class="math[^>]*>([^<]*)', page.read_text())
        )
    assert said(world[0] / "reports" / "book" / "notebooks" / "00_first.html").count("<script>alert(1)</script>") >= 5


@pytest.mark.parametrize("text", [EVIL, "a_b*c*", "{ref}`x`", "# no heading", "1. item", "&lt;", "a|b", "\\", "- x"])
def test_plain_text_is_shown_letter_by_letter(text):
    from markdown_it import MarkdownIt

    shown = MarkdownIt("commonmark").render(plain(text))
    assert html.unescape(re.fullmatch(r"<p>(.*)</p>\n", shown)[1]) == " ".join(text.split())
    assert "<" not in re.fullmatch(r"<p>(.*)</p>\n", shown)[1]


@pytest.mark.parametrize(("below", "absolute"), [("", False), ("notebooks", True), ("..", False)])
def test_a_notebook_writes_in_the_same_folder_wherever_its_kernel_starts(below, absolute, tmp_path, monkeypatch):
    root = tmp_path / "checkout"
    (root / "notebooks").mkdir(parents=True)
    monkeypatch.setattr("ktda_lab.folders.project_root", lambda: root)
    monkeypatch.chdir(root / below)
    assert output_folder("reports/x") == (root if absolute else Path()) / "reports" / "x"
    assert output_folder(str(tmp_path / "x")) == tmp_path / "x"


def test_every_notebook_leaves_its_folder_to_that_helper():
    for path in sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb")):
        content = nbformat.read(path, as_version=4)
        code = [cell.source for cell in content.cells if cell.cell_type == "code"]
        uses = [line for source in code for line in source.splitlines() if re.search(r"\bOUT\b(?!:)", line)]
        assert uses, path
        assert not [line for line in uses if not re.search(r"output_folder\((RUN or )?OUT\)", line)], path
        assert content.cells[-1].metadata["tags"] == ["remove-cell"], "the versions, which the book leaves out"


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
        about = {"source_sha256": read.sha256, "parameters": values}
        about["results_sha256"] = module.results_hash(values)
        end = {"status": "finished", "start": now(), "end": now()}
        write_json(output.with_suffix(".manifest.json"), about | {"versions": versions()} | end)

    monkeypatch.setattr(module, "run_notebook", run_notebook)
    monkeypatch.setattr(module, "build_book", lambda *arguments: [])

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
    monkeypatch.setattr(module, "report_hash", lambda: "other packages")
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


def test_what_a_notebook_computes_with_is_both_packages_without_the_book(tmp_path, monkeypatch):
    for name in ("ktda/losses.py", "lab/figures.py", "lab/paper/published.yaml", "lab/book/pages.py", "lab/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "ktda")
    monkeypatch.setattr(module, "LAB", tmp_path / "lab")
    hashes = [module.report_hash()]
    for name in ("lab/book/pages.py", "lab/notes.txt", "ktda/losses.py", "lab/figures.py", "lab/paper/published.yaml"):
        (tmp_path / name).write_text("2")
        hashes.append(module.report_hash())
    assert hashes[0] == hashes[1] == hashes[2]
    assert len(set(hashes)) == 4


def test_wrong_preset_and_missing_notebooks_are_one_line(tmp_path):
    with pytest.raises(InputError, match="unknown preset 'paper'"):
        build_report("paper", tmp_path)
    with pytest.raises(InputError, match="no notebooks"):
        build_report("smoke", tmp_path, notebooks=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_notebook_that_breaks_the_rules_fails_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "PACKAGE", tmp_path)  # no reference
    (tmp_path / "00_bad.ipynb").write_text("not json")
    results = build_report("smoke", tmp_path / "out", notebooks=tmp_path)
    assert [(r.name, r.status) for r in results] == [("00_bad", "failed")]
    assert "not a Jupyter notebook" in said(tmp_path / "out" / "book" / "index.html")


def test_what_is_not_installed_is_said_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(book.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "00_x.ipynb").write_text("{}")
    with pytest.raises(InputError, match=r"pip install 'ktda\[book\]'"):
        build_report("smoke", tmp_path / "out", notebooks=tmp_path)
    assert not (tmp_path / "out").exists()


def test_headline_says_what_the_statistics_say(tmp_path):
    folder = make_published(tmp_path / "study")
    assert read_headline([tmp_path / "none", tmp_path]) is None
    headline = read_headline([tmp_path / "none", folder])
    assert (headline.question, headline.baseline) == ("What matters?", "full")
    table = headline.tables["demo_grass"].set_index("row")
    assert list(table.index) == ["full", "no_fmm", "no_fam", "dice"]  # "big" was not run
    results = pd.read_csv(folder / "results.csv").query("data == 'demo_grass'")
    score = 100 * results.groupby("row")["miou"].mean()
    assert table.loc["full", "mIoU (%)"] == f"{score['full']:.1f}"
    assert table.loc["full", "verdict"] == "baseline"
    assert table.loc["full", "difference (points)"] == ""
    difference = f"{score['no_fmm'] - score['full']:+.1f}".replace("-", "−")
    assert table.loc["no_fmm", "difference (points)"] == difference
    assert table.loc["dice", "mIoU (%)"] == f"{score['dice']:.1f}"
    assert (table.loc["dice", "mIoU, 95 %"], " to " in table.loc["full", "mIoU, 95 %"]) == (
        "",
        True,
    )  # of one seed: none
    for row, line in headline.tables["demo_cloud"].set_index("row").iterrows():  # each line is of one row
        assert line["says"] == f"about {row}"
        assert (line["verdict"] == "baseline") == (row == "full")
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
    return (
        [made_by(result, build) for result in (results[0], results[2])],
        build,
        tmp_path / "notebooks",
        {"preset": "demo", "commit": "abc"},
    )


def test_publishes_markdown_with_each_figure_once(finished):
    from markdown_it import MarkdownIt

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
            if not target.startswith(("javascript:", "y")):  # of a name, as code or escaped, or what no viewer follows
                assert "://" in target or target == "01_second.md#part" or (folder / target).exists(), target
        shown = MarkdownIt("commonmark").render(text)
        assert "<script" not in shown
        assert not re.search(r"(?:href|src)=.(?:javascript|y )", shown)
    text = (folder / "README.md").read_text()
    for words in (
        "What comes first\\?",
        plain(f"Share of pixels, in <percent>. {EVIL}"),
        "43\\.21",
        "abc",
        "[csv](00_first/shares.csv)",
    ):
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
        "failed": ("01_second failed", [made_by(result, build) for result in world[1]], provenance),
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
    assert sum(path.stat().st_size for path in published.rglob("*") if path.is_file()) < 12_000_000


def test_styles_of_tables_and_progress_bars_are_left_out(tmp_path):
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    bar = {"text/plain": " 50%|#####     | 1/2", "application/vnd.jupyter.widget-view+json": {"model_id": "x"}}
    explorer = bar | {"text/plain": "An explorer", "image/png": "iVBORw0KGgo="}
    table = {"text/html": "<style scoped>\n.a {color: red}\n</style>\n<table><td>cost $5 and $6</td></table>"}
    outputs = [new_output("display_data", data=data) for data in (bar, explorer, table)]
    nbformat.write(new_notebook(cells=[new_code_cell("x", outputs=outputs)]), tmp_path / "00_x.ipynb")
    first, second, third = (o.data for o in readable(tmp_path / "00_x.ipynb", str).cells[0].outputs)
    assert first["text/markdown"] == ""
    assert set(second) == {"text/plain", "image/png"}  # the picture that an explorer starts with
    assert third["text/html"].startswith("<table>")
    assert "<td>cost $5" in third["text/html"]
