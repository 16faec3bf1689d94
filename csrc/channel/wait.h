/* wait.h: how a thread waits: for an operation, for a peer's WRITE, for a completion queue; wait.c
 * explains. */
#ifndef RT_CHANNEL_WAIT_H
#define RT_CHANNEL_WAIT_H

#include <stdbool.h>
#include <stdint.h>

#include "channel/op.h"
#include "rdmatensor.h"

typedef struct rt_link rt_link;

typedef struct rt_queue rt_queue;

int rt_op_wait_on(rt_link *link, const rt_op *op, int64_t slice_end_ns);
/* Checks at most `looks` times whether it is done, if the device's policy lets a thread spin. */
bool rt_op_spin_on(rt_link *link, const rt_op *op, uint32_t looks);
/* Calls `look` until its answer is not RT_E_AGAIN, waiting by the device's policy for peers' WRITEs
 * into this device's memory. A look may be repeated, and its last answer is returned. RT_E_AGAIN at
 * the end; RT_E_INTERRUPTED. */
typedef int (*rt_look)(void *object);
int rt_wait_memory(rt_device *device, rt_look look, void *object, int64_t end_ns);
/* Does a part of what a peer has begun at this device's memory, and returns whether it did: for
 * threads that wait, between two checks. */
bool rt_wait_help(rt_device *device);
/* The same for calls that hold the interpreter's lock: at most *helps times. */
enum { RT_HELPS_AT_ONCE = 8 };
static inline bool rt_wait_help_briefly(rt_device *device, uint32_t *helps)
{
    return *helps != 0 && rt_wait_help(device) && (*helps)-- != 0;
}
/* Waits until no thread is in rt_wait_memory. The device is closed, its provider's device is not
 * yet. No lock held. */
void rt_waiters_leave(rt_device *device);

/* Sleeps until the queue may have something, as leader or follower, at most timeout_ns. wait.c
 * explains. `seen` is the value of queue->epoch before the caller checked its condition. RT_OK,
 * RT_E_AGAIN, RT_E_INTERRUPTED, or the status that makes sleeping on it impossible. */
int rt_queue_sleep(rt_queue *queue, uint32_t seen, int64_t timeout_ns);

#endif
