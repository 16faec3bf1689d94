/* rpc.c: the design that one-sided tensors are compared with (the paper's gRPC.RDMA): messages over
 * the same channel through private, bounded, registered buffers. The sender copies a message into
 * fragments with a header each and WRITEs them into the receiver's ring; the receiver copies them
 * into the memory where the message is wanted, and returns credit.
 *
 * It is as good as the design allows: no allocation, fragments pipelined, header and payload in one
 * WRITE, one credit for a quarter of the ring, and the waits are the library's own. Only the two
 * copies are unavoidable. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bench/bench.h"

enum { LINE = 64, SLOTS_MAX = 256 };

/* The header in front of each fragment, in the sender's byte order: both ends run this file, and
 * the handshake refuses a host of the other order. */
typedef struct header {
    uint64_t message;  /* number of the message */
    uint64_t size;     /* of the whole message */
    uint64_t offset;   /* of this fragment in it */
    uint32_t fragment; /* bytes that follow */
    uint32_t method;   /* how to handle the message: 1, a tensor arrives */
    uint64_t zero[4];
} header;
_Static_assert(sizeof(header) == LINE, "a header is one line");

struct rt_bench_rpc {
    rt_channel *channel;
    rt_region *region;
    rt_remote *remote;
    char *memory;
    uint64_t fragment, slots, half;
    uint64_t posted, taken, credited; /* fragments sent, taken, and reported free */
    uint64_t sent, received;          /* bytes of the outgoing message sent so far, and of the incoming one received */
    uint64_t messages_out, messages_in;
    int64_t ops[SLOTS_MAX];       /* of the slot's fragment; 0: the provider is done with it */
    rt_copy copies[SLOTS_MAX][2]; /* the copies of that operation: fragment, then word */
    int64_t credit_op;
    rt_bench_rpc_stats out, in; /* one thread may send while another receives */
};

/* ---- layout: slots, then a word for each, then the credit ---- */

static uint64_t slot_at(const rt_bench_rpc *rpc, uint64_t number)
{
    return number % rpc->slots * (LINE + rpc->fragment);
}

static uint64_t word_at(const rt_bench_rpc *rpc, uint64_t number)
{
    return rpc->slots * (LINE + rpc->fragment) + number % rpc->slots * LINE;
}

static uint64_t credit_at(const rt_bench_rpc *rpc)
{
    return word_at(rpc, 0) + rpc->slots * LINE;
}

uint64_t rt_bench_rpc_bytes(uint64_t fragment, uint64_t slots)
{
    return slots * (LINE + fragment) + slots * LINE + LINE;
}

rt_bench_rpc *rt_bench_rpc_create(rt_channel *channel, rt_region *region, rt_remote *remote, uint64_t fragment, uint64_t slots)
{
    uint64_t half = rt_bench_rpc_bytes(fragment, slots);
    if (fragment == 0 || fragment % LINE != 0 || fragment > UINT32_MAX || slots < 2 || slots > SLOTS_MAX ||
        rt_region_size(region) < 2 * half || rt_remote_size(remote) < half) {
        return NULL;
    }
    rt_bench_rpc *rpc = calloc(1, sizeof *rpc);
    if (rpc != NULL) {
        rpc->channel = channel;
        rpc->region = region;
        rpc->remote = remote;
        rpc->memory = (char *)(uintptr_t)rt_region_address(region);
        rpc->fragment = fragment;
        rpc->slots = slots;
        rpc->half = half;
    }
    return rpc;
}

void rt_bench_rpc_drop(rt_bench_rpc *rpc)
{
    free(rpc);
}

void rt_bench_rpc_get_stats(const rt_bench_rpc *rpc, rt_bench_rpc_stats *stats_out)
{
    *stats_out = rpc->out;
    stats_out->copies += rpc->in.copies;
    stats_out->copied_bytes += rpc->in.copied_bytes;
}

/* ---- sending ---- */

/* Waits until the provider is done with an operation, and releases it. RT_E_AGAIN: not yet. */
static int write_settle(rt_bench_rpc *rpc, int64_t *op, int64_t timeout_ns)
{
    if (*op == 0) {
        return RT_OK;
    }
    int status = rt_op_wait(rpc->channel, *op, timeout_ns);
    if (status == RT_E_AGAIN || status == RT_E_INTERRUPTED) {
        return status;
    }
    status = rt_op_release(rpc->channel, *op, NULL);
    *op = 0;
    return status;
}

/* A WRITE of bytes to the same offset at the peer as they have here. */
static rt_copy copy_of(const rt_bench_rpc *rpc, uint64_t at, uint64_t size)
{
    return (rt_copy){(uintptr_t)rpc->region, rpc->half + at, (uintptr_t)rpc->remote, at, size, RT_WRITE};
}

/* Waits for a free slot: its credit has come, and the provider is done with the last fragment sent
 * from it. */
static int slot_wait(rt_bench_rpc *rpc, int64_t timeout_ns)
{
    if (rpc->posted >= rpc->slots) {
        uint64_t needed = rpc->posted - rpc->slots + 1;
        uint64_t here = credit_at(rpc);
        int status = rt_channel_wait_word(rpc->channel, rpc->region, here, needed, 0);
        if (status == RT_E_AGAIN) {
            rpc->out.waits++;
            status = rt_channel_wait_word(rpc->channel, rpc->region, here, needed, timeout_ns);
        }
        if (status != RT_OK) {
            return status;
        }
    }
    return write_settle(rpc, &rpc->ops[rpc->posted % rpc->slots], timeout_ns);
}

int rt_bench_rpc_send(rt_bench_rpc *rpc, const void *from, uint64_t size, int64_t timeout_ns)
{
    do {
        int status = slot_wait(rpc, timeout_ns);
        if (status != RT_OK) {
            return status;
        }
        uint64_t part = size - rpc->sent < rpc->fragment ? size - rpc->sent : rpc->fragment;
        char *slot = rpc->memory + rpc->half + slot_at(rpc, rpc->posted);
        header head = {rpc->messages_out, size, rpc->sent, (uint32_t)part, 1, {0}};
        memcpy(slot, &head, sizeof head);
        memcpy(slot + LINE, (const char *)from + rpc->sent, part);
        uint64_t word = rpc->posted + 1;
        memcpy(rpc->memory + rpc->half + word_at(rpc, rpc->posted), &word, sizeof word);
        rt_copy *copies = rpc->copies[rpc->posted % rpc->slots];
        copies[0] = copy_of(rpc, slot_at(rpc, rpc->posted), LINE + part);
        copies[1] = copy_of(rpc, word_at(rpc, rpc->posted), sizeof word);
        uint64_t bad;
        int64_t op = rt_channel_copy_many(rpc->channel, -1, copies, 2, 0, &bad);
        if (op < 0) {
            return op == RT_E_BUSY ? RT_E_AGAIN : (int)op;
        }
        rpc->ops[rpc->posted++ % rpc->slots] = op;
        rpc->sent += part;
        rpc->out.fragments++;
        rpc->out.copied_bytes += part;
    } while (rpc->sent < size);
    rpc->sent = 0;
    rpc->messages_out++;
    rpc->out.messages++;
    rpc->out.copies++;
    return RT_OK;
}

int rt_bench_rpc_flush(rt_bench_rpc *rpc, int64_t timeout_ns)
{
    int status = write_settle(rpc, &rpc->credit_op, timeout_ns);
    for (uint64_t slot = 0; status == RT_OK && slot < rpc->slots; slot++) {
        status = write_settle(rpc, &rpc->ops[slot], timeout_ns);
    }
    return status;
}

/* ---- receiving ---- */

/* Tells the sender which slots are free. The provider must be done with the last credit's
 * operation, because its word is overwritten. */
static int credit_give(rt_bench_rpc *rpc, int64_t timeout_ns)
{
    int status = write_settle(rpc, &rpc->credit_op, timeout_ns);
    if (status != RT_OK) {
        return status;
    }
    memcpy(rpc->memory + rpc->half + credit_at(rpc), &rpc->taken, sizeof rpc->taken);
    int64_t op = rt_channel_copy(rpc->channel, -1, RT_WRITE, rpc->remote, credit_at(rpc), rpc->region, rpc->half + credit_at(rpc),
                                 sizeof rpc->taken, 0);
    if (op < 0) {
        return op == RT_E_BUSY ? RT_E_AGAIN : (int)op;
    }
    rpc->credit_op = op;
    rpc->credited = rpc->taken;
    return RT_OK;
}

/* Copies one fragment out after checking it: a peer's bytes are hostile until then. Returns the
 * message's size. */
static int64_t slot_take(rt_bench_rpc *rpc, void *to, uint64_t capacity)
{
    const char *slot = rpc->memory + slot_at(rpc, rpc->taken);
    header head;
    memcpy(&head, slot, sizeof head);
    if (head.message != rpc->messages_in || head.offset != rpc->received || head.size > capacity || head.method != 1 ||
        head.fragment > rpc->fragment || head.offset > head.size || head.fragment > head.size - head.offset ||
        (head.fragment == 0 && head.size != 0)) {
        return RT_E_PROTOCOL;
    }
    memcpy((char *)to + head.offset, slot + LINE, head.fragment);
    rpc->received += head.fragment;
    rpc->taken++;
    rpc->in.copied_bytes += head.fragment;
    return (int64_t)head.size;
}

int64_t rt_bench_rpc_receive(rt_bench_rpc *rpc, void *to, uint64_t capacity, int64_t timeout_ns)
{
    for (;;) {
        if (rpc->taken - rpc->credited >= rpc->slots / 4 + 1) {
            int status = credit_give(rpc, timeout_ns);
            if (status != RT_OK) {
                return status;
            }
        }
        int status = rt_channel_wait_word(rpc->channel, rpc->region, word_at(rpc, rpc->taken), rpc->taken + 1, timeout_ns);
        if (status != RT_OK) {
            return status;
        }
        int64_t size = slot_take(rpc, to, capacity);
        if (size < 0) {
            return size;
        }
        if (rpc->received == (uint64_t)size) {
            rpc->received = 0;
            rpc->messages_in++;
            rpc->in.copies++;
            return size;
        }
    }
}

/* ---- one end of the loops ---- */

static int rpc_end_send(rt_bench_end *end, int64_t timeout_ns)
{
    int64_t deadline = rt_clock_now_ns() + timeout_ns;
    int status = RT_OK;
    do
        status =
            rt_bench_rpc_send((rt_bench_rpc *)(uintptr_t)end->out, (const void *)(uintptr_t)end->from, end->size, timeout_ns);
    while ((status == RT_E_AGAIN || status == RT_E_INTERRUPTED) && rt_clock_now_ns() < deadline);
    return status;
}

static int rpc_end_receive(rt_bench_end *end, int64_t timeout_ns)
{
    int64_t deadline = rt_clock_now_ns() + timeout_ns, size = 0;
    do
        size = rt_bench_rpc_receive((rt_bench_rpc *)(uintptr_t)end->in, (void *)(uintptr_t)end->arrived, end->size, timeout_ns);
    while ((size == RT_E_AGAIN || size == RT_E_INTERRUPTED) && rt_clock_now_ns() < deadline);
    return size < 0 ? (int)size : RT_OK;
}

static int rpc_end_release(rt_bench_end *end)
{
    (void)end;
    return RT_OK; /* the message was copied out */
}

static int rpc_end_finish(rt_bench_end *end, int64_t timeout_ns)
{
    int64_t deadline = rt_clock_now_ns() + timeout_ns;
    int status = RT_OK;
    do
        status = rt_bench_rpc_flush((rt_bench_rpc *)(uintptr_t)end->out, timeout_ns); /* drives what is under way */
    while ((status == RT_E_AGAIN || status == RT_E_INTERRUPTED) && rt_clock_now_ns() < deadline);
    return status;
}

void rt_bench_rpc_end(rt_bench_end *end, rt_bench_rpc *rpc, void *into)
{
    end->send = rpc_end_send;
    end->receive = rpc_end_receive;
    end->release = rpc_end_release;
    end->finish = rpc_end_finish;
    end->out = end->in = (uintptr_t)rpc;
    end->arrived = (uintptr_t)into;
}
