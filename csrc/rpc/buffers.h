/* buffers.h: registered memory for RPC messages. */
#ifndef RT_RPC_BUFFERS_H
#define RT_RPC_BUFFERS_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/limits.h"
#include "rdmatensor.h"
#include "rpc/carrier.h"
#include "rpc/handler.h"

typedef struct rt_rpc_pool rt_rpc_pool;

enum {
    /* Buffers of one channel: a slot of RT_RPC_MESSAGE_MAX for each RECV and SEND. */
    RT_RPC_BUFFER_SIZE = (RT_RPC_RECEIVES + RT_RPC_SENDS) * RT_RPC_MESSAGE_MAX,
    /* The first RPC region serves this many channels and each further one twice as many; 16 of them serve over a million. */
    RT_RPC_FIRST_CHANNELS = 32,
    RT_RPC_REGIONS_MAX = 16,
};

/* Registered memory for messages, grown outside the lock because registering is slow. */
struct rt_rpc_pool {
    const rt_rpc_handler *const *handlers; /* takers of the messages; NULL ends the list */
    rt_region *regions[RT_RPC_REGIONS_MAX];
    uint32_t region_count;
    bool wanted;       /* a channel waits for room */
    rt_detail failure; /* the reason why there is none; taken by the channel that waits */
};

int rt_rpc_device_open(rt_device *device, const rt_rpc_handler *const *handlers,
                       rt_detail *detail);   /* registers nothing yet; any lock */
void rt_rpc_device_close(rt_device *device); /* frees names, gives up RPC regions: rt_region_close_all closes them */

/* RT_E_AGAIN: no room; the service will grow the pool. */
int rt_rpc_take_buffers(rt_device *device, rt_rpc *rpc, rt_detail *detail);
void rt_rpc_give_buffers(rt_rpc *rpc);
/* Without device->lock. True when it did something. */
bool rt_rpc_grow(rt_device *device);
rt_segment rt_rpc_receive_slot(const rt_rpc *rpc, uint32_t slot);
rt_segment rt_rpc_send_slot(const rt_rpc *rpc, uint32_t slot, uint64_t size);

#endif
