/* handle.h: the bytes that name a range of registered memory to a peer. PROTOCOL.md section 5 has
 * the layout.
 *
 * A handle holds the provider's name, the device's id, the range, the registration's size, the
 * rights and the provider's key. It is a capability: with it and a channel a process reaches the
 * range, so it is never logged.
 *
 * Invariant: a decoded handle names a range inside its registration, with no right but the remote
 * ones. Each handle has one encoding.
 *
 * Driver: pure and without state. region/region.c and rpc/answer.c encode; channel/remote.c
 * decodes, compares provider and device with the channel's peer, and passes the key to the
 * provider. */
#ifndef RT_PROTO_HANDLE_H
#define RT_PROTO_HANDLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "proto/limits.h"

enum {
    RT_HANDLE_VERSION = 1,
    RT_HANDLE_KEY_MAX = 64,   /* equals RT_MEMORY_KEY_SIZE_MAX of the seam; core asserts it */
    RT_HANDLE_RIGHTS = 2 | 4, /* the remote ones of rt_rights; no other right concerns a peer */
};

typedef struct rt_handle {
    char provider[RT_PROVIDER_NAME_MAX + 1];
    uint8_t device_id[RT_DEVICE_ID_SIZE];
    uint64_t offset, size;      /* the range */
    uint64_t registration_size; /* of the whole registration */
    uint32_t rights;            /* rt_rights: remote write, remote read */
    uint8_t key_size;
    uint8_t key[RT_HANDLE_KEY_MAX];
} rt_handle;

/* Returns the encoded size, or RT_E_INVALID: provider empty or not printable, range outside the registration, rights beyond
 * RT_HANDLE_RIGHTS, key too long, or too little capacity (RT_HANDLE_SIZE_MAX is always enough). */
int64_t rt_handle_encode(const rt_handle *handle, uint8_t *bytes_out, size_t capacity);
/* RT_OK, RT_E_VERSION or RT_E_PROTOCOL with the detail. Ranges and rights are checked; the key is
 * left to the provider to check. Accepts exactly the bytes that rt_handle_encode makes. */
int rt_handle_decode(const uint8_t *bytes, size_t size, rt_handle *handle_out, rt_detail *detail);

#endif
