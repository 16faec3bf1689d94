/* handshake.h: the control connection from the first byte to READY, and BYE or ERROR after it. The
 * full protocol: PROTOCOL.md sections 1 to 3.
 *
 * Both ends exchange prefaces and proofs of a shared secret, then OFFERs that describe device and
 * links, then READY once all links are joined. The states are those of rt_handshake_state: preface,
 * proof, offer, join, ready, and closed or failed at the end.
 *
 * Invariant: no byte beyond the fixed prefaces and proofs is parsed before the peer's proof was
 * accepted, and no link is used before both ends have joined it.
 *
 * Driver: pure; bytes in, bytes and a state out. control/connection.c feeds it with the bytes of a
 * stream, joins the links when the state asks for it, keeps the one deadline, and asks the kernel
 * for the peer's user where there is no secret. One thread at a time drives it. */
#ifndef RT_PROTO_HANDSHAKE_H
#define RT_PROTO_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "proto/frame.h"
#include "proto/limits.h"
#include "proto/payload.h"
#include "proto/preface.h"

typedef enum rt_handshake_state {
    RT_HS_PREFACE, /* the peer's preface is awaited */
    RT_HS_PROOF,   /* the peer's proof is awaited */
    RT_HS_OFFER,   /* the proofs are done, an OFFER is missing: the peer's, or ours (rt_handshake_wants_offer) */
    RT_HS_JOIN,    /* both offers are known; links are being joined; the peer's READY may come */
    RT_HS_READY,   /* both READYs were seen */
    RT_HS_CLOSED,  /* BYE came or was sent */
    RT_HS_FAILED   /* the detail says why */
} rt_handshake_state;

typedef struct rt_handshake {
    rt_handshake_role role;
    rt_handshake_state state;
    uint8_t secret[RT_SECRET_SIZE_MAX];
    size_t secret_size;
    uint8_t own_preface[RT_PREFACE_SIZE], peer_preface[RT_PREFACE_SIZE];
    rt_frame_lane send_lane, receive_lane;
    rt_offer peer_offer; /* valid when offer_seen: when the acceptor's offer is wanted, and from RT_HS_JOIN on */
    char own_provider[RT_PROVIDER_NAME_MAX + 1];
    uint32_t own_link_count;
    bool offer_sent, offer_seen, ready_sent, ready_seen;
    int32_t peer_status;           /* the status in an ERROR frame, RT_E_PEER_CLOSED after BYE, else 0 */
    rt_detail failure;             /* valid in RT_HS_FAILED and RT_HS_CLOSED */
    uint8_t in[RT_FRAME_SIZE_MAX]; /* bytes of the peer not yet understood */
    size_t in_size;
    uint8_t out[2 * RT_FRAME_SIZE_MAX]; /* bytes for the peer not yet taken by the driver */
    size_t out_size;
} rt_handshake;

/* Begins. `nonce` is fresh random bytes. A secret of size 0 means same-user mode. RT_E_INVALID when the secret is too long. */
int rt_handshake_begin(rt_handshake *handshake, rt_handshake_role role, const uint8_t *secret, size_t secret_size,
                       const uint8_t nonce[RT_NONCE_SIZE]);

/* Takes bytes from the peer: at most as many as rt_handshake_room says (it is never 0), else
 * RT_E_INVALID and nothing is taken. Moves the state as far as it goes; replies are put into `out`.
 * RT_OK, or the failure (state FAILED), or RT_E_PEER_CLOSED after a BYE (state CLOSED). Once over,
 * it ignores bytes and returns the same again. rt_handshake_step is rt_handshake_feed without
 * bytes: it returns the present status. */
size_t rt_handshake_room(const rt_handshake *handshake);
int rt_handshake_feed(rt_handshake *handshake, const uint8_t *bytes, size_t size);
int rt_handshake_step(rt_handshake *handshake);

/* True when this end's OFFER is due: the connector's after the proofs, the acceptor's after the peer's OFFER came. */
bool rt_handshake_wants_offer(const rt_handshake *handshake);

/* Passes this end's OFFER in. RT_E_INVALID, and nothing changed, when it is not due or not
 * well-formed (an acceptor may offer at most as many links as peer_offer has); RT_E_REFUSED when
 * the ends have different providers; otherwise as rt_handshake_feed. */
int rt_handshake_offer(rt_handshake *handshake, const rt_offer *offer);

/* Every link is joined and its receives are posted: sends READY. RT_E_INVALID, and nothing changed,
 * unless it is due: once, in RT_HS_JOIN. The number of links is peer_offer.link_count at the
 * connector, that of our own OFFER at the acceptor. */
int rt_handshake_joined(rt_handshake *handshake);

/* The stream ended. Returns and records the status that this means in the present state:
 * RT_E_PEER_CLOSED after a BYE, else a failure that says how far the handshake had come ("closed
 * before its preface: does something else answer there?"). */
int rt_handshake_ended(rt_handshake *handshake);

/* This end gives up or closes: queues ERROR (if the proofs are done and status is not RT_E_CLOSED), BYE (RT_E_CLOSED after
 * the proofs), or nothing. The state becomes CLOSED or FAILED. `status` is negative; nothing happens when it was over. */
void rt_handshake_close(rt_handshake *handshake, int status, const char *reason);

/* The driver has sent the first `size` bytes of `out`. After a failure `out` holds the last bytes
 * for the peer (ERROR, or the zero proof): worth sending as far as the stream takes them at
 * once. */
void rt_handshake_sent(rt_handshake *handshake, size_t size);

/* The name of the state, for dumps: "preface", "proof", … */
const char *rt_handshake_state_name(rt_handshake_state state);

#endif
