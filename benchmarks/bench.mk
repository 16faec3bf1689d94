# Measuring. Included by the Makefile; results lie in benchmarks/results, each with its machine and commit.
#
#   make bench         everything, with the peers that are installed; then the tables of the documents
#   make bench-peers   all peers into .venv (apt-get for MPI and UCX, pip for the others)
#   make paper-micro   the paper's micro-benchmark, on shm and on soft-RoCE, as one table and one picture
#   make bench-check   BASE=commit: is this checkout slower than that commit? CHECK_ARGS="--starts 11" is more patient
#   make tables        the tables of README.md and docs/benchmarks.md from the result files
#
# Variables: BENCH_ARGS, PAPER_SIZES (shm), PAPER_RXE_SIZES and PAPER_RXE_MEMORY (of the machine; 1 GiB needs much), BASE, CHECK_ARGS.

RESULTS := benchmarks/results
BENCH := $(BIN)/rdmatensor bench
BENCH_ARGS ?=
PAPER_MODES := grpc-tcp,rpc,copy,static
PAPER_SIZES ?= 64..1Gi
PAPER_RXE_MEMORY ?= 14G
PAPER_RXE_SIZES ?= 64,1Ki,16Ki,256Ki,4Mi,64Mi,1Gi
BASE ?=
CHECK_ARGS ?=
PEERS := grpcio iceoryx2 mpi4py nixl mooncake-transfer-engine-non-cuda

.PHONY: bench bench-peers bench-check paper-micro tables

$(VENV)/.bench: $(VENV)/.build
	@echo "== installing what pictures and gRPC rows need into $(VENV)"
	@$(PIP) "matplotlib>=3.6" grpcio
	@touch $@

# Gloo and torch's RPC, which some rows stand beside, come with torch.
bench: build $(VENV)/.test $(VENV)/.torch $(VENV)/.bench
	@mkdir -p $(RESULTS)
	@$(BENCH) $(BENCH_ARGS) --json $(RESULTS)/transfers.json --plot docs/transfers.png
	@$(BENCH) --modes memcpy,memcpy-read,floor --sizes 64,4Ki,1Mi,4Mi,16Mi,64Mi,256Mi --json $(RESULTS)/channel.json
	@$(BENCH) collectives --json $(RESULTS)/collectives.json
	@$(PYTEST) -q --benchmark-only --benchmark-json=$(BUILD)/calls.json benchmarks
	@$(BIN)/python benchmarks/batches.py --json batches
	@$(BIN)/python benchmarks/waiting.py --json waiting
	@$(BIN)/python benchmarks/ddp_step.py --json ddp_step
	@$(BIN)/python benchmarks/collectives.py --ranks 2 --sizes 64 4096 65536 1048576 16777216 67108864 --json collectives-2
	@for ranks in 4 8; do $(BIN)/python benchmarks/collectives.py --ranks $$ranks --json collectives-$$ranks; done
	@$(BIN)/python benchmarks/tables.py

bench-peers: $(VENV)/.build $(VENV)/.torch $(VENV)/.bench
	@.ci/packages peers
	@$(PIP) $(PEERS)

bench-check: build
	@test -n "$(BASE)" || { echo "bench-check: say which commit to compare with: make bench-check BASE=origin/main"; exit 2; }
	@.ci/packages check
	@$(BIN)/python benchmarks/check.py $(BASE) $(CHECK_ARGS)

# The guest is slow at everything alike; more memory than its default, since every mode has tensors of its own.
paper-micro: build $(VENV)/.bench
	@mkdir -p $(RESULTS)
	@$(BENCH) --provider shm --modes $(PAPER_MODES) --sizes $(PAPER_SIZES) \
	    --json $(RESULTS)/paper-micro-shm.json
	@$(BIN)/rdmatensor vm run --timeout 3600 --memory $(PAPER_RXE_MEMORY) $(COMMIT_THERE) $(RXE_VM) -- rdmatensor bench --provider verbs --modes $(PAPER_MODES),perftest --sizes $(PAPER_RXE_SIZES) \
	    --duration 1 --rounds 3 --json $(RESULTS)/paper-micro-rxe.json
	@$(BIN)/python -m rdmatensor.bench.plot docs/paper-micro.png $(RESULTS)/paper-micro-shm.json $(RESULTS)/paper-micro-rxe.json
	@$(BIN)/python benchmarks/tables.py

tables: build
	@$(BIN)/python benchmarks/tables.py
