/* post.h: turns copies into work items. HOT. */
#ifndef RT_CHANNEL_POST_H
#define RT_CHANNEL_POST_H

#include <stdbool.h>
#include <stdint.h>

#include "channel/link.h"
#include "channel/op.h"

/* Where posting is copying: WRITEs a few copies that are smaller than a message. They become an
 * operation only when they could not be finished at once: *number_out is 0, or the operation's
 * number, to be settled by rt_op_settle. False: something prevents it, so begin an operation. Link
 * turn held. HOT. */
enum { RT_SMALL_COPIES_MAX = 4 };
bool rt_link_post_small(rt_link *link, const rt_piece *pieces, uint32_t count, int64_t *number_out);

/* Posts several small operations with one doorbell, at most RT_POST_BATCH. The cursor of an
 * operation that was not wholly posted is before its end; nothing of a later one is posted before
 * it. Link turn held; no operation is starved. RT_OK, or the status of a link that failed: the
 * caller fails the channel after it left the turn. HOT. */
int rt_link_post_together(rt_link *link, rt_op *const *ops, uint32_t count);

/* Posts as much as possible of the link's starved operations, about `budget` bytes. Link turn held.
 * Returns the number of items that moved, or the status of a link that failed: the caller fails the
 * channel after it left the turn. HOT. */
int64_t rt_link_pump(rt_link *link, uint64_t budget);

int rt_op_start(rt_link *link, rt_op *op, bool waited, int64_t slice_end_ns);

#endif
