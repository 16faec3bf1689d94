/* help.h: an initiator and the helpers of its peer, who copy WRITEs together by the real steps of
 * provider/shm/help.h. ends.c, explore.c. */
#ifndef RT_TESTS_HELP_H
#define RT_TESTS_HELP_H

#include <stdbool.h>
#include <stdint.h>

#include "../search.h"

enum {
    HP_HELPERS = 2,
    HP_PIECES = 3, /* of a WRITE, at most */
};

typedef enum hp_violation {
    HP_NONE = 0,
    HP_TORN,     /* a reader that saw the flag reads bytes of another WRITE, or of none */
    HP_OUTSIDE,  /* a helper touches memory that was released */
    HP_BLAMED,   /* an honest peer is said to break the protocol */
    HP_DEADLOCK, /* a WRITE never ends although no helper is stopped */
} hp_violation;

/* Rules of HELP.md that are left out. */
typedef enum hp_mutant {
    HP_WHOLE = 0,
    HP_EARLY,         /* the flag is written before the helpers have finished */
    HP_TAKEN_BACK,    /* a piece of a late helper is copied by the initiator, and the WRITE ends */
    HP_DONE_FIRST,    /* a piece is counted as done before it is copied */
    HP_NO_SEQUENCE,   /* offers have one sequence: a claim may belong to another one */
    HP_UNCHECKED,     /* a helper claims by what `claims` is now, not by what it was when the terms were read */
    HP_OVERTAKEN,     /* the flag may be posted while the link is LATE */
    HP_NO_WAIT_OUT,   /* memory is released while a helper is inside */
    HP_GIVEN_UP_ENDS, /* after a WRITE was given up, the next is offered although a helper has a piece of the last */
} hp_mutant;

typedef struct hp_model {
    const char *name;
    uint8_t writes;  /* that the initiator makes into the same slot, each after the last one was read */
    uint8_t pieces;  /* of each */
    uint8_t helpers; /* threads of the peer */
    bool stops;      /* helpers may be stopped for as long as the exploration likes */
    bool releases;   /* the peer may release the slot's registration and use the memory otherwise */
    bool gives_up;   /* the initiator's caller may give a WRITE up, and make the next */
    hp_mutant mutant;
    hp_violation expected;
} hp_model;

enum {
    HP_POST = 1,
    HP_OPEN,
    HP_CLAIM,
    HP_COPY,
    HP_AWAIT,
    HP_LATE,
    HP_GIVE_UP,
    HP_LOOK,
    HP_TERMS,
    HP_TAKE,
    HP_STORE,
    HP_DID,
    HP_READ,
    HP_RELEASE,
    HP_FLAG,
};

void ends_begin(const hp_model *model);
uint32_t ends_steps(search_step steps_out[SEARCH_STEPS_MAX]);
bool ends_is_optional(search_step step);
void ends_go(search_step step);
int ends_violation(void);
int ends_settled(void);
uint64_t ends_digest(void);
void ends_describe(search_step step, char text_out[SEARCH_TEXT]);

#endif
