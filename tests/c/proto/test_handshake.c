/* test_handshake.c: the handshake between two ends in memory, honest and attacked. Needs all of csrc/proto, csrc/base/status.c. */
#include "check.h"
#include "handshake_ends.h"

static ends pair;

static rt_handshake *end_of(rt_handshake_role role)
{
    return role == RT_ROLE_CONNECTOR ? &pair.connector : &pair.acceptor;
}

static rt_handshake *peer_of(rt_handshake_role role)
{
    return role == RT_ROLE_CONNECTOR ? &pair.acceptor : &pair.connector;
}

static void check_failed(const rt_handshake *end, int status, const char *words)
{
    CHECK_INT(end->state, RT_HS_FAILED);
    CHECK_STR(rt_status_name(end->failure.status), rt_status_name(status));
    CHECK_HAS(end->failure.text, words);
}

static void check_both_ready(void)
{
    CHECK_STR(rt_handshake_state_name(pair.connector.state), "ready");
    CHECK_STR(rt_handshake_state_name(pair.acceptor.state), "ready");
}

/* ---- the honest ones ---- */

static void two_ends_with_the_same_secret_become_ready(void)
{
    ends_begin(&pair, "a shared secret", "a shared secret");
    ends_run(&pair);
    check_both_ready();
}

static void two_ends_of_one_user_become_ready_without_a_secret(void)
{
    ends_begin(&pair, NULL, NULL);
    ends_run(&pair);
    check_both_ready();
}

static void a_secret_may_have_256_bytes_and_not_257(void)
{
    char secret[RT_SECRET_SIZE_MAX + 2];
    uint8_t nonce[RT_NONCE_SIZE] = {1};
    memset(secret, 's', sizeof secret);
    secret[RT_SECRET_SIZE_MAX] = '\0';
    ends_begin(&pair, secret, secret);
    ends_run(&pair);
    check_both_ready();
    CHECK_INT(rt_handshake_begin(&pair.connector, RT_ROLE_CONNECTOR, (uint8_t *)secret, RT_SECRET_SIZE_MAX + 1, nonce),
              RT_E_INVALID);
}

static void the_same_bytes_in_other_pieces_end_the_same(void)
{
    const size_t chunks[] = {1, 2, 7, 24, 47, 48, 49, 4096};
    for (size_t index = 0; index < sizeof chunks / sizeof chunks[0]; index++) {
        ends_begin(&pair, "secret", "secret");
        pair.to_connector.chunk = chunks[index];
        pair.to_acceptor.chunk = chunks[sizeof chunks / sizeof chunks[0] - 1 - index];
        ends_run(&pair);
        check_both_ready();
    }
}

static void each_end_learns_what_the_other_offered(void)
{
    ends_begin(&pair, "secret", "secret");
    pair.connector_offer = ends_offer("verbs", "north", 9, RT_LINKS_PER_CHANNEL_MAX);
    pair.acceptor_offer = ends_offer("verbs", "south", 200, RT_LINKS_PER_CHANNEL_MAX - 1);
    ends_run(&pair);
    check_both_ready();
    const rt_offer *got[] = {&pair.acceptor.peer_offer, &pair.connector.peer_offer};
    const rt_offer *given[] = {&pair.connector_offer, &pair.acceptor_offer};
    for (size_t end = 0; end < 2; end++) {
        CHECK_STR(got[end]->provider, "verbs");
        CHECK_STR(got[end]->description, given[end]->description);
        CHECK_INT(got[end]->link_count, given[end]->link_count);
        CHECK_BYTES(got[end]->device_id, given[end]->device_id, RT_DEVICE_ID_SIZE);
        CHECK_BYTES(got[end]->address_sizes, given[end]->address_sizes, RT_LINKS_PER_CHANNEL_MAX);
        CHECK_BYTES(got[end]->addresses, given[end]->addresses, sizeof given[end]->addresses);
    }
}

static void an_end_is_not_ready_before_both_readys(void)
{
    for (int first = 0; first < 2; first++) {
        ends_begin(&pair, NULL, NULL);
        ends_advance(&pair, STAGE_JOIN);
        CHECK_INT(rt_handshake_joined(end_of((rt_handshake_role)first)), RT_OK);
        ends_pump(&pair);
        CHECK_INT(pair.connector.state, RT_HS_JOIN);
        CHECK_INT(pair.acceptor.state, RT_HS_JOIN);
        CHECK_INT(rt_handshake_joined(peer_of((rt_handshake_role)first)), RT_OK);
        CHECK_INT(peer_of((rt_handshake_role)first)->state, RT_HS_READY);
        ends_pump(&pair);
        check_both_ready();
    }
}

static void a_call_that_is_not_due_is_refused_and_changes_nothing(void)
{
    const rt_offer many = ends_offer("shm", "", 1, 4);
    rt_offer wrong = ends_offer("shm", "", 1, 1);
    ends_begin(&pair, NULL, NULL);
    CHECK_INT(rt_handshake_offer(&pair.connector, &pair.connector_offer), RT_E_INVALID); /* before the proofs */
    ends_advance(&pair, STAGE_PROVEN);
    CHECK(!rt_handshake_wants_offer(&pair.acceptor));
    CHECK_INT(rt_handshake_offer(&pair.acceptor, &pair.acceptor_offer), RT_E_INVALID); /* before the connector's */
    CHECK_INT(rt_handshake_joined(&pair.connector), RT_E_INVALID);
    wrong.link_count = 0;
    CHECK_INT(rt_handshake_offer(&pair.connector, &wrong), RT_E_INVALID);
    wrong.link_count = RT_LINKS_PER_CHANNEL_MAX + 1;
    CHECK_INT(rt_handshake_offer(&pair.connector, &wrong), RT_E_INVALID);
    wrong.link_count = 1;
    wrong.address_sizes[0] = RT_HANDSHAKE_ADDRESS_MAX + 1;
    CHECK_INT(rt_handshake_offer(&pair.connector, &wrong), RT_E_INVALID);
    ends_advance(&pair, STAGE_OFFERED);
    CHECK_INT(rt_handshake_offer(&pair.connector, &pair.connector_offer), RT_E_INVALID); /* twice */
    CHECK_INT(rt_handshake_offer(&pair.acceptor, &many), RT_E_INVALID);                  /* 4 links, the connector has 3 */
    CHECK_INT(pair.acceptor.out_size + pair.connector.out_size, 0);
    rt_handshake_offer(&pair.acceptor, &pair.acceptor_offer);
    ends_pump(&pair);
    ends_run(&pair);
    check_both_ready();
    CHECK_INT(rt_handshake_joined(&pair.connector), RT_E_INVALID);
}

static void more_bytes_than_room_are_refused_and_none_is_taken(void)
{
    static uint8_t bytes[RT_FRAME_SIZE_MAX + 1];
    ends_begin(&pair, NULL, NULL);
    CHECK_INT(rt_handshake_room(&pair.acceptor), RT_FRAME_SIZE_MAX);
    CHECK_INT(rt_handshake_feed(&pair.acceptor, bytes, sizeof bytes), RT_E_INVALID);
    ends_run(&pair);
    check_both_ready();
}

/* ---- who is there ---- */

static void a_wrong_secret_is_an_authentication_error_at_both_ends(void)
{
    ends_begin(&pair, "secret", "Secret");
    ends_run(&pair);
    check_failed(&pair.acceptor, RT_E_AUTH, "pass the same secret= to both");
    check_failed(&pair.connector, RT_E_AUTH, "the peer did not accept this end's proof");
    CHECK_HAS(pair.connector.failure.text, "pass the same secret= to both");
}

static void a_missing_secret_is_named_at_both_ends(void)
{
    ends_begin(&pair, NULL, "secret");
    ends_run(&pair);
    check_failed(&pair.connector, RT_E_AUTH, "the peer wants a secret and none was given here");
    check_failed(&pair.acceptor, RT_E_AUTH, "a secret was given here and the peer has none");
    ends_begin(&pair, "secret", NULL);
    ends_run(&pair);
    check_failed(&pair.connector, RT_E_AUTH, "a secret was given here and the peer has none");
    check_failed(&pair.acceptor, RT_E_AUTH, "the peer wants a secret and none was given here");
}

static void another_version_is_named_with_both_numbers_at_both_ends(void)
{
    for (int role = 0; role < 2; role++) {
        ends_begin(&pair, "secret", NULL); /* the version is looked at before the authentication, which differs too */
        rt_handshake *newer = end_of((rt_handshake_role)role), *older = peer_of((rt_handshake_role)role);
        newer->own_preface[8] = 0x03;
        newer->own_preface[9] = 0x02;
        if (role == RT_ROLE_CONNECTOR)
            memcpy(newer->out, newer->own_preface, RT_PREFACE_SIZE);
        ends_run(&pair);
        check_failed(older, RT_E_VERSION, "the peer speaks version 515 of the control protocol and this end version 1");
        CHECK_BYTES(newer->peer_preface, older->own_preface, RT_PREFACE_SIZE); /* so the newer can name the difference too */
        CHECK_INT(pair.acceptor.out_size + pair.connector.out_size, 0);
    }
}

static void a_preface_that_breaks_the_form_is_a_protocol_error(void)
{
    for (size_t at = 10; at < 16; at++) {
        ends_begin(&pair, NULL, NULL);
        pair.to_acceptor = (wire){.fault = WIRE_FLIP, .at = at, .mask = 0x40};
        ends_run(&pair);
        check_failed(&pair.acceptor, RT_E_PROTOCOL, at == 10 ? "authentication 64" : "where zeros belong");
    }
}

static void a_stranger_is_named_by_its_first_bytes_at_once(void)
{
    static const uint8_t web[] = "HTTP/1.1 400 Bad Request\r\n", shell[] = "SSH-2.0-OpenSSH_9.2\r\n",
                         hostile[] = "\x1b]0;owned\a";
    ends_begin(&pair, NULL, NULL);
    CHECK_INT(rt_handshake_feed(&pair.connector, web, sizeof web - 1), RT_E_PROTOCOL);
    check_failed(&pair.connector, RT_E_PROTOCOL, "48 54 54 50 2f 31 2e 31 20 34 30 30 20 42 61 64 (\"HTTP/1.1 400 Bad\")");
    CHECK_HAS(pair.connector.failure.text, "something else answers there; check host and port");
    ends_begin(&pair, NULL, NULL);
    CHECK_INT(rt_handshake_feed(&pair.connector, shell, 3), RT_E_PROTOCOL);
    check_failed(&pair.connector, RT_E_PROTOCOL, "first bytes are 53 53 48 (\"SSH\")");
    CHECK_INT(rt_handshake_feed(&pair.acceptor, hostile, sizeof hostile - 1), RT_E_PROTOCOL);
    check_failed(&pair.acceptor, RT_E_PROTOCOL, "(\"?]0;owned?\")");
    CHECK_INT(pair.acceptor.out_size, 0); /* a stranger gets no answer */
}

static void our_own_bytes_coming_back_are_refused(void)
{
    ends_begin(&pair, "secret", "secret");
    CHECK_INT(rt_handshake_feed(&pair.connector, pair.connector.out, pair.connector.out_size), RT_E_AUTH);
    check_failed(&pair.connector, RT_E_AUTH, "our own bytes came back");
}

/* HMAC(secret, label ‖ connector's preface ‖ acceptor's preface), put together by hand from PROTOCOL.md. */
static void digest_of(const char *label, uint8_t digest_out[RT_SHA256_SIZE])
{
    uint8_t bytes[64 + 2 * RT_PREFACE_SIZE];
    size_t size = strlen(label);
    memcpy(bytes, label, size);
    memcpy(bytes + size, pair.to_acceptor.bytes, RT_PREFACE_SIZE);
    memcpy(bytes + size + RT_PREFACE_SIZE, pair.to_connector.bytes, RT_PREFACE_SIZE);
    rt_hmac_sha256((const uint8_t *)"secret", 6, bytes, size + 2 * RT_PREFACE_SIZE, digest_out);
}

static void prefaces_proofs_and_keys_are_what_the_protocol_says(void)
{
    static const uint8_t start[16] = {'R', 'D', 'M', 'A', 'T', 'N', 'S', 'R', 1, 0, 1, 0, 0, 0, 0, 0};
    uint8_t digest[RT_SHA256_SIZE];
    ends_begin(&pair, "secret", "secret");
    ends_pump(&pair);
    const uint8_t *said[] = {pair.to_acceptor.bytes, pair.to_connector.bytes};
    CHECK_BYTES(said[0], start, sizeof start);
    CHECK_BYTES(said[1], start, sizeof start);
    CHECK_INT(said[0][16], 0xc1);
    CHECK_INT(said[1][47], 0xa7);
    digest_of("rdmatensor proof connector ", digest);
    CHECK_BYTES(said[0] + RT_PREFACE_SIZE, digest, sizeof digest);
    digest_of("rdmatensor proof acceptor ", digest);
    CHECK_BYTES(said[1] + RT_PREFACE_SIZE, digest, sizeof digest);
    digest_of("rdmatensor key connector ", digest);
    CHECK_BYTES(pair.connector.send_lane.key, digest, sizeof digest);
    CHECK_BYTES(pair.acceptor.receive_lane.key, digest, sizeof digest);
    digest_of("rdmatensor key acceptor ", digest);
    CHECK_BYTES(pair.acceptor.send_lane.key, digest, sizeof digest);
    CHECK_BYTES(pair.connector.receive_lane.key, digest, sizeof digest);
}

static void a_proof_sent_back_to_its_maker_does_not_fit(void)
{
    ends_begin(&pair, "secret", "secret");
    wire_pump(&pair.to_acceptor, &pair.connector, &pair.acceptor);
    wire_pump(&pair.to_connector, &pair.acceptor, &pair.connector);
    CHECK_INT(pair.connector.out_size, RT_PROOF_SIZE);
    CHECK_INT(rt_handshake_feed(&pair.connector, pair.connector.out, RT_PROOF_SIZE), RT_E_AUTH);
}

static void a_recorded_connector_cannot_be_played_again(void)
{
    static ends again;
    uint8_t fresh[RT_NONCE_SIZE] = {0x77};
    ends_begin(&pair, "secret", "secret");
    ends_run(&pair);
    check_both_ready();
    rt_handshake_begin(&again.acceptor, RT_ROLE_ACCEPTOR, (const uint8_t *)"secret", 6, fresh);
    CHECK_INT(rt_handshake_feed(&again.acceptor, pair.to_acceptor.bytes, pair.to_acceptor.arrived), RT_E_AUTH);
    check_failed(&again.acceptor, RT_E_AUTH, "the peer's proof does not fit");
    CHECK(!again.acceptor.offer_seen);
}

/* ---- bytes that lie ---- */

/* How many bytes of each direction lead to READY. */
static size_t honest_size(rt_handshake_role receiver)
{
    ends_begin(&pair, "secret", "secret");
    ends_run(&pair);
    check_both_ready();
    return receiver == RT_ROLE_CONNECTOR ? pair.to_connector.sent : pair.to_acceptor.sent;
}

static void run_with_fault(rt_handshake_role receiver, wire fault)
{
    ends_begin(&pair, "secret", "secret");
    *(receiver == RT_ROLE_CONNECTOR ? &pair.to_connector : &pair.to_acceptor) = fault;
    ends_run(&pair);
}

/* The receiver of a lie fails or waits; it never becomes ready. Nobody does when it was told before the proofs. */
static void check_not_accepted(rt_handshake_role receiver, size_t at)
{
    CHECK(end_of(receiver)->state != RT_HS_READY);
    CHECK(end_of(receiver)->state != RT_HS_CLOSED);
    CHECK(at >= RT_PREFACE_SIZE || peer_of(receiver)->state != RT_HS_READY);
    int status = rt_handshake_ended(end_of(receiver));
    CHECK(status < 0);
    CHECK_INT(status, end_of(receiver)->failure.status);
    CHECK(end_of(receiver)->failure.text[0] != '\0');
}

static void no_changed_byte_is_accepted(void)
{
    for (int role = 0; role < 2; role++) {
        size_t size = honest_size((rt_handshake_role)role);
        CHECK(size > RT_PREFACE_SIZE + RT_PROOF_SIZE + 2 * 24);
        for (size_t at = 0; at < size; at++) {
            for (unsigned bit = 0; bit < 9; bit++) {
                uint8_t mask = (uint8_t)(bit < 8 ? 1u << bit : 0xffu);
                run_with_fault((rt_handshake_role)role, (wire){.fault = WIRE_FLIP, .at = at, .mask = mask});
                check_not_accepted((rt_handshake_role)role, at);
            }
        }
    }
}

static void no_inserted_or_missing_byte_is_accepted(void)
{
    const uint8_t inserted[] = {0x00, 0xff, 'R', 0x01};
    for (int role = 0; role < 2; role++) {
        size_t size = honest_size((rt_handshake_role)role);
        for (size_t at = 0; at < size; at++) {
            for (size_t index = 0; index < sizeof inserted; index++) {
                run_with_fault((rt_handshake_role)role, (wire){.fault = WIRE_INSERT, .at = at, .mask = inserted[index]});
                check_not_accepted((rt_handshake_role)role, at);
            }
            run_with_fault((rt_handshake_role)role, (wire){.fault = WIRE_DROP, .at = at});
            check_not_accepted((rt_handshake_role)role, at);
        }
    }
}

static void a_handshake_cut_at_any_byte_waits_and_then_says_that_the_peer_is_lost(void)
{
    for (int role = 0; role < 2; role++) {
        size_t size = honest_size((rt_handshake_role)role);
        for (size_t at = 0; at < size; at++) {
            run_with_fault((rt_handshake_role)role, (wire){.fault = WIRE_CUT, .at = at});
            rt_handshake *end = end_of((rt_handshake_role)role);
            CHECK(end->state < RT_HS_READY);
            CHECK_INT(rt_handshake_step(end), RT_OK);
            CHECK_INT(rt_handshake_ended(end), RT_E_PEER_LOST);
            CHECK_HAS(end->failure.text, "the peer closed the connection");
        }
    }
}

static const check_test tests[] = {
    CHECK_TEST(two_ends_with_the_same_secret_become_ready),
    CHECK_TEST(two_ends_of_one_user_become_ready_without_a_secret),
    CHECK_TEST(a_secret_may_have_256_bytes_and_not_257),
    CHECK_TEST(the_same_bytes_in_other_pieces_end_the_same),
    CHECK_TEST(each_end_learns_what_the_other_offered),
    CHECK_TEST(an_end_is_not_ready_before_both_readys),
    CHECK_TEST(a_call_that_is_not_due_is_refused_and_changes_nothing),
    CHECK_TEST(more_bytes_than_room_are_refused_and_none_is_taken),
    CHECK_TEST(a_wrong_secret_is_an_authentication_error_at_both_ends),
    CHECK_TEST(a_missing_secret_is_named_at_both_ends),
    CHECK_TEST(another_version_is_named_with_both_numbers_at_both_ends),
    CHECK_TEST(a_preface_that_breaks_the_form_is_a_protocol_error),
    CHECK_TEST(a_stranger_is_named_by_its_first_bytes_at_once),
    CHECK_TEST(our_own_bytes_coming_back_are_refused),
    CHECK_TEST(prefaces_proofs_and_keys_are_what_the_protocol_says),
    CHECK_TEST(a_proof_sent_back_to_its_maker_does_not_fit),
    CHECK_TEST(a_recorded_connector_cannot_be_played_again),
    CHECK_TEST(no_changed_byte_is_accepted),
    CHECK_TEST(no_inserted_or_missing_byte_is_accepted),
    CHECK_TEST(a_handshake_cut_at_any_byte_waits_and_then_says_that_the_peer_is_lost),
};
CHECK_MAIN(tests)
