/* handshake.c: from the first byte to READY, and BYE or ERROR after it (PROTOCOL.md sections 1 to
 * 3). handshake.h states the theory of operation.
 *
 * Two tables define it: `state_facts` lists what an end awaits in each state, `handshake_table`
 * which events may happen there and where they lead. The code below interprets them; an event that
 * no row lists fails the connection. Pure: the stream, the links, the deadline and the peer's uid
 * belong to control (connection.c). */
#include "proto/handshake.h"

#include <assert.h>
#include <string.h>

typedef enum event {
    EVENT_PREFACE, /* the peer's preface, whole */
    EVENT_PROOF,   /* the peer's proof, whole */
    EVENT_OFFER,   /* the peer's frames */
    EVENT_READY,
    EVENT_BYE,
    EVENT_ERROR,
    EVENT_OWN_OFFER, /* this end's own actions */
    EVENT_OWN_READY
} event;

typedef struct state_fact {
    const char *name;
    const char *phase; /* the phase that an end of the stream cuts short */
    bool proven;       /* both proofs are done: frames are exchanged */
    bool over;
} state_fact;

static const state_fact state_facts[] = {
    [RT_HS_PREFACE] = {"preface", "the exchange of prefaces", false, false},
    [RT_HS_PROOF] = {"proof", "the exchange of proofs", false, false},
    [RT_HS_OFFER] = {"offer", "the exchange of OFFERs", true, false},
    [RT_HS_JOIN] = {"join", "the exchange of READYs", true, false},
    [RT_HS_READY] = {"ready", "the life of the channel", true, false},
    [RT_HS_CLOSED] = {"closed", "nothing", false, true},
    [RT_HS_FAILED] = {"failed", "nothing", false, true},
};

_Static_assert((int)RT_PROOF_SIZE == (int)RT_SHA256_SIZE, "a proof is a digest");

static bool handshake_is_connector(const rt_handshake *handshake)
{
    return handshake->role == RT_ROLE_CONNECTOR;
}

/* ---- output. An end sends each message once, so `out` has room for all of them. ---- */

static void bytes_queue(rt_handshake *handshake, const void *bytes, size_t size)
{
    assert(size <= sizeof handshake->out - handshake->out_size);
    memcpy(handshake->out + handshake->out_size, bytes, size);
    handshake->out_size += size;
}

static void frame_queue(rt_handshake *handshake, enum rt_frame_kind kind, const uint8_t *payload, size_t size)
{
    int64_t sealed = rt_frame_seal(&handshake->send_lane, (uint16_t)kind, payload, size, handshake->out + handshake->out_size,
                                   sizeof handshake->out - handshake->out_size);
    assert(sealed > 0);
    handshake->out_size += (size_t)sealed;
}

static void farewell_queue(rt_handshake *handshake, enum rt_frame_kind kind)
{
    uint8_t payload[4 + 1 + RT_REASON_MAX];
    int64_t size = rt_farewell_write(kind, handshake->failure.status, handshake->failure.text, payload, sizeof payload);
    assert(size > 0);
    frame_queue(handshake, kind, payload, (size_t)size);
}

/* The connection is over on this end; handshake->failure says why. From now on no frame is sealed
 * or opened and nothing is proven. */
static int handshake_leave(rt_handshake *handshake, rt_handshake_state state)
{
    assert(state_facts[state].over && handshake->failure.status < 0);
    handshake->state = state;
    explicit_bzero(handshake->secret, sizeof handshake->secret);
    explicit_bzero(handshake->send_lane.key, sizeof handshake->send_lane.key);
    explicit_bzero(handshake->receive_lane.key, sizeof handshake->receive_lane.key);
    return handshake->failure.status;
}

/* As above, after a failure. ERROR is sent only if our proof was already accepted, so the peer can
 * authenticate it. */
static int handshake_give_up(rt_handshake *handshake)
{
    if (state_facts[handshake->state].proven)
        farewell_queue(handshake, RT_FRAME_ERROR);
    return handshake_leave(handshake, RT_HS_FAILED);
}

/* ---- prefaces and proofs ---- */

/* HMAC(secret, "rdmatensor " purpose " " role " " ‖ connector's preface ‖ acceptor's preface). */
static void digest_derive(const rt_handshake *handshake, const char *purpose, rt_handshake_role role,
                          uint8_t digest_out[RT_SHA256_SIZE])
{
    const char *parts[] = {"rdmatensor ", purpose, role == RT_ROLE_CONNECTOR ? " connector " : " acceptor "};
    rt_hmac_state state;
    rt_hmac_begin(&state, handshake->secret, handshake->secret_size);
    for (size_t index = 0; index < sizeof parts / sizeof parts[0]; index++)
        rt_hmac_add(&state, parts[index], strlen(parts[index]));
    rt_hmac_add(&state, handshake_is_connector(handshake) ? handshake->own_preface : handshake->peer_preface, RT_PREFACE_SIZE);
    rt_hmac_add(&state, handshake_is_connector(handshake) ? handshake->peer_preface : handshake->own_preface, RT_PREFACE_SIZE);
    rt_hmac_end(&state, digest_out);
}

static rt_handshake_role role_other(const rt_handshake *handshake)
{
    return handshake_is_connector(handshake) ? RT_ROLE_ACCEPTOR : RT_ROLE_CONNECTOR;
}

static void own_proof_queue(rt_handshake *handshake)
{
    uint8_t proof[RT_PROOF_SIZE];
    digest_derive(handshake, "proof", handshake->role, proof);
    bytes_queue(handshake, proof, sizeof proof);
}

static int preface_take(rt_handshake *handshake, const uint8_t *bytes, size_t size)
{
    memcpy(handshake->peer_preface, bytes, size);
    if (!handshake_is_connector(handshake)) /* before the checks, so that the connector too can name a difference */
        bytes_queue(handshake, handshake->own_preface, RT_PREFACE_SIZE);
    int status = rt_preface_check(bytes, handshake->own_preface, &handshake->failure);
    if (status == RT_OK && handshake_is_connector(handshake))
        own_proof_queue(handshake);
    return status;
}

static int proof_refuse(rt_handshake *handshake, const char *what)
{
    if (handshake->secret_size == 0)
        return rt_fail(&handshake->failure, RT_E_AUTH, 0,
                       "%s although neither end has a secret: bytes were changed between the two ends", what);
    return rt_fail(&handshake->failure, RT_E_AUTH, 0,
                   "%s: the two ends were given different secrets; pass the same secret= to both", what);
}

static int proof_take(rt_handshake *handshake, const uint8_t *bytes, size_t size)
{
    static const uint8_t refusal[RT_PROOF_SIZE];
    uint8_t expected[RT_PROOF_SIZE];
    assert(size == sizeof expected);
    digest_derive(handshake, "proof", role_other(handshake), expected);
    bool fits = rt_equal_constant_time(bytes, expected, size);
    explicit_bzero(expected, sizeof expected);
    if (!fits && handshake_is_connector(handshake) && rt_equal_constant_time(bytes, refusal, size))
        return proof_refuse(handshake, "the peer did not accept this end's proof");
    if (!fits && !handshake_is_connector(handshake))
        bytes_queue(handshake, refusal, sizeof refusal);
    if (!fits)
        return proof_refuse(handshake, "the peer's proof does not fit");
    if (!handshake_is_connector(handshake))
        own_proof_queue(handshake);
    digest_derive(handshake, "key", handshake->role, handshake->send_lane.key);
    digest_derive(handshake, "key", role_other(handshake), handshake->receive_lane.key);
    explicit_bzero(handshake->secret, sizeof handshake->secret);
    return RT_OK;
}

/* ---- frames ---- */

static int provider_refuse(rt_handshake *handshake)
{
    return rt_fail(
        &handshake->failure, RT_E_REFUSED, 0,
        "the acceptor's device is of provider \"%s\" and the connector's of \"%s\": open both ends with the same provider",
        handshake_is_connector(handshake) ? handshake->peer_offer.provider : handshake->own_provider,
        handshake_is_connector(handshake) ? handshake->own_provider : handshake->peer_offer.provider);
}

static bool providers_agree(const rt_handshake *handshake)
{
    return strcmp(handshake->own_provider, handshake->peer_offer.provider) == 0;
}

static int offer_take(rt_handshake *handshake, const uint8_t *bytes, size_t size)
{
    uint32_t most = handshake_is_connector(handshake) ? handshake->own_link_count : RT_LINKS_PER_CHANNEL_MAX;
    int status = rt_offer_read(bytes, size, most, &handshake->peer_offer, &handshake->failure);
    if (status == RT_OK && handshake_is_connector(handshake) && !providers_agree(handshake))
        return provider_refuse(handshake);
    handshake->offer_seen = status == RT_OK;
    return status;
}

static int ready_frame_take(rt_handshake *handshake, const uint8_t *bytes, size_t size)
{
    (void)bytes;
    if (size != 0)
        return rt_fail(&handshake->failure, RT_E_PROTOCOL, 0, "a READY has %zu bytes of payload where none belong", size);
    handshake->ready_seen = true;
    return RT_OK;
}

static int bye_take(rt_handshake *handshake, const uint8_t *bytes, size_t size)
{
    rt_farewell bye;
    int status = rt_farewell_read(RT_FRAME_BYE, bytes, size, &bye, &handshake->failure);
    if (status != RT_OK)
        return status;
    handshake->peer_status = RT_E_PEER_CLOSED;
    rt_fail(&handshake->failure, RT_E_PEER_CLOSED, 0, "the peer closed the channel: \"%s\"", bye.reason);
    return RT_OK;
}

static int error_take(rt_handshake *handshake, const uint8_t *bytes, size_t size)
{
    rt_farewell error;
    int status = rt_farewell_read(RT_FRAME_ERROR, bytes, size, &error, &handshake->failure);
    if (status != RT_OK)
        return status;
    bool was_ready = handshake->state == RT_HS_READY;
    handshake->peer_status = error.status;
    rt_fail(&handshake->failure, was_ready ? RT_E_PEER_LOST : RT_E_REFUSED, 0,
            "the peer gave up %s with the error \"%s\": \"%s\"", was_ready ? "the channel" : "before the channel was ready",
            rt_status_name(error.status), error.reason);
    return RT_OK;
}

/* ---- the table ---- */

static bool connector_unoffered(const rt_handshake *handshake)
{
    return handshake_is_connector(handshake) && !handshake->offer_sent;
}

static bool connector_offered(const rt_handshake *handshake)
{
    return handshake_is_connector(handshake) && handshake->offer_sent;
}

static bool acceptor_unoffered(const rt_handshake *handshake)
{
    return !handshake_is_connector(handshake) && !handshake->offer_seen;
}

static bool acceptor_offered(const rt_handshake *handshake)
{
    return !handshake_is_connector(handshake) && handshake->offer_seen;
}

static bool ready_first(const rt_handshake *handshake)
{
    return !handshake->ready_sent && !handshake->ready_seen;
}

static bool ready_after_ours(const rt_handshake *handshake)
{
    return handshake->ready_sent && !handshake->ready_seen;
}

static bool ready_after_theirs(const rt_handshake *handshake)
{
    return handshake->ready_seen && !handshake->ready_sent;
}

typedef struct handshake_rule {
    rt_handshake_state state;
    event what;
    bool (*when)(const rt_handshake *handshake);                             /* NULL: always */
    int (*take)(rt_handshake *handshake, const uint8_t *bytes, size_t size); /* NULL for this end's own actions */
    rt_handshake_state next; /* where success leads; a failure leads to RT_HS_FAILED */
} handshake_rule;

/* The events that may happen in each state. The first row that fits counts; where none does, the
 * peer's event is RT_E_PROTOCOL and this end's is RT_E_INVALID. */
/* clang-format off */
static const handshake_rule handshake_table[] = {
    {RT_HS_PREFACE, EVENT_PREFACE,   NULL,                preface_take, RT_HS_PROOF},
    {RT_HS_PROOF,   EVENT_PROOF,     NULL,                proof_take,   RT_HS_OFFER},
    {RT_HS_OFFER,   EVENT_OWN_OFFER, connector_unoffered, NULL,         RT_HS_OFFER},
    {RT_HS_OFFER,   EVENT_OFFER,     connector_offered,   offer_take,   RT_HS_JOIN},
    {RT_HS_OFFER,   EVENT_OFFER,     acceptor_unoffered,  offer_take,   RT_HS_OFFER},
    {RT_HS_OFFER,   EVENT_OWN_OFFER, acceptor_offered,    NULL,         RT_HS_JOIN},
    {RT_HS_OFFER,   EVENT_BYE,       NULL,                bye_take,     RT_HS_CLOSED},
    {RT_HS_OFFER,   EVENT_ERROR,     NULL,                error_take,   RT_HS_FAILED},
    {RT_HS_JOIN,    EVENT_OWN_READY, ready_first,         NULL,         RT_HS_JOIN},
    {RT_HS_JOIN,    EVENT_OWN_READY, ready_after_theirs,  NULL,         RT_HS_READY},
    {RT_HS_JOIN,    EVENT_READY,     ready_first,         ready_frame_take,   RT_HS_JOIN},
    {RT_HS_JOIN,    EVENT_READY,     ready_after_ours,    ready_frame_take,   RT_HS_READY},
    {RT_HS_JOIN,    EVENT_BYE,       NULL,                bye_take,     RT_HS_CLOSED},
    {RT_HS_JOIN,    EVENT_ERROR,     NULL,                error_take,   RT_HS_FAILED},
    {RT_HS_READY,   EVENT_BYE,       NULL,                bye_take,     RT_HS_CLOSED},
    {RT_HS_READY,   EVENT_ERROR,     NULL,                error_take,   RT_HS_FAILED},
};
/* clang-format on */

static const handshake_rule *handshake_rule_find(const rt_handshake *handshake, event what)
{
    for (size_t index = 0; index < sizeof handshake_table / sizeof handshake_table[0]; index++) {
        const handshake_rule *rule = &handshake_table[index];
        if (rule->state == handshake->state && rule->what == what && (rule->when == NULL || rule->when(handshake)))
            return rule;
    }
    return NULL;
}

/* ---- the interpreter ---- */

typedef struct handshake_arrival {
    event what;
    const uint8_t *bytes; /* of a preface, a proof or a payload */
    size_t size;
    size_t consumed; /* of handshake->in */
} handshake_arrival;

static int arrival_find_whole(const rt_handshake *handshake, event what, size_t size, handshake_arrival *arrival_out)
{
    if (handshake->in_size < size)
        return RT_E_AGAIN;
    *arrival_out = (handshake_arrival){.what = what, .bytes = handshake->in, .size = size, .consumed = size};
    return RT_OK;
}

static int arrival_find_frame(rt_handshake *handshake, handshake_arrival *arrival_out)
{
    static const event events[] = {[RT_FRAME_OFFER] = EVENT_OFFER,
                                   [RT_FRAME_READY] = EVENT_READY,
                                   [RT_FRAME_BYE] = EVENT_BYE,
                                   [RT_FRAME_ERROR] = EVENT_ERROR};
    uint16_t kind = 0;
    handshake_arrival arrival = {.size = 0};
    int status = rt_frame_open(&handshake->receive_lane, handshake->in, handshake->in_size, &kind, &arrival.bytes, &arrival.size,
                               &arrival.consumed, &handshake->failure);
    if (status != RT_OK)
        return status;
    arrival.what = events[kind];
    *arrival_out = arrival;
    if (handshake_rule_find(handshake, arrival.what) == NULL)
        return rt_fail(&handshake->failure, RT_E_PROTOCOL, 0, "a frame came out of turn: %s in the state \"%s\" of the %s",
                       rt_frame_kind_name((enum rt_frame_kind)kind), rt_handshake_state_name(handshake->state),
                       handshake_is_connector(handshake) ? "connector" : "acceptor");
    return RT_OK;
}

/* The next item in `in`, once whole; RT_E_AGAIN until then. */
static int arrival_find(rt_handshake *handshake, handshake_arrival *arrival_out)
{
    switch (handshake->state) {
    case RT_HS_PREFACE: {
        int status = rt_preface_check_magic(handshake->in, handshake->in_size, handshake->role, &handshake->failure);
        return status != RT_OK ? status : arrival_find_whole(handshake, EVENT_PREFACE, RT_PREFACE_SIZE, arrival_out);
    }
    case RT_HS_PROOF: return arrival_find_whole(handshake, EVENT_PROOF, RT_PROOF_SIZE, arrival_out);
    case RT_HS_OFFER:
    case RT_HS_JOIN:
    case RT_HS_READY: return arrival_find_frame(handshake, arrival_out);
    case RT_HS_CLOSED:
    case RT_HS_FAILED: break;
    }
    return RT_E_AGAIN;
}

int rt_handshake_step(rt_handshake *handshake)
{
    while (!state_facts[handshake->state].over) {
        handshake_arrival arrival = {.size = 0};
        int status = arrival_find(handshake, &arrival);
        if (status == RT_E_AGAIN)
            return RT_OK;
        const handshake_rule *rule = status == RT_OK ? handshake_rule_find(handshake, arrival.what) : NULL;
        if (status == RT_OK) {
            assert(rule != NULL && rule->take != NULL);
            status = rule->take(handshake, arrival.bytes, arrival.size);
        }
        if (status != RT_OK)
            return handshake_give_up(handshake);
        handshake->in_size -= arrival.consumed;
        memmove(handshake->in, handshake->in + arrival.consumed, handshake->in_size);
        if (state_facts[rule->next].over)
            return handshake_leave(handshake, rule->next);
        handshake->state = rule->next;
    }
    return handshake->failure.status;
}

/* ---- calls of the driver ---- */

int rt_handshake_begin(rt_handshake *handshake, rt_handshake_role role, const uint8_t *secret, size_t secret_size,
                       const uint8_t nonce[RT_NONCE_SIZE])
{
    if (secret_size > RT_SECRET_SIZE_MAX)
        return RT_E_INVALID;
    memset(handshake, 0, sizeof *handshake);
    handshake->role = role;
    handshake->state = RT_HS_PREFACE;
    handshake->secret_size = secret_size;
    if (secret_size > 0)
        memcpy(handshake->secret, secret, secret_size);
    rt_preface_write(secret_size > 0, nonce, handshake->own_preface);
    if (handshake_is_connector(handshake))
        bytes_queue(handshake, handshake->own_preface, RT_PREFACE_SIZE);
    return RT_OK;
}

size_t rt_handshake_room(const rt_handshake *handshake)
{
    return sizeof handshake->in - handshake->in_size; /* bytes that wait inside never make a whole frame */
}

int rt_handshake_feed(rt_handshake *handshake, const uint8_t *bytes, size_t size)
{
    if (size > rt_handshake_room(handshake))
        return RT_E_INVALID;
    if (!state_facts[handshake->state].over && size > 0) {
        memcpy(handshake->in + handshake->in_size, bytes, size);
        handshake->in_size += size;
    }
    return rt_handshake_step(handshake);
}

bool rt_handshake_wants_offer(const rt_handshake *handshake)
{
    return handshake_rule_find(handshake, EVENT_OWN_OFFER) != NULL;
}

int rt_handshake_offer(rt_handshake *handshake, const rt_offer *offer)
{
    const handshake_rule *rule = handshake_rule_find(handshake, EVENT_OWN_OFFER);
    if (rule == NULL || (!handshake_is_connector(handshake) && offer->link_count > handshake->peer_offer.link_count))
        return RT_E_INVALID;
    uint8_t payload[RT_FRAME_PAYLOAD_MAX];
    int64_t size = rt_offer_write(offer, payload, sizeof payload);
    if (size < 0)
        return RT_E_INVALID;
    rt_text_clean((const uint8_t *)offer->provider, strnlen(offer->provider, RT_PROVIDER_NAME_MAX), handshake->own_provider,
                  sizeof handshake->own_provider);
    handshake->own_link_count = offer->link_count;
    if (!handshake_is_connector(handshake) && !providers_agree(handshake)) {
        provider_refuse(handshake);
        return handshake_give_up(handshake);
    }
    frame_queue(handshake, RT_FRAME_OFFER, payload, (size_t)size);
    handshake->offer_sent = true;
    handshake->state = rule->next;
    return RT_OK;
}

int rt_handshake_joined(rt_handshake *handshake)
{
    const handshake_rule *rule = handshake_rule_find(handshake, EVENT_OWN_READY);
    if (rule == NULL)
        return RT_E_INVALID;
    frame_queue(handshake, RT_FRAME_READY, NULL, 0);
    handshake->ready_sent = true;
    handshake->state = rule->next;
    return RT_OK;
}

int rt_handshake_ended(rt_handshake *handshake)
{
    if (state_facts[handshake->state].over)
        return handshake->failure.status;
    if (handshake->state == RT_HS_PREFACE)
        rt_fail(&handshake->failure, RT_E_PEER_LOST, 0,
                "the peer closed the connection after %zu of the %d bytes of its preface: %s", handshake->in_size,
                RT_PREFACE_SIZE,
                handshake_is_connector(handshake) ? "does something else answer there? check host and port"
                                                  : "something else connected, or it gave up");
    else if (handshake->state == RT_HS_READY)
        rt_fail(&handshake->failure, RT_E_PEER_LOST, 0,
                "the connection to the peer ended without BYE: its process died or was killed, or the network between was cut");
    else
        rt_fail(&handshake->failure, RT_E_PEER_LOST, 0,
                "the peer closed the connection during %s: its process died or gave up; its own error says why",
                state_facts[handshake->state].phase);
    return handshake_leave(handshake, RT_HS_FAILED);
}

void rt_handshake_close(rt_handshake *handshake, int status, const char *reason)
{
    assert(status < 0);
    if (state_facts[handshake->state].over)
        return;
    rt_fail(&handshake->failure, status, 0, "%s", reason);
    if (status != RT_E_CLOSED) {
        handshake_give_up(handshake);
        return;
    }
    if (state_facts[handshake->state].proven)
        farewell_queue(handshake, RT_FRAME_BYE);
    handshake_leave(handshake, RT_HS_CLOSED);
}

void rt_handshake_sent(rt_handshake *handshake, size_t size)
{
    assert(size <= handshake->out_size);
    handshake->out_size -= size;
    memmove(handshake->out, handshake->out + size, handshake->out_size);
}

const char *rt_handshake_state_name(rt_handshake_state state)
{
    return state_facts[state].name;
}
