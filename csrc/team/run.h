/* run.h: waiting for room and messages within a collective call; run.c. Private to this room. */
#ifndef RT_TEAM_RUN_H
#define RT_TEAM_RUN_H

#include <stdint.h>

#include "team/agree.h"

/* Waits for room for a message of `size` bytes to the peer. */
int rt_run_room(rt_run *run, uint32_t peer, uint64_t size, uint8_t **payload_out);
/* One round of waiting, after a check that found nothing; run->waiter.needed is the peer that is
 * waited for, or -1. Also sends what is left of messages that go in parts and, in a long wait, tells
 * the peers of chunks taken here, and of this call. RT_OK: check again. */
int rt_run_wait(rt_run *run);
/* Waits until nothing is left of messages that go in parts. */
int rt_run_flush_all(rt_run *run);
/* Sends the message whose payload of this size was put there. */
int rt_run_push(rt_run *run, uint32_t peer, uint64_t size);
/* Waits for room and sends a copy of bytes of the call's own, which are no tensor's. */
int rt_run_tell(rt_run *run, uint32_t peer, const void *bytes, uint64_t size);
/* Waits for room and sends a copy of a tensor's bytes. */
int rt_run_send(rt_run *run, uint32_t peer, const void *bytes, uint64_t size);
/* Waits for the next message of this call from the peer, of exactly this size. It stays until
 * rt_lane_take. */
int rt_run_receive(rt_run *run, uint32_t peer, uint64_t size, const uint8_t **payload_out);
/* Receives likewise, copies the bytes once, since the peer may change them, and takes the message. */
int rt_run_hear(rt_run *run, uint32_t peer, void *bytes, uint64_t size);

#endif
