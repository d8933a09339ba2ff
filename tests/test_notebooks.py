"""Every notebook: the house rules, read off the file, and one run at parameters that take seconds."""

import ast
import importlib.metadata
import re
import shutil
import sys
from pathlib import Path

import pytest
from published_grid import make_published

from ktda.errors import InputError
from ktda.files import read_json
from ktda_lab.headless.notebook import read_notebook, run_notebook

pytest.importorskip("papermill")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# What a run in the tests takes instead of the defaults; OUT is a temporary folder where it is declared.
QUICK = {
    "00_quickstart": {"PRESET": "smoke", "LEARN": "demo_grass", "STEPS": 2},
    "05_training": {"PRESET": "smoke", "DATA": "demo_cloud"},
}

# House style: 20 to 35 cells; with a little room: about 110 lines of code, largest cell about 25.
CELLS = range(20, 36)
OURS = {"ktda", "ktda_lab"}
CODE_LINES = 120
CELL_LINES = 30
FILE_BYTES = 60_000

pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks in this checkout")
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path, kind: str) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def code_of(path: Path) -> str:
    return "\n".join(cell.source for cell in cells_of(path, "code"))


def prose_of(path: Path) -> str:
    return "\n".join(cell.source for cell in cells_of(path, "markdown"))


def lines_of(source: str) -> list[str]:
    """Lines that hold code."""
    return [line for line in source.splitlines() if line.strip() and not line.strip().startswith("#")]


def calls_of(path: Path, name: str) -> list[ast.Call]:
    """Calls of a function by its bare name or as an attribute."""
    calls = [node for node in ast.walk(ast.parse(code_of(path))) if isinstance(node, ast.Call)]
    return [call for call in calls if getattr(call.func, "attr", getattr(call.func, "id", None)) == name]


# Rules


def test_names_are_numbered_nouns_and_no_number_is_taken_twice():
    stems = [path.stem for path in NOTEBOOKS]
    assert [stem for stem in stems if not re.fullmatch(r"\d\d_[a-z][a-z0-9_]*", stem)] == []
    numbers = [stem[:2] for stem in stems]
    assert len(set(numbers)) == len(numbers)


@each
def test_index_lists_it(path):
    assert f"]({path.name})" in (path.parent / "README.md").read_text()


@each
def test_parameters_cell_is_well_formed_and_follows_the_imports(path):
    declared = read_notebook(path).parameters  # annotated literals in one tagged cell, or an InputError
    code = cells_of(path, "code")
    assert "parameters" in code[1].metadata.get("tags", []), "order: imports, parameters, derived values"
    assert re.search(r"^(import|from) ", code[0].source, re.MULTILINE)
    if "OUT" in declared and path.stem != "05_training":
        assert declared["OUT"].default == f"reports/{path.stem}"
    if path.stem == "05_training":
        assert list(declared) == ["DATA", "PRESET", "SEED", "OUT", "OVERRIDES", "RUN", "INIT", "INIT_PART"]
        assert declared["OVERRIDES"].annotation == "list[str]"


@each
def test_is_stripped(path):
    for cell in cells_of(path, "code"):
        assert cell.outputs == []
        assert cell.execution_count is None
        # papermill takes an error in a tagged cell for a failure, and a skipped cell is not tested.
        assert not {"raises-exception", "skip-execution"} & set(cell.metadata.get("tags", []))
    assert set(nbformat.read(path, as_version=4).metadata) <= {"kernelspec", "language_info", "title"}


@each
def test_size_and_balance(path):
    code = cells_of(path, "code")
    sizes = [len(lines_of(cell.source)) for cell in code]
    assert len(code) + len(cells_of(path, "markdown")) in CELLS
    assert path.stat().st_size <= FILE_BYTES, "pictures belong in notebooks/images"
    assert sum(sizes) <= CODE_LINES
    assert max(sizes) <= CELL_LINES
    words = len(prose_of(path).split())
    assert words > len(code_of(path).split()), "more prose than code"


@each
def test_starts_with_a_title_and_ends_with_takeaways_exercise_and_references(path):
    prose = cells_of(path, "markdown")
    assert prose[0].source.startswith("# ")
    assert "?" in prose[0].source, "the question, in one sentence"
    headings = re.findall(r"^#+ +(.+)$", prose_of(path), re.MULTILINE)
    positions = []
    for word in ("takeaway", "exercise", "reference"):
        found = [i for i, heading in enumerate(headings) if word in heading.lower()]
        assert found, f"no heading with {word!r}"
        positions.append(found[-1])
    assert positions[-1] == len(headings) - 1, "references are last"


@each
def test_functions_live_in_the_package(path):
    taught = False
    for cell in cells_of(path, "code"):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        if any(isinstance(node, kinds) for node in ast.walk(ast.parse(cell.source))):
            assert "taught" in cell.metadata.get("tags", []), "a def that is being taught has its cell tagged `taught`"
            taught = True
    if taught:
        assert calls_of(path, "assert_close"), "what is taught is checked against the package"


@each
def test_runs_anywhere(path):
    code = code_of(path)
    assert not re.search(r"^\s*[!%]", code, re.MULTILINE), "no shell or magic lines"
    assert "sys.path" not in code
    assert "get_ipython" not in code
    nodes = list(ast.walk(ast.parse(code)))
    inner = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values[1:]}
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in inner]
    absolute = [s for s in strings if isinstance(s, str) and re.match(r"(/|~/?|[A-Za-z]:\\)\w", s)]
    assert absolute == []
    assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|work|mnt)/", prose_of(path)), "a path of one machine"


@each
def test_imports_come_from_the_lock(path):
    lock = (ROOT / "requirements.lock").read_text()
    locked = {name.lower().replace("_", "-") for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE)}
    distributions = importlib.metadata.packages_distributions()
    for node in ast.walk(ast.parse(code_of(path))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - OURS:
            packages = {name.lower().replace("_", "-") for name in distributions.get(top, [])}
            assert packages & locked, f"{top} is not in requirements.lock"


@each
def test_every_figure_is_saved_with_a_caption(path):
    for name in ("savefig", "show"):
        assert not calls_of(path, name), f"use save_figure instead of {name}"
    for call in calls_of(path, "save_figure"):
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        caption = keywords.get("caption", call.args[3] if len(call.args) > 3 else None)
        assert caption is not None, "save_figure(fig, out, name, caption)"
        assert not (isinstance(caption, ast.Constant) and not caption.value)
    for cell in cells_of(path, "code"):
        if re.search(r"\b(plt\.(subplots|figure)|figures\.(?!save_figure)\w+)\(", cell.source):
            assert "save_figure(" in cell.source, f"a figure without a caption: {cell.source.splitlines()[0]}"


@each
def test_local_links_and_images_resolve(path):
    prose = prose_of(path)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r"(?:src|href)=[\"']([^\"']+)", prose)
    for target in targets:
        if not re.match(r"[a-z]+:|#", target):
            assert (path.parent / target.partition("#")[0]).exists(), target


# Each rule can fail


def good_notebook() -> list:
    """Cells of a notebook that keeps all rules."""
    from nbformat.v4 import new_code_cell, new_markdown_cell

    text = "A few words of prose stand here, so that there are more words than code in this notebook."
    sections = [new_markdown_cell(f"## Section {i}\n\n{text}") for i in range(14)]
    code = ["from pathlib import Path", 'OUT: str = "reports/00_topic"\nSEED: int = 0', "out = Path(OUT)", "SEED + 1"]
    cells = [new_markdown_cell("# Topic\n\nWhat is asked?"), *map(new_code_cell, code), *sections]
    cells[2].metadata["tags"] = ["parameters"]
    return [*cells, *map(new_markdown_cell, ("## Takeaways", "## Exercise", "## References\n\n[index](README.md)"))]


def tag(cell, name: str) -> None:
    cell.metadata["tags"] = [name]


def source(i: int, text: str):
    """An edit that gives cell `i` another text."""
    return lambda cells: cells[i].update(source=text)


BREAKS = {
    "no row in the index": (test_index_lists_it, None),
    "two parameters cells": (
        test_parameters_cell_is_well_formed_and_follows_the_imports,
        lambda c: tag(c[3], "parameters"),
    ),
    "no parameters cell": (
        test_parameters_cell_is_well_formed_and_follows_the_imports,
        lambda c: c[2].metadata.clear(),
    ),
    "a parameter without its type": (
        test_parameters_cell_is_well_formed_and_follows_the_imports,
        source(2, "SEED = 0"),
    ),
    "a computed parameter": (
        test_parameters_cell_is_well_formed_and_follows_the_imports,
        source(2, "SEED: int = 1 + 1"),
    ),
    "OUT of another notebook": (
        test_parameters_cell_is_well_formed_and_follows_the_imports,
        source(2, 'OUT: str = "reports/01_other"'),
    ),
    "an output": (test_is_stripped, lambda c: c[4].outputs.append(nbformat.v4.new_output("stream", text="1"))),
    "a count": (test_is_stripped, lambda c: c[4].update(execution_count=1)),
    "a cell that may fail": (test_is_stripped, lambda c: tag(c[4], "raises-exception")),
    "too few cells": (test_size_and_balance, lambda c: c.__delitem__(slice(6, 9))),
    "too many cells": (test_size_and_balance, lambda c: c.extend(good_notebook()[5:])),
    "a long cell": (test_size_and_balance, source(4, "SEED\n" * 31)),
    "too much code": (
        test_size_and_balance,
        lambda c: [c[6 + i].update(nbformat.v4.new_code_cell("SEED\n" * 29)) for i in range(5)],
    ),
    "more code than prose": (test_size_and_balance, source(4, "SEED + " * 200 + "1")),
    "a large file": (test_size_and_balance, source(5, "![](data:image/png;base64," + "A" * 60_000 + ")")),
    "no question": (test_starts_with_a_title_and_ends_with_takeaways_exercise_and_references, source(0, "# Topic")),
    "no exercise": (test_starts_with_a_title_and_ends_with_takeaways_exercise_and_references, lambda c: c.pop(-2)),
    "text after the references": (
        test_starts_with_a_title_and_ends_with_takeaways_exercise_and_references,
        lambda c: c.append(nbformat.v4.new_markdown_cell("## More")),
    ),
    "a function": (test_functions_live_in_the_package, source(4, "def f():\n    return 1")),
    "a taught function unchecked": (
        test_functions_live_in_the_package,
        lambda c: (source(4, "def f():\n    return 1")(c), tag(c[4], "taught")),
    ),
    "a shell line": (test_runs_anywhere, source(4, "!ls")),
    "a magic line": (test_runs_anywhere, source(4, "%matplotlib inline")),
    "sys.path": (test_runs_anywhere, source(4, "import sys\nsys.path.append('..')")),
    "an absolute path": (test_runs_anywhere, source(4, "Path('/data/tiles')")),
    "a home folder": (test_runs_anywhere, source(4, "Path('~/tiles')")),
    "a machine's path in the text": (test_runs_anywhere, source(5, "Look into /home/me/tiles.")),
    "an import from nowhere": (test_imports_come_from_the_lock, source(4, "import no_such_package")),
    "a figure unsaved": (test_every_figure_is_saved_with_a_caption, source(4, "figures.class_shares(1)")),
    "a figure without a caption": (test_every_figure_is_saved_with_a_caption, source(4, "save_figure(f, out, 'name')")),
    "an empty caption": (test_every_figure_is_saved_with_a_caption, source(4, "save_figure(f, out, 'name', '')")),
    "savefig": (test_every_figure_is_saved_with_a_caption, source(4, "figure.savefig('x.png')")),
    "a dead link": (test_local_links_and_images_resolve, source(5, "[there](../nowhere.md)")),
    "a dead image": (test_local_links_and_images_resolve, source(5, '<img src="images/none.png">')),
}


@pytest.fixture
def write(tmp_path):
    def write(cells: list, listed: bool = True) -> Path:
        path = tmp_path / "00_topic.ipynb"
        (tmp_path / "README.md").write_text(f"[00_topic]({path.name})" if listed else "")
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        return path

    return write


@pytest.mark.parametrize("case", BREAKS)
def test_each_rule_can_fail(case, write):
    rule, edit = BREAKS[case]
    rule(write(good_notebook()))
    cells = good_notebook()
    if edit:
        edit(cells)
    with pytest.raises((AssertionError, InputError)):
        rule(write(cells, listed=edit is not None))


@pytest.mark.parametrize("names", [["00_Topic"], ["topic"], ["00_a", "00_b"], ["0_a"]])
def test_wrong_names_are_seen(names, monkeypatch):
    monkeypatch.setitem(globals(), "NOTEBOOKS", [Path(f"{name}.ipynb") for name in names])
    with pytest.raises(AssertionError):
        test_names_are_numbered_nouns_and_no_number_is_taken_twice()


# Execution


def test_training_opens_a_finished_run_by_its_folder(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "elsewhere")
    before = (run / "model.safetensors").stat().st_mtime_ns, (run / "manifest.json").read_bytes()
    path = next(path for path in NOTEBOOKS if path.stem == "05_training")
    run_notebook(path, {"RUN": str(run), "OUT": str(tmp_path / "made")}, tmp_path / path.name, cwd=tmp_path)
    assert ((run / "model.safetensors").stat().st_mtime_ns, (run / "manifest.json").read_bytes()) == before
    assert (run / "figures" / "prediction_gallery.png").is_file()
    assert not (tmp_path / "made").exists()
    manifest = read_json(run / "manifest.json")
    text = (tmp_path / path.name).read_text()
    for fact in (manifest["config_hash"], manifest["data"]["hash"], manifest["start"]):
        assert fact[:40] in text  # a table cuts longer ones


@each
def test_runs_at_parameters_that_take_seconds(path, tmp_path, tmp_path_factory, monkeypatch):
    declared = read_notebook(path).parameters
    values = QUICK.get(path.stem, {"PRESET": "smoke"})
    values = {name: value for name, value in values.items() if name in declared}
    if "OUT" in declared:
        values["OUT"] = str(tmp_path / "made")
    if "RESULTS" in declared:
        values["RESULTS"] = str(make_published(tmp_path_factory.mktemp("published") / "grid"))
    # The demo sets are made once for all notebooks, and never in the reader's own folder.
    monkeypatch.setenv("KTDA_DATA", str(tmp_path_factory.getbasetemp() / "notebook_data"))
    run_notebook(path, values, tmp_path / path.name, cwd=tmp_path)
    if calls_of(path, "save_figure"):
        assert list((tmp_path / "made").rglob("figures.json"))
    assert {p.name for p in tmp_path.iterdir()} <= {path.name, f"{path.stem}.manifest.json", "made"}
