/* lookup.h: a request to a peer for a name. */
#ifndef RT_RPC_LOOKUP_H
#define RT_RPC_LOOKUP_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/limits.h"
#include "rdmatensor.h"

typedef struct rt_rpc_message rt_rpc_message;

enum rt_lookup_state {
    RT_LOOKUP_FREE = 0,
    RT_LOOKUP_NEW,  /* not sent yet */
    RT_LOOKUP_SENT, /* the reply is awaited */
    RT_LOOKUP_DONE, /* `status` is the result */
};

typedef struct rt_lookup {
    enum rt_lookup_state state;
    bool abandoned; /* nobody waits for the reply, which is still to come */
    uint16_t request;
    uint32_t generation;
    uint32_t wait_ms;
    int32_t status;           /* RT_OK or RT_E_NOT_FOUND */
    uint32_t published_count; /* names that the peer has instead */
    size_t handle_size;
    uint8_t handle[RT_HANDLE_SIZE_MAX];
    char name[RT_NAME_MAX + 1];
} rt_lookup;

/* Takes the reply to a lookup. RT_E_PROTOCOL when no lookup waits for it. */
int rt_lookup_answered(rt_channel *channel, const rt_rpc_message *message, rt_detail *detail);

#endif
