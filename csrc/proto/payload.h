/* payload.h: the payloads of the frames OFFER, BYE and ERROR. PROTOCOL.md section 2 has the layout;
 * READY has no payload.
 *
 * OFFER describes an end: its provider, device and links. BYE and ERROR, the farewells, carry a
 * status and a reason that people read.
 *
 * Invariant: a payload that reads is whole, within its bounds, and its texts are printable ASCII.
 *
 * Driver: pure and without state. handshake.c calls it for frames whose tag was checked, and says
 * when they may come. */
#ifndef RT_PROTO_PAYLOAD_H
#define RT_PROTO_PAYLOAD_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "proto/frame.h"
#include "proto/limits.h"

enum { RT_HANDSHAKE_ADDRESS_MAX = 64 }; /* equals RT_LINK_ADDRESS_SIZE_MAX of the seam; core asserts it */

/* One end's description of itself and its links. The texts are terminated, and printable ASCII once
 * read or written. */
typedef struct rt_offer {
    char provider[RT_PROVIDER_NAME_MAX + 1];
    uint8_t device_id[RT_DEVICE_ID_SIZE];
    char description[RT_PEER_TEXT_MAX + 1];
    uint32_t link_count;
    uint8_t address_sizes[RT_LINKS_PER_CHANNEL_MAX];
    uint8_t addresses[RT_LINKS_PER_CHANNEL_MAX][RT_HANDSHAKE_ADDRESS_MAX];
} rt_offer;

/* Returns the payload's size, or RT_E_INVALID: no provider, no or too many links, an address too long, too little capacity. */
int64_t rt_offer_write(const rt_offer *offer, uint8_t *payload_out, size_t capacity);

/* RT_OK, or RT_E_PROTOCOL with the detail. `link_count_max` is the number of links that the reader
 * has room for. */
int rt_offer_read(const uint8_t *payload, size_t size, uint32_t link_count_max, rt_offer *offer_out, rt_detail *detail);

/* The last message of an end. BYE has no status. */
typedef struct rt_farewell {
    int32_t status; /* of ERROR: an rt_status, negative; of BYE 0 */
    char reason[RT_REASON_MAX + 1];
} rt_farewell;

/* `kind` is BYE or ERROR. A longer reason is cut. Returns the payload's size, or RT_E_INVALID for too little capacity. */
int64_t rt_farewell_write(enum rt_frame_kind kind, int status, const char *reason, uint8_t *payload_out, size_t capacity);
int rt_farewell_read(enum rt_frame_kind kind, const uint8_t *payload, size_t size, rt_farewell *farewell_out, rt_detail *detail);

#endif
