# `make` alone lists what there is.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup test lint demo bench clean

PYTHON ?= $(shell command -v python3 || command -v python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
DEMO_IN := examples/demo.png
DEMO_OUT := output/demo_x4.png

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv with everything development needs

# Only re-run when what it installs has changed.
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || \
	  { echo "$(PYTHON) not found: install Python 3.11 or newer, or name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), bidiffsr needs 3.11 or newer: make setup PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "venv could not be created: on Debian, apt-get install python3-venv" >&2; exit 1; }
	@echo "installing bidiffsr and its development tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

test: setup ## run every test
	$(BIN)/python -m pytest -q

lint: setup ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

demo: setup ## upscale the example picture
	@mkdir -p $(dir $(DEMO_OUT))
	$(BIN)/bidiffsr upscale $(DEMO_IN) -o $(DEMO_OUT) --overwrite
	@echo "result: $(DEMO_OUT) (4 times the size of $(DEMO_IN))"

bench: setup ## measure speed on this machine
	$(BIN)/python -m benchmarks

clean: ## remove caches and build output; .venv and output/ stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .benchmarks src/*.egg-info
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +
