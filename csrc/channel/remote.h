/* remote.h: a peer's range that is attached through a channel. */
#ifndef RT_CHANNEL_REMOTE_H
#define RT_CHANNEL_REMOTE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "channel/channel.h"

struct rt_remote {
    rt_channel *channel; /* holds a reference */
    rt_premote *premote;
    uint64_t offset; /* of the handle's range in the peer's registration */
    uint64_t size;
    uint32_t rights;
    uint64_t alias_address;      /* where the peer's registration starts when its device lives in this process, or 0 */
    _Atomic uint32_t references; /* the caller's, and one per copy in flight or prepared */
    rt_list node;                /* in channel->remotes while attached */
    rt_remote *next_detached;    /* in device->detached */
};
/* As rt_remote_attach, but at once, for a handle in a peer's message. RT_E_AGAIN: try again after
 * the provider's next event. Overlap with memory of this process is not checked. device->lock
 * held. */
int rt_remote_attach_now(rt_channel *channel, const uint8_t *handle, size_t size, rt_remote **remote_out, rt_detail *detail);
static inline void rt_remote_reference(rt_remote *remote)
{
    atomic_fetch_add_explicit(&remote->references, 1, memory_order_relaxed);
}

void rt_remote_unreference(rt_remote *remote);
/* Ends a remote that has no references left, now. Takes device->lock. */
void rt_remote_settle(rt_device *device, rt_remote *remote);

/* Ends the use of the remotes of a channel whose device is being closed; their owners still drop
 * them. */
void rt_remotes_detach(rt_channel *channel);
/* Detaches and frees the deferred remotes, whose last reference was released where the lock could
 * not be taken. True when there were any. */
bool rt_remotes_settle(rt_device *device);

#endif
