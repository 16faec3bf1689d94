/* host.h: host memory: mappings of their own, page-aligned and page-padded, so that no operation on
 * them (registering, marking for fork, sharing) ever takes a neighbour's bytes along. Blocks for
 * tensors inside them come from memory/arena.c. */
#ifndef RT_MEMORY_HOST_H
#define RT_MEMORY_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* Every mapping begins at a multiple of this: an aligned offset is then an aligned address, and huge pages fit. */
#define RT_HOST_ALIGNMENT (2ull << 20)

/* The values of rt_huge_pages; core asserts it. */
enum rt_host_pages {
    RT_HOST_PAGES_AUTO = 0,  /* ask for transparent huge pages from 2 MiB on, accept either kind */
    RT_HOST_PAGES_SMALL = 1, /* refuse transparent huge pages */
    RT_HOST_PAGES_HUGE = 2,  /* from the pool of reserved huge pages, or fail */
};

typedef struct rt_host_memory {
    void *address;
    uint64_t size;  /* as mapped: padded to whole pages */
    int descriptor; /* of the sealed memfd behind it, owned by it; -1: anonymous private memory */
    bool huge;      /* from the pool of reserved huge pages */
} rt_host_memory;

/* Maps zeroed memory. `shared` backs it with a memfd that can neither shrink nor grow, so that a
 * process that is given the descriptor never meets a missing page. No page is touched yet.
 * RT_E_INVALID, RT_E_NO_MEMORY or RT_E_SYSTEM. */
int rt_host_map(uint64_t size, bool shared, enum rt_host_pages pages, rt_host_memory *memory_out, rt_detail *detail);

/* Makes every page present and writable, so that later no transfer waits for a page fault.
 * RT_E_NO_MEMORY, before anything is touched, when the machine or the cgroup cannot provide that
 * much: the alternative is the kernel's OOM killer. */
int rt_host_populate(const rt_host_memory *memory, rt_detail *detail);

/* Unmaps the memory and closes its descriptor. Every pointer into it is invalid afterwards. */
void rt_host_unmap(rt_host_memory *memory);

#endif
