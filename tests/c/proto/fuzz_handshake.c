/* fuzz_handshake.c: a peer that does anything, before and after it proved who it is. Needs all of csrc/proto,
 * csrc/base/status.c.
 *
 * The first byte of an input chooses the role of the end under test, whether there is a secret, and how far an honest handshake
 * has come when the rest begins; the rest is a script of steps: raw bytes, frames sealed with the peer's own key, honest frames
 * with a byte changed, and what core does at this end. `check_end` says what holds after every step. */
#undef NDEBUG
#include <assert.h>

#include "base/bytes.h"
#include "handshake_ends.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static ends pair;

/* An honest handshake that came to a stage: made once, then copied, since its digests would be most of the time. */
static void begin_at(ends_stage stage, bool with_secret)
{
    static ends prepared[2][STAGE_COUNT];
    static bool made[2][STAGE_COUNT];
    if (!made[with_secret][stage]) {
        const char *secret = with_secret ? "a secret" : NULL;
        ends_begin(&prepared[with_secret][stage], secret, secret);
        ends_advance(&prepared[with_secret][stage], stage);
        made[with_secret][stage] = true;
    }
    pair.connector = prepared[with_secret][stage].connector;
    pair.acceptor = prepared[with_secret][stage].acceptor;
}

static void check_text(const char *text, size_t capacity)
{
    size_t size = strnlen(text, capacity);
    assert(size < capacity);
    for (size_t index = 0; index < size; index++)
        assert(text[index] >= 0x20 && text[index] <= 0x7e);
}

static void check_end(const rt_handshake *end)
{
    assert(end->in_size <= sizeof end->in && end->out_size <= sizeof end->out);
    assert(rt_handshake_room(end) > 0);
    assert(end->state >= RT_HS_PREFACE && end->state <= RT_HS_FAILED);
    assert(rt_handshake_state_name(end->state)[0] != '\0');
    bool over = end->state == RT_HS_CLOSED || end->state == RT_HS_FAILED;
    assert(over == (end->failure.status < 0));
    if (over) {
        assert(end->failure.text[0] != '\0');
        check_text(end->failure.text, sizeof end->failure.text);
        assert(!rt_handshake_wants_offer(end));
    }
    if (end->offer_seen) {
        assert(end->peer_offer.link_count >= 1 && end->peer_offer.link_count <= RT_LINKS_PER_CHANNEL_MAX);
        assert(end->role == RT_ROLE_ACCEPTOR || end->peer_offer.link_count <= end->own_link_count);
        for (uint32_t index = 0; index < end->peer_offer.link_count; index++)
            assert(end->peer_offer.address_sizes[index] <= RT_HANDSHAKE_ADDRESS_MAX);
        check_text(end->peer_offer.provider, sizeof end->peer_offer.provider);
        check_text(end->peer_offer.description, sizeof end->peer_offer.description);
    }
    assert((end->state != RT_HS_JOIN && end->state != RT_HS_READY) || (end->offer_sent && end->offer_seen));
    assert(end->state != RT_HS_READY || (end->ready_sent && end->ready_seen));
    assert(end->state != RT_HS_READY || strcmp(end->own_provider, end->peer_offer.provider) == 0);
}

/* Feeds in pieces of at most `piece` bytes. */
static void feed(rt_handshake *end, const uint8_t *bytes, size_t size, size_t piece)
{
    for (size_t fed = 0; fed < size;) {
        size_t room = rt_handshake_room(end), part = size - fed;
        part = piece > 0 && part > piece ? piece : part;
        part = part > room ? room : part;
        int status = rt_handshake_feed(end, bytes + fed, part);
        assert(status == (end->state < RT_HS_CLOSED ? RT_OK : end->failure.status));
        check_end(end);
        fed += part;
    }
}

/* Nothing but the secret leads past the proofs. */
static void fuzz_raw(rt_handshake *end, const uint8_t *bytes, size_t size)
{
    size_t piece = size > 0 ? bytes[0] : 0;
    feed(end, bytes, size, piece);
    assert(end->state == RT_HS_PREFACE || end->state == RT_HS_PROOF || end->state == RT_HS_FAILED);
    assert(end->state == RT_HS_FAILED || rt_handshake_ended(end) == RT_E_PEER_LOST);
    check_end(end);
}

/* A preface of version 1 with a byte changed, or none, and no proof: the bytes stand behind it. */
static void fuzz_after_preface(rt_handshake *end, const uint8_t *bytes, size_t size)
{
    uint8_t preface[RT_PREFACE_SIZE], nonce[RT_NONCE_SIZE] = {5};
    if (size < 2)
        return;
    rt_preface_write(end->secret_size > 0, nonce, preface);
    preface[bytes[0] % sizeof preface] ^= bytes[1];
    feed(end, preface, sizeof preface, 0);
    assert(bytes[1] != 0 || end->state == RT_HS_PROOF);
    assert(bytes[1] == 0 || bytes[0] % sizeof preface >= 16 || end->state == RT_HS_FAILED);
    fuzz_raw(end, bytes + 2, size - 2);
}

/* Seals an honest payload of the kind with one byte changed, or none. */
static void inject_honest(rt_handshake *end, rt_handshake *peer, uint8_t kind, uint8_t at, uint8_t change)
{
    uint8_t payload[RT_FRAME_PAYLOAD_MAX];
    rt_offer offer = ends_offer("shm", "honest", at, 1 + (uint32_t)change % 4);
    int64_t size = 0;
    switch ((enum rt_frame_kind)kind) {
    case RT_FRAME_OFFER: size = rt_offer_write(&offer, payload, sizeof payload); break;
    case RT_FRAME_READY: break;
    case RT_FRAME_BYE: size = rt_farewell_write(RT_FRAME_BYE, 0, "bye", payload, sizeof payload); break;
    case RT_FRAME_ERROR: size = rt_farewell_write(RT_FRAME_ERROR, RT_E_REFUSED, "no", payload, sizeof payload); break;
    }
    if (size > 0 && (change & 0x80) != 0)
        payload[at % size] ^= change;
    ends_inject(end, peer, kind, payload, (size_t)size);
}

/* One step of the script. Returns how many bytes of it were used. */
static size_t step(rt_handshake *end, rt_handshake *peer, const uint8_t *bytes, size_t size)
{
    uint8_t first = size > 1 ? bytes[1] : 0, second = size > 2 ? bytes[2] : 0;
    size_t rest = size > 3 ? size - 3 : 0, part = second < rest ? second : rest;
    rt_offer offer = ends_offer(first % 8 == 7 ? "verbs" : "shm", "own", first, second % 8);
    switch (bytes[0] % 9) {
    case 0: feed(end, bytes + (size - rest), part, first); return 3 + part;
    case 1: ends_inject(end, peer, (uint16_t)(first % 6), bytes + (size - rest), part); return 3 + part;
    case 2:
    case 3: inject_honest(end, peer, (uint8_t)(1 + bytes[0] / 9 % 4), first, second); return 3;
    case 4: rt_handshake_offer(end, &offer); return 3;
    case 5: rt_handshake_joined(end); return 1;
    case 6: rt_handshake_sent(end, first < end->out_size ? first : end->out_size); return 2;
    case 7:
        if (first % 4 == 0)
            rt_handshake_close(end, first % 8 == 0 ? RT_E_CLOSED : RT_E_DEADLINE, "the end of it");
        return 2;
    default:
        if (first % 4 == 0)
            rt_handshake_ended(end);
        return 2;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size == 0)
        return 0;
    bool with_secret = (bytes[0] & 1) != 0;
    bool acceptor = (bytes[0] & 2) != 0;
    unsigned stage = (bytes[0] >> 2) % (STAGE_COUNT + 2);
    if (stage < STAGE_COUNT)
        begin_at((ends_stage)stage, with_secret);
    else
        ends_begin(&pair, with_secret ? "a secret" : NULL, with_secret ? "a secret" : NULL);
    rt_handshake *end = acceptor ? &pair.acceptor : &pair.connector, *peer = acceptor ? &pair.connector : &pair.acceptor;
    if (stage == STAGE_COUNT) {
        fuzz_raw(end, bytes + 1, size - 1);
        return 0;
    }
    if (stage == STAGE_COUNT + 1) {
        fuzz_after_preface(end, bytes + 1, size - 1);
        return 0;
    }
    for (size_t at = 1; at < size;) {
        bool was_over = end->state >= RT_HS_CLOSED;
        rt_handshake_state before = end->state;
        at += step(end, peer, bytes + at, size - at);
        check_end(end);
        assert(end->state >= before); /* states only go forward */
        assert(!was_over || end->state == before);
    }
    return 0;
}
