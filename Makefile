# make replay | test | lint | bench | conformance | clean.   TRACE=, ARGS=, SUITE=, BACKEND= are optional.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
SUITE  ?= ../shared/seed/test_prefix_caching.py
BACKENDS ?= reference host

.PHONY: replay test lint bench conformance differential clean venv

replay: $(VENV)/.report
	$(BIN)/python -m kvgpu replay $(TRACE) --report replay-report.html $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python bench/pool.py $(ARGS)

# The suite makes torch dtypes; nothing else here needs torch. The CPU build is enough.
conformance: $(VENV)/.torch
	for backend in $(BACKENDS); do \
	  $(BIN)/python tests/conformance/run.py $(SUITE) --backend $$backend -- $(ARGS) || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(VENV)/.dev

$(VENV)/.base: setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.report: $(VENV)/.base
	$(PIP) -e '.[report]'
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/.torch: $(VENV)/.dev
	$(PIP) torch
	touch $@
