/* failure.c: the failure of a link: both ends see it, and are woken. */
#include "provider/shm/shm.h"

void shm_link_fail(shm_link *link, enum shm_outcome cause)
{
    shm_device *device = shm_device_of(link->base.device);
    uint32_t none = SHM_DONE;
    if (!atomic_compare_exchange_strong_explicit(&link->cause, &none, cause, memory_order_relaxed, memory_order_relaxed))
        return;
    atomic_store_explicit(&link->state, SHM_LINK_ERROR, memory_order_release);
    atomic_store_explicit(&link->in->shut, 1, memory_order_release);
    shm_bell_ring(device->queues[link->base.receive_queue].bell.ring_end); /* posted RECVs are to be flushed */
}
