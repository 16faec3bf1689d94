/* hotpath.c: runs one operation of the core's hot path many times inside one function, for callgrind to count its
 * instructions: `hotpath KIND COUNT`. Both ends are devices of this process over shm, so nothing waits and the count is the same each time.
 * Linked by benchmarks/check.py with the library of each of the two commits that it compares. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rdmatensor.h"

enum { REGION = 1 << 20, HANDLE_MAX = 160, TRIES = 400, SMALL = 64 };

typedef struct ends {
    rt_device *near, *far;
    rt_channel *channel, *accepted;
    rt_region *local, *target;
    rt_remote *remote;
    rt_prepared *prepared;
#ifdef HOT_EDGES
    rt_edge *sender, *receiver;
#endif
} ends;

static void need(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "hotpath: %s failed\n", what);
        exit(1);
    }
}

static rt_device *device_of_shm(void)
{
    rt_device_options options = {.provider = "shm", .name = "", .arguments = ""};
    rt_device *device = NULL;
    rt_detail detail;
    need(rt_device_open(&options, &device, &detail) == RT_OK, "opening shm");
    return device;
}

static void join(ends *both)
{
    rt_detail detail;
    rt_listener *listener = NULL;
    both->near = device_of_shm();
    both->far = device_of_shm();
    need(rt_listener_open(both->far, "127.0.0.1:0", NULL, 0, &listener, &detail) == RT_OK, "listening");
    need(rt_channel_connect(both->near, rt_listener_address(listener), NULL, 0, &both->channel, &detail) == RT_OK, "connecting");
    int status = RT_E_AGAIN;
    for (int tries = 0; status == RT_E_AGAIN && tries < TRIES; tries++) {
        status = rt_channel_wait_ready(both->channel, RT_SLICE_NS, &detail);
    }
    need(status == RT_OK, "connecting");
    status = RT_E_AGAIN;
    for (int tries = 0; status == RT_E_AGAIN && tries < TRIES; tries++) {
        status = rt_listener_accept(listener, RT_SLICE_NS, &both->accepted, &detail);
    }
    need(status == RT_OK, "accepting");
}

static void share(ends *both)
{
    rt_detail detail;
    uint8_t handle[HANDLE_MAX];
    size_t size = 0;
    need(rt_region_create(both->near, REGION, 0, RT_HUGE_OFF, &both->local, &detail) == RT_OK, "a region");
    need(rt_region_create(both->far, REGION, RT_RIGHT_REMOTE_WRITE, RT_HUGE_OFF, &both->target, &detail) == RT_OK, "a region");
    need(rt_region_handle(both->target, 0, REGION, handle, &size, &detail) == RT_OK, "a handle");
    int status = RT_E_AGAIN;
    for (int tries = 0; status == RT_E_AGAIN && tries < TRIES; tries++) {
        status = rt_remote_attach(both->channel, handle, size, RT_SLICE_NS, &both->remote, &detail);
    }
    need(status == RT_OK, "attaching");
    uint64_t bad;
    rt_copy copy = {(uintptr_t)both->local, 0, (uintptr_t)both->remote, 0, SMALL, RT_WRITE};
    need(rt_prepared_create(both->channel, -1, &copy, 1, &both->prepared, &bad) == RT_OK, "preparing");
}

#ifdef HOT_EDGES
static void edge(ends *both)
{
    rt_detail detail;
    const uint64_t dims[1] = {SMALL};
    rt_edge_options options = {.name = "hot", .dims = dims, .kind = 1, .flow = 1, .dtype = 2, .rank = 1, .slots = 2, .qp = -1};
    need(rt_edge_create(both->far, &options, NULL, &both->receiver, &detail) == RT_OK, "an edge");
    need(rt_edge_open(both->channel, &options, 1000000000, &both->sender, &detail) == RT_OK, "opening an edge");
    int status = RT_E_AGAIN;
    for (int tries = 0; status == RT_E_AGAIN && tries < TRIES; tries++) {
        status = rt_edge_wait_open(both->sender, RT_SLICE_NS, &detail);
    }
    need(status == RT_OK, "opening an edge");
}

static void through_edge(ends *both, uint64_t size)
{
    need(rt_edge_send(both->sender, rt_region_address(both->local), size, RT_SLICE_NS) == 0, "sending");
    int64_t sequence = rt_edge_receive_static(both->receiver, RT_SLICE_NS);
    need(sequence > 0, "receiving");
    need(rt_edge_release(both->receiver, (uint64_t)sequence) == RT_OK, "releasing");
}
#endif

/* The code whose instructions are counted. Not inlined, so that callgrind knows it by name. */
__attribute__((noinline)) void hot(ends *both, const char *kind, uint64_t count, uint64_t size)
{
    int copy = strcmp(kind, "copy") == 0, prepared = strcmp(kind, "prepared") == 0, word = strcmp(kind, "word") == 0;
    for (uint64_t index = 0; index < count; index++) {
        if (copy) {
            need(rt_channel_copy(both->channel, -1, RT_WRITE, both->remote, 0, both->local, 0, SMALL, RT_SLICE_NS) == RT_OK, kind);
        } else if (prepared) {
            need(rt_prepared_run(both->prepared) == RT_OK, kind);
        } else if (word) {
            need(rt_channel_wait_word(both->channel, both->local, 0, 0, RT_SLICE_NS) == RT_OK, kind);
        } else {
#ifdef HOT_EDGES
            through_edge(both, size);
#else
            (void)size;
            need(0, "this commit has no edges:");
#endif
        }
    }
}

int main(int argc, char **argv)
{
    need(argc == 3, "hotpath KIND COUNT");
    ends both = {0};
    join(&both);
    share(&both);
    uint64_t size = SMALL;
#ifdef HOT_EDGES
    if (strcmp(argv[1], "edge") == 0) {
        edge(&both);
    }
#endif
    hot(&both, argv[1], strtoull(argv[2], NULL, 10), size);
    rt_device_close(both.near);
    rt_device_close(both.far);
    return 0;
}
