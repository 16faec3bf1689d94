/* loops.c: round trips and streams of tensors, driven from C, over whatever moves one tensor (an
 * `rt_bench_end`). The same loops stand in rdmatensor/bench/modes/base.py for modes that are driven
 * from Python. */
#include <string.h>

#include "base/clock.h"
#include "bench/bench.h"

uint64_t rt_bench_read(const void *at, uint64_t size)
{
    const char *bytes = at;
    uint64_t sum = 0, word = 0, done = 0;
    for (; done + sizeof(word) <= size; done += sizeof(word)) {
        memcpy(&word, bytes + done, sizeof(word));
        sum += word;
    }
    for (; done < size; done++)
        sum += (unsigned char)bytes[done];
    return sum;
}

int rt_bench_send(rt_bench_end *end, int64_t timeout_ns)
{
    if (end->touch == RT_BENCH_REWRITE) {
        int status = end->finish(end, timeout_ns);
        if (status != RT_OK)
            return status;
        memset((void *)(uintptr_t)end->from, (int)(++end->value & 255), end->size);
    }
    return end->send(end, timeout_ns);
}

int rt_bench_receive(rt_bench_end *end, int64_t timeout_ns)
{
    int status = end->receive(end, timeout_ns);
    if (status != RT_OK)
        return status;
    if (end->touch != RT_BENCH_LEAVE)
        end->sum += rt_bench_read((const void *)(uintptr_t)end->arrived, end->size);
    return end->release(end);
}

int rt_bench_finish(rt_bench_end *end, int64_t timeout_ns)
{
    return end->finish(end, timeout_ns);
}

int rt_bench_ping(rt_bench_end *end, uint64_t count, double *halves_out, int64_t timeout_ns)
{
    int status = RT_OK;
    for (uint64_t index = 0; status == RT_OK && index < count; index++) {
        int64_t begin = rt_clock_now_ns();
        status = rt_bench_send(end, timeout_ns);
        if (status == RT_OK)
            status = rt_bench_receive(end, timeout_ns);
        halves_out[index] = (double)(rt_clock_now_ns() - begin) / 2;
    }
    return status == RT_OK ? rt_bench_finish(end, timeout_ns) : status;
}

int rt_bench_pong(rt_bench_end *end, uint64_t count, int64_t timeout_ns)
{
    int status = RT_OK;
    for (uint64_t index = 0; status == RT_OK && index < count; index++) {
        status = rt_bench_receive(end, timeout_ns);
        if (status == RT_OK)
            status = rt_bench_send(end, timeout_ns);
    }
    return status == RT_OK ? rt_bench_finish(end, timeout_ns) : status;
}

int64_t rt_bench_push(rt_bench_end *end, uint64_t count, int64_t timeout_ns)
{
    int status = RT_OK;
    int64_t begin = rt_clock_now_ns();
    for (uint64_t index = 0; status == RT_OK && index < count; index++)
        status = rt_bench_send(end, timeout_ns);
    if (status == RT_OK)
        status = rt_bench_receive(end, timeout_ns);
    int64_t elapsed = rt_clock_now_ns() - begin;
    if (status == RT_OK)
        status = rt_bench_finish(end, timeout_ns);
    return status == RT_OK ? elapsed : status;
}

int rt_bench_pull(rt_bench_end *end, uint64_t count, int64_t timeout_ns)
{
    int status = RT_OK;
    for (uint64_t index = 0; status == RT_OK && index < count; index++)
        status = rt_bench_receive(end, timeout_ns);
    if (status == RT_OK)
        status = rt_bench_send(end, timeout_ns);
    return status == RT_OK ? rt_bench_finish(end, timeout_ns) : status;
}

int64_t rt_bench_both(rt_bench_end *end, uint64_t count, uint64_t depth, int64_t timeout_ns)
{
    int status = RT_OK;
    int64_t begin = rt_clock_now_ns();
    uint64_t ahead = depth < count ? depth : count;
    for (uint64_t index = 0; status == RT_OK && index < ahead; index++)
        status = rt_bench_send(end, timeout_ns);
    for (uint64_t index = 0; status == RT_OK && index < count; index++) {
        status = rt_bench_receive(end, timeout_ns);
        if (status == RT_OK && index + ahead < count)
            status = rt_bench_send(end, timeout_ns);
    }
    if (status == RT_OK)
        status = rt_bench_finish(end, timeout_ns);
    return status == RT_OK ? rt_clock_now_ns() - begin : status;
}
