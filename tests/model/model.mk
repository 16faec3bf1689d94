# model.mk: the exhaustive exploration of the edges' protocol (csrc/proto/EDGES.md). Included by the Makefile, which says how an
# object of a flavour is made.
#
#   make model               every exploration, with its counts and the schedules that must be found; MODEL="loop" for some
#   make model-notes         draws the diagrams and the table of explorations in EDGES.md anew

MODEL ?=
MODEL_SOURCES := $(sort $(wildcard tests/model/*.c))
EXPLORE := $(BUILD)/plain/tests/model/explore
C_FILES += $(wildcard tests/model/*.[ch])

.PHONY: model model-notes

$(EXPLORE): $(MODEL_SOURCES:%.c=$(BUILD)/plain/%.o) $(BUILD)/plain/librdmatensor.a
	@$(CC) $^ -o $@ $(C_LIBRARIES)

model:
	@$(MAKE) --no-print-directory -j$(JOBS) $(EXPLORE)
	@$(EXPLORE) $(if $(MODEL),"$(MODEL)")

model-notes:
	@$(MAKE) --no-print-directory -j$(JOBS) $(EXPLORE)
	@$(PYTHON) tests/model/draw.py

# The tests run it, and lint sees its sources.
plain-tests: $(EXPLORE)
lint-gcc-objects: $(MODEL_SOURCES:%.c=$(BUILD)/lint-gcc/%.o)
lint-clang-objects: $(MODEL_SOURCES:%.c=$(BUILD)/lint-clang/%.o)
.SECONDARY: $(foreach flavour,plain lint-gcc lint-clang,$(MODEL_SOURCES:%.c=$(BUILD)/$(flavour)/%.o))
-include $(foreach flavour,plain lint-gcc lint-clang,$(MODEL_SOURCES:%.c=$(BUILD)/$(flavour)/%.d))
