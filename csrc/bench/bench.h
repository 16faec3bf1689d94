/* bench.h: the loops of `rdmatensor bench` that must not be Python: the floor, static
 * edges as a program in C uses them, and the RPC that tensors are compared with.
 *
 * It stands above rdmatensor.h as a program would: nothing in the library includes it. cffi reads
 * its marked slice. rdmatensor/bench/README.md explains the measurements and their reasons. */
#ifndef RT_BENCH_BENCH_H
#define RT_BENCH_BENCH_H

#include "rdmatensor.h"

/* <cffi> */
/* ---- one end of a measurement: what moves a tensor, and the loops over it (loops.c) ---- */

enum {
    RT_BENCH_LEAVE = 0,   /* the bytes are neither read nor written */
    RT_BENCH_READ = 1,    /* the receiver reads every byte that came */
    RT_BENCH_REWRITE = 2, /* and the sender writes its tensor anew before each send */
};

/* Filled in by rt_bench_floor_end, rt_bench_edge_end or rt_bench_rpc_end; the caller sets `from`, `size` and `touch`. */
typedef struct rt_bench_end {
    int (*send)(struct rt_bench_end *end, int64_t timeout_ns);
    int (*receive)(struct rt_bench_end *end, int64_t timeout_ns); /* sets `arrived` */
    int (*release)(struct rt_bench_end *end);                     /* gives back the place of what came last */
    int (*finish)(struct rt_bench_end *end, int64_t timeout_ns);  /* until all is sent and `from` may be changed */
    uint64_t from, size;                                          /* the tensor that is sent */
    uint64_t arrived;                                             /* address of the tensor that came last */
    uint64_t touch, value, sum;    /* RT_BENCH_…, the bytes last written, the sum of those read */
    uint64_t out, in;              /* the objects of each direction */
    uint64_t slots, stride, count; /* edges: where tensors arrive */
    uint64_t number, under_way;    /* edges: sequence that came last, and one to wait for or 0 */
} rt_bench_end;

/* Each gives RT_OK, or the status of what failed: RT_E_AGAIN when one tensor took longer than
 * timeout_ns. The other end runs the matching call: pong for ping, pull for push, both for both. */
int rt_bench_send(rt_bench_end *end, int64_t timeout_ns);
int rt_bench_receive(rt_bench_end *end, int64_t timeout_ns);
int rt_bench_finish(rt_bench_end *end, int64_t timeout_ns);
/* Makes `count` round trips and writes half the time of each, in nanoseconds, to halves_out. */
int rt_bench_ping(rt_bench_end *end, uint64_t count, double *halves_out, int64_t timeout_ns);
int rt_bench_pong(rt_bench_end *end, uint64_t count, int64_t timeout_ns);
/* Sends `count` tensors and receives one that confirms them: the nanoseconds. */
int64_t rt_bench_push(rt_bench_end *end, uint64_t count, int64_t timeout_ns);
int rt_bench_pull(rt_bench_end *end, uint64_t count, int64_t timeout_ns);
/* Sends `count` tensors, at most `depth` ahead of those that come: the nanoseconds. */
int64_t rt_bench_both(rt_bench_end *end, uint64_t count, uint64_t depth, int64_t timeout_ns);
/* Reads every byte; the sum of its words and last bytes keeps the compiler from leaving that out. */
uint64_t rt_bench_read(const void *at, uint64_t size);

/* ---- floor: memcpy into memory that both processes map, then a release store. No protocol, no checks, no sleep ---- */

/* One direction between two processes. The words lie on cache lines of their own; the slots are the
 * receiver's memory. With `begun`, both ends copy: the sender the first half of a tensor, and the
 * receiver the second, out of the sender's memory. */
typedef struct rt_bench_floor {
    uint64_t flag;   /* uint64_t*: the number of tensors the sender has stored */
    uint64_t credit; /* uint64_t*: the number of tensors the receiver has taken */
    uint64_t slots;  /* char*: `count` slots, `stride` bytes apart */
    uint64_t stride, count;
    uint64_t begun;  /* uint64_t*: the number of tensors the sender has begun to copy; 0: it copies whole tensors */
    uint64_t helped; /* uint64_t*: the number of tensors of which the receiver has copied its half */
    uint64_t source; /* char*: the sender's tensor, where the receiver maps it */
    uint64_t done;   /* count of this end; begins at 0 */
} rt_bench_floor;

/* One end over two directions, which outlive it. It spins. */
void rt_bench_floor_end(rt_bench_end *end, rt_bench_floor *out, rt_bench_floor *in);

/* Copies `count` adjacent ranges of `size` bytes, with a release store after each. */
void rt_bench_floor_many(void *to, const void *from, uint64_t size, uint64_t count, uint64_t *flag);

/* ---- static edges ---- */

/* One end over two static edges of one shape, the outgoing one open; they outlive it. It waits as its device does. */
void rt_bench_edge_end(rt_bench_end *end, rt_edge *out, rt_edge *in);

/* ---- rpc: messages in private, bounded, registered buffers, cut into fragments with a header each ---- */

typedef struct rt_bench_rpc rt_bench_rpc;

typedef struct rt_bench_rpc_stats {
    uint64_t messages, fragments, copies, copied_bytes, waits;
} rt_bench_rpc_stats;

/* Size of one direction's buffers at the receiver, and also at the sender: slots of 64 + fragment
 * bytes, then a line of 64 bytes for each slot's word and one for the credit. */
uint64_t rt_bench_rpc_bytes(uint64_t fragment, uint64_t slots);
/* Both ends give the same fragment and slots, and a registered region of 2 * rt_bench_rpc_bytes: an
 * end receives in the first half (the peer WRITEs there) and sends from the second. NULL: out of
 * memory, or an impossible size. */
rt_bench_rpc *rt_bench_rpc_create(rt_channel *channel, rt_region *region, rt_remote *remote, uint64_t fragment, uint64_t slots);
void rt_bench_rpc_drop(rt_bench_rpc *rpc);
/* Sends one message; one thread may send while another receives. When it returns RT_OK, `from` may
 * be changed. RT_E_AGAIN, RT_E_INTERRUPTED: call again with the same arguments, and it continues
 * where it stopped. */
int rt_bench_rpc_send(rt_bench_rpc *rpc, const void *from, uint64_t size, int64_t timeout_ns);
/* Receives the next message into `to`: returns its size, or a negative status; RT_E_AGAIN and
 * RT_E_INTERRUPTED as for sends. */
int64_t rt_bench_rpc_receive(rt_bench_rpc *rpc, void *to, uint64_t capacity, int64_t timeout_ns);
/* Waits until the provider is done with everything sent. */
int rt_bench_rpc_flush(rt_bench_rpc *rpc, int64_t timeout_ns);
void rt_bench_rpc_get_stats(const rt_bench_rpc *rpc, rt_bench_rpc_stats *stats_out);
/* One end over an RPC, which outlives it; messages arrive in `into`, of the size of a tensor. */
void rt_bench_rpc_end(rt_bench_end *end, rt_bench_rpc *rpc, void *into);
/* </cffi> */

#endif
