# model.mk: the exhaustive exploration of the edges' protocol (csrc/proto/EDGES.md). Included by the Makefile, which says how an
# object of a flavour is made.
#
# And of a team (csrc/team/TEAMS.md): its transfers, in tests/model/transfers; its collective calls, in tests/model/calls; and
# the lanes below both, in tests/model/lanes. And of WRITEs that both ends copy (csrc/provider/shm/HELP.md), in tests/model/help.
#
#   make model               every exploration, with its counts and the schedules that must be found; MODEL="loop" for some
#   make notes               draws what EDGES.md, TEAMS.md and the tour show of the tables in C anew
#   make model-notes         the same, and the tables of explorations

MODEL ?=
MODEL_SOURCES := $(sort $(wildcard tests/model/*.c))
EXPLORE := $(BUILD)/plain/tests/model/explore
TRANSFER_SOURCES := tests/model/search.c $(sort $(wildcard tests/model/transfers/*.c))
TRANSFERS := $(BUILD)/plain/tests/model/transfers/explore
CALL_SOURCES := tests/model/search.c $(sort $(wildcard tests/model/calls/*.c))
CALLS := $(BUILD)/plain/tests/model/calls/explore
LANE_SOURCES := tests/model/search.c $(sort $(wildcard tests/model/lanes/*.c))
LANES := $(BUILD)/plain/tests/model/lanes/explore
HELP_SOURCES := tests/model/search.c $(sort $(wildcard tests/model/help/*.c))
HELP := $(BUILD)/plain/tests/model/help/explore
C_FILES += $(wildcard tests/model/*.[ch] tests/model/transfers/*.[ch] tests/model/calls/*.[ch] tests/model/lanes/*.[ch])
C_FILES += $(wildcard tests/model/help/*.[ch])

.PHONY: model notes model-notes

$(EXPLORE): $(MODEL_SOURCES:%.c=$(BUILD)/plain/%.o) $(BUILD)/plain/librdmatensor.a
	@$(CC) $^ -o $@ $(C_LIBRARIES)

# The one WRITE that transfers post themselves goes to the exploration; all else that lies below them is defined by it.
$(TRANSFERS): $(TRANSFER_SOURCES:%.c=$(BUILD)/plain/%.o) $(BUILD)/plain/librdmatensor.a
	@$(CC) $^ -Wl,--wrap=rt_channel_copy -o $@ $(C_LIBRARIES)

# Members are coroutines that give way before they read or write another's memory; time is the exploration's.
$(CALLS): $(CALL_SOURCES:%.c=$(BUILD)/plain/%.o) $(BUILD)/plain/librdmatensor.a
	@$(CC) $^ $(CALL_WRAPS:%=-Wl,--wrap=%) -o $@ $(C_LIBRARIES)
CALL_WRAPS := memcpy clock_gettime rt_team_reduce_blocks rt_direct_finish rt_remote_address rt_remote_rights

# A lane's WRITEs go to the exploration, which places each whenever it says so.
$(LANES): $(LANE_SOURCES:%.c=$(BUILD)/plain/%.o) $(BUILD)/plain/librdmatensor.a
	@$(CC) $^ $(LANE_WRAPS:%=-Wl,--wrap=%) -o $@ $(C_LIBRARIES)
LANE_WRAPS := clock_gettime rt_channel_copy rt_op_posted rt_op_release

# The steps on the words that both ends share are inline.
$(HELP): $(HELP_SOURCES:%.c=$(BUILD)/plain/%.o)
	@$(CC) $^ -o $@ $(C_LIBRARIES)

MODELS := $(EXPLORE) $(TRANSFERS) $(CALLS) $(LANES) $(HELP)

model:
	@$(MAKE) --no-print-directory -j$(JOBS) $(MODELS)
	@$(EXPLORE) $(if $(MODEL),"$(MODEL)")
	@$(if $(MODEL),,$(TRANSFERS) && $(CALLS) && $(LANES) && $(HELP))

notes:
	@$(PYTHON) tests/model/draw.py tables

model-notes:
	@$(MAKE) --no-print-directory -j$(JOBS) $(MODELS)
	@$(PYTHON) tests/model/draw.py

# The tests run it, and lint sees its sources.
plain-tests: $(MODELS)
ALL_MODEL_SOURCES := $(sort $(MODEL_SOURCES) $(TRANSFER_SOURCES) $(CALL_SOURCES) $(LANE_SOURCES) $(HELP_SOURCES))
lint-gcc-objects: $(ALL_MODEL_SOURCES:%.c=$(BUILD)/lint-gcc/%.o)
lint-clang-objects: $(ALL_MODEL_SOURCES:%.c=$(BUILD)/lint-clang/%.o)
.SECONDARY: $(foreach flavour,plain lint-gcc lint-clang,$(ALL_MODEL_SOURCES:%.c=$(BUILD)/$(flavour)/%.o))
-include $(foreach flavour,plain lint-gcc lint-clang,$(ALL_MODEL_SOURCES:%.c=$(BUILD)/$(flavour)/%.d))
