/* rpc_message.h: the messages of address distribution: LOOKUP asks for a name, FOUND and MISSING
 * answer. PROTOCOL.md section 4 has the layout.
 *
 * A message travels by SEND on link 0 of a channel. Each request has a number and exactly one
 * reply; edge_message continues the kinds with those of edges.
 *
 * Invariant: each message has one encoding, and names have no control characters, so they can be
 * shown as they are.
 *
 * Driver: pure and without state. rpc/lookup.c sends LOOKUPs and rpc/answer.c replies, on any
 * thread and on the service's; they match replies to requests and bound how many are under way. */
#ifndef RT_PROTO_RPC_MESSAGE_H
#define RT_PROTO_RPC_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "proto/limits.h"

enum rt_rpc_kind { RT_RPC_LOOKUP = 1, RT_RPC_FOUND = 2, RT_RPC_MISSING = 3 };

typedef struct rt_rpc_message {
    uint8_t kind; /* rt_rpc_kind */
    uint16_t request;
    uint32_t wait_ms;           /* LOOKUP */
    uint8_t name_size;          /* LOOKUP: 1 to RT_NAME_MAX */
    char name[RT_NAME_MAX + 1]; /* LOOKUP, terminated */
    uint8_t handle_size;        /* FOUND: 1 to RT_HANDLE_SIZE_MAX */
    uint8_t handle[RT_HANDLE_SIZE_MAX];
    uint32_t published_count; /* MISSING */
} rt_rpc_message;

/* Returns the encoded size, or RT_E_INVALID. */
int64_t rt_rpc_encode(const rt_rpc_message *message, uint8_t *bytes_out, size_t capacity);
/* RT_OK or RT_E_PROTOCOL with the detail. Accepts exactly the bytes that rt_rpc_encode makes. */
int rt_rpc_decode(const uint8_t *bytes, size_t size, rt_rpc_message *message_out, rt_detail *detail);
/* RT_OK when the name may be published and looked up: 1 to RT_NAME_MAX bytes, no control characters. */
int rt_rpc_check_name(const char *name, rt_detail *detail);

#endif
