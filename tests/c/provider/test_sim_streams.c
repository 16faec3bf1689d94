/* test_sim_streams.c: the simulated fabric's byte streams, and what it says to wrong arguments, commands and bytes.
 *
 * Needs csrc/provider/sim/ (all files), csrc/provider/absent.c and csrc/base/status.c. */
#include "sim_ends.h"

/* ---- streams ---- */

static void a_stream_carries_all_bytes_in_order_in_fragments_and_pushes_back_when_full(void)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        sim_pair pair;
        sim_streams open;
        uint8_t out[64], in[64];
        uint64_t sent = 0, received = 0, reads = 0;
        bool full = false;
        sim_pair_open(&pair, seed, "");
        sim_streams_open(&pair, &open);
        while (received < 50000) {
            for (int64_t put = 1; put > 0 && sent<50000; sent += put> 0 ? (uint64_t)put : 0) {
                for (uint64_t index = 0; index < 64; index++)
                    out[index] = (uint8_t)((sent + index) * 31 >> 3);
                put = SIM->streams->write(open.dialled, out, sent + 64 > 50000 ? 50000 - sent : 64);
                full |= put == RT_E_AGAIN;
                CHECK(put > 0 || put == RT_E_AGAIN);
            }
            int64_t got = sim_read(&pair.b, open.accepted, in, 100 * MS);
            CHECK(got > 0);
            for (int64_t index = 0; index < got; index++)
                CHECK_INT(in[index], (uint8_t)((received + (uint64_t)index) * 31 >> 3));
            received += (uint64_t)got;
            reads++;
        }
        CHECK(full && reads > 50000 / 64);
        SIM->streams->close(open.dialled);
        CHECK_INT(sim_read(&pair.b, open.accepted, in, 100 * MS), RT_E_PEER_LOST);
        CHECK_INT(SIM->streams->write(open.accepted, in, 1), RT_E_PEER_LOST);
        SIM->streams->close(open.accepted);
        SIM->streams->unlisten(open.listener);
        sim_pair_close(&pair);
    }
}

static void addresses_are_bound_once_and_nobody_answers_elsewhere(void)
{
    sim_pair pair;
    rt_detail detail;
    void *one = NULL, *two = NULL, *other = NULL;
    char bound[64], again[64];
    uint8_t byte;
    sim_pair_open(&pair, 1, "");
    CHECK_INT(SIM->streams->listen(pair.a.device, "127.0.0.1:0", &one, bound, sizeof bound, &detail), RT_OK);
    CHECK_INT(SIM->streams->listen(pair.b.device, "127.0.0.1:0", &two, again, sizeof again, &detail), RT_OK);
    CHECK(strcmp(bound, again) != 0 && strncmp(bound, "127.0.0.1:", 10) == 0);
    CHECK_INT(SIM->streams->listen(pair.b.device, bound, &other, again, sizeof again, &detail), RT_E_EXISTS);
    CHECK_INT(SIM->streams->connect(pair.a.device, "127.0.0.1:1", &other, &detail), RT_E_REFUSED);
    CHECK_HAS(detail.text, "nobody listens there");
    static const char *const bad[] = {"", "b", ":1", "b:", "b:65536", "b:-1", "b:1x", "b: 1"};
    for (size_t index = 0; index < sizeof bad / sizeof bad[0]; index++)
        CHECK_INT(SIM->streams->listen(pair.b.device, bad[index], &other, again, sizeof again, &detail), RT_E_INVALID);
    CHECK_INT(SIM->streams->connect(pair.b.device, bound, &other, &detail), RT_OK);
    SIM->streams->unlisten(one); /* before it was accepted */
    CHECK_INT(sim_read(&pair.b, other, &byte, 100 * MS), RT_E_PEER_LOST);
    SIM->streams->close(other);
    SIM->streams->unlisten(two);
    sim_pair_close(&pair);
}

static void the_fault_plan_corrupts_and_truncates_streams_at_a_byte(void)
{
    sim_pair pair;
    sim_streams open;
    uint8_t bytes[64], whole[8];
    sim_pair_open(&pair, 1, "");
    CHECK_STR(sim_tell(pair.world, "corrupt party=a byte=2 xor=1"), "ok");
    CHECK_STR(sim_tell(pair.world, "truncate party=a bytes=5"), "ok");
    sim_streams_open(&pair, &open);
    for (size_t sent = 0; sent < 8;)
        sent += (size_t)SIM->streams->write(open.dialled, &"abcdefgh"[sent], 8 - sent);
    size_t received = 0;
    int64_t got;
    while ((got = sim_read(&pair.b, open.accepted, bytes, 100 * MS)) > 0) {
        CHECK(received + (size_t)got <= sizeof whole);
        memcpy(whole + received, bytes, (size_t)got);
        received += (size_t)got;
    }
    CHECK_INT(got, RT_E_PEER_LOST);
    CHECK_INT(received, 5);
    CHECK_BYTES(whole, "abbde", 5);
    sim_streams_close(&open);
    CHECK_STR(sim_tell(pair.world, "mend party=a"), "ok");
    sim_streams_open(&pair, &open);
    for (size_t sent = 0; sent < 8;)
        sent += (size_t)SIM->streams->write(open.dialled, &"abcdefgh"[sent], 8 - sent);
    for (received = 0; received < 8; received += (size_t)got) {
        got = sim_read(&pair.b, open.accepted, bytes + received, 100 * MS);
        CHECK(got > 0);
    }
    CHECK_BYTES(bytes, "abcdefgh", 8);
    sim_streams_close(&open);
    sim_pair_close(&pair);
}

/* ---- bad input ---- */

static void a_wrong_argument_is_named(void)
{
    static const struct {
        const char *arguments, *part;
    } rows[] = {
        {"colour=red", "unknown argument 'colour'"},
        {"work_depth", "'work_depth' has no value"},
        {"work_depth=0", "work_depth=0 is not a number from 1"},
        {"work_depth=-1", "work_depth=-1"},
        {"orders_writes=2", "from 0 to 1"},
        {"seed=99999999999999999999", "seed="},
        {"seed=1&seed=1", "'seed' is given twice"},
        {"world=", "world="},
        {"seed=1&", "end in '&'"},
        {"=1", "unknown argument ''"},
    };
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++) {
        rt_detail detail;
        sim_end end = {.device = NULL};
        CHECK_INT(sim_open("", rows[index].arguments, &end, &detail), RT_E_INVALID);
        CHECK_HAS(detail.text, rows[index].part);
        CHECK(end.device == NULL);
    }
}

static void parties_of_a_world_share_its_seed_and_have_different_names(void)
{
    rt_detail detail;
    sim_end one = {.device = NULL}, two = {.device = NULL}, three = {.device = NULL};
    CHECK_INT(sim_open("", "world=n&seed=7", &one, &detail), RT_OK);
    CHECK_INT(sim_open("", "world=n", &two, &detail), RT_OK);
    CHECK_STR(one.device->name, "party0");
    CHECK_STR(two.device->name, "party1");
    CHECK_INT(sim_open("", "world=n&seed=8", &three, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "seed 7");
    CHECK_INT(sim_open("party0", "world=n", &three, &detail), RT_E_EXISTS);
    CHECK_STR(sim_tell("n", "seed"), "seed=7");
    SIM->close(one.device);
    SIM->close(two.device);
    CHECK_HAS(sim_tell("n", "seed"), "not-found: sim: no world 'n'");
}

static void a_wrong_command_is_named_and_changes_nothing(void)
{
    static const struct {
        const char *command, *reply;
    } rows[] = {
        {"", "invalid: sim: unknown command ''"},
        {"explode", "unknown command 'explode'"},
        {"kill", "'party=' is missing"},
        {"kill party=zz", "not-found: kill: no party 'zz'"},
        {"kill party=", "not a name"},
        {"kill party", "'party' has no value"},
        {"kill party=a party=b", "given twice"},
        {"kill party=a with=b", "unknown word 'with'"},
        {"kill party=a at=1 in=2", "give one of"},
        {"kill party=a at=x", "at=x is not a number"},
        {"drop p=1", "p=1 is not a probability"},
        {"drop p=0.5x", "not a probability"},
        {"drop p=-0", "not a probability"},
        {"delay min=2 max=1", "min= is larger"},
        {"tear", "write 'tear on' or 'tear off'"},
        {"tear on off", "write 'tear on' or 'tear off'"},
        {"tear on=1", "takes no value"},
        {"refuse party=a call=fly nth=1 status=busy", "call=fly"},
        {"refuse party=a call=post nth=1 status=ok", "status=ok is not"},
        {"refuse call=post nth=1 status=busy", "every other call needs one"},
        {"refuse party=a call=open nth=1 status=busy", "takes no party="},
        {"heal party=a with=b", "nothing is cut"},
        {"now at=5", "unknown word 'at'"},
    };
    sim_pair pair;
    sim_pair_open(&pair, 1, "");
    char before[128];
    strcpy(before, sim_tell(pair.world, "now"));
    for (size_t index = 0; index < sizeof rows / sizeof rows[0]; index++)
        CHECK_HAS(sim_tell(pair.world, rows[index].command), rows[index].reply);
    CHECK_STR(sim_tell(pair.world, "now"), before);
    CHECK_HAS(sim_tell(pair.world, "dump"), "party 0 'a': 1 links");
    sim_pair_close(&pair);
}

static void bytes_that_are_no_address_or_key_of_the_fabric_are_refused(void)
{
    sim_pair pair, other;
    rt_detail detail;
    rt_plink *link = NULL;
    rt_premote *remote = NULL;
    uint8_t address[RT_LINK_ADDRESS_SIZE_MAX], bytes[RT_LINK_ADDRESS_SIZE_MAX] = {0};
    size_t size = 0;
    sim_pair_open(&pair, 1, "");
    sim_pair_open(&other, 1, "");
    CHECK_INT(SIM->link_create(pair.a.device, 0, 0, &link, address, &size, &detail), RT_OK);
    CHECK_INT(SIM->link_connect(link, bytes, sizeof bytes, &detail), RT_E_PROTOCOL);
    CHECK_INT(SIM->link_connect(link, other.b.address, other.b.address_size, &detail), RT_E_PROTOCOL);
    CHECK_INT(SIM->link_connect(link, address, size, &detail), RT_E_PROTOCOL); /* its own */
    for (size_t cut = 0; cut < pair.b.address_size; cut++) {
        CHECK_INT(SIM->link_connect(link, pair.b.address, cut, &detail), RT_E_PROTOCOL);
        CHECK_INT(SIM->remote_attach(pair.a.link, pair.b.key, cut, 64, EVERYTHING, &remote, &detail), RT_E_PROTOCOL);
    }
    CHECK_INT(SIM->remote_attach(pair.a.link, pair.a.key, pair.a.key_size, 64, EVERYTHING, &remote, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "not of the party at the other end");
    SIM->link_shut(link);
    SIM->link_destroy(link);
    sim_pair_close(&pair);
    sim_pair_close(&other);
}

static const check_test tests[] = {
    CHECK_TEST(a_stream_carries_all_bytes_in_order_in_fragments_and_pushes_back_when_full),
    CHECK_TEST(addresses_are_bound_once_and_nobody_answers_elsewhere),
    CHECK_TEST(the_fault_plan_corrupts_and_truncates_streams_at_a_byte),
    CHECK_TEST(a_wrong_argument_is_named),
    CHECK_TEST(parties_of_a_world_share_its_seed_and_have_different_names),
    CHECK_TEST(a_wrong_command_is_named_and_changes_nothing),
    CHECK_TEST(bytes_that_are_no_address_or_key_of_the_fabric_are_refused),
};

CHECK_MAIN(tests)
