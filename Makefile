# make setup | test | lint | reproduce [PAPER=] [PRESET=] [DATA=] | bench [PAPER=]
PYTHON ?= python3
PRESET ?= quick
BIN := .venv/bin

.PHONY: setup test lint reproduce bench
setup: .venv/installed

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

reproduce: setup
	$(BIN)/python -m common.reproduce --preset $(PRESET) $(if $(PAPER),--paper $(PAPER)) $(if $(DATA),--data $(DATA))

bench: setup
	$(BIN)/python -m common.reproduce --bench $(if $(PAPER),--paper $(PAPER))
