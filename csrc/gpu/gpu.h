/* gpu.h: memory of a GPU as the rooms above see it, without a vendor: it is made, shared by a descriptor, given to a NIC, and
 * copied by the GPU itself. GPU.md is the note.
 *
 * Addresses of a GPU are numbers here, for no CPU touches them. Threads: any, at any time. A call makes the GPU's context
 * current and puts back the one that was; it disturbs no capture of a graph in this thread. Calls begin work and do not wait
 * for it; opening a GPU, making and mapping memory, and pinning take milliseconds. In a child made by fork all of them are
 * RT_E_FORKED once the parent has used a GPU. */
#ifndef RT_GPU_GPU_H
#define RT_GPU_GPU_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct rt_gpu rt_gpu; /* an open GPU: its context, and a stream for our copies. It stays open until the process ends */

/* How bytes that a NIC wrote become visible to later work of the GPU. */
typedef enum rt_gpu_flush_kind {
    RT_GPU_ORDERED, /* they are, once the NIC has completed the WRITE or READ */
    RT_GPU_FLUSHED, /* after rt_gpu_flush */
    RT_GPU_READ,    /* only after a READ of them by the same NIC */
} rt_gpu_flush_kind;

typedef struct rt_gpu_traits {
    char name[64], pci[16]; /* "NVIDIA H200", "0000:17:00.0" */
    uint64_t size;          /* bytes of memory */
    uint32_t driver;        /* the CUDA version of the driver: 13000 is 13.0 */
    uint32_t major, minor;  /* compute capability */
    bool shares;            /* memory made here can be mapped by other processes */
    bool dma_buf;           /* … and be given to a NIC as a dma-buf */
    bool direct;            /* the GPU does GPUDirect RDMA: a NIC may reach it by address, with nvidia_peermem */
    bool writes_numbers;    /* a stream writes numbers by itself; else a thread of the driver does */
    rt_gpu_flush_kind flush;
} rt_gpu_traits;

/* Memory of a GPU. `descriptor` belongs to it, and lets a process map the `share_size` bytes of which this memory begins at
 * `share_offset`; -1: it cannot be shared. The last three members are the room's own. */
typedef struct rt_gpu_memory {
    rt_gpu *gpu;
    uint64_t address, size;
    int descriptor;
    uint64_t share_size, share_offset;
    uint64_t mapped; /* the bytes that are mapped here; 0: the memory is the caller's */
    unsigned long long handle;
} rt_gpu_memory;

/* The end of work on a stream, from rt_gpu_mark_set to rt_gpu_mark_drop. */
typedef struct rt_gpu_mark {
    const uint64_t *word;
    uint64_t wanted;
} rt_gpu_mark;

/* ---- GPUs: questions make no context ---- */

/* How many GPUs this process sees. RT_E_UNAVAILABLE: no driver or no GPU, with the reason and the remedy. */
int rt_gpu_count(uint32_t *count_out, rt_detail *detail);
int rt_gpu_describe(uint32_t ordinal, rt_gpu_traits *traits_out, rt_detail *detail);
/* Whether memory of a GPU with these traits can be shared between processes, and given to a NIC as a dma-buf; else the reason. */
int rt_gpu_check_sharing(uint32_t ordinal, const rt_gpu_traits *traits, rt_detail *detail);
int rt_gpu_check_dma_buf(uint32_t ordinal, const rt_gpu_traits *traits, rt_detail *detail);
/* The GPU that an address belongs to, or -1: it is the host's. RT_E_UNSUPPORTED: managed memory, which is in both places. */
int rt_gpu_of(uint64_t address, int32_t *ordinal_out, rt_detail *detail);
/* Opens a GPU, or gives the one that is open. */
int rt_gpu_open(uint32_t ordinal, rt_gpu **gpu_out, rt_detail *detail);
const rt_gpu_traits *rt_gpu_traits_of(const rt_gpu *gpu);
/* RT_OK, or the reason why nothing of this GPU will ever end: for waits whose number does not come. */
int rt_gpu_check(rt_gpu *gpu, rt_detail *detail);

/* ---- memory: rt_gpu_memory_drop ends what these make ---- */

/* Memory that can be shared, and that a NIC reaches if any does; the size is rounded up to the GPU's granule, of 2 MiB. */
int rt_gpu_memory_make(rt_gpu *gpu, uint64_t size, rt_gpu_memory *memory_out, rt_detail *detail);
/* Maps another process's memory, all `share_size` bytes of it. The descriptor stays the caller's. */
int rt_gpu_memory_import(rt_gpu *gpu, int descriptor, uint64_t share_size, bool is_writable, rt_gpu_memory *memory_out,
                         rt_detail *detail);
/* Memory of somebody else, such as a tensor's: it outlives this. Finds its GPU, and whether it can be shared. */
int rt_gpu_memory_adopt(uint64_t address, uint64_t size, rt_gpu_memory *memory_out, rt_detail *detail);
void rt_gpu_memory_drop(rt_gpu_memory *memory);
/* A dma-buf of the whole pages around the memory, and where in it the memory begins. The descriptor is the caller's. */
int rt_gpu_memory_export(const rt_gpu_memory *memory, int *descriptor_out, uint64_t *offset_out, rt_detail *detail);

/* Lets the GPU copy from and to memory of the host. `was_pinned_out`: somebody else pinned it, and unpins it. */
int rt_gpu_pin(rt_gpu *gpu, void *address, uint64_t size, bool *was_pinned_out, rt_detail *detail);
int rt_gpu_unpin(rt_gpu *gpu, void *address, rt_detail *detail);

/* ---- work ---- */

/* Begins a copy on our stream. Each end is memory of a GPU that is mapped here, or pinned memory of the host. */
int rt_gpu_copy(rt_gpu *gpu, uint64_t to, uint64_t from, uint64_t size, rt_detail *detail);
/* A number that is reached when all copies begun before this have ended; numbers ascend. */
int rt_gpu_number(rt_gpu *gpu, uint64_t *number_out, rt_detail *detail);
/* HOT: one load. True: the bytes of the copies are there for the host, other processes and all streams. */
bool rt_gpu_reached(const rt_gpu *gpu, uint64_t number);

/* Marks the end of what a stream of the caller's holds now; `stream` is a CUstream. */
int rt_gpu_mark_set(rt_gpu *gpu, void *stream, rt_gpu_mark *mark_out, rt_detail *detail);
/* HOT: one load. */
bool rt_gpu_mark_reached(const rt_gpu_mark *mark);
/* Gives the mark back, reached or not. */
void rt_gpu_mark_drop(rt_gpu *gpu, rt_gpu_mark *mark);

/* Copies begun after this come after what `stream` holds now. */
int rt_gpu_after(rt_gpu *gpu, void *stream, rt_detail *detail);
/* Work put on `stream` after this comes after the copies begun before. */
int rt_gpu_before(rt_gpu *gpu, void *stream, rt_detail *detail);
/* Makes visible what NICs wrote; nothing where it is RT_GPU_ORDERED. RT_E_UNSUPPORTED where only a READ does it. */
int rt_gpu_flush(rt_gpu *gpu, rt_detail *detail);

#endif
