# Soft-RoCE: the verbs provider over the real rdma_rxe, of an emulated machine where this kernel has none (docs/soft-roce.md).
# What is fetched and made for it lies in .cache/vm, which `make clean` removes. Included by the Makefile.
#
#   make rxe        the contract on one device and the proofs of tests/rxe/guest on two; `make test` runs both with all other
#                   tests, among them those of the machine itself, such as interpreters with the fast start and without
#   make rxe-link   the contract between two devices joined by a link; RXE_LINK="--loss 1%" shapes it
#   make rxe-perftest  ours beside perftest on soft-RoCE; wants a host with nothing else to do
#   make rxe-collectives  process groups of torch beside Gloo over TCP, in the same machine; likewise
#
# Variables: RXE_ARGS (further arguments for pytest there), RXE_VM (further options for `rdmatensor vm run`, as --plain),
# RXE_LINK.

export RDMATENSOR_VM_CACHE ?= $(CURDIR)/.cache/vm
export RXE_ARGS ?=
export RXE_VM ?=
RXE_LINK ?=

# There is no git in the machine.
COMMIT_THERE = --env RDMATENSOR_COMMIT="$$($(BIN)/python -c 'from rdmatensor.bench.machine import commit; print(commit())')"

# What a machine with soft-RoCE takes along is what is installed here when it is made.
.PHONY: rxe rxe-link rxe-perftest rxe-collectives rxe-ready rxe-parts
rxe-ready: $(VENV)/.native $(VENV)/.test $(VENV)/.torch $(STAMP)/packages-rxe

# What can be made at the same time: one compiles, one unpacks torch, one fetches qemu. One apt-get and one pip at a time.
$(STAMP)/packages-rxe: | $(STAMP)/packages-build
rxe-parts: $(BUILD)/native/librdmatensor.a $(VENV)/.torch $(STAMP)/packages-rxe

rxe:
	@$(MAKE) --no-print-directory -j4 rxe-parts
	@$(MAKE) --no-print-directory rxe-ready
	@$(PYTEST) -rs --durations=5 tests/rxe/test_suites.py -k "contract or proofs"

rxe-link: rxe-ready
	@echo "== the contract on soft-RoCE, between two devices"
	@$(BIN)/rdmatensor vm run --timeout 1200 --hosts 2 $(RXE_VM) $(RXE_LINK) -- \
	    python -m pytest -p no:cacheprovider -q $(RXE_ARGS) tests/contract -k verbs

rxe-perftest: rxe-ready
	@$(BIN)/rdmatensor vm run --timeout 900 --env HOST_LOAD="$$(cut -d ' ' -f 1 /proc/loadavg)" $(COMMIT_THERE) $(RXE_VM) -- \
	    python benchmarks/perftest.py --awake --json perftest

# The backend is compiled here, since there is no compiler in the machine.
GROUP_CACHE = $(CURDIR)/$(BUILD)/cache
rxe-collectives: rxe-ready
	@XDG_CACHE_HOME=$(GROUP_CACHE) $(BIN)/python -m rdmatensor.torch
	@$(BIN)/rdmatensor vm run --timeout 900 --memory 4G --env XDG_CACHE_HOME=$(GROUP_CACHE) --env RDMATENSOR_TORCH_URL=verbs://rxe0 \
	    --env HOST_LOAD="$$(cut -d ' ' -f 1 /proc/loadavg)" $(COMMIT_THERE) $(RXE_VM) -- python benchmarks/collectives.py --ranks 2 \
	    --backends rdmatensor rdmatensor-region gloo --operations send all_reduce broadcast --json collectives-rxe
