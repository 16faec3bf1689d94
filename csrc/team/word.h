/* word.h: detects members that wait in different calls; word.c. */
#ifndef RT_TEAM_WORD_H
#define RT_TEAM_WORD_H

#include <stdbool.h>

#include "team/agree.h"
#include "team/lane.h"

/* Takes the lane's message, a word: checks that the peer is in the same call. */
int rt_word_take(rt_run *run, rt_lane *lane);
/* Whether the wait is past its quick checks, and would sleep. */
bool rt_word_waits_long(const rt_run *run);
/* Called in each round of waiting: sends and takes words once the wait has lasted. RT_OK, or
 * RT_E_PROTOCOL when a peer is in another call. */
int rt_word_wait(rt_run *run);

#endif
