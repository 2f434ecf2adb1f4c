# make demo      set up .venv, compare three methods on the embedded dataset: a table, a figure, an HTML report in demo/
# make lint      set up .venv, run ruff and mypy
# make test      lint, run the default suite (no network, no GPU, no real data)
# make test-all  lint, run all tests: also those that need real data (DDBENCH_DATA) or minutes
# make docs      set up .venv, build the documents as a site: site/index.html
# make campaign  kill, starve and crowd runs at random, read a thousand damaged inputs, print figures (ten minutes to an hour)
# make test-lowest  run the default suite on the lowest versions that setup.cfg allows, in a venv of their own (6 GB)

PYTHON ?= python3
VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
# one process per core (at most four), one thread each; one process runs a whole test file
AT_ONCE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all test-lowest campaign lint docs clean

# Install dependencies again only when setup.cfg or pyproject.toml changes.
$(VENV)/ready: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ddbench needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar off --quiet --editable '.[test]'
	touch $@

demo: $(VENV)/ready
	$(BIN)/ddbench demo

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/python -m mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(AT_ONCE)

test-all: lint
	$(BIN)/python -m pytest -m ''

$(VENV)/ready-docs: setup.cfg $(VENV)/ready
	$(BIN)/python -m pip install --progress-bar off --quiet --editable '.[docs]'
	touch $@

docs: $(VENV)/ready-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

campaign: $(VENV)/ready
	$(BIN)/python benchmarks/campaign.py
	$(BIN)/python benchmarks/malformed.py

# of the libraries that setup.cfg names; what those need is the newest
$(LOWEST)/ready: setup.cfg pyproject.toml $(VENV)/ready
	$(BIN)/python -m pip install --progress-bar off --quiet uv
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[test]'
	touch $@

test-lowest: $(LOWEST)/ready
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest $(AT_ONCE)

clean:
	rm -rf $(VENV) $(LOWEST) build site *.egg-info
