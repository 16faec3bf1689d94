# The only door. Every target does its own set-up: system packages (apt-get, through sudo when not root, only what is
# missing), a virtual environment in .venv, the build. CI calls the same targets.
#
#   make          build and fast tests          make asan tsan   tests under sanitizers
#   make demo     trains with DDP, three ways   make fuzz        every fuzz target for FUZZ_SECONDS
#   make test     all tests                     make bench       benchmarks (results as JSON)
#   make lint     style, types, warnings        make soak        kill -9 at random moments
#   make hostile  for FUZZ_SECONDS, a peer that breaks every rule beside one that keeps them; make fuzz ends with it
#   make soak-edges  a million tensors over edges of every kind, every byte compared; soak-deaths kills their senders and receivers
#   make soak-ddp a hundred deaths of a rank in training: the others raise, and a restart ends with the same weights
#   make format   rewrite to the style          make wheel       one abi3 wheel in dist/
#   make rxe      the tests that want a real verbs driver, on soft-RoCE: in an emulated machine where this kernel has none
#   make mutants  changes one condition at a time and lists what no C test notices; SEED, COUNT, JOBS
#   make house    counts rooms, arrows between files, circles, lengths, places that wait; DETAILS=1 names them
#   make model    the protocol of edges in every order of events, for small bounds
#   make torch    torch into .venv (for tests)  make clean       remove all that was made here
#
# Variables: PYTHON (>= 3.10), VENV, CC, CLANG, JOBS, WORKERS (of pytest), FUZZ_SECONDS, TORCH, PYTEST_ARGS, SOAK_ARGS.

PYTHON ?= python3
VENV ?= .venv
CC = gcc
CLANG ?= $(or $(CLANG_FOUND),clang)
CLANG_FOUND := $(shell for name in clang clang-21 clang-20 clang-19 clang-18 clang-17 clang-16 clang-15 clang-14; do \
                   command -v $$name && break; done)
JOBS ?= $(shell nproc)
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
FUZZ_SECONDS ?= 30
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=

BUILD := build
STAMP := $(BUILD)/stamp
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
export PYTHON

# ---- sources ----

LIBRARY := $(foreach layer,base proto memory gpu stream device region channel rpc edge control assembly team provider provider/* bench,$(sort $(wildcard csrc/$(layer)/*.c)))
HEADERS := $(shell find csrc tests/c -name '*.h')
C_TESTS := $(sort $(wildcard tests/c/*/test_*.c))
FUZZERS := $(sort $(wildcard tests/c/*/fuzz_*.c))
FAKES := $(sort $(wildcard tests/c/fake_verbs*.c))
CUDA_FAKES := $(sort $(wildcard tests/c/fake_cuda*.c))
HELPERS := $(filter-out $(FAKES) $(CUDA_FAKES),$(sort $(wildcard tests/c/*.c)))
PYTHON_C := $(sort $(wildcard csrc/python/*.c))
PYTHON_BUILD := $(LIBRARY) $(PYTHON_C) $(HEADERS) csrc/ffi_build.py setup.py pyproject.toml

WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wmissing-field-initializers
C_FLAGS := -std=gnu11 -D_GNU_SOURCE -Icsrc -Itests/c -fPIC -g $(WARNINGS)
C_LIBRARIES := -lpthread -ldl -lm
test_hostile-wraps := -Wl,--wrap=rt_edges_received,--wrap=rt_lookup_answered
test_no_memory-wraps := -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=free
test_raced-wraps := -Wl,--wrap=rt_remote_attach,--wrap=rt_pool_take,--wrap=calloc

.DEFAULT_GOAL := all
.PHONY: all build demo test torch-tests lint lint-ruff lint-mypy lint-format lint-c format house asan tsan fuzz hostile soak soak-edges soak-deaths soak-ddp wheel torch clean
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# ---- set-up: each step leaves a stamp and is not done again until what it read has changed ----

$(STAMP)/packages-%: .ci/packages
	@mkdir -p $(STAMP)
	@.ci/packages $*
	@touch $@

$(VENV)/pyvenv.cfg: | $(STAMP)/packages-build
	@echo "== making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.build: $(VENV)/pyvenv.cfg pyproject.toml
	@echo "== installing what the build needs into $(VENV)"
	@$(PIP) --upgrade "setuptools>=77" wheel "cffi>=1.15" "numpy>=1.22"
	@touch $@

$(VENV)/.test: .ci/requirements-test.txt $(VENV)/.build
	@echo "== installing what the tests need into $(VENV)"
	@$(PIP) -r $<
	@touch $@

$(VENV)/.lint: .ci/requirements-lint.txt $(VENV)/.build
	@echo "== installing what lint needs into $(VENV)"
	@$(PIP) -r $<
	@touch $@

$(VENV)/.torch: $(VENV)/.build
	@echo "== installing $(TORCH) into $(VENV)"
	@$(PIP) "$(TORCH)"
	@touch $@

$(VENV)/.demo: .ci/requirements-demo.txt $(VENV)/.torch
	@echo "== installing what the demo needs into $(VENV)"
	@$(PIP) -r $<
	@touch $@

# The extension in place, and the package in the environment as an editable install. Python's own way of building compiles
# one file after the other and all of them every time, so the files are compiled here, with its flags.
$(VENV)/.native: $(PYTHON_BUILD) $(VENV)/.build
	@echo "== building rdmatensor._native from $(words $(LIBRARY)) C files"
	@$(MAKE) --no-print-directory --silent -j$(JOBS) $(BUILD)/native/librdmatensor.a
	@RDMATENSOR_BUILD_ARCHIVE=$(BUILD)/native/librdmatensor.a $(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

build: $(VENV)/.native

torch: $(VENV)/.torch

# ---- C: the library as an archive, tests and fuzzers linked with it, in one folder per flavour ----

# Tests lie in folders of the rooms' names, what is built of them in one. $(1) flavour, $(2) source, $(3) how it is linked besides
define program
$(BUILD)/$(1)/tests/c/$(basename $(notdir $(2))): $(2:%.c=$(BUILD)/$(1)/%.o) $(HELPERS:%.c=$(BUILD)/$(1)/%.o) $(BUILD)/$(1)/librdmatensor.a
	@$$(LINK_$(1)) $(3) $$^ -o $$@ $$(C_LIBRARIES) $$($$(@F)-wraps)
endef

# $(1) flavour, $(2) compiler, $(3) flags
define flavour
LINK_$(1) := $(2) $(3)

$(BUILD)/$(1)/%.o: %.c Makefile | $(STAMP)/packages-build
	@mkdir -p $$(@D)
	@$(2) $$(C_FLAGS) $(3) -MMD -MP -c $$< -o $$@

$(BUILD)/$(1)/librdmatensor.a: $$(LIBRARY:%.c=$(BUILD)/$(1)/%.o)
	@rm -f $$@
	@ar rcs $$@ $$^

$$(foreach test,$$(C_TESTS),$$(eval $$(call program,$(1),$$(test),-rdynamic)))
$$(foreach fuzzer,$$(FUZZERS),$$(eval $$(call program,$(1),$$(fuzzer),-fsanitize=fuzzer)))

$(BUILD)/$(1)/libfakeibverbs.so: $$(FAKES:%.c=$(BUILD)/$(1)/%.o)
	@$(2) $(3) -shared $$^ -o $$@ $$(C_LIBRARIES)

$(BUILD)/$(1)/libfakecuda.so: $$(CUDA_FAKES:%.c=$(BUILD)/$(1)/%.o)
	@$(2) $(3) -shared $$^ -o $$@ $$(C_LIBRARIES)

$(1)-tests: $$(patsubst %.c,$(BUILD)/$(1)/tests/c/%,$$(notdir $$(C_TESTS))) $$(if $$(FAKES),$(BUILD)/$(1)/libfakeibverbs.so) $(BUILD)/$(1)/libfakecuda.so
$(1)-fuzzers: $$(patsubst %.c,$(BUILD)/$(1)/tests/c/%,$$(notdir $$(FUZZERS)))
$(1)-objects: $$(patsubst %.c,$(BUILD)/$(1)/%.o,$$(LIBRARY) $$(C_TESTS) $$(HELPERS) $$(FAKES) $$(CUDA_FAKES) $$(FUZZERS))
.PHONY: $(1)-tests $(1)-fuzzers $(1)-objects
.SECONDARY: $$(patsubst %.c,$(BUILD)/$(1)/%.o,$$(LIBRARY) $$(C_TESTS) $$(HELPERS) $$(FAKES) $$(CUDA_FAKES) $$(FUZZERS))
-include $$(patsubst %.c,$(BUILD)/$(1)/%.d,$$(LIBRARY) $$(C_TESTS) $$(HELPERS) $$(FAKES) $$(CUDA_FAKES) $$(FUZZERS))
endef

SANITIZE_ADDRESS := -O1 -DRT_DEBUG_LOCKS -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
SANITIZE_THREAD := -O1 -DRT_DEBUG_LOCKS -fno-omit-frame-pointer -fsanitize=thread -Wno-tsan
$(eval $(call flavour,native,$(CC),-O3 -fvisibility=hidden))
$(eval $(call flavour,plain,$(CC),-O2))
$(eval $(call flavour,asan,$(CC),$(SANITIZE_ADDRESS)))
$(eval $(call flavour,tsan,$(CC),$(SANITIZE_THREAD)))
$(eval $(call flavour,fuzz,$(CLANG),$(SANITIZE_ADDRESS) -fsanitize=fuzzer-no-link))
$(eval $(call flavour,lint-gcc,$(CC),-O2 -Werror))
$(eval $(call flavour,lint-clang,$(CLANG),-O2 -Werror))

# ---- tests ----

# C tests appear in pytest's report beside the others: tests/c/conftest.py runs the executables of RT_C_FLAVOURS.
PYTEST := $(BIN)/pytest -p no:cacheprovider $(PYTEST_ARGS)
# Tests on all cores: tests/sharing.py says how workers share them. PYTEST_ARGS="-n 0" runs one after the other.
SHARED := $(BIN)/pytest -p no:cacheprovider -p no:benchmark -n $(WORKERS) $(PYTEST_ARGS)

all: build $(VENV)/.test
	@$(MAKE) --no-print-directory -j$(JOBS) plain-tests
	@RT_C_FLAVOURS=plain $(SHARED) -q -m "not slow" tests

demo: build $(VENV)/.demo
	@mkdir -p $(BUILD)
	@$(BIN)/python examples/digits.py --picture $(BUILD)/digits.png

test: build $(VENV)/.test $(VENV)/.torch $(VENV)/.demo rxe-ready $(STAMP)/packages-test
	@echo "== building the C tests, plain and under sanitizers"
	@$(MAKE) --no-print-directory -j$(JOBS) plain-tests asan-tests
	@RT_C_FLAVOURS=plain,asan $(SHARED) -rs --durations=25 tests

# All tests of the torch backend, and those that PyTorch ships, over Gloo beside: takes half an hour.
torch-tests: build $(VENV)/.test $(VENV)/.torch $(VENV)/.demo
	@RT_TORCH_ALL=1 $(PYTEST) -rs tests/torch/ranks
	@$(BIN)/python tests/torch/ranks/report.py

# The extension under AddressSanitizer, and a copy of the package around it. Leaks are looked for in the C tests only. The
# C++ library is there from the start, since the sanitizer looks for what throws exceptions only then, and matplotlib throws.
$(BUILD)/asan/python/.built: $(PYTHON_BUILD) $(wildcard rdmatensor/*.py rdmatensor/*/*.py) $(VENV)/.build
	@echo "== building rdmatensor._native under AddressSanitizer"
	@$(MAKE) --no-print-directory -j$(JOBS) $(BUILD)/asan/librdmatensor.a
	@RDMATENSOR_BUILD_ARCHIVE=$(BUILD)/asan/librdmatensor.a LDFLAGS="-fsanitize=address,undefined" \
	    $(BIN)/python setup.py --quiet build --build-base $(BUILD)/asan/setup --build-lib $(BUILD)/asan/python 2>/dev/null
	@touch $@

asan: build $(VENV)/.test $(BUILD)/asan/python/.built
	@$(MAKE) --no-print-directory -j$(JOBS) asan-tests
	@RT_C_FLAVOURS=asan $(SHARED) -rs --durations=10 tests/c
	@echo "== Python tests with the extension under AddressSanitizer"
	@PYTHONPATH=$(CURDIR)/$(BUILD)/asan/python LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libstdc++.so.6)" PYTHONMALLOC=malloc \
	    PYTHONSAFEPATH=1 RDMATENSOR_FAKE_IBVERBS=$(CURDIR)/$(BUILD)/asan/libfakeibverbs.so RDMATENSOR_FAKE_CUDA=$(CURDIR)/$(BUILD)/asan/libfakecuda.so \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 $(SHARED) -q -rs $(wildcard tests/python tests/contract)

tsan: build $(VENV)/.test
	@$(MAKE) --no-print-directory -j$(JOBS) tsan-tests
	@RT_C_FLAVOURS=tsan $(SHARED) -rs --durations=10 tests/c

# What a fuzzer finds is written to build/fuzz/found, and the run fails.
fuzz: $(STAMP)/packages-fuzz
	@$(MAKE) --no-print-directory -j$(JOBS) fuzz-fuzzers
	@mkdir -p $(BUILD)/fuzz/found
	@set -e; for target in $(basename $(notdir $(FUZZERS))); do \
	    mkdir -p $(BUILD)/fuzz/corpus/$$target; \
	    echo "== $$target for $(FUZZ_SECONDS) s"; \
	    $(BUILD)/fuzz/tests/c/$$target -max_total_time=$(FUZZ_SECONDS) -timeout=10 -print_final_stats=1 -verbosity=0 \
	        -artifact_prefix=$(BUILD)/fuzz/found/$$target- $(BUILD)/fuzz/corpus/$$target; \
	done
	@$(MAKE) --no-print-directory hostile

# A peer that does anything, beside one that keeps the rules. HOSTILE_SEED repeats a run; without it each is another one.
hostile: $(STAMP)/packages-build
	@$(MAKE) --no-print-directory -j$(JOBS) $(BUILD)/asan/tests/c/test_hostile $(if $(FAKES),$(BUILD)/asan/libfakeibverbs.so)
	@seed=$${HOSTILE_SEED:-$$(date +%s)}; echo "== test_hostile for $(FUZZ_SECONDS) s, HOSTILE_SEED=$$seed"; \
	    RT_HOSTILE_SECONDS=$(FUZZ_SECONDS) RT_HOSTILE_SEED=$$seed RT_FAKE_IBVERBS=$(CURDIR)/$(BUILD)/asan/libfakeibverbs.so \
	    ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 $(BUILD)/asan/tests/c/test_hostile

# ---- style ----

C_FILES = $(shell find csrc tests/c rdmatensor/torch -name '*.[ch]' -o -name '*.cpp')

# Each part is a target of its own: `make -k lint` shows what all of them have to say.
lint: lint-ruff lint-mypy lint-format lint-c
	@echo "lint: clean"

lint-ruff: $(VENV)/.lint
	@echo "== ruff"
	@$(BIN)/ruff check --quiet --output-format=concise .
	@$(BIN)/ruff format --quiet --check --diff .

lint-mypy: $(VENV)/.lint
	@echo "== mypy --strict"
	@$(BIN)/mypy --strict rdmatensor

lint-format: $(VENV)/.lint
	@echo "== clang-format"
	@$(BIN)/clang-format --dry-run -Werror $(C_FILES)

lint-c: $(STAMP)/packages-lint
	@echo "== gcc and clang, warnings are errors"
	@$(MAKE) --no-print-directory -j$(JOBS) lint-gcc-objects
	@$(MAKE) --no-print-directory -j$(JOBS) lint-clang-objects
	@include=$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))'); \
	    for compiler in $(CC) $(CLANG); do $$compiler $(C_FLAGS) -isystem $$include -O2 -Werror -fsyntax-only $(PYTHON_C) || exit 1; done

house: build
	@$(BIN)/python tests/house.py $(if $(DETAILS),--details)

format: $(VENV)/.lint
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .
	@$(BIN)/clang-format -i $(C_FILES)

# ---- measuring, packaging ----

soak: build
	@$(BIN)/python tests/soak.py $(SOAK_ARGS)

soak-edges: build
	@$(BIN)/python tests/soak_edges.py $(SOAK_ARGS)

soak-deaths: build
	@$(BIN)/python tests/soak_deaths.py $(SOAK_ARGS)

soak-ddp: build $(VENV)/.torch
	@$(BIN)/python tests/soak_ddp.py $(SOAK_ARGS)

wheel: build
	@rm -rf dist $(BUILD)/wheel && mkdir -p dist
	@$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .
	@echo "== trying it in an environment of its own"
	@$(PYTHON) -m venv $(BUILD)/wheel && $(BUILD)/wheel/bin/python -m pip --disable-pip-version-check install --quiet dist/*.whl
	@cd $(BUILD)/wheel && bin/rdmatensor devices
	@ls -l dist

include rxe.mk
include benchmarks/bench.mk

clean:
	@rm -rf $(BUILD) $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .cache
	@rm -rf *.egg-info rdmatensor/_native*.so tests/**/__pycache__
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

include tests/model/model.mk
include tests/mutants/mutants.mk
