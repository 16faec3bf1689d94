/* direct_run.h: collective calls without slots, for members that have met. */
#ifndef RT_TEAM_DIRECT_RUN_H
#define RT_TEAM_DIRECT_RUN_H

#include <stdint.h>

#include "team/agree.h"

/* To all members: each reduces its block and writes it into all outputs, or announces each piece of
 * it for the others to copy. */
int rt_direct_spread(rt_run *run, const uint8_t *input, uint8_t *output, uint64_t count);
int rt_direct_pieces(rt_run *run, const uint8_t *input, uint8_t *output, uint64_t count);
/* To the call's root: each reduces its block into the root's output, or the root reduces all. */
int rt_direct_deliver(rt_run *run, const uint8_t *input, uint8_t *output, uint64_t count);
int rt_direct_collect(rt_run *run, const uint8_t *input, uint8_t *output, uint64_t count);
int rt_direct_reduce_scatter(rt_run *run, const uint8_t *input, uint8_t *output, uint64_t count);
int rt_direct_gather(rt_run *run, void *const *outputs, uint64_t size);

#endif
