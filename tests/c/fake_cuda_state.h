/* fake_cuda_state.h: the state that the files of the fake CUDA driver share. One lock guards all of it. */
#ifndef RT_TESTS_FAKE_CUDA_STATE_H
#define RT_TESTS_FAKE_CUDA_STATE_H

#include "fake_cuda.h"

#include "gpu/cuda_abi.h"

#include <pthread.h>
#include <sys/types.h>

enum { FAKE_DEVICES_MAX = 8, FAKE_GRANULE = 2 << 20, FAKE_PAGE = 4096, FAKE_ATTRIBUTES = 160 };

/* The driver's symbols are declared here for the fake itself: nothing includes CUDA's header. */
#define X(name, symbol, arguments) FAKE_CUDA_API cuda_result symbol arguments;
CUDA_CALLS(X)
CUDA_CALLS_OPTIONAL(X)
#undef X

typedef struct fake_memory { /* of a GPU, or of another process's */
    struct fake_memory *next;
    int descriptor, device;
    uint64_t size;
    uint8_t *bytes;
    uint32_t references, holds; /* holds: by NICs */
    bool of_malloc, shares, direct;
} fake_memory;

typedef struct fake_mapping { /* addresses with memory */
    struct fake_mapping *next;
    uint64_t address, size;
    fake_memory *memory;
    bool is_readable, is_writable, synchronizes, is_managed;
} fake_mapping;

typedef struct fake_range { /* addresses that are taken, or memory of the host that is pinned */
    struct fake_range *next;
    uint64_t address, size;
} fake_range;

typedef struct fake_stream fake_stream;

enum fake_kind { FAKE_COPY, FAKE_FILL, FAKE_MARK, FAKE_WAIT, FAKE_CALL, FAKE_NUMBER };

typedef struct fake_work { /* queued on a stream */
    struct fake_work *next;
    enum fake_kind kind;
    uint64_t number; /* its place in the stream */
    uint64_t to, from, size, value;
    fake_stream *other; /* FAKE_WAIT: until `other` has done `value` */
    void (*call)(void *);
    void *argument;
} fake_work;

struct fake_stream {
    fake_stream *next;
    fake_work *head, **tail;
    uint64_t queued, done, ripe; /* ripe: up to here a ripening engine works by itself */
    int device;
    bool is_blocking, is_running, is_capturing;
};

typedef struct fake_event {
    fake_stream *stream; /* of the last record */
    uint64_t number;
} fake_event;

typedef struct fake_context {
    int device;
    uint32_t references;
    unsigned flags;
    bool ever;
    fake_stream *default_stream;
} fake_context;

typedef struct fake_posted { /* a NIC's write that is under way */
    struct fake_posted *next;
    uint8_t *to;
    uint64_t size;
    int device;
    uint8_t bytes[];
} fake_posted;

typedef struct fake_driver {
    pthread_mutex_t lock;
    pthread_cond_t changed, ripening;
    pid_t process;
    int devices, version;
    int attributes[FAKE_DEVICES_MAX][FAKE_ATTRIBUTES];
    uint64_t bar1[FAKE_DEVICES_MAX]; /* what NICs may still hold */
    fake_context contexts[FAKE_DEVICES_MAX];
    fake_memory *memories;
    fake_mapping *mappings;
    fake_range *taken, *pins;
    fake_stream *streams;
    fake_posted *posted, **posted_tail;
    uint32_t live, violations, flushes, fail_nth;
    char violation[160], fail_symbol[48];
    int fail_result;
    bool is_triggered, is_capturing, is_broken;
    enum { FAKE_LAZY, FAKE_RIPENING, FAKE_EAGER } engine;
} fake_driver;

extern fake_driver fake_cuda;

/* ---- fake_cuda.c ---- */

enum { FAKE_CONTEXT = 1, FAKE_UNSAFE = 2 }; /* a call needs a context; it breaks a capture in the global mode */

void fake_violate(const char *what);
/* Takes the lock. Not CUDA_OK: the call ends with this, by fake_leave. */
cuda_result fake_enter(const char *symbol, unsigned needs);
/* The same for a call that ends something: it does so, and returns the result with fake_leave. */
cuda_result fake_enter_to_end(const char *symbol, unsigned needs);
cuda_result fake_leave(cuda_result result);
fake_context *fake_current(void);

#define FAKE_ENTER(needs)                                                                                                        \
    do {                                                                                                                         \
        cuda_result fake_entered = fake_enter(__func__, needs);                                                                  \
        if (fake_entered != CUDA_OK)                                                                                             \
            return fake_leave(fake_entered);                                                                                     \
    } while (0)

/* ---- fake_cuda_memory.c ---- */

fake_mapping *fake_find(uint64_t address, uint64_t size);
uint8_t *fake_bytes(const fake_mapping *mapping, uint64_t address);
bool fake_is_pinned(uint64_t address, uint64_t size);

/* ---- fake_cuda_streams.c ---- */

fake_stream *fake_stream_make(int device, bool is_blocking);
void fake_stream_run(fake_stream *stream, uint64_t number);

#endif
