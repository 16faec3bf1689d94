/* reduce.h: reductions of bytes in memory. */
#ifndef RT_TEAM_REDUCE_H
#define RT_TEAM_REDUCE_H

#include <stdint.h>

#include "rdmatensor_team.h"

/* target = sources[0] (reduction) sources[1] …, in this order; target may be one of them. */
int rt_team_reduce_blocks(const rt_team_call *call, void *target, const void *const *sources, uint32_t count_of_sources,
                          uint64_t count);

#endif
