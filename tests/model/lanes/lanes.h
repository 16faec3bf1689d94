/* lanes.h: two members that send each other messages by the real code of team/lane.c and team/pair.c, over WRITEs that are read
 * and placed whenever the exploration says so. members.c, explore.c. */
#ifndef RT_TESTS_LANES_H
#define RT_TESTS_LANES_H

#include <stdbool.h>
#include <stdint.h>

#include "../search.h"

enum {
    LN_MESSAGES = 6, /* of one lane's program */
    LN_CHUNK = 256,
    LN_INLINE = 8,
    LN_LARGE = 200, /* sizes: in the slot, in a chunk */
    LN_WRITES = 48, /* under way from one member */
};

typedef enum ln_violation {
    LN_NONE = 0,
    LN_TORN,     /* a message that was not sent, or not as it was sent */
    LN_BLAMED,   /* an honest peer is said to have sent what makes no sense */
    LN_DEADLOCK, /* messages that never arrive */
} ln_violation;

typedef enum ln_mutant {
    LN_WHOLE = 0,
    LN_TAKE_FIRST, /* a message is taken before its bytes were used */
    LN_NO_SETTLE,  /* chunks that were taken are not told of at the end of a call */
} ln_mutant;

typedef struct ln_model {
    const char *name;
    uint8_t slots, chunks;
    bool maps;             /* the receiver reads the sender's memory, and a WRITE is placed as it is posted */
    bool disorder, fences; /* WRITEs are placed in any order; a member waits for them by a READ */
    ln_mutant mutant;
    ln_violation expected;
    uint8_t sizes[2][2][LN_MESSAGES]; /* by sender and lane; 0 ends a lane's program */
} ln_model;

enum { LN_SEND = 1, LN_LOOK, LN_TAKE, LN_FLUSH, LN_READ, LN_PLACE };

void members_begin(const ln_model *model);
uint32_t members_actions(search_step actions_out[SEARCH_STEPS_MAX]);
void members_do(search_step action);
ln_violation members_violation(void);
/* The fault in a state in which nothing can happen any more. */
ln_violation members_settled(void);
uint64_t members_digest(void);
void members_describe(search_step action, char text_out[SEARCH_TEXT]);

#endif
