/* round.h: the service's work for the edges of a channel. device->lock held. */
#ifndef RT_EDGE_ROUND_H
#define RT_EDGE_ROUND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "rdmatensor.h"

/* Sends due messages of the channel's edges and removes edges that are over. True when something
 * moved. */
bool rt_edges_run(rt_channel *channel);
/* Takes a message of the peer whose first byte is an edge's. RT_E_PROTOCOL ends the channel. */
int rt_edges_received(rt_channel *channel, const uint8_t *bytes, size_t size, rt_detail *detail);
/* The channel has failed and its links are quiet: edges learn of it, and those that nobody uses
 * release the peer's memory. */
void rt_edges_channel_ending(rt_channel *channel);
/* The channel is gone: its edges leave its list. */
void rt_edges_channel_closed(rt_channel *channel);

#endif
