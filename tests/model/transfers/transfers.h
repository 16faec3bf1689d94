/* transfers.h: members of a team that send to each other by the real code of team/transfer.c and transfer_run.c, over lanes that
 * deliver each message whenever the exploration says so. lanes.c stands for what lies below them, members.c for their callers and
 * for what must hold, explore.c tries every order.
 *
 * Members are made of pointers, so a state is not copied but reached again: by the same steps from the start. Equal states are known by
 * a hash of what members_digest writes. */
#ifndef RT_TESTS_TRANSFERS_H
#define RT_TESTS_TRANSFERS_H

#include "../search.h"
#include "proto/edge_layout.h"
#include "team/ending.h"
#include "team/message.h"
#include "team/team.h"
#include "team/transfer_read.h"
#include "team/transfer_run.h"
#include "team/transfer_state.h"
#include "team/wait.h"

enum {
    TX_MEMBERS = 3,
    TX_CALLS = 4,     /* of one member's program */
    TX_CHUNK = 4,     /* bytes: larger sends are offered */
    TX_SIZE_MAX = 6,  /* … and come in two parts */
    TX_SLOTS_MAX = 2, /* of one lane */
    TX_MISFIT = 9,    /* the tag of sends and receives of different sizes */
};

typedef enum tx_violation {
    TX_NONE = 0,
    TX_TORN,     /* a receive got bytes that were not those of the send that it must get */
    TX_ORDER,    /* sends of one member overtook each other */
    TX_BLAMED,   /* a member broke its team over what an honest peer did */
    TX_TOUCHED,  /* memory was written after it was its caller's again */
    TX_DEADLOCK, /* a send and a receive that fit wait for ever, or a message lies where a receive waits for it */
    TX_END,      /* a result that is not the stated one */
} tx_violation;

typedef enum tx_mutant {
    TX_WHOLE = 0,
    TX_SILENT_DROP, /* the peer is not told that a send was given up */
    TX_NO_ROOM,     /* a lane takes a message although its slots are full */
} tx_mutant;

typedef struct tx_call {
    uint8_t kind; /* 's', 'r'; 0: none */
    int8_t peer;  /* −1: any */
    uint8_t tag, size;
} tx_call;

typedef struct tx_model {
    const char *name;
    uint8_t members, slots;
    bool drops;     /* a caller gives a send or receive up at any moment while it goes on */
    uint8_t budget; /* small sends that the peer may keep before it has told anything; 0: as many as there are */
    uint8_t offers; /* sends that may be offered to the peer and not received; 0: as many as there are */
    tx_mutant mutant;
    tx_violation expected;
    tx_call calls[TX_MEMBERS][TX_CALLS];
} tx_model;

enum { TX_CALL = 1, TX_MOVE, TX_ARRIVE, TX_TELL, TX_DROP };

/* ---- lanes.c ---- */
typedef struct tx_wire {
    uint32_t sent, arrived, taken;
    rt_message messages[TX_SLOTS_MAX];
    uint8_t payloads[TX_SLOTS_MAX][TX_SIZE_MAX + sizeof(rt_announcement)];
    uint64_t telling, eaten; /* the WRITE of how much was received, under way, and the word */
    bool tells;
} tx_wire;

void lanes_begin(const tx_model *model);
tx_wire *lanes_wire(uint32_t from, uint32_t to);
/* Whether a member broke its team. */
bool lanes_broken(void);

/* ---- members.c ---- */
void members_begin(const tx_model *model);
void members_end(void);
uint32_t members_actions(search_step actions_out[SEARCH_STEPS_MAX]);
void members_do(search_step action);
tx_violation members_violation(void);
/* The fault in a state in which nothing can happen any more. */
tx_violation members_settled(void);
uint64_t members_digest(void);
void members_describe(search_step action, char text_out[SEARCH_TEXT]);
rt_team *members_team(uint32_t rank);

#endif
