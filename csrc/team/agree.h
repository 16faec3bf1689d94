/* agree.h: a collective call in progress, and whether all members are in the same one. */
#ifndef RT_TEAM_AGREE_H
#define RT_TEAM_AGREE_H

#include <stdbool.h>
#include <stdint.h>

#include "rdmatensor_team.h"
#include "team/lane.h"
#include "team/message.h"
#include "team/wait.h"

/* A call in progress. */
typedef struct rt_run {
    rt_team *team;
    const rt_team_call *call;
    enum rt_team_what what;
    uint64_t number, total;
    uint64_t kind;          /* exchange: the kind of its messages; else 0 */
    int64_t waits_since_ns; /* word.c: when the call's waiting was long enough to sleep; 0: not yet */
    bool told;              /* … and whether the others were told of this call */
    bool flushes;           /* a message goes to some peer in parts, and parts are left */
    rt_team_waiter waiter;
} rt_run;

/* The name of this call for users. */
const char *rt_run_name(uint32_t what, uint32_t reduction);
void rt_run_head(const rt_run *run, rt_message *message, uint64_t size);
/* RT_OK, or RT_E_PROTOCOL with both sides' terms when the peer's message belongs to another
 * call. */
int rt_run_check(rt_run *run, const rt_lane *lane);
/* RT_E_PROTOCOL with both sides' terms. */
int rt_run_disagree(rt_run *run, const rt_lane *lane);
rt_lane *rt_run_lane(const rt_run *run, uint32_t peer);

#endif
