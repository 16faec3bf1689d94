/* handler.h: the table by which the carrier knows its handlers: each takes messages of some kinds,
 * and sends others. */
#ifndef RT_RPC_HANDLER_H
#define RT_RPC_HANDLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "rdmatensor.h"

typedef struct rt_link rt_link;
typedef struct rt_rpc rt_rpc;

/* All functions are called with device->lock held, for a channel that has its RPC. */
typedef struct rt_rpc_handler {
    /* A channel gets its RPC. NULL: the handler has nothing to make. */
    int (*open)(rt_rpc *rpc, rt_detail *detail);
    uint8_t first, last; /* kinds of messages that it takes: their first bytes */
    /* A message came. RT_E_PROTOCOL and the like end the channel. */
    int (*received)(rt_channel *channel, const uint8_t *bytes, size_t size, rt_detail *detail);
    /* Sends waiting messages. True when something moved. */
    bool (*run)(rt_channel *channel);
    /* When its next work is due, or INT64_MAX. */
    int64_t (*next_deadline)(const rt_channel *channel);
    /* Requests of ours that the peer has not answered, and of the peer's that wait here: all
     * handlers share the limits of both. */
    uint32_t (*outstanding)(const rt_channel *channel);
    uint32_t (*pending)(const rt_channel *channel);
    /* An immediate came on this link; the detail may be NULL. NULL: the handler takes no
     * immediates. */
    int (*immediate)(rt_link *link, uint32_t immediate, rt_detail *detail);
    /* The channel is gone. */
    void (*closed)(rt_channel *channel);
} rt_rpc_handler;

/* Names: answer.c. */
extern const rt_rpc_handler rt_names_handler;

#endif
