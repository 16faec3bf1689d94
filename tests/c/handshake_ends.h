/* handshake_ends.h: two ends of a control connection in memory, with a wire each way that can be made to lie. For
 * test_handshake.c and fuzz_handshake.c. Needs all of csrc/proto, csrc/base/status.c. */
#ifndef RT_TESTS_HANDSHAKE_ENDS_H
#define RT_TESTS_HANDSHAKE_ENDS_H

#include <stdio.h>
#include <string.h>

#include "proto/handshake.h"

enum wire_fault { WIRE_HONEST, WIRE_FLIP, WIRE_INSERT, WIRE_DROP, WIRE_CUT };

/* One direction. A fault happens to the byte at position `at` of all that the sender ever sends. */
typedef struct wire {
    enum wire_fault fault;
    size_t at;
    uint8_t mask;         /* flipped bits, or the inserted byte */
    size_t chunk;         /* bytes delivered at once; 0: as many as there is room for */
    size_t sent;          /* by the sender */
    uint8_t bytes[16384]; /* what arrived, from the beginning */
    size_t arrived, delivered;
} wire;

typedef struct ends {
    rt_handshake connector, acceptor;
    rt_offer connector_offer, acceptor_offer;
    wire to_connector, to_acceptor;
} ends;

static inline rt_offer ends_offer(const char *provider, const char *description, uint8_t mark, uint32_t link_count)
{
    rt_offer offer = {.link_count = link_count};
    snprintf(offer.provider, sizeof offer.provider, "%s", provider);
    snprintf(offer.description, sizeof offer.description, "%s", description);
    memset(offer.device_id, mark, sizeof offer.device_id);
    for (uint32_t index = 0; index < link_count; index++) {
        offer.address_sizes[index] = (uint8_t)(1 + (index + mark) % RT_HANDSHAKE_ADDRESS_MAX);
        memset(offer.addresses[index], (int)(mark + index), offer.address_sizes[index]);
    }
    return offer;
}

/* Begins both ends; a secret of NULL is same-user mode. Both sides get different numbers everywhere. */
static inline void ends_begin(ends *pair, const char *connector_secret, const char *acceptor_secret)
{
    uint8_t nonces[2][RT_NONCE_SIZE];
    memset(nonces[0], 0xc1, sizeof nonces[0]);
    memset(nonces[1], 0xa7, sizeof nonces[1]);
    memset(pair, 0, sizeof *pair);
    rt_handshake_begin(&pair->connector, RT_ROLE_CONNECTOR, (const uint8_t *)connector_secret,
                       connector_secret != NULL ? strlen(connector_secret) : 0, nonces[0]);
    rt_handshake_begin(&pair->acceptor, RT_ROLE_ACCEPTOR, (const uint8_t *)acceptor_secret,
                       acceptor_secret != NULL ? strlen(acceptor_secret) : 0, nonces[1]);
    pair->connector_offer = ends_offer("shm", "east pid 11 shm0", 0x21, 3);
    pair->acceptor_offer = ends_offer("shm", "west pid 22 shm0", 0x53, 2);
}

static inline void wire_carry_byte(wire *line, uint8_t byte)
{
    bool here = line->sent++ == line->at;
    if (line->fault == WIRE_CUT && line->sent > line->at)
        return;
    if (here && line->fault == WIRE_DROP)
        return;
    if (here && line->fault == WIRE_INSERT && line->arrived < sizeof line->bytes)
        line->bytes[line->arrived++] = line->mask;
    if (line->arrived < sizeof line->bytes)
        line->bytes[line->arrived++] = here && line->fault == WIRE_FLIP ? byte ^ line->mask : byte;
}

/* Takes all that `from` has to say and delivers it. True when something was delivered. */
static inline bool wire_pump(wire *line, rt_handshake *from, rt_handshake *to)
{
    for (size_t index = 0; index < from->out_size; index++)
        wire_carry_byte(line, from->out[index]);
    rt_handshake_sent(from, from->out_size);
    bool moved = line->delivered < line->arrived;
    while (line->delivered < line->arrived) {
        size_t size = line->arrived - line->delivered, room = rt_handshake_room(to);
        size = line->chunk != 0 && size > line->chunk ? line->chunk : size;
        size = size > room ? room : size;
        rt_handshake_feed(to, line->bytes + line->delivered, size);
        line->delivered += size;
    }
    return moved;
}

/* Moves bytes both ways until nothing moves any more. */
static inline void ends_pump(ends *pair)
{
    bool moved = true;
    while (moved) {
        moved = wire_pump(&pair->to_acceptor, &pair->connector, &pair->acceptor);
        moved = wire_pump(&pair->to_connector, &pair->acceptor, &pair->connector) || moved;
    }
}

/* Acts as core does at one end: gives its offer and says that its links are joined. True when it did something. */
static inline bool ends_act(rt_handshake *end, const rt_offer *offer)
{
    if (rt_handshake_wants_offer(end))
        return rt_handshake_offer(end, offer) != RT_E_INVALID;
    return end->state == RT_HS_JOIN && !end->ready_sent && rt_handshake_joined(end) == RT_OK;
}

/* The whole handshake, as far as it goes. */
static inline void ends_run(ends *pair)
{
    bool acted = true;
    while (acted) {
        ends_pump(pair);
        acted = ends_act(&pair->connector, &pair->connector_offer);
        acted = ends_act(&pair->acceptor, &pair->acceptor_offer) || acted;
    }
}

/* How far a handshake has come when a test begins. */
typedef enum ends_stage {
    STAGE_PROVEN,  /* proofs done, no OFFER given */
    STAGE_OFFERED, /* the connector's OFFER is at the acceptor */
    STAGE_JOIN,    /* both OFFERs are known */
    STAGE_READY_1, /* the connector's READY is at the acceptor */
    STAGE_READY_2, /* both READYs are there */
    STAGE_COUNT
} ends_stage;

static inline void ends_advance(ends *pair, ends_stage stage)
{
    ends_pump(pair);
    for (int done = STAGE_PROVEN; done < (int)stage; done++) {
        switch ((ends_stage)done) {
        case STAGE_PROVEN: rt_handshake_offer(&pair->connector, &pair->connector_offer); break;
        case STAGE_OFFERED: rt_handshake_offer(&pair->acceptor, &pair->acceptor_offer); break;
        case STAGE_JOIN: rt_handshake_joined(&pair->connector); break;
        case STAGE_READY_1: rt_handshake_joined(&pair->acceptor); break;
        case STAGE_READY_2:
        case STAGE_COUNT: break;
        }
        ends_pump(pair);
    }
}

/* Seals a frame as the peer of `victim` would and feeds it. Returns what feeding returned. */
static inline int ends_inject(rt_handshake *victim, rt_handshake *peer, uint16_t kind, const uint8_t *payload, size_t size)
{
    uint8_t frame[RT_FRAME_SIZE_MAX];
    int64_t sealed = rt_frame_seal(&peer->send_lane, kind, payload, size, frame, sizeof frame);
    if (sealed < 0)
        return (int)sealed;
    int status = RT_OK;
    for (size_t fed = 0; fed < (size_t)sealed;) {
        size_t room = rt_handshake_room(victim), left = (size_t)sealed - fed;
        size_t part = left < room ? left : room;
        status = rt_handshake_feed(victim, frame + fed, part);
        fed += part;
    }
    return status;
}

#endif
