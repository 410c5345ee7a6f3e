# make replay | test | test-compiled | races | card | test-pythons | lint | wheel | bench | bench-peers | hit-rates | vllm | gpu | plots | tables | conformance | aot | fuzz | clean.
# TRACE=, ARGS=, SUITE=, BACKENDS=, PYTHON=, PYTHONS=, WORKERS=, VERSION= are optional.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
# 1: run the kernels of `triton` in the interpreter; 0: on a GPU.
INTERPRET ?= 1
SUITE  ?= ../shared/seed/test_prefix_caching.py
N ?= 100000
TABLES ?= 2000
STEPS ?= 200000
# Processes that run tests.
WORKERS ?= auto
BACKENDS ?= reference host triton cuda auto
# Interpreters of test-pythons.
PYTHONS ?= python3.11 python3.12 python3.13

ON_KERNELS := tests/ptx tests/device tests/index tests/batch/test_queries.py tests/bench/designs/test_finds.py \
              $(patsubst %,tests/kernels/test_%.py,cuda_engine decide leading_run prefix_hash sha256 view)

# Of vLLM, for the target vllm: tests/in_vllm/requirements has a file for each that is known.
VERSION ?= 0.23.0
# Those that kvgpu serves.
SOAKED  := 0.23.0 0.33.0
VLLM    := build/vllm-$(VERSION)
SOURCE  := $(VLLM)/vllm-$(VERSION)
CARD    := build/card
IN_VLLM := PYTHONPATH=$(CURDIR)/$(SOURCE) $(VLLM)/bin/python
INTO_VLLM := $(VLLM)/bin/python -m pip --disable-pip-version-check

.PHONY: replay test test-compiled races card test-pythons lint wheel bench bench-peers hit-rates vllm gpu plots tables conformance aot fuzz clean venv

# Benchmarks one after the other; status 1 says that a goal is missed, more than 1 that something is wrong.
in-turn = for name in $(1); do \
	  echo "== $$name"; $(2) bench/$$name.py $(3); status=$$?; test $$status -le 1 || exit $$status; \
	done

replay: $(VENV)/.base
	$(BIN)/python -m kvgpu replay $(TRACE) --report replay-report.html $(ARGS)

# With PyTorch and Triton: the kernels run on a GPU, or else in Triton's interpreter.
test: $(VENV)/.kernels
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

# What runs kernels, with kernels as they are compiled for a GPU (tests/support/ptx), and the suite on them. Needs g++; the
# CUDA kernels need nvcc.
test-compiled: $(VENV)/.kernels
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --kernels compiled $(ON_KERNELS) $(ARGS)
	test ! -f $(SUITE) || for backend in triton cuda; do \
	  $(BIN)/python tests/conformance/run.py $(SUITE) --backend $$backend --kernels compiled || exit 1; \
	done

# TABLES tables, each flushed under contention by kernels as they are compiled for a GPU.
races: $(VENV)/.kernels
	$(BIN)/python tests/ptx/races.py --tables $(TABLES) $(ARGS)

# The tests, and the suite, with the packages of a machine with a GPU, which has other versions of them and lacks some.
# Kernels run as they are compiled for a GPU: beside that NumPy the interpreter of that Triton does not work.
card: $(CARD)/.ready
	$(CARD)/bin/python -m pytest -n $(WORKERS) --dist loadfile --kernels compiled $(ARGS)
	test ! -f $(SUITE) || for backend in reference host triton cuda; do \
	  $(CARD)/bin/python tests/conformance/run.py $(SUITE) --backend $$backend --kernels compiled || exit 1; \
	done

# The tests on each interpreter of PYTHONS, each in its own virtual environment below build/, which is named by its version. All
# interpreters must be there before the first test runs: a missing one is an error, not a skip.
test-pythons:
	@for python in $(PYTHONS); do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "test-pythons: $$python is missing, or older than Python 3.11: name others in PYTHONS=" >&2; exit 2; }; \
	done
	@for python in $(PYTHONS); do \
	  version=$$("$$python" -c 'import platform; print(platform.python_version())'); \
	  echo "== Python $$version"; \
	  $(MAKE) --no-print-directory test PYTHON="$$python" VENV="build/python-$$version" || exit 2; \
	done

lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# With compiled code in it, for every processor of x86-64-v3.
wheel: $(VENV)/.dev
	rm -rf build/lib*  # with code of other sources
	KVGPU_BUILD_CODE=1 $(BIN)/python -m pip wheel -q --no-deps --no-build-isolation --wheel-dir dist .

# On the CPU, without peers, in under ten minutes. Rows go to bench/data; missed goals are shown and are no failure.
bench: $(VENV)/.dev
	$(call in-turn,limits pool table publisher,$(BIN)/python,--rounds 3 $(ARGS))
	$(call in-turn,replay,$(BIN)/python,$(TRACE) --rounds 3 $(ARGS))
	$(call in-turn,calls steps queues hashing,$(BIN)/python,$(TRACE) --rounds 3 --requests 500 $(ARGS))

# Beside vLLM 0.23.0 and SGLang 0.5.23: PYTHON= has both on its path, and the packages of kvgpu.
bench-peers:
	$(call in-turn,calls steps queues hashing,$(PYTHON),$(TRACE) --peers $(ARGS))

# Hit rates of kvgpu and of vLLM VERSION, whose managers one scheduler drives over TRACE.
hit-rates: $(VLLM)/.ready
	$(IN_VLLM) bench/peers/hit_rates.py $(TRACE) $(ARGS)

# From the rows in bench/data: pictures, and the tables in README.md and docs/performance.md.
plots: $(VENV)/.dev
	$(BIN)/python bench/documents/plots.py

tables: $(VENV)/.dev
	$(BIN)/python bench/documents/tables.py

conformance: $(VENV)/.kernels
	for backend in $(BACKENDS); do \
	  TRITON_INTERPRET=$(INTERPRET) $(BIN)/python tests/conformance/run.py $(SUITE) --backend $$backend -- $(ARGS) || exit 1; \
	done

# Inside vLLM VERSION, in a virtual environment of its own: the tests of the plug-in, vLLM's own tests in each mode, and
# STEPS request-steps of two schedulers side by side, each with kvgpu's scheduler class and with its manager only. The
# class, and with it the comparison side by side, is there for 0.23.0 only; what else runs, suites/table.py says.
vllm: $(VLLM)/.ready
	$(IN_VLLM) -m pytest -q -p no:asyncio tests/in_vllm $(ARGS)
	$(IN_VLLM) tests/in_vllm/suites/run.py $(SOURCE) --cases $(VLLM)/cases
	test -z "$(filter $(VERSION),$(SOAKED))" || $(IN_VLLM) tests/in_vllm/soak/run.py --request-steps $(STEPS)
	test -z "$(filter $(VERSION),$(SOAKED))" || $(IN_VLLM) tests/in_vllm/soak/run.py --request-steps $(STEPS) --manager-only

# On a machine with a GPU: what has goals, checks, the rest. The system's own Python with torch and Triton; rows go to
# --out in ARGS, else to the folder named OUT in the environment, else to bench/data.
gpu:
	$(PYTHON) bench/gpu.py $(ARGS)

# Every Triton kernel for every target, without a GPU: registers, spills, shared memory, code size.
aot: $(VENV)/.kernels
	$(BIN)/python -m kvgpu.kernels.aot $(ARGS)

# Odd arguments to everything public, N of them; the last runs are those of CI.
fuzz: $(VENV)/.kernels
	$(BIN)/python tests/fuzz/run.py --count $(N) $(ARGS)

clean:
	rm -rf $(VENV) build dist kvgpu/native/*.so *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(VENV)/.dev

$(VENV)/.base: setup.py constraints.txt $(wildcard kvgpu/native/*.[ch])
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

# Of libcachesim, which policies of eviction are compared with, without what it fetches traces with. There is no wheel for
# every machine: where it is missing, the comparison is skipped.
$(VENV)/.dev: $(VENV)/.base
	$(PIP) -e '.[dev]'
	-$(PIP) --no-deps --only-binary :all: libcachesim
	touch $@

$(VENV)/.kernels: $(VENV)/.dev
	$(PIP) torch triton
	touch $@

# The source distribution has the tests, and is used as it is: nothing of vLLM is built. Of torchvision, which the
# processors of images import, only what is written in Python is used.
$(VLLM)/.ready: tests/in_vllm/requirements/$(VERSION).txt tests/in_vllm/requirements/common.txt setup.py
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(INTO_VLLM) install -q -r $<
	$(INTO_VLLM) install -q --no-deps xgrammar apache-tvm-ffi torchvision==0.28.0
	: > $$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchvision/_meta_registrations.py
	$(INTO_VLLM) install -q -e .
	test -f $(SOURCE).tar.gz || VLLM_TARGET_DEVICE=empty VLLM_VERSION_OVERRIDE=$(VERSION) $(INTO_VLLM) \
	  download -q --no-deps --no-binary :all: --no-build-isolation -d $(VLLM) vllm==$(VERSION)
	tar -xzf $(SOURCE).tar.gz -C $(VLLM)
	touch $@

# PyTorch's wheel for CUDA, without CUDA: libraries that do nothing stand for it. Needs gcc and binutils.
$(CARD)/.ready: tests/ptx/card_requirements.txt tests/support/device/cuda_stubs.py setup.py $(wildcard kvgpu/native/*.[ch])
	test -x $(CARD)/bin/python || $(PYTHON) -m venv $(CARD)
	$(CARD)/bin/python -m pip --disable-pip-version-check install -q -r tests/ptx/card_requirements.txt
	$(CARD)/bin/python -m pip --disable-pip-version-check install -q --no-deps torch==2.11.0 triton==3.6.0 cupy-cuda13x==14.2.0
	$(CARD)/bin/python tests/support/device/cuda_stubs.py
	$(CARD)/bin/python setup.py --quiet build_ext --inplace
	touch $@
