/* ending.h: the ends of a team. */
#ifndef RT_TEAM_ENDING_H
#define RT_TEAM_ENDING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "rdmatensor_team.h"
#include "team/team.h"

/* WRITEs some words to one peer, and waits a moment until they are placed: the caller may end its
 * connection next. */
void rt_team_write_words(rt_team *team, uint32_t rank, rt_copy *copies, uint64_t count);
/* Whether the peer can be written to. */
bool rt_team_reaches(const rt_peer *peer);
/* Ends the team, the first time: records the failure, and tells the peers unless `quiet`. Returns
 * the status that ended it. */
int rt_team_break(rt_team *team, const rt_detail *why, bool quiet);
/* Whether an event ended the wait for peer `needed` (or for any peer, with -1): the channel's loss,
 * a notice, an abort. */
int rt_team_trouble(rt_team *team, int32_t needed, bool transfers, rt_detail *detail);

#endif
