/* message.h: SENDs and RECVs of a link. */
#ifndef RT_CHANNEL_MESSAGE_H
#define RT_CHANNEL_MESSAGE_H

#include <stdint.h>

#include "channel/link.h"

/* Post one SEND of an RPC message, and one RECV for a message. RT_E_AGAIN: the send side is full,
 * try again later. The SEND's bytes are free when its bit in link->sends is clear again.
 * device->lock held. */
int rt_link_send(rt_link *link, const rt_segment *segment, uint32_t slot, rt_detail *detail);
int rt_link_receive(rt_link *link, const rt_segment *segment, uint32_t slot, rt_detail *detail);

#endif
