/* transfer_run.h: moving sends and receives. All with team->lock held. */
#ifndef RT_TEAM_TRANSFER_RUN_H
#define RT_TEAM_TRANSFER_RUN_H

#include <stdint.h>

#include "team/transfer_state.h"

/* Moves all sends and receives as far as they can go. team->lock held. Returns how many messages moved. */
uint32_t rt_transfers_move(rt_team *team);

/* The cost of a message of this size to the member that keeps it. */
uint64_t rt_transfer_cost(uint64_t size);
/* Removes a kept message from its list, because its receive is posted: the caller frees it. */
void rt_transfer_unkeep(rt_team *team, rt_unexpected *waiting);
/* A receive and the message for it have met. team->lock held. */
void rt_transfer_meet(rt_team *team, rt_team_transfer *receive, uint32_t peer, const rt_message *message, const uint8_t *payload);
/* Tells the receiver about a send that is given up half way. */
void rt_transfer_refuse_rest(rt_team *team, const rt_team_transfer *send);
/* Fails every transfer with a peer that is gone (with -1, every transfer of the team). team->lock
 * held. */
void rt_transfers_fail(rt_team *team, int32_t peer, const rt_detail *why);

#endif
