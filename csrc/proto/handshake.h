/* handshake.h: from the first byte to READY, and BYE or ERROR after it (PROTOCOL.md sections 1 to 3). Pure: the driver feeds
 * bytes and takes bytes; it keeps the deadline, the stream and the links. */
#ifndef RT_PROTO_HANDSHAKE_H
#define RT_PROTO_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "proto/frame.h"
#include "proto/limits.h"

enum { RT_HANDSHAKE_ADDRESS_MAX = 64 }; /* equals RT_LINK_ADDRESS_SIZE_MAX of the seam; core asserts it */

typedef enum rt_handshake_role { RT_ROLE_CONNECTOR, RT_ROLE_ACCEPTOR } rt_handshake_role;

typedef enum rt_handshake_state {
    RT_HS_PREFACE,      /* the peer's preface is awaited */
    RT_HS_PROOF,        /* the peer's proof is awaited */
    RT_HS_OFFER,        /* the peer's OFFER is awaited */
    RT_HS_JOIN,         /* both offers are known; links are being joined; the peer's READY may come */
    RT_HS_READY,        /* both READYs were seen */
    RT_HS_CLOSED,       /* BYE came or was sent */
    RT_HS_FAILED        /* the detail says why */
} rt_handshake_state;

/* What one end says of itself and its links. */
typedef struct rt_offer {
    char provider[RT_PROVIDER_NAME_MAX + 1];
    uint8_t device_id[RT_DEVICE_ID_SIZE];
    char description[RT_PEER_TEXT_MAX + 1];
    uint32_t link_count;
    uint8_t address_sizes[RT_LINKS_PER_CHANNEL_MAX];
    uint8_t addresses[RT_LINKS_PER_CHANNEL_MAX][RT_HANDSHAKE_ADDRESS_MAX];
} rt_offer;

typedef struct rt_handshake {
    rt_handshake_role role;
    rt_handshake_state state;
    uint8_t secret[RT_SECRET_SIZE_MAX];
    size_t secret_size;
    uint8_t own_preface[RT_PREFACE_SIZE], peer_preface[RT_PREFACE_SIZE];
    rt_frame_lane send_lane, receive_lane;
    rt_offer peer_offer;           /* valid from RT_HS_JOIN on */
    bool offer_sent, ready_sent, ready_seen;
    int32_t peer_status;           /* of an ERROR frame, RT_E_PEER_CLOSED after BYE */
    rt_detail failure;             /* valid in RT_HS_FAILED and RT_HS_CLOSED */
    uint8_t in[RT_FRAME_SIZE_MAX]; /* bytes of the peer not yet understood */
    size_t in_size;
    uint8_t out[2 * RT_FRAME_SIZE_MAX]; /* bytes for the peer not yet taken by the driver */
    size_t out_size;
} rt_handshake;

/* Begins. `nonce` is fresh random bytes. A secret of size 0 means same-user mode. RT_E_INVALID when the secret is too long. */
int rt_handshake_begin(rt_handshake *handshake, rt_handshake_role role, const uint8_t *secret, size_t secret_size,
                       const uint8_t nonce[RT_NONCE_SIZE]);

/* Takes bytes from the peer: at most what rt_handshake_room says fits. Moves the state as far as it goes; replies are put
 * into `out`. RT_OK, or the failure (state FAILED), or RT_E_PEER_CLOSED after a BYE (state CLOSED). Feeding may leave
 * bytes waiting inside (an OFFER before ours was given): rt_handshake_step goes on. */
size_t rt_handshake_room(const rt_handshake *handshake);
int rt_handshake_feed(rt_handshake *handshake, const uint8_t *bytes, size_t size);
int rt_handshake_step(rt_handshake *handshake);

/* True when this end's OFFER is due: the connector's after the proofs, the acceptor's after the peer's OFFER came. */
bool rt_handshake_wants_offer(const rt_handshake *handshake);
int rt_handshake_offer(rt_handshake *handshake, const rt_offer *offer);

/* Every link is joined and its receives are posted: sends READY. Only in RT_HS_JOIN. */
int rt_handshake_joined(rt_handshake *handshake);

/* The stream ended. Returns and records what it means in this state: RT_E_PEER_CLOSED after a BYE, else a failure that says
 * how far it had come ("closed before its preface: does something else answer there?"). */
int rt_handshake_ended(rt_handshake *handshake);

/* This end gives up or closes: queues ERROR (if the proofs are done and status is not RT_E_CLOSED), BYE (RT_E_CLOSED after
 * the proofs), or nothing. The state becomes CLOSED or FAILED. */
void rt_handshake_close(rt_handshake *handshake, int status, const char *reason);

/* The driver has sent the first `size` bytes of `out`. */
void rt_handshake_sent(rt_handshake *handshake, size_t size);

/* A word for the state, for dumps: "preface", "proof", … */
const char *rt_handshake_state_name(rt_handshake_state state);

#endif
