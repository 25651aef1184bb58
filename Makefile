# diffnum: two commands do the work.
#
#   make sample     install the library and draw CIFAR-10 images into samples.png and guided.png
#   make test       install everything and check everything: lint, types, unit tests, notebooks, book
#
# They need Python 3.11 or newer and make. Nothing is repeated when nothing changed: what is done leaves a stamp in
# the virtual environment. `make -B unit` repeats a stage, `make clean` forgets everything that was built.

PYTHON      ?= python3
VENV        ?= .venv
CONSTRAINTS ?= constraints.txt
PYTEST_ARGS ?=
WORKERS     ?= 2
LAB         ?=
ONLY        ?=

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

# LAB is a path or a bare name; without it all.
CHOSEN    = $(if $(LAB),$(firstword $(wildcard $(LAB) notebooks/$(LAB) notebooks/$(LAB).ipynb)),notebooks/*.ipynb)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup core sample test lint types unit notebooks book portable portable-quick lab gpu-check gpu-train \
  bench kills peers quality claims gallery assignments trial format execute clean distclean

help: ## show this list
	@echo "diffnum: diffusion samplers as numerical methods"
	@echo
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1|/' | awk -F'|' '{printf "%-23s %s\n", $$1, $$2}'
	@echo
	@echo "Variables: PYTHON=$(PYTHON)  VENV=$(VENV)  CONSTRAINTS=$(CONSTRAINTS)  PYTEST_ARGS=$(PYTEST_ARGS)  WORKERS=$(WORKERS)"

# ---------------------------------------------------------------------------------------------------- installation
# An environment holds absolute paths: its own, in its scripts, and that of the checkout, which is installed in place. Its
# stamp tells both; where they differ, after `mv` or `cp -r`, the scripts get the new path and diffnum is installed anew.
define RELOCATE
import pathlib, sys
old, new = (path.encode() for path in sys.argv[1:])
for file in pathlib.Path(sys.argv[2], "bin").iterdir():
    text = b"" if file.is_symlink() or file.is_dir() else file.read_bytes()
    if old in text and bytes(1) not in text:
        head, _, rest = text.partition(b"\n")
        if head.startswith(b"#!" + old):  # as pip writes it for a path with spaces or a long one
            text = b"#!/bin/sh\n'''exec' \"%s\" \"$$0\" \"$$@\"\n' '''\n%s" % (head[2:], rest)
        file.write_bytes(text.replace(old, new))
endef
export RELOCATE

.PHONY: always
always:
$(STAMPS)/venv: always
	@place="$$(pwd -P)"; home="$$(cd "$(VENV)" 2>/dev/null && pwd -P)"; \
	if [ -n "$$home" ] && [ "$$(cat "$@" 2>/dev/null)" = "$$(printf '%s\n' "$$place" "$$home")" ]; then exit 0; fi; \
	command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	  echo "make: '$(PYTHON)' is not found. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3 ..." >&2; exit 1; }; \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: diffnum needs Python 3.11 or newer, and '$(PYTHON)' is $$("$(PYTHON)" -V 2>&1). Name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }; \
	if "$(BIN)/python" -m pip --version >/dev/null 2>&1; then :; else \
	  "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "make: '$(PYTHON)' cannot create virtual environments. On Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1; }; \
	  echo "== creating $(VENV) with $$("$(PYTHON)" -V)"; \
	  "$(PYTHON)" -m venv "$(VENV)" || exit 1; \
	fi; \
	home="$$(cd "$(VENV)" && pwd -P)"; was="$$(sed -n 2p "$@" 2>/dev/null)"; \
	if [ -n "$$was" ] && [ "$$was" != "$$home" ]; then $(PY) -c "$$RELOCATE" "$$was" "$$home" || exit 1; fi; \
	mkdir -p "$(STAMPS)" && printf '%s\n' "$$place" "$$home" > "$@"

# Where only the place is new, nothing need be fetched.
moved = $(if $(filter-out $(STAMPS)/venv,$?),false,echo "== this checkout was moved or copied: installing it where it is" && \
  $(PIP) -q --no-deps --no-build-isolation -e . 2>/dev/null)

$(STAMPS)/core: pyproject.toml $(CONSTRAINTS) $(STAMPS)/venv
	@$(moved) || { echo "== installing diffnum into $(VENV) (a few minutes the first time)"; $(PIP) -q -e .; }
	@touch "$@"

$(STAMPS)/dev: pyproject.toml $(CONSTRAINTS) $(STAMPS)/venv
	@$(moved) || { \
	  echo "== installing diffnum with the tools for tests and book into $(VENV) (a few minutes the first time)"; \
	  $(PIP) -q -e '.[dev]'; }
	@touch "$(STAMPS)/core" "$@"

core: $(STAMPS)/core ## install the library only

setup: $(STAMPS)/dev ## install the library with everything for tests and book

# ------------------------------------------------------------------------------------------------------------- use
sample: $(STAMPS)/core ## draw CIFAR-10 images into samples.png, guided ones into guided.png (installs the library only)
	$(PY) -m diffnum sample --out samples.png
	$(PY) -m diffnum sample --guidance 3 --label all --solver er_sde --process ve --grid karras --steps 14 -n 40 --out guided.png

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
	MPLBACKEND=agg OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "not gpu and not trial" -n $(WORKERS) $(PYTEST_ARGS)
	@touch "$@"

# Warnings of the notebook tools are not ours; what a notebook prints to stderr is compared and so still counts.
$(STAMPS)/notebooks: $(STAMPS)/dev $(LIBRARY) $(LABS) tests/sanitize.cfg
	@echo "== notebooks"
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -W default -n $(WORKERS) --dist loadfile --nbval notebooks --nbval-current-env \
	  --nbval-sanitize-with tests/sanitize.cfg --nbval-cell-timeout 3600 --ignore=notebooks/assignments $(PYTEST_ARGS)
	@touch "$@"

# A raw \eqref or \ref renders as "(???)" without a warning: refer with {eq}`label`.
$(STAMPS)/book: $(STAMPS)/dev $(LIBRARY) $(LABS) $(PAGES)
	@echo "== book"
	@! grep -rnE '\\(eq)?ref\{' book notebooks --include='*.md' --include='*.ipynb' || { \
	  echo 'make: raw \eqref and \ref do not work in the book; write {eq}`label` or {ref}`label`' >&2; exit 1; }
	PATH="$(abspath $(BIN)):$$PATH" "$(BIN)/jb" build . -W -n --keep-going
	@touch "$@"

# Other processors round in other ways; their arithmetic can be had here, see tests/portable.py.
portable: $(STAMPS)/dev ## unit tests and notebooks under six arithmetics; prints what differs (hours)
	$(PY) -m tests.portable --workers $(WORKERS) $(if $(ONLY),--only "$(ONLY)")

portable-quick: $(STAMPS)/dev ## tests of orders, exactness and golden values, and their labs, under one of them
	$(PY) -m tests.portable --quick --workers $(WORKERS) $(if $(ONLY),--only "$(ONLY)")

# With PY=python3, say, that Python is used as it is and nothing is installed: for a lent machine without a network.
GPU_NEEDS = $(if $(filter command% environment%,$(origin PY)),,$(STAMPS)/dev)

gpu-check: $(GPU_NEEDS) ## run the tests that need a GPU, and a table of throughput; stops by itself after 4 minutes
	$(PY) -m tests.gpu --out "$${OUT:-$(RUNS)}" $(ARGS)

# Half precision of 7.7 million parameters is 15.5 MB; a shipped file may have 16. RUNS="$$OUT" puts it elsewhere.
RUNS ?= .runs/gpu
gpu-train: $(GPU_NEEDS) ## train a larger denoiser on a GPU, 9 minutes with loading and validation
	$(PY) -m diffnum.images.train --device cuda --size large --amp --minutes 8.5 --batch 512 --warmup 500 \
	  --average 200000 --validate-every 1000 --out "$(RUNS)/cifar10" --resume
	@echo "the weights are $(RUNS)/cifar10/cifar10.safetensors, the card beside them; --init goes on from there"

# Wants a quiet machine; writes what the book's page on work and precision shows.
bench: $(STAMPS)/dev ## time every solver against its hand-written form (5 minutes; not part of `make test`)
	OMP_NUM_THREADS=1 $(PY) -m tests.benchmarks

# Every trial is a run that is killed at a random moment and goes on with another number of processes.
kills: $(STAMPS)/dev ## kill runs of several processes at random moments; they must go on to the same images (minutes)
	$(PY) -m tests.benchmarks.kills $(ARGS)

peers: $(STAMPS)/core ## install the libraries that `make bench` compares with, each into a folder of its own
	$(PY) -m diffnum.interop.audit.environment

# Hours on a CPU, minutes on a GPU (ARGS="--device cuda --batch 1000 -n 50000"); goes on where it was stopped.
quality: $(STAMPS)/dev ## draw 1,000 images of every sampler of the quality chapter and judge the papers' claims
	$(PY) -m tests.benchmarks.quality $(ARGS)
	$(PY) -m tests.benchmarks.quality --score $(ARGS)

claims: $(STAMPS)/dev ## measure every claim of the papers anew and store the verdicts (minutes)
	OMP_NUM_THREADS=1 $(PY) -m diffnum claims --run --out book/results/claims.json $(ARGS)

gallery: $(STAMPS)/dev ## errors, orders and contact sheets of every solver with the shipped network (less than an hour)
	$(PY) -m tests.benchmarks.gallery $(ARGS)

assignments: $(STAMPS)/core ## build the students' notebooks of all assignments from tests/solutions
	$(PY) -m diffnum.classroom.assignments notebooks/assignments

# Every right, wrong and harmful solver, every assignment; with nbgrader installed (extra classroom) all of that, too.
trial: $(STAMPS)/dev ## the whole trial of the grader behind `diffnum check` (a quarter of an hour)
	MPLBACKEND=agg OMP_NUM_THREADS=1 $(PY) -m pytest -q tests/test_classroom.py $(PYTEST_ARGS)

# --------------------------------------------------------------------------------------------------------- upkeep
format: $(STAMPS)/dev ## format the code and apply the safe fixes of ruff
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# Without record_timing=False every run writes new time stamps into each cell.
execute: $(STAMPS)/dev ## run one notebook (LAB=pndm_order) or all, and store the outputs
	@test -n "$(CHOSEN)" || { echo "make: LAB=$(LAB) is no notebook; name one of notebooks/, such as LAB=pndm_order" >&2; exit 1; }
	PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(PY) -m nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.timeout=3600 $(CHOSEN)
	$(PY) -m tests.benchmarks.figures labs

clean: ## remove what was built; keep the virtual environment
	rm -rf _build build dist .make .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f "$(STAMPS)"/lint "$(STAMPS)"/types "$(STAMPS)"/unit "$(STAMPS)"/notebooks "$(STAMPS)"/book
	find . -path ./.venv -prune -o -path ./.git -prune -o \
	  \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean ## remove the virtual environment as well
	rm -rf .venv ./*.egg-info samples.png samples.npz guided.png guided.npz
