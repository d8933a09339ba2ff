# Everything below works on a fresh clone with Python 3.11 or newer, make and a package registry.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup report publish test test-slow test-lowest test-browser lint format lab lock clean

help:  ## explain every target
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP)  ## make the environment in .venv from the lock (idempotent)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "uv>=0.5"
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --require-hashes --compile-bytecode -r requirements.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

report: setup  ## run the notebooks in order, only what changed, into a book: reports/index.html
	$(BIN)/ktda report

publish: setup  ## run them at preset demo, on simulated data only, and copy the report to reports/published/report
	KTDA_SHARED=/dev/null $(BIN)/ktda report --preset demo --publish

test: setup  ## fast tests: units, the command line in process, every notebook at seconds
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: setup  ## long tests: kills, subprocesses, a wheel in an environment of its own
	$(BIN)/python -m pytest -m slow

test-lowest: setup  ## the fast tests on the lowest versions that pyproject.toml allows, in build/lowest
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/lowest
	$(BIN)/uv pip install --quiet --python build/lowest --resolution lowest-direct -e ".[book,grid,scenes,export,test]"
	build/lowest/bin/python -m pytest -n 2 --dist worksteal

test-browser: setup  ## drive JupyterLab and the report in Debian's Chromium, which root installs if it is missing
	@command -v chromium > /dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -yq chromium; } || \
		{ echo "test-browser needs Chromium: apt-get install chromium, as root"; exit 1; }
	$(BIN)/python -m pytest -m browser

lint: setup  ## ruff on modules and notebooks, outputs stripped, notebooks well formed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify notebooks/*.ipynb

format: setup  ## let ruff and nbstripout mend what lint complains of
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout notebooks/*.ipynb

lab: setup  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --ServerApp.root_dir=$(CURDIR) --LabApp.default_url=/lab/tree/notebooks

lock: setup  ## resolve requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
		--all-extras -o requirements.lock pyproject.toml

clean:  ## remove what report and tests built (keeps .venv and data)
	rm -rf reports/build reports/book reports/index.html reports/screenshots reports/*.ipynb reports/*.manifest.json .pytest_cache .ruff_cache
