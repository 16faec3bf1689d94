/* test_raced.c: two threads that need the same object for the first time, each without a lock while it is made: the one that was faster
 * keeps its own, and the other one lets its own go. Here the slower one does the faster one's work as well, at the moment when it has
 * made its own and not yet looked again.
 *
 * Needs the whole library, and these functions of the linker's wrapping. */
#include "lend_ends.h"
#include "proto/dtype.h"
#include "team_ends.h"

static void (*meanwhile)(void); /* what the faster thread does, once */

static void other_thread(void)
{
    void (*act)(void) = meanwhile;
    meanwhile = NULL;
    if (act != NULL)
        act();
}

int __real_rt_remote_attach(rt_channel *channel, const uint8_t *handle, size_t size, int64_t timeout_ns, rt_remote **remote_out,
                            rt_detail *detail);
int __wrap_rt_remote_attach(rt_channel *channel, const uint8_t *handle, size_t size, int64_t timeout_ns, rt_remote **remote_out,
                            rt_detail *detail);
int __real_rt_pool_take(rt_device *device, rt_peer_pools *peer, rt_pool_use use, uint64_t size, uint64_t alignment,
                        rt_pool_block *block_out, bool *registered_out, rt_detail *detail);
int __wrap_rt_pool_take(rt_device *device, rt_peer_pools *peer, rt_pool_use use, uint64_t size, uint64_t alignment,
                        rt_pool_block *block_out, bool *registered_out, rt_detail *detail);
void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);

int __wrap_rt_remote_attach(rt_channel *channel, const uint8_t *handle, size_t size, int64_t timeout_ns, rt_remote **remote_out,
                            rt_detail *detail)
{
    int status = __real_rt_remote_attach(channel, handle, size, timeout_ns, remote_out, detail);
    if (status == RT_OK)
        other_thread();
    return status;
}

int __wrap_rt_pool_take(rt_device *device, rt_peer_pools *peer, rt_pool_use use, uint64_t size, uint64_t alignment,
                        rt_pool_block *block_out, bool *registered_out, rt_detail *detail)
{
    int status = __real_rt_pool_take(device, peer, use, size, alignment, block_out, registered_out, detail);
    other_thread();
    return status;
}

static size_t wanted; /* the size of the object whose making is interrupted, or 0 */

void *__wrap_calloc(size_t count, size_t size)
{
    void *made = __real_calloc(count, size);
    if (size == wanted && count == 1) {
        wanted = 0;
        other_thread();
    }
    return made;
}

/* ---- a team ---- */

static rt_pair *joined;
static const uint8_t *faster_bytes;
static rt_remote *faster_remote;

/* The address of the first chunk that the peer made later. */
static const uint8_t *chunk_find(void)
{
    const uint8_t *bytes = NULL;
    int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS;
    int status;
    do
        status = rt_pair_incoming(joined, TEAM_CHUNKS, &bytes);
    while (status == RT_E_AGAIN && rt_clock_now_ns() < end);
    CHECK_INT(status, RT_OK);
    return bytes;
}

static void attach_faster(void)
{
    faster_bytes = chunk_find();
    faster_remote = joined->theirs[1].remote;
}

static void chunks_of_a_peer_are_attached_once(void)
{
    team_ends ends;
    team_begin(&ends, 2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY});
    rt_lane *lanes = ends.members[0].team->peers[1].lanes;
    for (uint32_t index = 0; index <= TEAM_CHUNKS; index++) { /* one lane has all chunks, the other one needs one more */
        rt_lane *lane = &lanes[index < TEAM_CHUNKS ? RT_LANE_COLLECTIVE : RT_LANE_TRANSFER];
        rt_message message = {.kind = RT_MESSAGE_COLLECTIVE, .size = TEAM_CHUNK};
        CHECK(rt_lane_room(lane, TEAM_CHUNK) != NULL);
        CHECK_INT(rt_lane_push(lane, &message), RT_OK);
    }
    CHECK_INT(ends.members[0].pairs[1]->extents, 2);
    joined = ends.members[1].pairs[0];
    faster_bytes = NULL;
    meanwhile = attach_faster;
    const uint8_t *bytes = chunk_find();
    CHECK(meanwhile == NULL && faster_bytes != NULL);
    CHECK(bytes == faster_bytes && joined->theirs[1].bytes == bytes);
    CHECK(joined->theirs[1].remote == faster_remote);
    CHECK_INT(atomic_load(&faster_remote->references), 1);
    team_end(&ends);
}

/* ---- edges ---- */

static edge_ends both_ends;
static uint8_t *faster_place;

/* Takes a loan and gives it back. */
static void lend_faster(void)
{
    rt_edge_give_back(both_ends.sender, (uint64_t)lend(&both_ends, NULL, &faster_place));
}

static void begin_lending(const uint64_t *size, bool staging)
{
    edge_begin(&both_ends, here, 1);
    rt_edge_options options = static_edge("raced", size);
    options.staging = staging;
    edge_join(&both_ends, here, &options);
}

static void a_slot_has_one_buffer_for_its_loans(void)
{
    static const uint64_t size = LEND_OWN;
    uint8_t *place;
    begin_lending(&size, true);
    meanwhile = lend_faster;
    int64_t ticket = lend(&both_ends, NULL, &place);
    CHECK(meanwhile == NULL && ticket > 0);
    CHECK(place == faster_place && place == both_ends.sender->sent[1].staging.address);
    CHECK_INT(stats_of(both_ends.sender).registrations, 1);
    memset(place, 7, size);
    CHECK_INT(send_lent(&both_ends, ticket), RT_OK);
    edge_end(&both_ends);
}

static rt_edge_loan *faster_loan;

static void lend_first(void)
{
    lend_faster();
    faster_loan = both_ends.sender->loan;
}

static void an_edge_has_one_object_for_its_loans(void)
{
    uint8_t *place;
    begin_lending(lend_dims, false);
    wanted = sizeof(rt_edge_loan);
    meanwhile = lend_first;
    int64_t ticket = lend(&both_ends, NULL, &place);
    CHECK(meanwhile == NULL && faster_loan != NULL);
    CHECK(both_ends.sender->loan == faster_loan);
    CHECK_INT(ticket, 2); /* the other one was the first */
    CHECK_INT(send_lent(&both_ends, ticket), RT_OK);
    edge_end(&both_ends);
}

static rt_edge_stage *faster_stage;

static void stage_faster(void)
{
    CHECK_INT(rt_edge_stage_prepare(both_ends.sender, NULL), RT_OK);
    faster_stage = both_ends.sender->stage;
}

static void an_edge_has_one_ring_for_staging(void)
{
    static const uint64_t size = LEND_OWN;
    static uint8_t outside[LEND_OWN];
    begin_lending(&size, true);
    meanwhile = stage_faster;
    rt_edge_tensor tensor = edge_bytes(outside, size);
    CHECK_INT(edge_send(&both_ends, &tensor, true), RT_OK);
    CHECK(meanwhile == NULL && faster_stage != NULL);
    CHECK(both_ends.sender->stage == faster_stage);
    CHECK(stats_of(both_ends.sender).registrations <= 1);
    rt_edge_arrival arrival;
    CHECK_INT(edge_receive(&both_ends, &arrival), RT_OK);
    edge_end(&both_ends);
}

static const check_test tests[] = {
    CHECK_TEST(chunks_of_a_peer_are_attached_once),
    CHECK_TEST(a_slot_has_one_buffer_for_its_loans),
    CHECK_TEST(an_edge_has_one_object_for_its_loans),
    CHECK_TEST(an_edge_has_one_ring_for_staging),
};

CHECK_MAIN(tests)
