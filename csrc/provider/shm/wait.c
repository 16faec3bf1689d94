/* wait.c: sleeping and waking. A post looks at the peer's board after its items and makes a system
 * call only when a sleep was announced since this link last woke; the announcing side is here too.
 *
 * No wake-up is lost, for these reasons. A sleeper does
 *     e = epoch;  announce (sleepers: count + 1, announcements + 1);  full fence;  look at memory;  sleep while epoch == e
 * and a link that placed bytes does
 *     place;  full fence;  read sleepers;  if count > 0 and announcements differ from the last wake:  epoch + 1, wake all
 * 1. One of the two fences comes first. If it is the sleeper's, the link reads the announcement (or
 *    a later one). If it is the link's, the sleeper's look sees the bytes and it does not sleep.
 * 2. A wake for announcement A ends the sleep of every sleeper that announced A or earlier: each
 *    loaded e before it announced, so before the link could read A and add to epoch; so its futex
 *    call finds a different word, or is woken. The order matters: with e loaded after the
 *    announcement, a sleeper could load the new epoch and then be skipped by the next post as
 *    "already woken".
 * 3. A link that skips the wake because it woke for A already therefore skips no sleeper: each one
 *    that announced A or earlier was woken in 2 after that, and looks again with a new
 *    announcement; the fences decide again as in 1.
 * Each link keeps its own record of the last wake, so two links of one peer at worst wake twice.
 *
 * Bells (for event loops and queues) work the same way: `armed` counts the calls of arm, and a link
 * rings once for each count. */
#include "base/order.h"
#include "provider/shm/shm.h"

#include <sys/socket.h>
#include <unistd.h>

#include "base/futex.h"

#define SHM_ONE_SLEEPER (((uint64_t)1 << 32) | 1)

int shm_bell_open(shm_bell *bell_out, rt_detail *detail)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot create an event descriptor");
    bell_out->ring_end = ends[0];
    bell_out->hear_end = ends[1];
    return RT_OK;
}

void shm_bell_close(shm_bell *bell)
{
    close(bell->ring_end);
    close(bell->hear_end);
}

/* Errors are ignored: a full socket means a wake-up is pending, a closed one means the peer is
 * gone. */
void shm_bell_ring(int ring_end)
{
    (void)!send(ring_end, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void shm_bell_clear(const shm_bell *bell)
{
    char byte;
    while (recv(bell->hear_end, &byte, sizeof byte, MSG_DONTWAIT) >= 0)
        ;
}

void shm_wake_memory(shm_link *link)
{
    /* Pairs with the fences of shm_memory_epoch and shm_memory_arm: either they see the bytes
     * placed before, or we see them wait. */
    rt_fence_full();
    uint64_t sleepers = atomic_load_explicit(&link->board->sleepers, memory_order_relaxed);
    uint32_t announced = (uint32_t)(sleepers >> 32);
    if (__builtin_expect((uint32_t)sleepers != 0 && announced != link->woken, 0)) {
        link->woken = announced;
        atomic_fetch_add_explicit(&link->doorbell->epoch, 1, memory_order_release);
        rt_futex_wake(&link->doorbell->epoch, INT_MAX, true);
        shm_count(&link->wakes, 1);
    }
    uint32_t armed = atomic_load_explicit(&link->board->armed, memory_order_relaxed);
    if (__builtin_expect(armed != link->rung, 0)) {
        link->rung = armed;
        shm_bell_ring(link->memory_bell);
        shm_count(&link->wakes, 1);
    }
}

void shm_wake_queue(shm_link *link)
{
    rt_fence_full(); /* pairs with shm_arm: either the poll after it sees the slot, or we see the queue armed */
    uint32_t armed = atomic_load_explicit(&link->board->queue_armed[link->out_queue], memory_order_relaxed);
    if (armed == link->queue_rung)
        return;
    link->queue_rung = armed;
    shm_bell_ring(link->queue_bell);
    shm_count(&link->wakes, 1);
}

int shm_arm(rt_pdevice *pdevice, uint32_t queue)
{
    shm_device *device = shm_device_of(pdevice);
    atomic_fetch_add_explicit(&device->board->queue_armed[queue], 1, memory_order_seq_cst);
    rt_fence_full(); /* pairs with shm_wake_queue */
    return RT_OK;
}

int shm_event_fd(rt_pdevice *pdevice, uint32_t queue)
{
    return shm_device_of(pdevice)->queues[queue].bell.hear_end;
}

void shm_event_clear(rt_pdevice *pdevice, uint32_t queue)
{
    shm_bell_clear(&shm_device_of(pdevice)->queues[queue].bell);
}

uint32_t shm_memory_epoch(rt_pdevice *pdevice)
{
    shm_device *device = shm_device_of(pdevice);
    uint32_t epoch = atomic_load_explicit(&device->doorbell->epoch, memory_order_acquire); /* before the announcement: see 2 */
    atomic_fetch_add_explicit(&device->board->sleepers, SHM_ONE_SLEEPER, memory_order_seq_cst);
    rt_fence_full(); /* pairs with shm_wake_memory */
    return epoch;
}

int shm_memory_sleep(rt_pdevice *pdevice, uint32_t epoch, int64_t timeout_ns)
{
    shm_device *device = shm_device_of(pdevice);
    int status = atomic_load_explicit(&device->doorbell->epoch, memory_order_acquire) != epoch ? RT_OK : RT_E_AGAIN;
    if (status == RT_E_AGAIN && timeout_ns > 0)
        status = rt_futex_sleep(&device->doorbell->epoch, epoch, timeout_ns, true);
    atomic_fetch_sub_explicit(&device->board->sleepers, 1, memory_order_release);
    return status;
}

void shm_memory_wake(rt_pdevice *pdevice)
{
    shm_device *device = shm_device_of(pdevice);
    atomic_fetch_add_explicit(&device->doorbell->epoch, 1, memory_order_release);
    rt_futex_wake(&device->doorbell->epoch, INT_MAX, true);
}

int shm_memory_event_fd(rt_pdevice *pdevice)
{
    return shm_device_of(pdevice)->memory_bell.hear_end;
}

void shm_memory_arm(rt_pdevice *pdevice)
{
    shm_device *device = shm_device_of(pdevice);
    shm_bell_clear(&device->memory_bell);
    atomic_fetch_add_explicit(&device->board->armed, 1, memory_order_seq_cst);
    rt_fence_full(); /* pairs with shm_wake_memory */
}
