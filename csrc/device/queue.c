/* queue.c: the kick of a completion queue, which ends a leader's sleep from outside. */
#include "device/queue.h"
#include "device/device.h"

void rt_queue_kick(rt_queue *queue)
{
    if (queue->kick_fd >= 0)
        rt_event_signal(queue->kick_fd);
}

void rt_queue_unkick(rt_queue *queue)
{
    if (queue->kick_fd < 0)
        return;
    rt_event_drain(queue->kick_fd);
    /* Check after draining: a link that starves from now on is counted first and kicks second, so
     * its kick is not lost. Where posting is not copying, a completion wakes the pumper. */
    if (queue->device->limits.completes_in_post && atomic_load(&queue->starved) != 0)
        rt_queue_kick(queue);
}
