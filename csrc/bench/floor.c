/* floor.c: the physical limit for two processes of one host: memcpy into memory that both map, then
 * a release store of a flag for which the other end spins. No protocol, no checks, no wake-up: no
 * transfer with the same effect can be faster. So it spins in a loop of its own, without a waiter. */
#include <sched.h>
#include <string.h>

#include "base/clock.h"
#include "base/order.h"
#include "bench/bench.h"

enum {
    SPINS_PER_LOOK = 1 << 12, /* between readings of the clock: some 50 us, after which the other end may want this core */
    LINE = 64,
    HALVED_MIN = 8 << 10, /* for smaller tensors the words of the second end cost more than its half saves */
};

/* Spins until a word that the other end stores is at least `value`. */
static int word_spin(const uint64_t *word, uint64_t value, int64_t timeout_ns)
{
    int64_t deadline = 0;
    for (uint64_t spins = 1; rt_load_acquire_u64(word) < value; spins++) { /* pairs with the stores below */
        rt_pause();
        if (spins % SPINS_PER_LOOK == 0) {
            int64_t now = rt_clock_now_ns();
            if (deadline == 0) {
                deadline = now + timeout_ns;
            } else if (now > deadline) {
                return RT_E_AGAIN;
            }
            sched_yield();
        }
    }
    return RT_OK;
}

/* The bytes that the sender copies; the receiver copies the others. */
static uint64_t way_share(const rt_bench_floor *way, uint64_t size)
{
    return way->begun == 0 || size < HALVED_MIN ? size : size / 2 / LINE * LINE;
}

static char *way_slot(const rt_bench_floor *way)
{
    return (char *)(uintptr_t)way->slots + way->done % way->count * way->stride;
}

static int floor_send(rt_bench_end *end, int64_t timeout_ns)
{
    rt_bench_floor *way = (rt_bench_floor *)(uintptr_t)end->out;
    int status = RT_OK;
    if (way->done >= way->count)
        status = word_spin((const uint64_t *)(uintptr_t)way->credit, way->done - way->count + 1, timeout_ns);
    if (status != RT_OK)
        return status;
    uint64_t share = way_share(way, end->size);
    char *slot = way_slot(way);
    way->done++;
    if (share < end->size)
        rt_store_release_u64((uint64_t *)(uintptr_t)way->begun, way->done);
    memcpy(slot, (const void *)(uintptr_t)end->from, share);
    rt_store_release_u64((uint64_t *)(uintptr_t)way->flag, way->done);
    return share < end->size ? word_spin((const uint64_t *)(uintptr_t)way->helped, way->done, timeout_ns) : RT_OK;
}

static int floor_receive(rt_bench_end *end, int64_t timeout_ns)
{
    rt_bench_floor *way = (rt_bench_floor *)(uintptr_t)end->in;
    uint64_t share = way_share(way, end->size);
    char *slot = way_slot(way);
    int status = RT_OK;
    if (share < end->size) {
        status = word_spin((const uint64_t *)(uintptr_t)way->begun, way->done + 1, timeout_ns);
        if (status != RT_OK)
            return status;
        memcpy(slot + share, (const char *)(uintptr_t)way->source + share, end->size - share);
        rt_store_release_u64((uint64_t *)(uintptr_t)way->helped, way->done + 1);
    }
    status = word_spin((const uint64_t *)(uintptr_t)way->flag, way->done + 1, timeout_ns);
    end->arrived = (uintptr_t)slot;
    way->done += status == RT_OK;
    return status;
}

static int floor_release(rt_bench_end *end)
{
    rt_bench_floor *way = (rt_bench_floor *)(uintptr_t)end->in;
    rt_store_release_u64((uint64_t *)(uintptr_t)way->credit, way->done);
    return RT_OK;
}

static int floor_finish(rt_bench_end *end, int64_t timeout_ns)
{
    (void)end;
    (void)timeout_ns;
    return RT_OK; /* a send that returned has copied */
}

void rt_bench_floor_end(rt_bench_end *end, rt_bench_floor *out, rt_bench_floor *in)
{
    end->send = floor_send;
    end->receive = floor_receive;
    end->release = floor_release;
    end->finish = floor_finish;
    end->out = (uintptr_t)out;
    end->in = (uintptr_t)in;
}

void rt_bench_floor_many(void *to, const void *from, uint64_t size, uint64_t count, uint64_t *flag)
{
    for (uint64_t index = 0; index < count; index++) {
        memcpy((char *)to + index * size, (const char *)from + index * size, size);
        rt_store_release_u64(flag, index + 1);
    }
}
