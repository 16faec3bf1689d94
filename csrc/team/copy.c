/* copy.c: copies from and into tensors, of any size. HOT. */
#include <string.h>

#include "team/copy.h"
#include "team/team.h"

/* The copy goes in steps, so that the pace of each way of copying is learned within one call. */
enum { COPY_STEP = 8 << 20 };

void rt_direct_copy(rt_team *team, void *to, const void *from, uint64_t size)
{
    for (uint64_t at = 0; at < size; at += COPY_STEP) {
        uint64_t some = size - at < COPY_STEP ? size - at : COPY_STEP;
        if (some < RT_LARGE_SIZE_MIN)
            memcpy((uint8_t *)to + at, (const uint8_t *)from + at, some);
        else
            rt_large_copy(team->paces, (uint8_t *)to + at, (const uint8_t *)from + at, some);
    }
}
