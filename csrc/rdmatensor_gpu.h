/* rdmatensor_gpu.h: the C interface of GPUs: the list of those that this process sees. cffi reads it beside rdmatensor.h.
 *
 * CUDA's driver is loaded when it is first asked for; nothing here makes a context on a GPU. A child of a process that has asked
 * gets RT_E_FORKED. Threads: any, at any time. */
#ifndef RDMATENSOR_GPU_H
#define RDMATENSOR_GPU_H

#include <stdint.h>

#include "base/status.h"

/* <cffi> */
/* A GPU. `flush` says how bytes that a NIC wrote become visible to it: 0 by themselves, 1 by a flush,
 * 2 by a READ of the NIC. */
typedef struct rt_gpu_entry {
    char name[64], pci[16];
    uint64_t size;                        /* bytes of memory */
    uint32_t driver, major, minor, flush; /* the driver's CUDA version: 13000 is 13.0; compute capability */
    uint8_t shares, dma_buf, direct;      /* ways to its memory: a descriptor, a dma-buf, nvidia_peermem */
    char why_not[504];                    /* the reason why its memory cannot be shared, or else why it gives NICs no dma-buf */
} rt_gpu_entry;

/* Fills up to `capacity` entries and returns the number of GPUs, or a negative status: RT_E_UNAVAILABLE
 * says why none is seen. */
int rt_gpu_list(rt_gpu_entry *entries_out, int capacity, rt_detail *detail);
/* </cffi> */

#endif
