# Two commands for a fresh machine: `make demo` and `make test`. Plain pip users: see README.md.
# PYTHON chooses the interpreter that the environment is made from: make setup PYTHON=python3.12
PYTHON ?= python3
# STACK chooses whose OpenMMLab packages it holds. Both bear the same import names, so that each
# stack needs an environment of its own: make test STACK=onedl
STACK ?= upstream
VENV_upstream := .venv
VENV_onedl := .venv-onedl
CHROMIUM := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
MARKS_upstream := $(if $(CHROMIUM),,not browser)
QUICK_upstream := $(if $(CHROMIUM),not slow,not slow and not browser)
MARKS_onedl := smoke
QUICK_onedl := smoke
VENV := $(VENV_$(STACK))
ifeq ($(VENV),)
$(error STACK='$(STACK)' is unknown; use STACK=upstream (the default) or STACK=onedl)
endif
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp
REQUIREMENTS := requirements/$(STACK).txt requirements/dev.txt
DEMO_CONFIG := configs/fcvit/maskrcnn_fcvit_tiny_nuclei.py
DEMO_DIR := work_dirs/demo
BEGIN := $(shell date +%s)

.PHONY: help setup demo test test-all test-cpus peers docs lint clean
.NOTPARALLEL:

help:
	@echo "make setup   create $(VENV) and install everything, if needed"
	@echo "make demo    train, test and show Mask R-CNN with FCViT on microscopy images"
	@echo "make test    run the tests but for slow ones; with STACK=onedl the smoke part"
	@echo "make test-all    run all tests, those of every compiled and exported model included"
	@echo "make test-cpus   run the numerical tests under other instruction sets; QUICK=1: some"
	@echo "make peers   run OpenMMLab's own code on the stand-in for mmcv's operators (an hour)"
	@echo "make docs    write the documentation into site/"
	@echo "make lint    check the style (ruff)"
	@echo "make clean   remove caches, builds and the demo's results, keep environments and data"
	@echo "Options: PYTHON=python3.12 names the interpreter that a new environment is made from;"
	@echo "STACK=onedl takes the onedl-* forks, in $(VENV_onedl), instead of upstream's OpenMMLab."

# The stamp holds a checksum of what the environment was made from: unchanged means nothing to do.
setup:
	@set -eu; \
	wanted="$$(cat $(REQUIREMENTS) setup.py pyproject.toml | cksum) $(CURDIR)"; \
	if [ -x $(BIN)/python ] && [ "$$(cat $(STAMP) 2>/dev/null)" = "$$wanted" ]; then exit 0; fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  if ! $(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	      >/dev/null 2>&1; then \
	    found="$$($(PYTHON) --version 2>/dev/null || echo 'no working Python')"; \
	    echo "error: mmvitconv needs Python 3.10 - 3.13, but '$(PYTHON)' is $$found;" \
	      "install one and name it: make setup PYTHON=python3.12" >&2; exit 1; \
	  fi; \
	  if ! $(PYTHON) -m venv --clear $(VENV); then \
	    echo "error: '$(PYTHON)' cannot create $(VENV); install its venv module" \
	      "(Debian, Ubuntu: apt install python3-venv) and try again" >&2; exit 1; \
	  fi; \
	fi; \
	echo "Installing into $(VENV): a few minutes and about 6 GB the first time"; \
	$(BIN)/python -m pip install --disable-pip-version-check -q \
	  $(addprefix -r ,$(REQUIREMENTS)); \
	$(BIN)/python -m pip install --disable-pip-version-check -q -e . --no-deps; \
	echo "$$wanted" > $(STAMP)

demo: setup
	@set -eu; rm -f $(DEMO_DIR)/best_*.pth; \
	$(BIN)/python tools/dataset_converters/nuclei.py; \
	$(BIN)/python tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_DIR); \
	best="$$(ls -t $(DEMO_DIR)/best_*.pth | head -n 1)"; \
	if [ -z "$$best" ]; then echo "error: no $(DEMO_DIR)/best_*.pth was written" >&2; exit 1; fi; \
	$(BIN)/python tools/test.py $(DEMO_CONFIG) "$$best" --work-dir $(DEMO_DIR); \
	$(BIN)/python tools/misc/demo_report.py $(DEMO_CONFIG) "$$best" --out-dir $(DEMO_DIR); \
	echo "checkpoint: $$best"; \
	echo "total time: $$(( $$(date +%s) - $(BEGIN) )) seconds"

test: PART = $(QUICK_$(STACK))
test-all: PART = $(MARKS_$(STACK))
test test-all: setup
	@$(if $(CHROMIUM)$(filter onedl,$(STACK)),:,echo "No Chromium: the tests of the web page are left out (Debian: apt install chromium)")
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile \
	  $(if $(PART),-m '$(PART)')

test-cpus: setup
	$(BIN)/python tests/cpus.py $(if $(QUICK),--quick)

peers: setup
	OMP_NUM_THREADS=1 $(BIN)/python tools/misc/peers.py

# Strict: a warning is an error. The variable is about the future of MkDocs, not about these pages.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis $(DEMO_DIR)
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
