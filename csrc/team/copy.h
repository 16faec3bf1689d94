/* copy.h: copies from and into tensors, of any size. */
#ifndef RT_TEAM_COPY_H
#define RT_TEAM_COPY_H

#include <stdint.h>

#include "rdmatensor_team.h"

/* As memcpy, for ranges of any size. */
void rt_direct_copy(rt_team *team, void *to, const void *from, uint64_t size);

#endif
