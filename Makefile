# Two commands need nothing but Python >= 3.11, make and git:
#   make demo   sets everything up in .venv, then runs the whole pipeline on the embedded data set
#   make test   sets everything up in .venv, then runs all checks and tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := embedkd tests benchmarks data conftest.py

.DELETE_ON_ERROR:
.PHONY: demo test check lint types layers pytest format storm wheel clean

demo: $(STAMP)
	$(BIN)/embedkd demo

test: check

# Types and layers have one process each, so they go beside the tests: what is long must not wait for them.
check: lint
	$(MAKE) --no-print-directory --jobs=3 types layers pytest

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "embedkd needs Python >= 3.11, this is " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

lint: $(STAMP)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports --no-logo

# Coverage is measured in worker processes too, and combined, but not in storms; tests/conftest.py says why.
pytest: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal --cov --cov-report=

format: $(STAMP)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

# Long fault storms, and the demo on all of its data; `make storm SEED=1` draws other faults. docs/reliability.md has
# the last figures.
SEED ?= 0
storm: $(STAMP)
	$(BIN)/python -m pytest tests/faults tests/test_pipelines.py --storm --storm-seed $(SEED) -p no:randomly

wheel: $(STAMP)
	$(BIN)/python -m build

clean:
	rm -rf build dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
