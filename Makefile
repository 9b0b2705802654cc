# make setup | lock | test | test-quick | test-full | census | lint | torture [PAPER=] [KILLS=] | fuzz [MINUTES=] | reproduce [PAPER=] [PRESET=] [DATA=] [COHORT=] [OPEN=1] | report [PRESET=] | bench [PAPER=] | bench-gpu [PAPER=] [SMALL=1]
PYTHON ?= python3
PRESET ?= quick
GPU_PYTHON ?= $(PYTHON)
BIN := .venv/bin

.PHONY: setup lock census test test-quick test-full lint torture fuzz reproduce report bench bench-gpu
setup: .venv/installed

.venv/installed: setup.cfg pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# After a change of setup.cfg, or to take newer versions; needs uv.
lock:
	uv pip compile setup.cfg --quiet --extra dev --universal --python-version 3.11 --generate-hashes --upgrade \
	    --custom-compile-command "make lock" --output-file requirements.lock

# Two processes, each with half of the cores; a file stays together, with what its tests share, and
# the files come in the order of tests/conftest.py.
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
test: setup
	$(BIN)/python -m pytest $(WORKERS)

test-quick: setup
	$(BIN)/python -m pytest $(WORKERS) -m "not slow"

# And what takes the sizes of the papers, minutes of training, or resembles what is tested already.
test-full: setup
	FULL_SIZE=1 $(BIN)/python -m pytest $(WORKERS)

# What the sources amount to: entries, circles, imports, lines.
census:
	$(PYTHON) tests/census.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Commands killed at random moments, and damaged files: what must hold whatever happens.
torture: setup
	$(BIN)/python tests/torture.py $(if $(PAPER),--paper $(PAPER)) $(if $(KILLS),--kills $(KILLS))

fuzz: setup
	$(BIN)/python tests/fuzz.py $(if $(MINUTES),--minutes $(MINUTES))

reproduce: setup
	$(BIN)/python -m common reproduce --preset $(PRESET) $(if $(PAPER),--paper $(PAPER)) $(if $(DATA),--data $(DATA)) $(if $(COHORT),--cohort $(COHORT)) $(if $(OPEN),--open)

# The page again, from what lies in runs/; nothing is rerun.
report: setup
	$(BIN)/python -m common report $(wildcard runs/*-$(PRESET)) --to report $(if $(OPEN),--open)

bench: setup
	$(BIN)/python -m common bench $(if $(PAPER),--paper $(PAPER))

# An environment of your own with a GPU: keras and jax are enough (pip install "keras>=3.12" "jax[cuda12]").
bench-gpu: export KERAS_BACKEND ?= jax
bench-gpu:
	$(GPU_PYTHON) -m common bench-gpu $(if $(PAPER),--paper $(PAPER)) $(if $(SMALL),--small)
