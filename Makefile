# make demo     set up the package and run the demonstration
# make test     set up the tests and run them, without the slow ones
# make help     the other targets
#
# Settings: PYTHON (3.11 or newer), VENV, WORKERS (processes of the tests), PYTEST_FLAGS, PIP_FLAGS, FUZZ_*. On Linux the torch
# of pypi.org brings CUDA libraries; for the smaller CPU build: make demo PIP_FLAGS='--extra-index-url https://download.pytorch.org/whl/cpu'

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV ?= .venv
PYTHON ?=
PIP_FLAGS ?=
PYTEST_FLAGS ?=
WORKERS ?= auto
FUZZ_SECONDS ?= 300
FUZZ_SEED ?= 0
FUZZ_FLAGS ?=

BIN := $(VENV)/bin
PEERS := deepinv==0.5.0 azula==0.11.1
PRIORS := $(wildcard packages/priors)
MANIFEST := pyproject.toml constraints.txt $(PRIORS:%=%/pyproject.toml)
comma := ,
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# One line per package; errors and warnings of pip arrive on stderr as they are. $(1): what to install, $(2): the stamps
# that it fulfils. PRIORS come along where they are: an sdist has none. Constraints always: an unpinned torch would pull CUDA.
define install
	@echo "installing $(1) into $(VENV) (the first time this takes some minutes)"
	@$(BIN)/python -m pip install --progress-bar off $(PIP_FLAGS) -c constraints.txt -e "$(1)" $(PRIORS:%=-e %) \
		| awk '/^ *(Downloading|Installing|Successfully)/ { print "  " $$0; fflush() }'
	@touch $(addprefix $(VENV)/.,$(2))
endef

.PHONY: help setup demo test test-slow test-ray fuzz interop check prose pages docs dist matrix bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.setup  ## the package with everything for tests and checks, in .venv

demo: $(VENV)/.core  ## set up the package and run the demonstration
	@$(BIN)/midguide demo

# The tests are many small computations: one process on each core, each with one thread.
test test-slow test-ray: export OMP_NUM_THREADS ?= 1

test: $(VENV)/.test  ## set up and run the tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_FLAGS)

test-slow: $(VENV)/.test  ## the slow tests only
	@$(BIN)/python -m pytest -m slow -n $(WORKERS) --dist worksteal $(PYTEST_FLAGS)

test-ray: $(VENV)/.ray  ## the tests on a Ray cluster of two simulated machines
	@$(BIN)/python -m pytest -m ray $(PYTEST_FLAGS) tests/studies/test_ray.py

# The files of inputs that fail stay in build/fuzz; each line says how to run one again.
fuzz: $(VENV)/.test  ## seeded campaigns of damaged input, five minutes or FUZZ_SECONDS=60
	@$(BIN)/python tests/fuzz --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED) $(FUZZ_FLAGS)

# deepinv and azula need torchvision, which must never come into $(VENV): they have an environment that only looks there.
interop: $(VENV)/.interop  ## the tests beside deepinv and azula, in an environment of their own
	@OMP_NUM_THREADS=1 PYTHONPATH=src:packages/priors/src $(VENV)/interop/bin/python -m pytest -o filterwarnings=default -p no:cacheprovider \
		-n 0 $(PYTEST_FLAGS) tests/operators/test_deepinv.py tests/priors/test_interop.py

check: $(VENV)/.setup  ## lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/python benchmarks/prose.py

prose: $(VENV)/.setup  ## every remark of the prose linter, page by page
	@$(BIN)/python benchmarks/prose.py --all

pages: $(VENV)/.core  ## write the pages of docs/ that are made from the code, and tables of results/
	@$(BIN)/python -m midguide.cli.compatibility > docs/compatibility.md
	@$(BIN)/python benchmarks/pages.py

docs: $(VENV)/.docs pages  ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html: $$(find site -name '*.html' | wc -l) pages"

dist: $(VENV)/.setup  ## both wheels and the sdist, tried in a clean environment
	@VENV=$(VENV) .ci/dist

matrix:  ## tests of the core with each Python that is here, oldest and pinned torch
	@PIP_FLAGS='$(PIP_FLAGS)' .ci/matrix

bench: $(VENV)/.test  ## run benchmarks/*.py
	@shopt -s nullglob; scripts=(benchmarks/*.py); \
	if [ $${#scripts[@]} -eq 0 ]; then echo "there is no benchmark yet" >&2; exit 1; fi; \
	for script in "$${scripts[@]}"; do echo "$$script"; $(BIN)/python "$$script"; done

clean:  ## remove caches and builds; the environment and results stay
	@rm -rf build dist site .pytest_cache .ruff_cache
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@for python in $(or $(PYTHON),python3.11 python3 python3.12 python3.13); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			"$$python" -m venv "$(VENV)"; exit; \
		fi; \
	done; \
	echo "midguide needs Python 3.11 or newer, and $(or $(PYTHON),python3) is not." >&2; \
	echo "hint: make PYTHON=/path/to/python3.11 ..." >&2; exit 1

$(VENV)/.core: $(MANIFEST) | $(BIN)/python
	$(call install,.,core)

$(VENV)/.test: $(MANIFEST) | $(BIN)/python
	$(call install,.[test],core test)

$(VENV)/.ray: $(MANIFEST) | $(BIN)/python
	$(call install,.[test$(comma)ray],core test ray)

$(VENV)/.setup: $(MANIFEST) | $(BIN)/python
	$(call install,.[dev],core test ray setup)

$(VENV)/.interop: $(MANIFEST) $(VENV)/.test
	@$(BIN)/python -m venv $(VENV)/interop
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(VENV)/interop/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/core.pth"
	@$(VENV)/interop/bin/python -m pip install --quiet --progress-bar off $(PIP_FLAGS) -c constraints.txt $(PEERS)
	@touch $@

$(VENV)/.docs: $(MANIFEST) | $(BIN)/python
	$(call install,.[docs],core docs)
