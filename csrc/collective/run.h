/* run.h: waiting for room and messages within a collective call; run.c. Private to this room. */
#ifndef RT_COLLECTIVE_RUN_H
#define RT_COLLECTIVE_RUN_H

#include "collective/collective.h"

/* Waits for room for a message to the peer. */
int rt_run_room(rt_run *run, uint32_t peer, rt_message **message_out);
/* Sends what was put there. */
int rt_run_push(rt_run *run, uint32_t peer, rt_message *message, uint64_t size);
/* Both, with a copy. */
int rt_run_send(rt_run *run, uint32_t peer, const void *bytes, uint64_t size);
/* Waits for the next message of this call from the peer, of just this size. It stays until rt_lane_take. */
int rt_run_receive(rt_run *run, uint32_t peer, uint64_t size, const uint8_t **payload_out);

#endif
