/* doubt.h: an operation that the peer's end refused; doubt.c explains. */
#ifndef RT_CHANNEL_DOUBT_H
#define RT_CHANNEL_DOUBT_H

#include <stdbool.h>
#include <stdint.h>

#include "channel/channel.h"

/* An operation of the channel was refused: fails the channel with this detail, or because the peer
 * died, as soon as one of the two is certain. No link's turn held. */
void rt_channel_doubt(rt_channel *channel, const rt_detail *refusal);
/* Whether the links of a failed channel may be shut: their completions can tell nothing more.
 * device->lock held. */
bool rt_channel_settled(rt_channel *channel);

/* Ends the doubt about a peer that has been silent for long enough. device->lock held. */
void rt_doubt_run(rt_channel *channel);
/* The time of that end, or INT64_MAX. */
int64_t rt_doubt_deadline(const rt_channel *channel);
#endif
