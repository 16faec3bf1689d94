/* send.h: sends of tensors. */
#ifndef RT_EDGE_SEND_H
#define RT_EDGE_SEND_H

#include <stdint.h>

#include "edge/post.h"

/* Sends one of many; as rt_edge_send. */
int64_t rt_edge_send_one(const rt_edge_sending *one, int64_t end_ns, rt_edge_together *together);
/* Posts a contiguous tensor of a static edge that lies in a loan: in the region, or with NULL in the receiver's slot. As
 * rt_edge_send. edge->turn held. */
int64_t rt_edge_post_lent(rt_edge *edge, uint64_t sequence, uint64_t address, rt_region *region, int64_t end_ns);

#endif
