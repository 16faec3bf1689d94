/* bench.h: the loops of `rdmatensor bench` that must not be Python: the floor, and the RPC that tensors are compared with.
 *
 * It stands above rdmatensor.h as a program would: nothing of the library includes it. Its marked slice is what cffi reads.
 * What is measured and why is in rdmatensor/bench/README.md. */
#ifndef RT_BENCH_BENCH_H
#define RT_BENCH_BENCH_H

#include "rdmatensor.h"

/* <cffi> */
/* ---- floor: memcpy into memory that both processes map, then a release store. No protocol, no checks, no sleep ---- */

/* One direction between two processes. The words lie on cache lines of their own; the slots are the receiver's memory. */
typedef struct rt_bench_floor {
    uint64_t flag;   /* uint64_t*: how many tensors the sender has stored */
    uint64_t credit; /* uint64_t*: how many the receiver has taken */
    uint64_t slots;  /* char*: `count` slots, `stride` bytes apart */
    uint64_t stride, count;
    uint64_t done; /* of this end; begins at 0 */
} rt_bench_floor;

/* Copies one tensor into the next slot and stores the flag. Spins for a free slot: RT_OK, or RT_E_AGAIN after timeout_ns. */
int rt_bench_floor_send(rt_bench_floor *way, const void *from, uint64_t size, int64_t timeout_ns);
/* Spins for the next tensor and gives its slot free. The bytes stay where they are until the sender comes round. */
int rt_bench_floor_receive(rt_bench_floor *way, int64_t timeout_ns);
/* `count` round trips; half of each in nanoseconds to halves_out. The other end runs rt_bench_floor_pong. */
int rt_bench_floor_ping(rt_bench_floor *out, rt_bench_floor *in, const void *from, uint64_t size, uint64_t count,
                        double *halves_out, int64_t timeout_ns);
int rt_bench_floor_pong(rt_bench_floor *out, rt_bench_floor *in, const void *from, uint64_t size, uint64_t count,
                        int64_t timeout_ns);

/* Copies `count` ranges of `size` bytes that lie side by side, with a release store after each. */
void rt_bench_floor_many(void *to, const void *from, uint64_t size, uint64_t count, uint64_t *flag);

/* ---- rpc: messages in private, bounded, registered buffers, cut into fragments with a header each ---- */

typedef struct rt_bench_rpc rt_bench_rpc;

typedef struct rt_bench_rpc_stats {
    uint64_t messages, fragments, copies, copied_bytes, waits;
} rt_bench_rpc_stats;

/* Bytes that one direction's buffers take at the receiver, and as many at the sender: slots of 64 + fragment bytes, then a
 * line of 64 bytes for each slot's word and one for the credit. */
uint64_t rt_bench_rpc_bytes(uint64_t fragment, uint64_t slots);
/* Both ends give the same fragment and slots, and a registered region of 2 * rt_bench_rpc_bytes: the first half is what it
 * receives in (the peer WRITEs there), the second what it sends from. NULL: out of memory, or a size that cannot be. */
rt_bench_rpc *rt_bench_rpc_create(rt_channel *channel, rt_region *region, rt_remote *remote, uint64_t fragment, uint64_t slots);
void rt_bench_rpc_drop(rt_bench_rpc *rpc);
/* One thread may send while another receives. Sends one message; when it returns RT_OK, `from` may be changed. RT_E_AGAIN, RT_E_INTERRUPTED: call again with the same
 * arguments, it goes on where it stopped. */
int rt_bench_rpc_send(rt_bench_rpc *rpc, const void *from, uint64_t size, int64_t timeout_ns);
/* Receives the next message into `to`: its size, or a negative status; RT_E_AGAIN and RT_E_INTERRUPTED as above. */
int64_t rt_bench_rpc_receive(rt_bench_rpc *rpc, void *to, uint64_t capacity, int64_t timeout_ns);
/* Waits until the provider is done with everything that was sent. */
int rt_bench_rpc_flush(rt_bench_rpc *rpc, int64_t timeout_ns);
void rt_bench_rpc_get_stats(const rt_bench_rpc *rpc, rt_bench_rpc_stats *stats_out);
/* </cffi> */

#endif
