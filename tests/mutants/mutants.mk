# mutants.mk: whether the tests notice when the C sources change (tests/mutants/README.md). Included by the Makefile, which says
# how an object of a flavour is made.
#
#   make mutants             COUNT mutants drawn by SEED, JOBS at once; MUTANTS_IN="csrc/proto" for other sources

SEED ?= 1
COUNT ?= 40
MUTANTS_IN ?= csrc/proto csrc/edge/*.c csrc/team
MUTANTS_ARGS ?=
MUTANTS_WRAPS = $(foreach test,$(basename $(notdir $(C_TESTS))),$(if $($(test)-wraps),--wraps "$(test) $($(test)-wraps)"))
COVER_EXPLORE := $(BUILD)/cover/tests/model/explore

.PHONY: mutants

$(eval $(call flavour,cover,$(CC),-O0 --coverage))

$(COVER_EXPLORE): $(MODEL_SOURCES:%.c=$(BUILD)/cover/%.o) $(BUILD)/cover/librdmatensor.a
	@$(CC) --coverage $^ -o $@ $(C_LIBRARIES)

cover-tests: $(COVER_EXPLORE)

mutants: $(VENV)/.test
	@$(MAKE) --no-print-directory -j$(JOBS) plain-tests cover-tests
	@$(BIN)/python tests/mutants --seed $(SEED) --count $(COUNT) --jobs $(JOBS) --compiler "$(CC) $(C_FLAGS) -O2" \
	    --libraries "$(C_LIBRARIES)" $(MUTANTS_WRAPS) $(MUTANTS_ARGS) $(MUTANTS_IN)
