# diffnum: two commands do the work.
#
#   make sample     install the library and draw 64 CIFAR-10 images into samples.png
#   make test       install everything and check everything: lint, types, unit tests, notebooks, book
#
# They need Python 3.11 or newer and make. Nothing is repeated when nothing changed: what is done leaves a stamp in
# the virtual environment. `make -B unit` repeats a stage, `make clean` forgets everything that was built.

PYTHON      ?= python3
VENV        ?= .venv
CONSTRAINTS ?= constraints.txt
PYTEST_ARGS ?=
WORKERS     ?= 2

SHELL  := /bin/sh
BIN     = $(VENV)/bin
PY      = "$(BIN)/python"
# A path with spaces cannot be a make target, so stamps then live beside the Makefile.
STAMPS := $(if $(word 2,$(VENV)),.make,$(VENV)/.stamps)
PIP     = $(PY) -m pip --disable-pip-version-check install $(if $(CONSTRAINTS),-c "$(CONSTRAINTS)")

# Notebooks and Sphinx start other programs by name: let them find those of the environment first.
export JUPYTER_PREFER_ENV_PATH := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
# Idle threads wait instead of spinning: on a shared machine the difference is tenfold.
export OMP_WAIT_POLICY := PASSIVE
unexport PYTHONHOME PYTHONPATH

# What a stage reads. Folders are listed too: a deleted or renamed file changes its folder. (`book/.` is the folder
# `book`, told apart from the target of that name.)
tree      = $(shell find $(1)/. -name __pycache__ -prune -o -name .ipynb_checkpoints -prune -o -name _build -prune -o -print 2>/dev/null)
LIBRARY  := $(call tree,diffnum) pyproject.toml
TESTS    := $(call tree,tests)
LABS     := $(call tree,notebooks)
PAGES    := $(call tree,book) _config.yml _toc.yml

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup core sample test lint types unit notebooks book lab gpu bench quality claims gallery format execute clean distclean

help: ## show this list
	@echo "diffnum: diffusion samplers as numerical methods"
	@echo
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1|/' | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'
	@echo
	@echo "Variables: PYTHON=$(PYTHON)  VENV=$(VENV)  CONSTRAINTS=$(CONSTRAINTS)  PYTEST_ARGS=$(PYTEST_ARGS)  WORKERS=$(WORKERS)"

# ---------------------------------------------------------------------------------------------------- installation
$(STAMPS)/venv:
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	  echo "make: '$(PYTHON)' is not found. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: diffnum needs Python 3.11 or newer, and '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1). Name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@if "$(BIN)/python" -m pip --version >/dev/null 2>&1; then :; else \
	  "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "make: '$(PYTHON)' cannot create virtual environments. On Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1; }; \
	  echo "== creating $(VENV) with $$("$(PYTHON)" -V)"; \
	  "$(PYTHON)" -m venv "$(VENV)"; \
	fi
	@mkdir -p "$(STAMPS)" && touch "$@"

$(STAMPS)/core: pyproject.toml $(CONSTRAINTS) | $(STAMPS)/venv
	@echo "== installing diffnum into $(VENV) (a few minutes the first time)"
	$(PIP) -q -e .
	@touch "$@"

$(STAMPS)/dev: pyproject.toml $(CONSTRAINTS) | $(STAMPS)/venv
	@echo "== installing diffnum with the tools for tests and book into $(VENV) (a few minutes the first time)"
	$(PIP) -q -e '.[dev]'
	@touch "$(STAMPS)/core" "$@"

core: $(STAMPS)/core ## install the library only

setup: $(STAMPS)/dev ## install the library with everything for tests and book

# ------------------------------------------------------------------------------------------------------------- use
sample: $(STAMPS)/core ## draw 64 CIFAR-10 images into samples.png (installs the library only)
	"$(BIN)/diffnum" sample --out samples.png

lab: $(STAMPS)/dev ## open the notebooks in JupyterLab
	$(PY) -m jupyterlab --notebook-dir=. notebooks

# ---------------------------------------------------------------------------------------------------------- checks
test: lint types unit notebooks book ## check everything: lint, types, unit, notebooks, book, in this order

lint: $(STAMPS)/lint ## check style, format and spelling
types: $(STAMPS)/types ## check types
unit: $(STAMPS)/unit ## run the unit tests
notebooks: $(STAMPS)/notebooks ## run every notebook and compare with its stored outputs
book: $(STAMPS)/book ## build the book into _build/html, warnings as errors

$(STAMPS)/lint: $(STAMPS)/dev $(LIBRARY) $(TESTS) $(LABS) $(PAGES) README.md
	@echo "== lint"
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m codespell_lib README.md CHANGELOG.md book diffnum notebooks tests
	@touch "$@"

$(STAMPS)/types: $(STAMPS)/dev $(LIBRARY)
	@echo "== types"
	$(PY) -m mypy
	@touch "$@"

$(STAMPS)/unit: $(STAMPS)/dev $(LIBRARY) $(TESTS) $(LABS) $(PAGES) README.md
	@echo "== unit"
	MPLBACKEND=agg OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "not gpu" -n $(WORKERS) $(PYTEST_ARGS)
	@touch "$@"

# Warnings of the notebook tools are not ours; what a notebook prints to stderr is compared and so still counts.
$(STAMPS)/notebooks: $(STAMPS)/dev $(LIBRARY) $(LABS) tests/sanitize.cfg
	@echo "== notebooks"
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -W default -n $(WORKERS) --dist loadfile --nbval notebooks --nbval-current-env \
	  --nbval-sanitize-with tests/sanitize.cfg --nbval-cell-timeout 120 --ignore=notebooks/assignments $(PYTEST_ARGS)
	@touch "$@"

# A raw \eqref or \ref renders as "(???)" without a warning: refer with {eq}`label`.
$(STAMPS)/book: $(STAMPS)/dev $(LIBRARY) $(LABS) $(PAGES)
	@echo "== book"
	@! grep -rnE '\\(eq)?ref\{' book notebooks --include='*.md' --include='*.ipynb' || { \
	  echo 'make: raw \eqref and \ref do not work in the book; write {eq}`label` or {ref}`label`' >&2; exit 1; }
	PATH="$(abspath $(BIN)):$$PATH" "$(BIN)/jb" build . -W -n --keep-going
	@touch "$@"

gpu: $(STAMPS)/dev ## run the tests that need a GPU, then train both networks on it (80 minutes)
	$(PY) -m pytest -m gpu $(PYTEST_ARGS)
	$(PY) -m diffnum.images.train --size large --minutes 60 --batch 512 --lr 1e-3 --warmup 1000 --average 500000 \
	  --out .runs/gpu/cifar10 --resume
	$(PY) -m diffnum.images.train --kind blurring --init .runs/gpu/cifar10/cifar10.safetensors --minutes 20 --batch 512 \
	  --lr 4e-4 --out .runs/gpu/cifar10-blurring --resume

# Wants a quiet machine; writes what the book's page on work and precision shows.
bench: $(STAMPS)/dev ## time every solver against its hand-written form (5 minutes; not part of `make test`)
	OMP_NUM_THREADS=1 $(PY) -m tests.benchmarks

# Hours on a CPU, minutes on a GPU (ARGS="--device cuda --batch 1000 -n 50000"); goes on where it was stopped.
quality: $(STAMPS)/dev ## draw 1,000 images of every sampler of the quality chapter and judge the papers' claims
	$(PY) -m tests.benchmarks.quality $(ARGS)
	$(PY) -m tests.benchmarks.quality --score $(ARGS)

claims: $(STAMPS)/dev ## measure every claim of the papers anew and store the verdicts (minutes)
	OMP_NUM_THREADS=1 $(PY) -m diffnum claims --run --out book/results/claims.json $(ARGS)

gallery: $(STAMPS)/dev ## errors, orders and contact sheets of every solver with the shipped network (less than an hour)
	$(PY) -m tests.benchmarks.gallery $(ARGS)

# --------------------------------------------------------------------------------------------------------- upkeep
format: $(STAMPS)/dev ## format the code and apply the safe fixes of ruff
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# Without record_timing=False every run writes new time stamps into each cell.
execute: $(STAMPS)/dev ## run all notebooks and store their outputs
	PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(PY) -m nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.timeout=300 notebooks/*.ipynb

clean: ## remove what was built; keep the virtual environment
	rm -rf _build build dist .make .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f "$(STAMPS)"/lint "$(STAMPS)"/types "$(STAMPS)"/unit "$(STAMPS)"/notebooks "$(STAMPS)"/book
	find . -path ./.venv -prune -o -path ./.git -prune -o \
	  \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean ## remove the virtual environment as well
	rm -rf .venv ./*.egg-info samples.png samples.npz
