# `make` alone lists what there is.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup native capi test test-native test-clang test-arm test-ray survive coverage lint format demo wheel-check docs bench clean

PYTHON ?= $(shell command -v python3 || command -v python3.11 || echo python3)
ifeq ($(origin CXX),default)
  CXX := c++
endif
# Where `make capi` installs.
PREFIX ?= $(CURDIR)/build/capi/prefix
VENV := .venv
BIN := $(VENV)/bin
# What a machine that upscales needs; on top of it what development needs; the engine as last built.
CORE := $(VENV)/.core-done
DEV := $(VENV)/.dev-done
NATIVE := $(VENV)/.native-done
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
NATIVE_SOURCES := CMakeLists.txt $(shell find native -path native/tests -prune -o -type f -print)
CMAKE := $(BIN)/cmake
# CMake finds the Ninja that was installed beside it.
export PATH := $(CURDIR)/$(BIN):$(PATH)
CPP_FILES = $(shell find native examples/c -name '*.h' -o -name '*.c' -o -name '*.cpp')
DEMO_IN := examples/demo.png
DEMO_OUT := output/demo_x4.png

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(DEV) $(NATIVE) ## create .venv with everything development needs

native: $(NATIVE) ## build the engine anew where its sources changed

# Only re-run when what it installs has changed.
$(CORE): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || \
	  { echo "$(PYTHON) not found: install Python 3.11 or newer, or name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) -V 2>&1), bidiffsr needs 3.11 or newer: make setup PYTHON=python3.12" >&2; exit 1; }
	@printf '#include <concepts>\nint main() { return std::integral<int> ? 0 : 1; }\n' | \
	  $(CXX) -std=c++20 -x c++ -fsyntax-only - 2>/dev/null || \
	  { echo "no C++20 compiler found: on Debian, apt-get install g++; or name one: make setup CXX=g++-12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "venv could not be created: on Debian, apt-get install python3-venv" >&2; exit 1; }
	@echo "installing bidiffsr into $(VENV), building its engine ..."
	@# pyvips comes as a source archive, which wants the build tools it names itself.
	@$(PIP) scikit-build-core nanobind cmake ninja pyvips
	@CXX=$(CXX) $(PIP) --no-build-isolation -e .
	@touch $@

$(DEV): $(CORE)
	@echo "installing the development tools into $(VENV) ..."
	@CXX=$(CXX) $(PIP) --no-build-isolation -e '.[dev]'
	@touch $@

# Only what changed, and without the rest of an installation.
$(NATIVE): $(CORE) $(NATIVE_SOURCES)
	@test -f build/python/build.ninja || CXX=$(CXX) $(PIP) --no-build-isolation --no-deps -e .
	@$(CMAKE) --build build/python
	@$(CMAKE) --install build/python --strip \
	  --prefix "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')" >/dev/null
	@touch $@

capi: $(CORE) ## build the C library and install it: make capi PREFIX=/usr/local
	$(CMAKE) --preset capi >/dev/null
	$(CMAKE) --build --preset capi
	$(CMAKE) --install build/capi --component capi --prefix "$(PREFIX)"

test: setup test-native ## run every test
	$(BIN)/python -m pytest -q

# Address and undefined-behaviour sanitizers watch every kernel that this CPU has.
test-native: $(CORE) ## run the engine's own tests under sanitizers
	$(CMAKE) --preset asan >/dev/null
	$(CMAKE) --build --preset asan
	$(BIN)/ctest --preset asan

test-clang: $(CORE) ## build the engine and its own tests with Clang too, and run them
	@command -v clang++ >/dev/null || \
	  { echo "no Clang: on Debian, apt-get install clang" >&2; exit 1; }
	$(CMAKE) --preset clang >/dev/null
	$(CMAKE) --build --preset clang
	$(BIN)/ctest --preset clang

test-arm: $(CORE) ## run the engine's own tests on an emulated 64-bit ARM
	@command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null || \
	  { echo "no ARM compiler or emulator: on Debian, apt-get install g++-aarch64-linux-gnu qemu-user" >&2; exit 1; }
	$(CMAKE) --preset arm >/dev/null
	$(CMAKE) --build --preset arm
	$(BIN)/ctest --preset arm

test-ray: setup ## run the tests of Ray clusters and of storage such as S3
	@$(PIP) --no-build-isolation -e '.[cluster]'
	$(BIN)/python -m pytest -q tests/test_ray.py tests/test_storage.py

survive: setup ## damage pictures and models by the thousand, kill runs by the dozen, upload by the hundred
	$(BIN)/python tests/fuzz_images.py
	$(BIN)/python tests/fuzz_models.py
	$(BIN)/python tests/kill_runs.py
	@# Ray's workers too, if `make test-ray` has installed it.
	$(BIN)/python tests/faults.py

TRIES ?= 20000

fuzz: setup ## damage more pictures and models than that: make fuzz TRIES=20000
	$(BIN)/python tests/fuzz_images.py $(TRIES)
	$(BIN)/python tests/fuzz_models.py $(TRIES)

coverage: setup ## run the Python tests and show which lines they do not reach
	@$(PIP) pytest-cov
	$(BIN)/python -m pytest -q --cov=bidiffsr --cov-report=term-missing:skip-covered $(TESTS)

lint: setup ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)

format: $(DEV) ## format Python and C++
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

demo: $(NATIVE) ## upscale the example picture
	@mkdir -p $(dir $(DEMO_OUT))
	$(BIN)/bidiffsr upscale $(DEMO_IN) -o $(DEMO_OUT) --overwrite
	@echo "result: $(DEMO_OUT) (4 times the size of $(DEMO_IN))"

wheel-check: ## build a wheel, install it into an empty environment, and upscale with it
	.ci/check_wheel $(PYTHON)

docs: setup ## render the documentation, with the API from the docstrings, to build/site
	@$(PIP) --no-build-isolation -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "result: build/site/index.html"

bench: setup ## measure speed on this machine, beside what else there is
	@$(PIP) --no-build-isolation -e '.[bench]'
	$(BIN)/python -m benchmarks

clean: ## remove caches and build output; .venv and output/ stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .benchmarks src/*.egg-info
	rm -f $(CORE) $(DEV) $(NATIVE)
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +
