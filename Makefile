# `make demo` and `make test` need Python 3.11 or newer and pip; each makes its environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(PYTHON) -m pip --python $(BIN)/python

.PHONY: demo test operations dev lint gpu-check check-python

demo: $(VENV)/.installed
	$(BIN)/python -m parakeet.cli build
	$(BIN)/python -m parakeet.demo

test: $(VENV)/.installed-dev
	@# As they stand, end to end in the middle: by default the files with the fewest tests, the longest, come last and alone.
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Minutes with a running `dagster dev`: power cuts, gates, rollbacks.
operations: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m operations -s

dev: $(VENV)/.installed
	$(BIN)/dagster dev

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The checks that need a GPU; benchmarks/gpu_check/README.md lists the steps.
SECONDS ?= 600
STEPS ?=
GPU_CHECK_TOKENS ?= .gpu-tokens
gpu-check: $(VENV)/.installed-dev
	@$(BIN)/python -c 'import torch; raise SystemExit(not torch.cuda.is_available())' || \
		{ echo "gpu-check: PyTorch finds no CUDA device on this machine, so there is nothing to check." >&2; exit 1; }
	$(BIN)/python -m benchmarks.gpu_check.tokens $(GPU_CHECK_TOKENS)
	NO_INSTALL=1 GPU_CHECK_TOKENS=$(GPU_CHECK_TOKENS) PYTHON=$(BIN)/python bash benchmarks/gpu_check/gpu_check.sh $(SECONDS) $(STEPS)

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }

$(BIN)/python: | check-python
	@# Debian's python3 has no ensurepip without python3-venv: pip then installs from outside.
	$(PYTHON) -m venv $(VENV) 2>/dev/null || $(PYTHON) -m venv --clear --without-pip $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --editable '.[dev]'
	touch $(VENV)/.installed $@
