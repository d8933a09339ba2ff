"""JupyterLab and the report as a reader has them: in Chromium, which ``make test-browser`` installs.

Everything but this machine is blocked, and asking for it is a failure. Screenshots go to ``reports/screenshots/``.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from ktda.data.folder import open_data
from ktda_lab.headless.report import build_report

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
playwright = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).resolve().parents[1]
SCREENSHOTS = ROOT / "reports" / "screenshots"
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
LOCAL = re.compile(r"(file|data|blob|about):|(https?|wss?)://(localhost|127\.0\.0\.1)[:/]")


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("Chromium is missing; run make test-browser, or apt-get install chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Opens a page of a given width; at the end, asks whether anything was wanted from elsewhere."""
    pages, wanted = [], []

    def route(request_route):
        if LOCAL.match(request_route.request.url):
            request_route.continue_()
        else:
            wanted.append(request_route.request.url)
            request_route.abort()

    def new(width: int, height: int = 900):
        page = browser.new_page(viewport={"width": width, "height": height})
        page.route("**/*", route)
        pages.append(page)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        return page

    yield new
    for page in pages:
        page.close()
    assert wanted == []


# The report


EVIL = ["<script>alert(1)</script>", "[x](javascript:alert(2))", "<i>Thin</i>", "<img src=y onerror=alert(4)>"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of the real quickstart, of 01 on a set with hostile names, and of all formulas, at preset smoke."""
    root, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("reports")
    folder, hostile = root / "notebooks", tmp_path_factory.mktemp("data") / "<i>set"
    shutil.copytree(open_data("demo_cloud").root, hostile)
    (hostile / "dataset.yaml").write_text(yaml.safe_dump({"classes": EVIL}))
    folder.mkdir()
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        content = json.loads(source.read_text())
        parameters = [c for c in content["cells"] if "parameters" in c["metadata"].get("tags", [])]
        if source.stem == "01_data_exploration":
            parameters[0]["source"] = "".join(parameters[0]["source"]).replace("demo_cloud", str(hostile))
        elif source.stem != "00_quickstart":  # its text alone
            content["cells"] = [c for c in content["cells"] if c["cell_type"] == "markdown" or c in parameters]
        (folder / source.name).write_text(json.dumps(content))
    for name in (
        "ktda",
        "reports",
        "docs",
        "data",
        "README.md",
        "notebooks/images",
        "notebooks/README.md",
    ):  # linked to
        (root / name).symlink_to(ROOT / name)
    (folder / "ktda_lab").symlink_to(ROOT / "notebooks" / "ktda_lab")
    results = build_report("smoke", out, notebooks=folder)
    assert [(result.name, result.reason) for result in results if result.status == "failed"] == []
    return out


def broken(page) -> list[str]:
    """Images and local links of a page that lead nowhere."""
    page.wait_for_function("[...document.images].every(image => image.complete)")
    images = page.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)")
    links = page.evaluate("[...document.links].map(link => link.href)")
    files = [
        Path(urllib.request.url2pathname(re.split("[#?]", link[7:])[0])) for link in links if link[:7] == "file://"
    ]
    return images + [str(path) for path in files if not path.exists()]


def typeset(page) -> int:
    """Wait for MathJax; how many formulas it set. What it could not set, or did not find, is an error."""
    if not page.evaluate("document.querySelectorAll('.math').length"):
        return 0
    page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise", timeout=60_000)
    page.evaluate("MathJax.startup.promise.then(() => document.fonts.ready).then(() => 0)")
    assert page.evaluate("[...document.querySelectorAll('mjx-merror')].map(e => e.textContent)") == []
    text = page.evaluate("[...document.querySelectorAll('article p, article li')].map(e => e.innerText).join(' ')")
    assert [found for found in re.findall(r"\$[^$\n]*\\[a-z]+[^$\n]*\$", text) if "href" not in found] == []
    return page.evaluate("document.querySelectorAll('mjx-container').length")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (1280, "dark")])
def test_report_reads_well(report, open_page, width, scheme):
    page, said = open_page(width), []
    page.emulate_media(color_scheme=scheme)
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    book, formulas = report / "book", 0
    page.goto((report / "index.html").as_uri())
    page.wait_for_url("**/book/index.html")
    places = [place for place in sorted(book.rglob("*.html")) if not {"_static", "_modules"} & set(place.parts)]
    assert len(places) > 30
    for place in places:
        page.goto(place.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        formulas += typeset(page)
        assert broken(page) == [], place.name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{place.name} scrolls sideways"
        assert page.evaluate("document.querySelectorAll('[href^=\"javascript:\"], [onerror]').length") == 0, place.name
        shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (shade == "rgb(255, 255, 255)") == (scheme == "light"), "light and dark follow the reader's system"
        if place.parent != book / "api":
            page.screenshot(path=SCREENSHOTS / f"{place.stem}_{width}_{scheme}.png", full_page=True)
    assert formulas > 20
    assert said == [], "a class name was run"


def test_the_search_works_from_a_folder(report, open_page):
    page = open_page(1280)
    page.goto((report / "book" / "search.html").as_uri() + "?q=distillation")
    page.wait_for_selector("#search-results li a", timeout=60_000)
    found = page.evaluate("[...document.querySelectorAll('#search-results li a')].map(link => link.href)")
    assert any("03_feature_alignment" in link for link in found)
    page.goto((report / "book" / "search.html").as_uri() + "?q=xyzzyplugh")
    page.wait_for_function("document.querySelector('#search-results').innerText.includes('did not match')")


# JupyterLab


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab of its own over a copy of the notebooks at preset smoke; its address."""
    root = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", root / "notebooks", ignore=shutil.ignore_patterns("reports", "runs", "data"))
    for path in (root / "notebooks").glob("*.ipynb"):
        path.write_text(path.read_text().replace('PRESET: str = \\"demo\\"', 'PRESET: str = \\"smoke\\"'))
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTERLAB_SETTINGS_DIR": "settings"}
    own = {name: str(root / folder) for name, folder in (own | {"JUPYTERLAB_WORKSPACES_DIR": "workspaces"}).items()}
    asked = Path(own["JUPYTERLAB_SETTINGS_DIR"], "@jupyterlab/apputils-extension/notification.jupyterlab-settings")
    asked.parent.mkdir(parents=True)
    asked.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # or a question covers the page
    environment = os.environ | own | {"KTDA_DATA": os.environ.get("KTDA_DATA", str(ROOT / "data"))}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"]
    command += [f"--ServerApp.root_dir={root}", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
    command += ["--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (root / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=root, start_new_session=True)
    try:
        yield _address(Path(own["JUPYTER_RUNTIME_DIR"]), server, root / "lab.log")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # with its kernels; nothing of it is kept
        server.wait(30)


def _address(runtime: Path, server: subprocess.Popen, log: Path) -> str:
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        for about in runtime.glob("jpserver-*.json"):
            return json.loads(about.read_text())["url"]
        time.sleep(0.5)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize("name", ["00_quickstart", "02_teacher_features"])
def test_notebook_runs_in_jupyterlab(lab, open_page, name):
    if not (ROOT / "notebooks" / f"{name}.ipynb").exists():
        pytest.skip(f"no {name} in this checkout")
    page = open_page(1400, 1000)
    page.goto(f"{lab}lab/workspaces/{name}/tree/notebooks/{name}.ipynb?reset")
    page.wait_for_function(READY, timeout=180_000, polling=500)
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells'); }")
    try:
        page.wait_for_function(DONE, timeout=600_000, polling=1000)
    finally:
        page.screenshot(path=SCREENSHOTS / f"lab_{name}.png")
    cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    outputs = page.evaluate(MODEL)
    assert [o for o in outputs if o["type"] == "error"] == []
    assert len({o["cell"] for o in outputs}) > len(code) / 3
    assert sum(o["image"] for o in outputs) >= 3
    page.screenshot(path=SCREENSHOTS / f"lab_{name}.png")
    explorers = sorted(
        set(re.findall(r"^(\w+)_explorer\(", "\n".join("".join(c["source"]) for c in code), re.MULTILINE))
    )
    assert explorers
    for explorer in explorers:
        _move(page, explorer)


READY = """() => {
  const panel = window.jupyterapp && jupyterapp.shell.currentWidget;
  const session = panel && panel.sessionContext && panel.sessionContext.session;
  return Boolean(session && session.kernel && session.kernel.status === 'idle' && panel.content.widgets.length);
}"""

# Has every cell run, or one failed?
DONE = """() => {
  const cells = jupyterapp.shell.currentWidget.content.widgets.filter(c => c.model.type === 'code');
  return cells.every(c => c.model.executionCount) || cells.some(
    c => c.model.outputs.toJSON().some(output => output.output_type === 'error'));
}"""

MODEL = """() => {
  const cells = [...jupyterapp.shell.currentWidget.content.widgets].filter(c => c.model.type === 'code');
  return cells.flatMap((cell, i) => cell.model.outputs.toJSON().map(output => ({
    cell: i, type: output.output_type, image: Boolean(output.data && output.data['image/png']),
    text: output.evalue || '',
  })));
}"""


SHOW_CELL = """source => {
  const cells = jupyterapp.shell.currentWidget.content;
  return cells.scrollToItem(cells.widgets.findIndex(c => c.model.sharedModel.source.includes(source)), 'start');
}"""


def _move(page, name: str) -> None:
    """Move the first slider of an explorer by keys and see that its picture changes."""
    widget = f"ktda-{name}-explorer"
    page.evaluate(SHOW_CELL, f"{name}_explorer(")
    explorer = page.locator(f".{widget}").first
    explorer.wait_for(timeout=60_000)
    explorer.scroll_into_view_if_needed()
    sliders = explorer.locator(".widget-slider .noUi-handle")
    assert sliders.count() > 0, f"no slider in {widget}"
    page.screenshot(path=SCREENSHOTS / f"{widget}_before.png")
    before = pictures(explorer)
    assert before, f"no picture in {widget}"
    sliders.first.focus()
    for _ in range(3):
        sliders.first.press("ArrowRight")
    deadline = time.monotonic() + 20
    while pictures(explorer) == before and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    page.screenshot(path=SCREENSHOTS / f"{widget}_after.png")
    assert pictures(explorer) != before, f"the picture of {widget} did not change"
    assert not any(o["type"] == "error" for o in page.evaluate(MODEL))


def pictures(explorer) -> list[str]:
    """What an explorer's images and canvases show, as addresses that change with the content."""
    return explorer.evaluate(
        "e => [...e.querySelectorAll('img, canvas')].map(i => i.tagName === 'IMG' ? i.src : i.toDataURL())"
    )
