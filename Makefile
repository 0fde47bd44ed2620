# Every target sets up what it needs: a virtual environment in .venv with the tested versions, and
# another one for benchmarks. Libraries that numbers are compared with come without dependencies,
# so that they never replace torch; without them their tests and rows say so. Modules are compiled as
# they are imported: most of what is installed never is.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint bench docs clean

.venv/.installed: pyproject.toml constraints.txt tests/peers.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --requirement tests/peers.txt
	@touch $@

.venv-bench/.installed: pyproject.toml constraints.txt tests/peers.txt benchmarks/peers.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	.venv-bench/bin/python -m pip install --quiet --no-compile --no-deps --requirement benchmarks/peers.txt
	@touch $@

demo: .venv/.installed  ## train on digits, measure every layer, print the report's path
	$(BIN)/layerscope quickstart

test: .venv/.installed  ## unit tests, a few minutes on two cores; with curvlinops (tests/peers.txt)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist worksteal

test-slow: .venv/.installed  ## killed processes, compiled training, whole studies
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --numprocesses 2 --dist worksteal

lint: .venv/.installed  ## style, types, one-way dependencies
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: .venv-bench/.installed  ## ratios within one run, on this machine
	.venv-bench/bin/python -m pytest benchmarks --benchmark-only --benchmark-columns=median,iqr,rounds

docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev,docs]"
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .venv-bench layerscope-quickstart
