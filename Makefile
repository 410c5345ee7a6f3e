# make replay | test | lint | bench | gpu | conformance | aot | clean.   TRACE=, ARGS=, SUITE=, BACKENDS= are optional.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
# 1: run the kernels of `triton` in the interpreter; 0: on a GPU.
INTERPRET ?= 1
SUITE  ?= ../shared/seed/test_prefix_caching.py
BACKENDS ?= reference host triton cuda auto

.PHONY: replay test lint bench gpu conformance aot clean venv

replay: $(VENV)/.report
	$(BIN)/python -m kvgpu replay $(TRACE) --report replay-report.html $(ARGS)

# With PyTorch and Triton: the kernels run on a GPU, or else in Triton's interpreter.
test: $(VENV)/.kernels
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python bench/pool.py $(ARGS)

conformance: $(VENV)/.kernels
	for backend in $(BACKENDS); do \
	  TRITON_INTERPRET=$(INTERPRET) $(BIN)/python tests/conformance/run.py $(SUITE) --backend $$backend -- $(ARGS) || exit 1; \
	done

# On a machine with a GPU: checks, then speeds. The system's own Python with torch, Triton and CuPy.
gpu:
	$(PYTHON) bench/gpu.py $(ARGS)

# Every Triton kernel for every target, without a GPU: registers, spills, shared memory, code size.
aot: $(VENV)/.kernels
	$(BIN)/python -m kvgpu.kernels.aot $(ARGS)

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

$(VENV)/.kernels: $(VENV)/.dev
	$(PIP) torch triton
	touch $@
