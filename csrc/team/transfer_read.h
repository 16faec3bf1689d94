/* transfer_read.h: receives that read a send in place. All with team->lock held. */
#ifndef RT_TEAM_TRANSFER_READ_H
#define RT_TEAM_TRANSFER_READ_H

#include <stdbool.h>
#include <stdint.h>

#include "team/transfer_state.h"

/* Whether the offer announces where its bytes can be read: then rt_transfers_read attaches the
 * region and reads, or requests the bytes. Otherwise they must be sent. */
bool rt_transfer_reads(rt_team *team, rt_team_transfer *receive, const rt_message *offer, const uint8_t *payload);
/* Continues the reads. Returns the number of receives that progressed. */
uint32_t rt_transfers_read(rt_team *team);

#endif
