/* floor.c: the physical limit for two processes of one host: memcpy into memory that both map, then a release store of a
 * flag for which the other end spins. No protocol, no checks, no wake-up: what no transfer can beat, for what it does. */
#include <sched.h>
#include <string.h>

#include "base/clock.h"
#include "base/order.h"
#include "bench/bench.h"

enum { SPINS_PER_LOOK = 1 << 12 }; /* between looks at the clock: some 50 us, after which the other end may want this core */

/* Spins until a word that the other end stores is at least `value`. */
static int spin_for(const uint64_t *word, uint64_t value, int64_t timeout_ns)
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

int rt_bench_floor_send(rt_bench_floor *way, const void *from, uint64_t size, int64_t timeout_ns)
{
    if (way->done >= way->count) {
        int status = spin_for((const uint64_t *)(uintptr_t)way->credit, way->done - way->count + 1, timeout_ns);
        if (status != RT_OK) {
            return status;
        }
    }
    memcpy((char *)(uintptr_t)way->slots + way->done % way->count * way->stride, from, size);
    rt_store_release_u64((uint64_t *)(uintptr_t)way->flag, ++way->done);
    return RT_OK;
}

int rt_bench_floor_receive(rt_bench_floor *way, int64_t timeout_ns)
{
    int status = spin_for((const uint64_t *)(uintptr_t)way->flag, way->done + 1, timeout_ns);
    if (status == RT_OK) {
        rt_store_release_u64((uint64_t *)(uintptr_t)way->credit, ++way->done);
    }
    return status;
}

int rt_bench_floor_ping(rt_bench_floor *out, rt_bench_floor *in, const void *from, uint64_t size, uint64_t count,
                        double *halves_out, int64_t timeout_ns)
{
    for (uint64_t index = 0; index < count; index++) {
        int64_t begin = rt_clock_now_ns();
        int status = rt_bench_floor_send(out, from, size, timeout_ns);
        status = status != RT_OK ? status : rt_bench_floor_receive(in, timeout_ns);
        if (status != RT_OK) {
            return status;
        }
        halves_out[index] = (double)(rt_clock_now_ns() - begin) / 2;
    }
    return RT_OK;
}

int rt_bench_floor_pong(rt_bench_floor *out, rt_bench_floor *in, const void *from, uint64_t size, uint64_t count,
                        int64_t timeout_ns)
{
    for (uint64_t index = 0; index < count; index++) {
        int status = rt_bench_floor_receive(in, timeout_ns);
        status = status != RT_OK ? status : rt_bench_floor_send(out, from, size, timeout_ns);
        if (status != RT_OK) {
            return status;
        }
    }
    return RT_OK;
}

void rt_bench_floor_many(void *to, const void *from, uint64_t size, uint64_t count, uint64_t *flag)
{
    for (uint64_t index = 0; index < count; index++) {
        memcpy((char *)to + index * size, (const char *)from + index * size, size);
        rt_store_release_u64(flag, index + 1);
    }
}
