/* driver.h: inside the room: the loaded driver, an open GPU, and how a thread enters its context and leaves it. */
#ifndef RT_GPU_DRIVER_H
#define RT_GPU_DRIVER_H

#include "gpu/cuda_abi.h"
#include "gpu/gpu.h"

#include <pthread.h>

typedef struct cuda_driver {
    char path[256];
#define X(name, symbol, arguments) cuda_result(*name) arguments;
    CUDA_CALLS(X) CUDA_CALLS_OPTIONAL(X)
#undef X
} cuda_driver;

enum { GPU_MARKS = 511 }; /* of streams at one time: with our own number they fill a page */

struct rt_gpu {
    uint32_t ordinal;
    cuda_device device;
    cuda_context context; /* the primary one, retained */
    cuda_stream stream;   /* of our copies; waits for no other stream by itself */
    rt_gpu_traits traits;
    bool makes_direct;    /* memory that a NIC is to reach says so when it is made */
    uint64_t *words;      /* a pinned page: word 0 is the number of our stream, the others are of marks */
    pthread_mutex_t lock; /* guards the rest, and the order of numbers in streams; RT_RANK_LAST */
    cuda_event order;     /* recorded and waited for at once, so one serves all */
    uint64_t number;      /* the last one that the stream was told to write */
    uint64_t wanted[GPU_MARKS];
    bool is_taken[GPU_MARKS];
    uint32_t next_mark; /* where the search for a free one begins */
};

/* Loads the driver, unless it is loaded. */
int gpu_driver(const cuda_driver **driver_out, rt_detail *detail);
/* RT_E_FORKED in a child of a process that has used a GPU. */
int gpu_check_fork(rt_detail *detail);

/* Writes the detail: what could not be done, on which GPU, the driver's name for the reason, and the remedy if one is known. */
int gpu_fail(rt_detail *detail, cuda_result result, uint32_t ordinal, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The state of a thread before it entered a context. */
typedef struct gpu_entry {
    const cuda_driver *cuda;
    int mode;
    bool is_relaxed, has_context;
} gpu_entry;

/* Makes the GPU's context current, and lets unsafe calls pass beside a capture of a graph. `what` is for the detail. */
int gpu_enter(const rt_gpu *gpu, gpu_entry *entry_out, const char *what, rt_detail *detail);
/* For calls that end memory: they need no context, so that they also work when it failed. False in a child made by fork. */
bool gpu_enter_to_end(gpu_entry *entry_out);
void gpu_leave(gpu_entry *entry);

#endif
