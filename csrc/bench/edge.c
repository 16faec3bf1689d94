/* edge.c: tensors over two static edges, driven from C as the loops of a program in C would drive
 * them: the usual cases first, then the calls that wait. */
#include <stdbool.h>

#include "base/clock.h"
#include "bench/bench.h"

enum { LOOKS = 64 }; /* checks for a tensor before the call that waits */

/* Whether a call is to be made again: its slice ended, or a signal interrupted it. */
static bool status_again(int64_t status, int64_t deadline)
{
    return (status == RT_E_AGAIN || status == RT_E_INTERRUPTED) && rt_clock_now_ns() < deadline;
}

static int edge_finish(rt_bench_end *end, int64_t timeout_ns)
{
    rt_edge *edge = (rt_edge *)(uintptr_t)end->out;
    int64_t deadline = rt_clock_now_ns() + timeout_ns;
    int status = RT_OK;
    while (end->under_way > 0) {
        status = rt_edge_wait_sent(edge, end->under_way, timeout_ns);
        if (status == RT_OK)
            end->under_way = 0;
        else if (!status_again(status, deadline))
            return status;
    }
    return status;
}

static int edge_send(rt_bench_end *end, int64_t timeout_ns)
{
    rt_edge *edge = (rt_edge *)(uintptr_t)end->out;
    int64_t sequence = rt_edge_send_at_once(edge, end->from, end->size);
    if (sequence < 0) {
        int64_t deadline = rt_clock_now_ns() + timeout_ns;
        do
            sequence = rt_edge_send(edge, end->from, end->size, timeout_ns);
        while (status_again(sequence, deadline));
    }
    if (sequence > 0)
        end->under_way = (uint64_t)sequence;
    return sequence < 0 ? (int)sequence : RT_OK;
}

static int edge_receive(rt_bench_end *end, int64_t timeout_ns)
{
    rt_edge *edge = (rt_edge *)(uintptr_t)end->in;
    int64_t sequence = rt_edge_receive_at_once(edge, LOOKS);
    if (sequence < 0) {
        int64_t deadline = rt_clock_now_ns() + timeout_ns;
        do
            sequence = rt_edge_receive_static(edge, timeout_ns);
        while (status_again(sequence, deadline));
    }
    if (sequence < 0)
        return (int)sequence;
    if (end->stride == 0) {
        rt_edge_info info; /* the terms are agreed on when a first tensor has come, and maybe not before */
        rt_edge_get_info(edge, &info);
        end->slots = info.slots_address;
        end->stride = info.slot_stride;
        end->count = info.slots;
    }
    end->number = (uint64_t)sequence;
    end->arrived = end->slots + end->number % end->count * end->stride;
    return RT_OK;
}

static int edge_release(rt_bench_end *end)
{
    rt_edge *edge = (rt_edge *)(uintptr_t)end->in;
    int status = rt_edge_release_at_once(edge, end->number);
    return status == RT_OK ? status : rt_edge_release(edge, end->number);
}

void rt_bench_edge_end(rt_bench_end *end, rt_edge *out, rt_edge *in)
{
    end->send = edge_send;
    end->receive = edge_receive;
    end->release = edge_release;
    end->finish = edge_finish;
    end->out = (uintptr_t)out;
    end->in = (uintptr_t)in;
    end->stride = 0;
}
