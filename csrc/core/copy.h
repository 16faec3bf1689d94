/* copy.h: what the hot files of core share: beginning operations and checking copies. Private to core. */
#ifndef RT_CORE_COPY_H
#define RT_CORE_COPY_H

#include <assert.h>

#include "core/core.h"

/* ---- fork.c ---- */
int rt_fork_watch(rt_detail *detail);

/* ---- op.c ---- */
rt_op *rt_op_find(rt_channel *channel, int64_t number, rt_link **link_out);
/* Starts an operation whose cursor is set, with the link's turn held, and leaves the turn. RT_OK: finished. A positive
 * number: it goes on. `waited`: the caller will wait, so copying may take until slice_end_ns. */
int64_t rt_op_begin(rt_link *link, rt_op *op, bool waited, int64_t slice_end_ns);

/* RT_E_AGAIN, or how it ended: then the number is void, as one that finds nothing is. Of one holder of the number at a time. */
int rt_op_collect(rt_channel *channel, int64_t number);
/* Gives an operation that was taken its number before it begins: its holder may look at it from here on. */
int64_t rt_op_hold(rt_link *link, rt_op *op);
/* Makes an operation, pinned and with a number, of copies that were given to the provider already. Link turn held; one is free. */
int64_t rt_op_adopt(rt_link *link, const rt_copy *copies, uint32_t count);
/* Sees to it that such an operation goes on to its end. Returns the status of a link that failed. Link turn held. */
int rt_op_settle(rt_link *link, int64_t number);
/* Begins several small operations whose cursors are set and whose numbers are held, with the link's turn held, with one doorbell, and
 * leaves the turn. A number that finds nothing afterwards is of one that is over, and well. */
int rt_ops_begin(rt_link *link, rt_op *const *ops, uint32_t count);
/* Nobody will ask how it ends; it goes on to its end all the same. */
void rt_op_forget(rt_channel *channel, int64_t number);

/* ---- copy.c ---- */
void rt_prepared_reference(rt_prepared *prepared);
void rt_prepared_unreference(rt_prepared *prepared);

/* ---- post.c ---- */
int rt_op_start(rt_link *link, rt_op *op, bool waited, int64_t slice_end_ns);

/* ---- wait.c ---- */
int rt_op_wait_on(rt_link *link, const rt_op *op, int64_t slice_end_ns);
/* Looks at most so many times whether it is done, if the device's policy lets a thread spin. */
bool rt_op_spin_on(rt_link *link, const rt_op *op, uint32_t looks);
/* Looks until the answer is not RT_E_AGAIN, waiting by the device's policy for what peers write into this device's memory. A look
 * may be repeated, and what it finds last is what is returned. RT_E_AGAIN at the end; RT_E_INTERRUPTED. */
typedef int (*rt_look)(void *object);
int rt_wait_memory(rt_device *device, rt_look look, void *object, int64_t end_ns);
/* Waits until nobody is in rt_wait_memory. The device is closed, its provider's is not yet. No lock held. */
void rt_waiters_leave(rt_device *device);

/* ---- link.c ---- */
void rt_links_free(rt_channel *channel);
void rt_links_fail_starved(rt_channel *channel, int status);
/* Ends operations whose provider links are destroyed already: the last resort of a device that closes. */
void rt_links_abandon(rt_channel *channel);

/* ---- channel.c ---- */
/* Fails the link's channel because of a local or completion error while `doing`. No turn held. */
void rt_link_fail(rt_link *link, int status, const char *doing);
/* An operation failed, and whoever found that out is about to fail the channel: waits for it, a moment only. No turn held. */
void rt_channel_await_failure(const rt_channel *channel);
/* Writes why an operation ended with `status`: the channel's failure where that is the cause. Returns the status. */
int rt_channel_explain(rt_channel *channel, int status, rt_detail *detail);

/* ---- dump.c ---- */
void rt_limits_public(const rt_limits *from, rt_device_limits *out);

/* ---- device.c ---- */
/* Makes an eventfd readable, or not. */
void rt_event_signal(int event_fd);
void rt_event_drain(int event_fd);
/* An operation or a channel has ended, and shows it: wakes an event loop that sleeps. */
void rt_device_tell(rt_device *device);

#endif
