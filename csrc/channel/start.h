/* start.h: beginning operations, and giving them up. */
#ifndef RT_CHANNEL_START_H
#define RT_CHANNEL_START_H

#include <stdbool.h>
#include <stdint.h>

#include "channel/op.h"

/* Where posting is copying, the number of bytes that are copied without reading the clock. */
enum { RT_UNTIMED_MAX = 65536 };

/* Starts an operation whose cursor is set, with the link's turn held, and leaves the turn. RT_OK:
 * finished. A positive number: it goes on. `waited`: the caller will wait, so copying may take
 * until slice_end_ns. */
int64_t rt_op_begin(rt_link *link, rt_op *op, bool waited, int64_t slice_end_ns);

/* Begins several small operations whose cursors are set and whose numbers are held, with the link's
 * turn held, with one doorbell, and leaves the turn. A number that finds nothing afterwards belongs
 * to an operation that ended well. */
int rt_ops_begin(rt_link *link, rt_op *const *ops, uint32_t count);

/* Brings such an operation to its end. Returns the status of a link that failed. Link turn held. */
int rt_op_settle(rt_link *link, int64_t number);

#endif
