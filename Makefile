# `make` alone lists what there is. Needs Python 3.11 or newer, make, and a network for the first run.

# The first Python here that is new enough; say `make PYTHON=python3.12 …` to choose another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo $$p; exit; fi; done; echo python3)

VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.stamp-base
DEV := $(VENV)/.stamp-dev
SOURCES := pyproject.toml constraints.txt scripts/setup_venv.py

# More options for a target: make demo ARGS='--port 8000', make test ARGS='-k index'.
ARGS ?=
# Processes that share the tests. A worker takes up to 4 GB.
WORKERS ?= 3
BENCH ?= --quick

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test coverage lint lint-style lint-types audit bench

help:  ## list the targets
	@echo 'Two-stage retrieval. Targets:'
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

setup: $(DEV)  ## make .venv with everything in it, tools for tests included

demo: $(BASE)  ## index the documentation of Python's standard library and search it in the browser
	@$(BIN)/retrieval demo $(ARGS)

serve: $(BASE)  ## answer RAG backends, agents and people on one port (index first: retrieval index PATH)
	@$(BIN)/retrieval serve $(ARGS)

test: $(DEV)  ## run the tests; those of the page need Chromium (Debian: apt install chromium)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

coverage: $(DEV)  ## run the tests and measure which lines and branches they reach
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term:skip-covered $(ARGS)

lint: lint-style lint-types  ## check style, types and the layers of imports

lint-style: $(DEV)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

lint-types: $(DEV)
	@$(BIN)/mypy --strict

audit: $(DEV)  ## ask whether installed packages have known vulnerabilities (ARGS=--require: it must answer)
	@$(BIN)/python scripts/audit.py $(ARGS)

bench: $(DEV)  ## run every benchmark (BENCH= for the long form), JSON goes to build/bench
	@mkdir -p build/bench
	@for script in benchmarks/[a-z]*.py; do \
		[ -e "$$script" ] || { echo 'There are no benchmarks.'; exit 1; }; \
		echo "== $$script $(BENCH)"; \
		$(BIN)/python "$$script" $(BENCH) --json "build/bench/$$(basename "$$script" .py).json" \
			|| exit 1; \
	done

define set_up
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
		echo 'There is no $(PYTHON) here. Install Python 3.11 or newer, or name one: make PYTHON=python3.12'; \
		exit 1; }
	@$(PYTHON) scripts/setup_venv.py --venv $(VENV)
endef

$(BASE): $(SOURCES)
	$(set_up)

$(DEV): $(SOURCES)
	$(set_up) --dev
