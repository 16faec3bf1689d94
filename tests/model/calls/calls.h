/* calls.h: members of a team that make collective calls by the real code of team/collective.c, exchange.c, direct.c and
 * direct_run.c, each in a coroutine of its own. wires.c stands for what lies below them, members.c for the members and for what
 * must hold, explore.c tries every order. */
#ifndef RT_TESTS_CALLS_H
#define RT_TESTS_CALLS_H

#include <stdbool.h>
#include <stdint.h>

#include "../search.h"
#include "team/ending.h"
#include "team/message.h"
#include "team/team.h"
#include "team/wait.h"

enum {
    TC_MEMBERS = 3,
    TC_CALLS = 3, /* of one member's program */
    TC_SLOTS_MAX = 4,
    TC_CHUNK = 16, /* bytes of a chunk, or … */
    TC_CHUNK_LARGE = RT_DIRECT_SIZE_MIN / 2,
    TC_SMALL = 16,
    TC_STEPS = 112,                /* one chunk; more than one step of three members */
    TC_LARGE = RT_DIRECT_SIZE_MIN, /* read where it lies */
    TC_TIMES = 2,                  /* how often a member's clock jumps while it waits in a call */
};

typedef enum tc_violation {
    TC_NONE = 0,
    TC_VALUE,    /* a call that ended well gave another result */
    TC_TOUCHED,  /* memory was written after it was its caller's again */
    TC_BLAMED,   /* a call failed although all members did as they should */
    TC_DEADLOCK, /* members wait for each other for ever */
} tc_violation;

typedef enum tc_mutant {
    TC_WHOLE = 0,
    TC_NO_FINISH, /* a direct call ends without waiting until nothing is read any more */
    TC_NO_ROOM,   /* a lane takes a message although its slots are full */
    TC_NO_WORD,   /* a member that waits long does not tell its call */
    TC_NO_CHECK,  /* a direct call ends well although a peer gave up while it was read */
} tc_mutant;

typedef struct tc_call {
    uint8_t
        kind; /* 'a' reduce to all, 'r' to the root, 's' reduce-scatter, 'g' gather to all, 'b' broadcast, 'x' exchange, '|' barrier; 0: none */
    int8_t root;
    uint16_t bytes; /* of a reduction; else of one member's part */
} tc_call;

typedef struct tc_model {
    const char *name;
    uint8_t members, slots;
    bool maps;        /* the provider maps memory; else messages arrive whenever the exploration says so */
    bool large;       /* with large chunks */
    bool alone;       /* calls may differ from member to member, and time passes */
    uint8_t gives_up; /* this member, plus one, may be interrupted while it waits */
    tc_mutant mutant;
    tc_violation expected;
    char memory[TC_MEMBERS]; /* of each member's tensors: 'o' ordinary, 'r' that peers may read, 'w' and write */
    tc_call calls[TC_MEMBERS][TC_CALLS];
} tc_model;

enum { TC_RUN = 1, TC_ARRIVE, TC_TIME, TC_INTERRUPT };

/* ---- wires.c ---- */
typedef struct tc_wire {
    uint64_t sent, arrived, taken; /* first: what is remembered of a wire */
    rt_message messages[TC_SLOTS_MAX + 1];
    uint8_t payloads[TC_SLOTS_MAX + 1][TC_CHUNK_LARGE];
} tc_wire;

void wires_begin(const tc_model *model);
tc_wire *wires_wire(uint32_t from, uint32_t to);
/* All that a waiting member could see. */
uint64_t wires_signature(uint32_t rank);

/* ---- members.c ---- */
void members_begin(const tc_model *model);
uint32_t members_actions(search_step actions_out[SEARCH_STEPS_MAX]);
void members_do(search_step action);
tc_violation members_violation(void);
/* The fault in a state in which nothing can happen any more. */
tc_violation members_settled(void);
uint64_t members_digest(void);
void members_describe(search_step action, char text_out[SEARCH_TEXT]);
/* For wires.c, of the member that runs: its rank, or -1; a point where others may go on; an event that decides what it does
 * next; and waiting until there is something new, which gives the status of an interrupt. */
int32_t members_running(void);
void members_point(void);
void members_saw(const void *bytes, uint64_t size);
int members_wait(void);
int64_t members_time(void);
/* The member whose tensors contain the address, or -1. */
int32_t members_owner(const void *address);

#endif
