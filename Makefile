# Everything runs in a virtual environment in .venv; needs Python >= 3.11, git and make.
#   make demo     a first edit on a small model: no GPU, no model to download
#   make test     the quick tests        make test-all   all of them, and test-elsewhere
#   make test-elsewhere   the quick tests without what only POSIX has; TESTS=tests/video for some
#   make torture  kills, full disks, damage, broken files, in numbers (an hour and more)
#   make lint     style, types, imports  make format     put the style right
#   make audit    known weaknesses of the pinned packages; asks PyPI
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TESTS ?=
# The tests' models are small: two processes with one thread each are faster than one with two.
PROCESSES ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(PROCESSES) --dist loadfile
SHELL_SCRIPTS := $(wildcard scripts/*.sh) .ci/run

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-elsewhere torture lint format audit clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
		echo "maskora needs Python 3.11 or newer, and '$(PYTHON)' was not found." \
			"Name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "maskora needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
			"Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "setup: installing into $(VENV) (the first time this takes some minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: setup
	@echo "demo: one edit from start to end"
	@$(BIN)/maskora demo

test: setup
	@echo "test: the quick tests"
	@$(PYTEST) -m "not slow"

test-all: setup
	@echo "test-all: every test"
	@$(PYTEST)
	@$(MAKE) --no-print-directory test-elsewhere

test-elsewhere: setup
	@echo "test-elsewhere: the quick tests once more, without what only POSIX has"
	@MASKORA_ELSEWHERE=1 PYTHONPATH="$(CURDIR)/tests/elsewhere$${PYTHONPATH:+:$$PYTHONPATH}" \
		$(PYTEST) -m "not slow" $(TESTS)

torture: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture $(PARTS)

lint: setup
	@echo "lint: ruff"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@echo "lint: mypy"
	@$(BIN)/mypy --no-error-summary
	@echo "lint: import contracts"
	@$(BIN)/lint-imports --no-logo
	@echo "lint: shellcheck"
	@$(BIN)/shellcheck $(SHELL_SCRIPTS)
	@echo "lint: hadolint"
	@$(BIN)/hadolint Dockerfile

format: setup
	@echo "format: ruff"
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

# In an environment of its own: what looks at the packages is none of them. --strict: without it, a
# package that PyPI could not be asked about counts as a good one.
audit: setup
	@test -x $(VENV)/audit/bin/pip-audit || { \
		$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/python -m pip install --quiet \
			--disable-pip-version-check pip-audit; }
	@echo "audit: the versions of constraints.txt, against PyPI's list of known weaknesses"
	@$(VENV)/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip \
		--strict || { \
		echo "audit: the packages above have known weaknesses; or, if none is listed, PyPI" \
			"(https://pypi.org) could not be asked: run it where it can be, or look up the names" \
			"of constraints.txt at https://osv.dev" >&2; exit 1; }

clean:
	@echo "clean: $(VENV), caches and build leftovers"
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
