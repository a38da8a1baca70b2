# PYTHON, the interpreter that the environment is made with (>= 3.10); VENV, where it is made.
PYTHON ?= python3
VENV ?= .venv
# For demo: a folder of photographs instead of the embedded ones, and the file to write.
IMAGES ?=
OUT ?= activations.h5
# For test: more arguments of pytest, such as PYTEST_ARGS="-m 'not slow'".
PYTEST_ARGS ?=
# thingsvision's own environment: an interpreter that it bears, and where it is made (7 GB).
TV_PYTHON ?= $(shell for p in $(PYTHON) python3.11 python3.10; do $$p -c $(TV_FITS) 2>/dev/null && \
	echo $$p && break; done)
TV_VENV ?= .venv-thingsvision
# Gigabytes that must be free for it: what pip unpacks meanwhile counted in.
TV_ROOM := 12

BIN := $(VENV)/bin
# Unpacked beside the environment: a small /tmp does not hold PyTorch.
pip_into = TMPDIR=$$(mkdir -p $(1)/tmp && cd $(1)/tmp && pwd) \
	$(1)/bin/python -m pip --disable-pip-version-check install
TV_FITS := 'import ensurepip, sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12))'
TV_BIN := $(TV_VENV)/bin
# What any old torch and NumPy have to bear: the plugin, and the contracts of the core.
TV_TESTS := $(addprefix tests/,thingsvision test_module_path.py test_path_grammar.py \
	store/test_selection.py $(addprefix capture/test_,dry_run.py engine.py graph.py hooks.py) \
	$(addprefix models/test_,resmem.py thingsvision.py) pipeline/test_score.py)
# Their packages warn of much that is not ours to mend. A file stays in one process: TensorFlow is slow to import.
TV_PYTEST := TF_CPP_MIN_LOG_LEVEL=3 $(TV_BIN)/python -m pytest --override-ini filterwarnings=default \
	--numprocesses auto --dist loadfile

.PHONY: help setup demo test test-all lint bench clean thingsvision-env test-thingsvision test-thingsvision-all
.DEFAULT_GOAL := help

help: ## list the targets (this)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-21s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.samples ## create .venv and install the package

demo: $(VENV)/.samples ## setup, get ResMem's weights, write activations.h5 of real photographs [IMAGES=DIR]
	@PYTHON=$(BIN)/python ./get_weights.sh
	$(BIN)/extract --model resmem --module features.5.4 $(if $(IMAGES),--images "$(IMAGES)") --out "$(OUT)"

test: ## create .venv and thingsvision's environment, run all checks and tests
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest --numprocesses auto $(PYTEST_ARGS)
	@$(MAKE) --no-print-directory test-thingsvision

test-all: ## the same with the tests that take minutes, and the whole suite beside thingsvision
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest --numprocesses auto --long $(PYTEST_ARGS)
	@$(MAKE) --no-print-directory test-thingsvision-all

test-thingsvision: ## the plugin and the core's contracts beside thingsvision, torch 2.0.1, NumPy 1.26
	@$(MAKE) --no-print-directory thingsvision-env
	@if [ -x $(TV_BIN)/python ]; then $(TV_PYTEST) -m 'not slow' $(TV_TESTS); fi

test-thingsvision-all: ## the whole suite there (long)
	@$(MAKE) --no-print-directory thingsvision-env
	@if [ -x $(TV_BIN)/python ]; then $(TV_PYTEST) $(PYTEST_ARGS); fi

thingsvision-env: ## create .venv-thingsvision: thingsvision and this package (7 GB, some minutes)
ifneq ($(TV_PYTHON),)
	@free=$$(df -Pk . | awk 'NR == 2 {print int($$4 / 1048576)}'); \
	if [ -e $(TV_VENV)/.installed ] || [ $$free -ge $(TV_ROOM) ]; then \
		$(MAKE) --no-print-directory $(TV_VENV)/.installed TV_PYTHON=$(TV_PYTHON); \
	else \
		echo "no thingsvision here: its environment needs $(TV_ROOM) GB of disk, $$free GB are free"; \
	fi
else
	@echo "no thingsvision here: it needs Python 3.10 or 3.11 with venv; try make TV_PYTHON=python3.11"
endif

lint: $(VENV)/.dev ## ruff and mypy alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev ## run every benchmark (an hour on two quiet cores)
	@set -e; for script in table roofline store decoding threads; do \
		echo "== benchmarks/$$script.py"; $(BIN)/python benchmarks/$$script.py; done

clean: ## remove both environments, caches and build outputs; never a result
	rm -rf $(VENV) $(TV_VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is missing or older than Python 3.10; try make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The markers make a second run skip the installation until pyproject.toml changes.
$(VENV)/.samples: pyproject.toml | $(VENV)/.made
	$(call pip_into,$(VENV)) --editable '.[samples]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	$(call pip_into,$(VENV)) --editable '.[dev]'
	@touch $@ $(VENV)/.samples

# One command, so that pip finds versions of everything that go with thingsvision's. Without a cache, which
# would hold the same gigabytes once more.
$(TV_VENV)/.installed: pyproject.toml
	$(TV_PYTHON) -m venv $(TV_VENV)
	$(call pip_into,$(TV_VENV)) --quiet --no-compile --no-cache-dir --editable '.[test-core,thingsvision]'
	@touch $@
