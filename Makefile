# Every verb works in a fresh clone: it makes the virtual environment first.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH ?= bench
BENCH_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint format type bench clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install: $(STAMP)  ## make $(VENV) and install the package in it, editable, with all tools

# Entry points are written at install time, so a new one in setup.cfg needs this rule again.
# imitation comes last and alone: its metadata would bring SB3 back to 2.2 (docs/methods/imitation.md).
$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "setuptools>=77"
	$(PIP) --no-build-isolation -e ".[dev,zoo]"
	$(PIP) --no-deps imitation
	touch $@

demo: $(STAMP)  ## train a small agent and draw its learning curve (DEMO_ARGS)
	$(BIN)/python examples/demo.py $(DEMO_ARGS)

test: $(STAMP)  ## run the quick tests (TEST_ARGS, WORKERS)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow" $(TEST_ARGS)

test-slow: $(STAMP)  ## run the slow tests (TEST_ARGS, WORKERS)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow $(TEST_ARGS)

lint: $(STAMP)  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## repair style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(STAMP)  ## check types
	$(BIN)/mypy

bench: $(STAMP)  ## all figures of docs/performance.md, or benchmarks/$(BENCH).py (BENCH, BENCH_ARGS)
	$(BIN)/python benchmarks/$(BENCH).py $(BENCH_ARGS)

clean:  ## remove what tools and builds left behind; $(VENV) stays
	rm -rf build dist sb3_ext.egg-info .coverage htmlcov .mypy_cache .pytest_cache .ruff_cache
	find sb3_ext plugins tuning tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +
