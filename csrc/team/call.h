/* call.h: begins and ends a collective call. */
#ifndef RT_TEAM_CALL_H
#define RT_TEAM_CALL_H

#include <stdint.h>

#include "team/agree.h"
#include "team/message.h"

int rt_run_begin(rt_run *run, rt_team *team, const rt_team_call *call, enum rt_team_what what, uint64_t total);
/* Ends the team when status is a failure. Returns the status. */
int rt_run_end(rt_run *run, int status);

#endif
