/* wait.h: how a call of a team waits; wait.c. */
#ifndef RT_TEAM_WAIT_H
#define RT_TEAM_WAIT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/waiter.h"
#include "rdmatensor_team.h"

typedef struct rt_team_waiter {
    rt_waiter wait; /* when to check, and when to sleep */
    rt_team *team;
    int (*interrupted)(void);
    int32_t needed; /* the peer that is waited for, or -1 */
    bool transfers; /* waits for a send or receive: a notice of a failed collective call does not concern it */
    bool announced;
    uint32_t epoch;
    int status; /* the status to return at the next check that finds nothing */
    rt_detail detail;
} rt_team_waiter;

void rt_team_waiter_begin(rt_team_waiter *waiter, rt_team *team, int64_t timeout_ns, int (*interrupted)(void));
/* Called after a check that found nothing. RT_OK: check again. RT_E_DEADLINE, or the status that
 * ends the wait, with waiter->detail. */
int rt_team_waiter_idle(rt_team_waiter *waiter);
/* Called after a check that found something: the next ones are quick again. */
void rt_team_waiter_moved(rt_team_waiter *waiter);
void rt_team_waiter_end(rt_team_waiter *waiter);

#endif
