/* test_handshake_frames.c: what frames do in each state of the handshake, from a peer that has proved who it is and may still be
 * broken or of another make. Needs all of csrc/proto, csrc/base/status.c. */
#include "base/bytes.h"
#include "check.h"
#include "handshake_ends.h"

static ends pair;

/* Both ends at a stage; the victim is one of them, the peer the other. */
static rt_handshake *victim, *peer;

static void begin_at(ends_stage stage, rt_handshake_role role)
{
    ends_begin(&pair, "secret", "secret");
    ends_advance(&pair, stage);
    victim = role == RT_ROLE_CONNECTOR ? &pair.connector : &pair.acceptor;
    peer = role == RT_ROLE_CONNECTOR ? &pair.acceptor : &pair.connector;
    CHECK(victim->state >= RT_HS_OFFER && victim->state <= RT_HS_READY);
}

static void check_failed(const rt_handshake *end, int status, const char *words)
{
    CHECK_INT(end->state, RT_HS_FAILED);
    CHECK_STR(rt_status_name(end->failure.status), rt_status_name(status));
    CHECK_HAS(end->failure.text, words);
}

/* The payload of a frame that is well-formed; returns its size. */
static size_t well_formed(uint16_t kind, uint8_t *payload, size_t capacity)
{
    rt_offer offer = ends_offer("shm", "another", 0x33, 1);
    int64_t size = 0;
    switch ((enum rt_frame_kind)kind) {
    case RT_FRAME_OFFER: size = rt_offer_write(&offer, payload, capacity); break;
    case RT_FRAME_READY: break;
    case RT_FRAME_BYE: size = rt_farewell_write(RT_FRAME_BYE, 0, "done", payload, capacity); break;
    case RT_FRAME_ERROR: size = rt_farewell_write(RT_FRAME_ERROR, RT_E_DEVICE_LOST, "port down", payload, capacity); break;
    }
    CHECK(size >= 0);
    return (size_t)size;
}

static int inject_well_formed(uint16_t kind)
{
    uint8_t payload[RT_FRAME_PAYLOAD_MAX];
    size_t size = well_formed(kind, payload, sizeof payload);
    return ends_inject(victim, peer, kind, payload, size);
}

/* The fields of an OFFER, to be spoilt one at a time. */
typedef struct raw_offer {
    const char *provider;
    const char *description;
    uint32_t flags, link_count, addresses, address_size, trailing;
} raw_offer;

static int inject_offer(const raw_offer *offer)
{
    static const uint8_t bytes[255];
    uint8_t payload[RT_FRAME_PAYLOAD_MAX];
    rt_writer writer = rt_writer_of(payload, sizeof payload);
    rt_write_uint(&writer, strlen(offer->provider), 1);
    rt_write_bytes(&writer, offer->provider, strlen(offer->provider));
    rt_write_bytes(&writer, bytes, RT_DEVICE_ID_SIZE);
    rt_write_uint(&writer, strlen(offer->description), 1);
    rt_write_bytes(&writer, offer->description, strlen(offer->description));
    rt_write_uint(&writer, offer->flags, 4);
    rt_write_uint(&writer, offer->link_count, 2);
    for (uint32_t index = 0; index < offer->addresses; index++) {
        rt_write_uint(&writer, offer->address_size, 1);
        rt_write_bytes(&writer, bytes, offer->address_size);
    }
    rt_write_bytes(&writer, bytes, offer->trailing);
    CHECK(!writer.failed);
    return ends_inject(victim, peer, RT_FRAME_OFFER, payload, writer.size);
}

static void only_the_frame_whose_turn_it_is_is_taken(void)
{
    /* which of OFFER and READY each role takes at each stage; BYE and ERROR are taken at all of them */
    static const uint16_t taken[STAGE_COUNT][2] = {
        [STAGE_PROVEN] = {0, RT_FRAME_OFFER},  /* the connector speaks first */
        [STAGE_OFFERED] = {RT_FRAME_OFFER, 0}, /* the acceptor has one and owes one */
        [STAGE_JOIN] = {RT_FRAME_READY, RT_FRAME_READY},
        [STAGE_READY_1] = {RT_FRAME_READY, 0},
        [STAGE_READY_2] = {0, 0},
    };
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        for (int role = 0; role < 2; role++) {
            for (uint16_t kind = RT_FRAME_OFFER; kind <= RT_FRAME_READY; kind++) {
                begin_at((ends_stage)stage, (rt_handshake_role)role);
                int status = inject_well_formed(kind);
                if (kind == taken[stage][role]) {
                    CHECK_INT(status, RT_OK);
                    continue;
                }
                CHECK_INT(status, RT_E_PROTOCOL);
                check_failed(victim, RT_E_PROTOCOL, "a frame came out of turn: ");
                CHECK_HAS(victim->failure.text, rt_frame_kind_name((enum rt_frame_kind)kind));
            }
        }
    }
}

static void a_failure_after_the_proofs_is_told_to_the_peer_in_the_same_words(void)
{
    for (int role = 0; role < 2; role++) {
        begin_at(STAGE_READY_2, (rt_handshake_role)role);
        inject_well_formed(RT_FRAME_READY);
        ends_pump(&pair);
        check_failed(peer, RT_E_PEER_LOST,
                     "the peer gave up the channel with the error \"protocol\": \"a frame came out of turn: READY");
        CHECK_INT(peer->peer_status, RT_E_PROTOCOL);
    }
}

static void a_bye_closes_in_every_state(void)
{
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        for (int role = 0; role < 2; role++) {
            begin_at((ends_stage)stage, (rt_handshake_role)role);
            rt_handshake_close(peer, RT_E_CLOSED, "the user closed it");
            CHECK_INT(peer->state, RT_HS_CLOSED);
            CHECK_INT(peer->failure.status, RT_E_CLOSED);
            ends_pump(&pair);
            CHECK_INT(victim->state, RT_HS_CLOSED);
            CHECK_INT(victim->peer_status, RT_E_PEER_CLOSED);
            CHECK_STR(victim->failure.text, "the peer closed the channel: \"the user closed it\"");
            CHECK_INT(rt_handshake_ended(victim), RT_E_PEER_CLOSED);
            CHECK_INT(victim->state, RT_HS_CLOSED);
        }
    }
}

static void an_error_fails_in_every_state_and_says_what_the_peer_said(void)
{
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        for (int role = 0; role < 2; role++) {
            begin_at((ends_stage)stage, (rt_handshake_role)role);
            bool was_ready = victim->state == RT_HS_READY;
            rt_handshake_close(peer, RT_E_MEMLOCK, "no locked memory");
            CHECK_INT(peer->state, RT_HS_FAILED);
            CHECK_INT(peer->failure.status, RT_E_MEMLOCK);
            ends_pump(&pair);
            check_failed(victim, was_ready ? RT_E_PEER_LOST : RT_E_REFUSED, "with the error \"memlock\": \"no locked memory\"");
            CHECK_INT(victim->peer_status, RT_E_MEMLOCK);
            CHECK_INT(victim->out_size, 0); /* an ERROR is not answered */
        }
    }
}

static void nothing_is_said_to_a_peer_that_has_not_proved_itself(void)
{
    for (int status = RT_E_CLOSED; status <= RT_E_DEADLINE; status += RT_E_DEADLINE - RT_E_CLOSED) {
        ends_begin(&pair, "secret", "secret");
        wire_pump(&pair.to_acceptor, &pair.connector, &pair.acceptor);
        size_t said = pair.acceptor.out_size;
        rt_handshake_close(&pair.acceptor, status, "enough");
        CHECK_INT(pair.acceptor.state, status == RT_E_CLOSED ? RT_HS_CLOSED : RT_HS_FAILED);
        CHECK_INT(pair.acceptor.out_size, said);
    }
}

static void a_stream_that_ends_without_bye_is_a_lost_peer(void)
{
    static const char *words[STAGE_COUNT][2] = {
        [STAGE_PROVEN] = {"during the exchange of OFFERs", "during the exchange of OFFERs"},
        [STAGE_OFFERED] = {"during the exchange of OFFERs", "during the exchange of OFFERs"},
        [STAGE_JOIN] = {"during the exchange of READYs", "during the exchange of READYs"},
        [STAGE_READY_1] = {"during the exchange of READYs", "during the exchange of READYs"},
        [STAGE_READY_2] = {"ended without BYE", "ended without BYE"},
    };
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        for (int role = 0; role < 2; role++) {
            begin_at((ends_stage)stage, (rt_handshake_role)role);
            CHECK_INT(rt_handshake_ended(victim), RT_E_PEER_LOST);
            check_failed(victim, RT_E_PEER_LOST, words[stage][role]);
        }
    }
    ends_begin(&pair, NULL, NULL);
    CHECK_INT(rt_handshake_ended(&pair.connector), RT_E_PEER_LOST);
    check_failed(&pair.connector, RT_E_PEER_LOST, "after 0 of the 48 bytes of its preface: does something else answer there?");
    ends_begin(&pair, NULL, NULL);
    wire_pump(&pair.to_acceptor, &pair.connector, &pair.acceptor);
    CHECK_INT(rt_handshake_ended(&pair.acceptor), RT_E_PEER_LOST);
    check_failed(&pair.acceptor, RT_E_PEER_LOST, "during the exchange of proofs");
}

static void a_frame_sent_twice_or_sent_back_is_refused(void)
{
    uint8_t frame[RT_FRAME_SIZE_MAX];
    for (int role = 0; role < 2; role++) {
        begin_at(STAGE_JOIN, (rt_handshake_role)role);
        rt_handshake_joined(peer);
        size_t size = peer->out_size;
        memcpy(frame, peer->out, size);
        CHECK_INT(rt_handshake_feed(victim, frame, size), RT_OK);
        CHECK_INT(rt_handshake_feed(victim, frame, size), RT_E_PROTOCOL);
        check_failed(victim, RT_E_PROTOCOL, "has a wrong tag");

        begin_at(STAGE_JOIN, (rt_handshake_role)role);
        rt_handshake_joined(victim);
        memcpy(frame, victim->out, victim->out_size);
        CHECK_INT(rt_handshake_feed(victim, frame, victim->out_size), RT_E_PROTOCOL);
        check_failed(victim, RT_E_PROTOCOL, "has a wrong tag");
    }
}

static void a_frame_announced_too_large_is_refused_by_its_header(void)
{
    for (int stage = 0; stage < STAGE_COUNT; stage++) {
        const uint32_t sizes[] = {RT_FRAME_PAYLOAD_MAX + 1, 0x7fffffff, 0x80000000, 0xffffffff};
        for (size_t index = 0; index < sizeof sizes / sizeof sizes[0]; index++) {
            uint8_t header[RT_FRAME_HEADER_SIZE];
            rt_writer writer = rt_writer_of(header, sizeof header);
            rt_write_uint(&writer, sizes[index], 4);
            rt_write_uint(&writer, RT_FRAME_OFFER, 4);
            begin_at((ends_stage)stage, (rt_handshake_role)(index % 2));
            CHECK_INT(rt_handshake_feed(victim, header, sizeof header), RT_E_PROTOCOL);
            check_failed(victim, RT_E_PROTOCOL, "at most 4672 are allowed");
        }
    }
}

static void an_offer_that_breaks_its_form_is_refused(void)
{
    const raw_offer good = {.provider = "shm", .description = "x", .link_count = 2, .addresses = 2, .address_size = 64};
    char long_text[RT_PEER_TEXT_MAX + 2];
    memset(long_text, 'x', sizeof long_text);
    long_text[sizeof long_text - 1] = '\0';
    raw_offer wrong[11];
    for (size_t index = 0; index < sizeof wrong / sizeof wrong[0]; index++)
        wrong[index] = good;
    wrong[0].provider = "";
    wrong[1].provider = "sixteen letters.";
    wrong[2].description = long_text;
    wrong[3].flags = 0x80000000;
    wrong[4].link_count = wrong[4].addresses = 0;
    wrong[5].link_count = wrong[5].addresses = 65;
    wrong[5].address_size = 1;
    wrong[6].link_count = 65535;
    wrong[7].link_count = 3; /* an address is missing */
    wrong[8].link_count = 1; /* bytes are left */
    wrong[9].address_size = 65;
    wrong[10].trailing = 1;
    begin_at(STAGE_PROVEN, RT_ROLE_ACCEPTOR);
    CHECK_INT(inject_offer(&good), RT_OK);
    for (size_t index = 0; index < sizeof wrong / sizeof wrong[0]; index++) {
        begin_at(STAGE_PROVEN, RT_ROLE_ACCEPTOR);
        CHECK_INT(inject_offer(&wrong[index]), RT_E_PROTOCOL);
        check_failed(victim, RT_E_PROTOCOL, "an OFFER ");
        CHECK(!rt_handshake_wants_offer(victim) && !victim->offer_seen);
    }
}

static void an_acceptor_that_offers_more_links_than_it_was_offered_is_refused(void)
{
    const raw_offer more = {.provider = "shm", .description = "", .link_count = 4, .addresses = 4, .address_size = 1};
    begin_at(STAGE_OFFERED, RT_ROLE_CONNECTOR);
    CHECK_INT(inject_offer(&more), RT_E_PROTOCOL);
    check_failed(victim, RT_E_PROTOCOL, "an OFFER has 4 links where 1 to 3 are allowed");
}

static void two_providers_are_refused_and_named_at_both_ends(void)
{
    ends_begin(&pair, "secret", "secret");
    pair.acceptor_offer = ends_offer("verbs", "", 1, 1);
    ends_run(&pair);
    const char *words = "the acceptor's device is of provider \"verbs\" and the connector's of \"shm\"";
    check_failed(&pair.acceptor, RT_E_REFUSED, words);
    check_failed(&pair.connector, RT_E_REFUSED, words);

    begin_at(STAGE_OFFERED, RT_ROLE_ACCEPTOR);
    rt_offer own = ends_offer("verbs", "", 1, 1);
    CHECK_INT(rt_handshake_offer(victim, &own), RT_E_REFUSED);
    check_failed(victim, RT_E_REFUSED, words);

    const raw_offer other = {.provider = "verbs", .description = "", .link_count = 1, .addresses = 1, .address_size = 1};
    begin_at(STAGE_OFFERED, RT_ROLE_CONNECTOR); /* from an acceptor that did not look */
    CHECK_INT(inject_offer(&other), RT_E_REFUSED);
    check_failed(victim, RT_E_REFUSED, words);
}

static void readys_and_farewells_that_break_their_form_are_refused(void)
{
    static const struct {
        uint16_t kind;
        size_t size;
        uint8_t payload[8];
        const char *words;
    } wrong[] = {
        {RT_FRAME_READY, 1, {0}, "a READY has 1 bytes of payload"},
        {RT_FRAME_BYE, 0, {0}, "a BYE of 0 bytes"},
        {RT_FRAME_BYE, 3, {3, 'n', 'o'}, "a BYE of 3 bytes is cut short"},
        {RT_FRAME_BYE, 4, {2, 'n', 'o', 0}, "bytes after its text"},
        {RT_FRAME_ERROR, 4, {0xff, 0xff, 0xff, 0xff}, "an ERROR of 4 bytes is cut short"},
        {RT_FRAME_ERROR, 6, {0xff, 0xff, 0xff, 0xff, 0, 0}, "bytes after its text"},
        {RT_FRAME_ERROR, 5, {0, 0, 0, 0, 0}, "an ERROR has the status 0, which is no failure"},
        {RT_FRAME_ERROR, 5, {1, 0, 0, 0, 0}, "an ERROR has the status 1, which is no failure"},
    };
    for (size_t index = 0; index < sizeof wrong / sizeof wrong[0]; index++) {
        begin_at(STAGE_JOIN, (rt_handshake_role)(index % 2));
        CHECK_INT(ends_inject(victim, peer, wrong[index].kind, wrong[index].payload, wrong[index].size), RT_E_PROTOCOL);
        check_failed(victim, RT_E_PROTOCOL, wrong[index].words);
    }
}

static void a_peers_text_never_carries_control_characters(void)
{
    const raw_offer hostile = {.provider = "s\x1bm",
                               .description = "\x1b[2J\n\r\x7f\x80\xff\"'",
                               .link_count = 1,
                               .addresses = 1,
                               .address_size = 1};
    static const uint8_t error[] = {0xff, 0xff, 0xff, 0xff, 4, '\x1b', '[', '\n', 0};
    begin_at(STAGE_PROVEN, RT_ROLE_ACCEPTOR);
    CHECK_INT(inject_offer(&hostile), RT_OK);
    CHECK_STR(victim->peer_offer.provider, "s?m");
    CHECK_STR(victim->peer_offer.description, "?[2J?????\"'");
    CHECK_INT(ends_inject(victim, peer, RT_FRAME_ERROR, error, sizeof error), RT_E_REFUSED);
    CHECK_HAS(victim->failure.text, "with the error \"invalid\": \"?[??\"");
}

static void a_reason_longer_than_a_text_is_cut(void)
{
    char reason[400];
    memset(reason, 'w', sizeof reason);
    reason[sizeof reason - 1] = '\0';
    begin_at(STAGE_READY_2, RT_ROLE_CONNECTOR);
    rt_handshake_close(peer, RT_E_DEVICE_LOST, reason);
    ends_pump(&pair);
    CHECK_INT(victim->state, RT_HS_FAILED);
    CHECK_INT(strlen(strstr(victim->failure.text, "www")), RT_REASON_MAX + 1);
}

static void a_handshake_that_is_over_stays_over_and_keeps_no_key(void)
{
    static const uint8_t zeros[RT_SECRET_SIZE_MAX], bytes[100];
    begin_at(STAGE_READY_2, RT_ROLE_ACCEPTOR);
    CHECK_BYTES(victim->secret, zeros, sizeof zeros); /* not needed after the proofs */
    rt_handshake_close(victim, RT_E_DEADLINE, "enough");
    size_t said = victim->out_size;
    CHECK_INT(rt_handshake_feed(victim, bytes, sizeof bytes), RT_E_DEADLINE);
    CHECK_INT(rt_handshake_ended(victim), RT_E_DEADLINE);
    CHECK_INT(rt_handshake_offer(victim, &pair.acceptor_offer), RT_E_INVALID);
    CHECK_INT(rt_handshake_joined(victim), RT_E_INVALID);
    rt_handshake_close(victim, RT_E_CLOSED, "again");
    CHECK_STR(victim->failure.text, "enough");
    CHECK_INT(victim->out_size, said);
    CHECK(rt_handshake_room(victim) > 0);
    CHECK_BYTES(victim->send_lane.key, zeros, RT_SHA256_SIZE);
    CHECK_BYTES(victim->receive_lane.key, zeros, RT_SHA256_SIZE);
}

static const check_test tests[] = {
    CHECK_TEST(only_the_frame_whose_turn_it_is_is_taken),
    CHECK_TEST(a_failure_after_the_proofs_is_told_to_the_peer_in_the_same_words),
    CHECK_TEST(a_bye_closes_in_every_state),
    CHECK_TEST(an_error_fails_in_every_state_and_says_what_the_peer_said),
    CHECK_TEST(nothing_is_said_to_a_peer_that_has_not_proved_itself),
    CHECK_TEST(a_stream_that_ends_without_bye_is_a_lost_peer),
    CHECK_TEST(a_frame_sent_twice_or_sent_back_is_refused),
    CHECK_TEST(a_frame_announced_too_large_is_refused_by_its_header),
    CHECK_TEST(an_offer_that_breaks_its_form_is_refused),
    CHECK_TEST(an_acceptor_that_offers_more_links_than_it_was_offered_is_refused),
    CHECK_TEST(two_providers_are_refused_and_named_at_both_ends),
    CHECK_TEST(readys_and_farewells_that_break_their_form_are_refused),
    CHECK_TEST(a_peers_text_never_carries_control_characters),
    CHECK_TEST(a_reason_longer_than_a_text_is_cut),
    CHECK_TEST(a_handshake_that_is_over_stays_over_and_keeps_no_key),
};
CHECK_MAIN(tests)
