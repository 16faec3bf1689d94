/* test_shm_help.c: large WRITEs that both ends copy, by two devices of this process: the help, the
 * rights, and offers that are wrong. A helper that keeps its piece is in test_shm_late.c.
 * csrc/provider/shm/HELP.md has the protocol. */
#include "shm_help_ends.h"

static uint64_t helped_bytes(const end *left)
{
    return atomic_load(&shm_link_of(left->link)->bytes_helped);
}

/* WRITEs until helpers have copied pieces of some; each WRITE is whole when post returns. The left
 * end's mapping shows the bytes, so that a sanitizer that does not know two mappings of one page to
 * be the same memory finds no race. */
static void write_until_helped(end *left, end *right, uint32_t writes)
{
    const uint8_t *there = shm->remote_map(left->remote);
    int64_t end_ns = rt_clock_now_ns() + PATIENCE_NS;
    for (uint32_t round = 1, helped = 0; helped < writes; round++) {
        uint64_t before = helped_bytes(left);
        CHECK(rt_clock_now_ns() < end_ns);
        memset(left->bytes, (int)round, SIZE);
        while (post_one(left, RT_WORK_WRITE, 0, SIZE, 0, 0).completed == 0)
            sched_yield(); /* a helper lost its core for long */
        CHECK_BYTES(there, left->bytes, SIZE);
        helped += helped_bytes(left) != before;
        shm_link_of(left->link)->rest_end_ns = 0;
        serve(right->device);
        serve(left->device);
        serve(right->device);
        sched_yield();
    }
}

static void a_waiting_end_copies_its_part(void)
{
    end left, right;
    waiters waiting;
    pair_open(&left, &right, SIZE);
    waiting_begin(&waiting, right.device, 1);
    write_until_helped(&left, &right, 3);
    waiting_end(&waiting, 1);
    CHECK(atomic_load(&waiting.helps) >= 3);
    pair_close(&left, &right);
}

static void several_waiters_of_a_process_copy_each_piece_once(void)
{
    end left, right;
    waiters waiting;
    pair_open(&left, &right, SIZE);
    waiting_begin(&waiting, right.device, HELPERS);
    write_until_helped(&left, &right, 10);
    waiting_end(&waiting, HELPERS);
    pair_close(&left, &right);
}

static void a_write_is_whole_where_nobody_waits(void)
{
    end left, right;
    pair_open(&left, &right, SIZE);
    fill(left.bytes, SIZE, 5);
    POST_DONE(&left, RT_WORK_WRITE, 0, SIZE, 0);
    CHECK_BYTES(right.bytes, left.bytes, SIZE);
    CHECK(!shm->memory_help(right.device)); /* the offer is over */
    CHECK_INT(helped_bytes(&left), 0);
    pair_close(&left, &right);
}

/* ---- rights ---- */

static void a_source_that_peers_may_not_read_is_not_offered(void)
{
    end left, right;
    end_open(&left, SIZE, RT_ACCESS_LOCAL_WRITE | RT_ACCESS_REMOTE_WRITE);
    end_open(&right, SIZE, RIGHTS_ALL);
    ends_join(&left, &right);
    POST_DONE(&left, RT_WORK_WRITE, 0, SIZE, 0);
    CHECK_INT(atomic_load(&offer_to(&right)->claims), 0);
    pair_close(&left, &right);
}

static void a_source_outside_all_registrations_is_not_offered(void)
{
    end left, right;
    pair_open(&left, &right, SIZE);
    uint8_t *own = malloc(SIZE);
    CHECK(own != NULL);
    fill(own, SIZE, 3);
    rt_segment segment = {.memory = left.memory, .address = own, .size = SIZE};
    rt_work item = {.opcode = RT_WORK_WRITE, .segment_count = 1, .segments = &segment, .remote = left.remote};
    rt_posted posted;
    CHECK_INT(shm->post(left.link, &item, 1, &posted), RT_OK);
    CHECK_INT(posted.completed, 1);
    CHECK_BYTES(right.bytes, own, SIZE);
    CHECK_INT(atomic_load(&offer_to(&right)->claims), 0);
    free(own);
    pair_close(&left, &right);
}

static void a_helper_copies_what_is_left_and_no_more(void)
{
    end left, right;
    pair_open(&left, &right, SIZE);
    map_source(&left, &right);
    fill(left.bytes, SIZE, 4);
    memset(right.bytes, 0xee, SIZE);
    offer_by_hand(&left, &right);
    for (uint32_t piece = 1; piece < SIZE / SHM_PIECE_MIN; piece++)
        CHECK(shm->memory_help(right.device));
    CHECK(!shm->memory_help(right.device));
    CHECK_INT(shm_offer_done(offer_to(&right)), SIZE / SHM_PIECE_MIN - 1);
    CHECK_BYTES(right.bytes + SHM_PIECE_MIN, left.bytes + SHM_PIECE_MIN, SIZE - SHM_PIECE_MIN);
    CHECK_INT(right.bytes[SHM_PIECE_MIN - 1], 0xee); /* piece 0 is the initiator's */
    pair_close(&left, &right);
}

static void a_source_is_mapped_for_reading_only(void)
{
    end left, right;
    pair_open(&left, &right, SIZE);
    map_source(&left, &right);
    const shm_mapped *mapped = &shm_link_of(right.link)->peer->mapped[0];
    CHECK(mprotect((void *)(uintptr_t)mapped->address, SIZE, PROT_READ | PROT_WRITE) != 0);
    pair_close(&left, &right);
}

static void a_source_token_reaches_nothing_else(void)
{
    end left, right;
    rt_detail detail;
    rt_premote *remote = NULL;
    uint8_t key[SHM_KEY_SIZE] = {SHM_VERSION};
    pair_open(&left, &right, SIZE);
    memcpy(key + 1, ((const shm_memory *)(const void *)left.memory)->source_token, SHM_TOKEN_SIZE);
    CHECK_INT(attach(&right, key, sizeof key, SIZE, RT_ACCESS_REMOTE_READ, left.device, &remote, &detail), RT_E_REMOTE_ACCESS);
    pair_close(&left, &right);
}

static void mappings_of_sources_end_with_the_last_link_and_make_room_for_others(void)
{
    end left, right;
    int before = mappings_open();
    pair_open(&left, &right, SIZE);
    for (uint32_t round = 0; round < 2 * SHM_SOURCES_MAX; round++) {
        rt_detail detail;
        map_source(&left, &right);
        shm->memory_release(left.device, left.memory);
        rt_memory memory = {.address = left.bytes, .size = SIZE, .descriptor = left.descriptor, .access = RIGHTS_ALL};
        CHECK_INT(shm->memory_register(left.device, &memory, &left.memory, &detail), RT_OK);
    }
    pair_close(&left, &right);
    CHECK_INT(mappings_open(), before);
}

/* ---- offers that are wrong ---- */

typedef void (*spoil)(shm_terms *terms);
static void spoil_token(shm_terms *terms)
{
    terms->target_token[1] ^= 1;
}
static void spoil_target_generation(shm_terms *terms)
{
    terms->target_generation++;
}
static void spoil_target_index(shm_terms *terms)
{
    terms->target_index = SHM_EXPORTS_MAX;
}
static void spoil_target_offset(shm_terms *terms)
{
    terms->target_offset = 1;
}
static void spoil_target_offset_more(shm_terms *terms)
{
    terms->target_offset = UINT64_MAX;
}
static void spoil_source_offset(shm_terms *terms)
{
    terms->source_offset = 1;
}
static void spoil_source_generation(shm_terms *terms)
{
    terms->source_generation++;
}
static void spoil_source_index(shm_terms *terms)
{
    terms->source_index = UINT32_MAX;
}
static void spoil_size(shm_terms *terms)
{
    terms->size = SIZE + 1;
}
static void spoil_size_more(shm_terms *terms)
{
    terms->size = UINT32_MAX;
    terms->piece = UINT32_MAX / 16;
}
static void spoil_piece(shm_terms *terms)
{
    terms->piece = SHM_PIECE_MAX + 1;
}

static void a_wrong_offer_is_not_helped(void)
{
    static const spoil spoils[] =
        {spoil_token,         spoil_target_generation, spoil_target_index,      spoil_target_offset, spoil_target_offset_more,
         spoil_source_offset, spoil_source_index,      spoil_source_generation, spoil_size,          spoil_size_more,
         spoil_piece};
    end left, right;
    pair_open(&left, &right, SIZE);
    map_source(&left, &right);
    memset(right.bytes, 0xee, SIZE);
    memset(left.bytes, 0x11, SIZE);
    shm_terms good = offer_by_hand(&left, &right);
    for (size_t index = 0; index < sizeof spoils / sizeof spoils[0]; index++) {
        shm_terms bad = good;
        spoils[index](&bad);
        shm_offer_open(offer_to(&right), 2000, &bad);
        CHECK(!shm->memory_help(right.device));
    }
    shm_offer_open(offer_to(&right), 2001, &good);
    atomic_store(&offer_to(&right)->claims, shm_claims(2001, 0, 0xffff)); /* pieces beyond the end */
    CHECK(!shm->memory_help(right.device));
    atomic_store(&shm_device_of(right.device)->doorbell->offer, UINT32_MAX);
    CHECK(!shm->memory_help(right.device));
    for (uint64_t at = 0; at < SIZE; at++)
        CHECK_INT(right.bytes[at], 0xee);
    offer_by_hand(&left, &right);
    CHECK(shm->memory_help(right.device)); /* the right offer is */
    pair_close(&left, &right);
}

static void a_target_without_the_right_of_writing_is_not_helped(void)
{
    end left, right;
    end_open(&left, SIZE, RIGHTS_ALL);
    end_open(&right, SIZE, RT_ACCESS_LOCAL_WRITE | RT_ACCESS_REMOTE_READ);
    ends_join(&left, &right);
    offer_by_hand(&left, &right);
    for (int round = 0; round < 3; round++) {
        CHECK(!shm->memory_help(right.device));
        serve(right.device);
        serve(left.device);
    }
    pair_close(&left, &right);
}

static void claims_that_no_honest_helper_makes_are_told_apart(void)
{
    const shm_terms terms = {.size = 8 * SHM_PIECE_MIN, .piece = SHM_PIECE_MIN};
    const uint64_t wrong[] = {shm_claims(6, 1, 8), shm_claims(7, 0, 8), shm_claims(7, 2, 8), shm_claims(7, 1, 9),
                              shm_claims(7, 1, 0)};
    shm_offer offer;
    for (size_t index = 0; index < sizeof wrong / sizeof wrong[0]; index++) {
        uint32_t last = 8;
        shm_offer_open(&offer, 7, &terms);
        atomic_store(&offer.claims, wrong[index]);
        CHECK_INT(shm_offer_claim_first(&offer, 7, 1, &last), SHM_CLAIMS_BROKEN);
    }
    uint32_t last = 8;
    shm_offer_open(&offer, 7, &terms);
    CHECK_INT(shm_offer_claim_first(&offer, 7, 1, &last), SHM_CLAIMED);
}

static const check_test tests[] = {
    CHECK_TEST(a_waiting_end_copies_its_part),
    CHECK_TEST(several_waiters_of_a_process_copy_each_piece_once),
    CHECK_TEST(a_write_is_whole_where_nobody_waits),
    CHECK_TEST(a_source_that_peers_may_not_read_is_not_offered),
    CHECK_TEST(a_source_outside_all_registrations_is_not_offered),
    CHECK_TEST(a_helper_copies_what_is_left_and_no_more),
    CHECK_TEST(a_source_is_mapped_for_reading_only),
    CHECK_TEST(a_source_token_reaches_nothing_else),
    CHECK_TEST(mappings_of_sources_end_with_the_last_link_and_make_room_for_others),
    CHECK_TEST(a_wrong_offer_is_not_helped),
    CHECK_TEST(a_target_without_the_right_of_writing_is_not_helped),
    CHECK_TEST(claims_that_no_honest_helper_makes_are_told_apart),
};

CHECK_MAIN(tests)
