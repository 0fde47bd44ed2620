# Every target sets up what it needs: a virtual environment in .venv with the tested versions.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint bench docs clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: .venv/.installed  ## train on digits, measure every layer, print the report's path
	$(BIN)/layerscope quickstart

test: .venv/.installed  ## unit tests, a few minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist worksteal

test-slow: .venv/.installed  ## killed processes, compiled training, whole studies
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --numprocesses 2 --dist worksteal

lint: .venv/.installed  ## style, types, one-way dependencies
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: .venv/.installed  ## ratios within one run, on this machine
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=median,iqr,rounds

docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv layerscope-quickstart
