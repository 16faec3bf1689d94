/* random.h: unguessable bytes from the kernel, for nonces, keys and identities. */
#ifndef RT_BASE_RANDOM_H
#define RT_BASE_RANDOM_H

#include <errno.h>
#include <stdint.h>
#include <sys/random.h>

#include "base/status.h"

static inline int rt_random(void *bytes, size_t size, rt_detail *detail)
{
    uint8_t *at = bytes;
    while (size > 0) {
        ssize_t got = getrandom(at, size, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return rt_fail(detail, RT_E_SYSTEM, errno, "cannot get random bytes from the kernel");
        at += got;
        size -= (size_t)got;
    }
    return RT_OK;
}

#endif
