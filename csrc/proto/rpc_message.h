/* rpc_message.h: the messages of address distribution (PROTOCOL.md section 4). Pure. */
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
/* RT_OK or RT_E_PROTOCOL with the detail. Accepts exactly what rt_rpc_encode makes. */
int rt_rpc_decode(const uint8_t *bytes, size_t size, rt_rpc_message *message_out, rt_detail *detail);
/* RT_OK when the name may be published and looked up: 1 to RT_NAME_MAX bytes, no control characters. */
int rt_rpc_check_name(const char *name, rt_detail *detail);

#endif
