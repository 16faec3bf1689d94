# Soft-RoCE: the verbs provider over the real rdma_rxe of an emulated machine (docs/soft-roce.md). What is fetched and made
# for it lies in .cache/vm, which `make clean` removes. Included by the Makefile.
#
#   make rxe        the contract with one device, then tests of the machine itself
#   make rxe-link   the contract between two devices joined by a link; RXE_LINK="--loss 1%" shapes it
#
# Variables: RXE_TIMEOUT (seconds for the suite in the guest), RXE_ARGS (further arguments for pytest there), RXE_LINK.

export RDMATENSOR_VM_CACHE ?= $(CURDIR)/.cache/vm
RXE_TIMEOUT ?= 900
RXE_LINK ?=
RXE_ARGS ?=
RXE_RUN := $(BIN)/rdmatensor vm run --timeout $(RXE_TIMEOUT)
RXE_CONTRACT = -- python -m pytest -p no:cacheprovider -q $(RXE_ARGS) tests/contract -k verbs

.PHONY: rxe rxe-link
rxe: build $(VENV)/.test
	@echo "== the contract on soft-RoCE"
	@$(RXE_RUN) $(RXE_CONTRACT)
	@echo "== the machine itself"
	@$(PYTEST) -q -rs tests/rxe

rxe-link: build $(VENV)/.test
	@echo "== the contract on soft-RoCE, between two devices"
	@$(RXE_RUN) --hosts 2 $(RXE_LINK) $(RXE_CONTRACT)
