/* edge_keys.h: the numbers by which records of a dynamic edge name the sender's registrations. The
 * full protocol: EDGES.md section 7.
 *
 * A number is announced by ADD_KEY and used by records from KEY_ADDED on. It stands for one
 * registration until it is announced for another one, which may happen once every tensor that it
 * was used for is released. Number 0 comes with OPEN_EDGE and stays.
 *
 * Invariant: whenever a record is read, both ends have the same registration for its number.
 *
 * Driver: pure; numbers and sequences in, a number or RT_E_AGAIN out. The sender's edge/dynamic.c
 * chooses a number and waits for KEY_ADDED; the receiver's edge/admit.c checks ADD_KEY. Core knows
 * the registrations themselves. The edge's turn is held. */
#ifndef RT_PROTO_EDGE_KEYS_H
#define RT_PROTO_EDGE_KEYS_H

#include "proto/edge_flow.h"

/* The numbers of one edge, at either end. */
typedef struct rt_edge_keys {
    uint32_t count;                    /* 0 to count - 1 were announced */
    uint32_t capacity;                 /* at most RT_EDGE_KEYS_MAX */
    uint64_t newest[RT_EDGE_KEYS_MAX]; /* sender: the newest tensor whose record named it, or 0 */
} rt_edge_keys;

/* Begins with number 0 announced, as OPEN_EDGE does; number 0 is kept for good. */
void rt_edge_keys_begin(rt_edge_keys *keys, uint32_t capacity);

/* The number for a registration that the receiver does not know. `idle` has a bit for each number
 * whose registration has ended. Those are taken first, then a new number, then the one that was
 * used longest ago. RT_E_AGAIN: tensors that the receiver has not released name all of them, so the
 * caller must wait for a release. Nothing changes. */
int rt_edge_keys_choose(const rt_edge_keys *keys, const rt_edge_sender *tx, uint64_t idle, uint32_t *key_out);
/* The record of this tensor names it. */
void rt_edge_keys_used(rt_edge_keys *keys, uint32_t key, uint64_t sequence);

/* The receiver's check whether ADD_KEY may give this number; `held` says whether a tensor that was
 * taken still needs the registration that the number stands for now. Then rt_edge_keys_added. */
bool rt_edge_keys_may_add(const rt_edge_keys *keys, uint32_t key, bool held);
/* Either end: from now on the number stands for the registration in ADD_KEY. At the sender it
 * counts as used by `sequence`, the newest tensor that is released, so that it is not the next to
 * be reassigned. */
void rt_edge_keys_added(rt_edge_keys *keys, uint32_t key, uint64_t sequence);

#endif
