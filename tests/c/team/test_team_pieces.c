/* test_team_pieces.c: what members give to single others: exchanges, sends and receives, in memory that peers may read and elsewhere.
 *
 * Needs the whole library. Meant for ThreadSanitizer too. */
#include "proto/dtype.h"
#include "team_ends.h"

/* Sizes in bytes: nothing, odd, a chunk, more than one, around what is worth reading in place, and much. */
static const uint64_t sizes[] = {0, 7, TEAM_CHUNK, TEAM_CHUNK + 1, RT_DIRECT_SIZE_MIN - 1, RT_DIRECT_SIZE_MIN, 5 * (1 << 20) + 3};
enum { SIZES = sizeof sizes / sizeof sizes[0], SENDS_UNPOLLED = 300 }; /* each two WRITEs: more than a send queue holds */

static rt_team_call call_of(team_member *self)
{
    return (rt_team_call){.dtype = RT_DTYPE_UINT8, .root = -1, .timeout_ns = self->timeout_ns, .detail = &self->detail};
}

static uint8_t value(uint32_t from, uint32_t to, uint64_t index, uint32_t turn)
{
    return (uint8_t)(index * 31 + index / 251 + from * 7 + to * 13 + turn * 17);
}

static void fill(uint8_t *bytes, uint32_t from, uint32_t to, uint64_t size, uint32_t turn)
{
    for (uint64_t index = 0; index < size; index++)
        bytes[index] = value(from, to, index, turn);
}

static void check(team_member *self, const uint8_t *bytes, uint32_t from, uint64_t size, uint32_t turn)
{
    for (uint64_t index = 0; index < size; index++)
        self->wrong += bytes[index] != value(from, self->rank, index, turn);
}

/* ---- exchanges ---- */

static uint64_t piece_size(uint32_t from, uint32_t to, uint32_t turn)
{
    return sizes[(from * 3 + to + turn) % SIZES];
}

static void exchange_pieces(team_member *self)
{
    for (uint32_t turn = 0; turn < 2 * SIZES; turn++) {
        rt_team_piece sends[TEAM_MAX], receives[TEAM_MAX];
        uint8_t *free = self->bytes;
        for (uint32_t peer = 0; peer < self->size; peer++) {
            sends[peer] = (rt_team_piece){free, piece_size(self->rank, peer, turn)};
            fill(free, self->rank, peer, sends[peer].size, turn);
            free += sends[peer].size;
        }
        for (uint32_t peer = 0; peer < self->size; peer++) {
            receives[peer] = (rt_team_piece){free, piece_size(peer, self->rank, turn)};
            memset(free, 0, receives[peer].size);
            free += receives[peer].size;
        }
        rt_team_call call = call_of(self);
        team_note(self, rt_team_exchange(self->team, &call, sends, receives));
        for (uint32_t peer = 0; peer < self->size; peer++) {
            check(self, receives[peer].address, peer, receives[peer].size, turn);
            memset(sends[peer].address, 0, sends[peer].size); /* it is the caller's again */
        }
    }
}

/* ---- sends and receives ---- */

static int finish(team_member *self, rt_team_transfer *transfer, int status)
{
    int64_t end_ns = rt_clock_now_ns() + self->timeout_ns;
    while (status == RT_E_AGAIN && rt_clock_now_ns() < end_ns)
        status = rt_team_transfer_wait(transfer, RT_SLICE_NS, NULL, &self->detail);
    if (transfer != NULL)
        rt_team_transfer_drop(transfer);
    return status;
}

static void send_and_receive_all(team_member *self)
{
    for (uint32_t turn = 0; turn < 2 * SIZES; turn++) {
        uint64_t size = sizes[turn % SIZES];
        rt_team_transfer *transfers[2 * TEAM_MAX];
        int status[2 * TEAM_MAX] = {0};
        uint8_t *free = self->bytes;
        for (uint32_t peer = 0; peer < self->size; peer++) {
            if (peer == self->rank)
                continue;
            fill(free, self->rank, peer, size, turn);
            memset(free + size, 0, size);
            rt_team_transfer **out = &transfers[2 * peer];
            status[2 * peer] = rt_team_send(self->team, peer, turn, RT_DTYPE_UINT8, free, size, out, &self->detail);
            status[2 * peer + 1] =
                rt_team_receive(self->team, (int32_t)peer, turn, RT_DTYPE_UINT8, free + size, size, out + 1, NULL, &self->detail);
            free += 2 * size;
        }
        free = self->bytes;
        for (uint32_t peer = 0; peer < self->size; peer++) {
            if (peer == self->rank)
                continue;
            team_note(self, finish(self, transfers[2 * peer], status[2 * peer]));
            team_note(self, finish(self, transfers[2 * peer + 1], status[2 * peer + 1]));
            check(self, free + size, peer, size, turn);
            memset(free, 0, size);
            free += 2 * size;
        }
    }
}

/* ---- all memories ---- */

static void run_all(uint32_t size, const enum team_memory *memory, bool direct_exchange, bool direct_transfer)
{
    team_ends ends;
    team_begin(&ends, size, memory);
    team_run_alike(&ends, exchange_pieces);
    rt_team_stats stats = team_stats(&ends, 0);
    CHECK_INT(stats.direct_bytes > 0, direct_exchange);
    team_run_alike(&ends, send_and_receive_all);
    stats = team_stats(&ends, 0);
    CHECK_INT(stats.direct_received_bytes > 0, direct_transfer);
    CHECK(stats.bytes_received > 2 * 5 * (1 << 20));
    for (uint32_t rank = 0; rank < size; rank++)
        if (ends.members[rank].tensors != NULL) /* nothing is lent or held any more */
            CHECK_INT(rt_region_close(ends.members[rank].tensors, &ends.members[rank].detail), RT_OK);
    team_end(&ends);
}

static void ordinary_memory(void)
{
    run_all(2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY}, false, false);
    run_all(3, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY, TEAM_ORDINARY}, false, false);
}

static void memory_that_peers_may_read(void)
{
    run_all(2, (enum team_memory[]){TEAM_READABLE, TEAM_READABLE}, true, true);
    run_all(3, (enum team_memory[]){TEAM_READABLE, TEAM_READABLE, TEAM_READABLE}, true, true);
}

static void memory_here_and_there(void)
{
    run_all(2, (enum team_memory[]){TEAM_ORDINARY, TEAM_READABLE}, true, true); /* what rank 0 receives is read in place */
    run_all(2, (enum team_memory[]){TEAM_WRITABLE, TEAM_ORDINARY}, false, false);
    run_all(3, (enum team_memory[]){TEAM_READABLE, TEAM_ORDINARY, TEAM_WRITABLE}, true, true);
}

static void sends_over_verbs_are_read_with_one_sided_reads(void)
{
    if (!CORE_HAS_FAKE)
        return;
    team_provider = "verbs";
    run_all(2, (enum team_memory[]){TEAM_READABLE, TEAM_READABLE}, false, true);
    run_all(2, (enum team_memory[]){TEAM_ORDINARY, TEAM_READABLE}, false,
            false); /* a READ needs registered memory at both ends */
    run_all(2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY}, false, false);
    team_provider = "shm";
}

/* Its last WRITEs were never looked at; its memory stays until they are done. */
static void a_team_is_dropped_after_all_it_stands_on(void)
{
    for (int over_verbs = 0; over_verbs <= CORE_HAS_FAKE; over_verbs++) {
        team_ends ends;
        team_provider = over_verbs ? "verbs" : "shm";
        team_begin(&ends, 2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY});
        team_run_alike(&ends, exchange_pieces);
        for (uint32_t rank = 0; rank < 2; rank++)
            rt_team_leave(ends.members[rank].team);
        for (uint32_t rank = 0; rank < 2; rank++) {
            team_member_let_go(&ends.members[rank]);
            team_member_end(&ends.members[rank]);
        }
        for (uint32_t rank = 0; rank < 2; rank++) {
            rt_team_drop(ends.members[rank].team);
            free(ends.members[rank].bytes);
        }
        team_fake(false);
        team_provider = "shm";
    }
}

/* A sender that only starts sends never waits, so never polls, and its send queue fills up. A
 * message of which it was told that it is sent must reach the receiver all the same: the sender may
 * compute from here on, or be done. */
static void a_tensor_that_was_sent_arrives_without_another_call_of_the_sender(void)
{
    for (int over_verbs = 0; over_verbs <= CORE_HAS_FAKE; over_verbs++) {
        team_ends ends;
        team_provider = over_verbs ? "verbs" : "shm";
        team_begin(&ends, 2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY});
        team_member *from = &ends.members[0], *to = &ends.members[1];
        for (uint32_t turn = 0; turn < SENDS_UNPOLLED; turn++) {
            rt_team_transfer *send = NULL, *receive = NULL;
            fill(from->bytes, 0, 1, 64, turn);
            CHECK_INT(rt_team_send(from->team, 1, turn, RT_DTYPE_UINT8, from->bytes, 64, &send, &from->detail), RT_OK);
            int status = rt_team_receive(to->team, 0, turn, RT_DTYPE_UINT8, to->bytes, 64, &receive, NULL, &to->detail);
            CHECK_INT(finish(to, receive, status), RT_OK);
            check(to, to->bytes, 0, 64, turn);
        }
        CHECK_INT(to->wrong, 0);
        team_end(&ends);
        team_provider = "shm";
    }
}

/* ---- giving up ---- */

enum { LARGE = 3 << 20 };

/* Runs both members' transfers by turns, in this thread. */
static void drive(team_ends *ends, uint32_t rounds)
{
    for (uint32_t round = 0; round < rounds; round++)
        for (uint32_t rank = 0; rank < ends->size; rank++)
            rt_team_progress(ends->members[rank].team, 0);
}

static rt_team_transfer *begin_send(team_ends *ends)
{
    team_member *from = &ends->members[0];
    rt_team_transfer *send = NULL;
    fill(from->bytes, 0, 1, LARGE, 0);
    CHECK_INT(rt_team_send(from->team, 1, 5, RT_DTYPE_UINT8, from->bytes, LARGE, &send, &from->detail), RT_E_AGAIN);
    return send;
}

static rt_team_transfer *begin_receive(team_ends *ends)
{
    team_member *to = &ends->members[1];
    rt_team_transfer *receive = NULL;
    CHECK_INT(rt_team_receive(to->team, 0, 5, RT_DTYPE_UINT8, to->bytes, LARGE, &receive, NULL, &to->detail), RT_E_AGAIN);
    return receive;
}

static void close_both(team_ends *ends)
{
    for (uint32_t rank = 0; rank < 2; rank++)
        CHECK_INT(rt_region_close(ends->members[rank].tensors, &ends->members[rank].detail), RT_OK);
    team_end(ends);
}

/* The receiver has read it, but the sender may have used its memory again: it is not handed out as if it were whole. */
static void a_send_that_is_given_up_fails_the_receive_which_has_read_it(void)
{
    team_ends ends;
    team_begin(&ends, 2, (enum team_memory[]){TEAM_READABLE, TEAM_READABLE});
    rt_team_transfer *send = begin_send(&ends), *receive = begin_receive(&ends);
    int64_t end = rt_clock_now_ns() + CORE_PATIENCE_NS;
    while (team_stats(&ends, 1).direct_received_bytes < LARGE && rt_clock_now_ns() < end) /* alone it reads, and says so */
        rt_team_transfer_wait(receive, 0, NULL, &ends.members[1].detail);
    CHECK_INT(team_stats(&ends, 1).direct_received_bytes, LARGE);
    CHECK_INT(rt_team_transfer_wait(receive, 0, NULL, &ends.members[1].detail), RT_E_AGAIN);
    CHECK_INT(rt_region_close(ends.members[0].tensors, &ends.members[0].detail), RT_E_BUSY); /* it is lent */
    rt_team_transfer_drop(send);
    rt_team_transfer *other = NULL; /* the sender goes on with something else, and so hears the receiver */
    team_member *from = &ends.members[0];
    rt_team_send(from->team, 1, 9, RT_DTYPE_UINT8, from->bytes, 1, &other, &from->detail);
    CHECK_INT(rt_team_transfer_wait(receive, RT_SLICE_NS, NULL, &ends.members[1].detail), RT_E_PEER_CLOSED);
    CHECK(strstr(ends.members[1].detail.text, "gave its send up") != NULL);
    rt_team_transfer_drop(receive);
    close_both(&ends);
}

static void a_receive_that_is_given_up_leaves_the_send_whole(void)
{
    team_ends ends;
    team_begin(&ends, 2, (enum team_memory[]){TEAM_READABLE, TEAM_READABLE});
    rt_team_transfer *send = begin_send(&ends), *receive = begin_receive(&ends);
    memset(ends.members[1].bytes, 0, LARGE);
    rt_team_transfer_drop(receive);
    memset(ends.members[1].bytes, 1, LARGE);
    drive(&ends, 8);
    CHECK_INT(rt_team_transfer_wait(send, RT_SLICE_NS, NULL, &ends.members[0].detail), RT_OK);
    rt_team_transfer_drop(send);
    for (uint64_t index = 0; index < LARGE; index++)
        CHECK_INT(ends.members[1].bytes[index], 1); /* nothing came after it was given up */
    close_both(&ends);
}

static void a_send_and_a_receive_that_disagree_are_told_so(void)
{
    team_ends ends;
    team_begin(&ends, 2, (enum team_memory[]){TEAM_READABLE, TEAM_READABLE});
    rt_team_transfer *send = begin_send(&ends), *receive = NULL;
    team_member *to = &ends.members[1];
    int status = rt_team_receive(to->team, 0, 5, RT_DTYPE_UINT8, to->bytes, LARGE - 1, &receive, NULL, &to->detail);
    CHECK_INT(finish(to, receive, status), RT_E_INVALID);
    CHECK_INT(finish(&ends.members[0], send, RT_E_AGAIN), RT_E_INVALID);
    close_both(&ends);
}

/* ---- what a peer announces is not believed ---- */

static void a_lie_about_where_a_piece_lies_is_answered_with_no(void)
{
    static const struct {
        uint32_t size;
        uint64_t offset;
        bool garbage;
    } lies[] = {{UINT32_MAX, 0, false}, {0, 0, false}, {1, 0, true}, {1, TEAM_MEMORY - 8, false}, {1, UINT64_MAX - 8, false}};
    for (uint32_t lie = 0; lie < sizeof lies / sizeof lies[0]; lie++) {
        team_ends ends;
        team_begin(&ends, 2, (enum team_memory[]){TEAM_READABLE, TEAM_READABLE});
        team_member *from = &ends.members[0];
        rt_announcement told;
        rt_loan loan;
        rt_attached *attached = NULL;
        rt_attachments table = {0};
        CHECK(rt_loan_begin(from->device, from->bytes, LARGE, &loan));
        rt_announcement_make(&loan, &told);
        CHECK_INT(team_attach_told(&table, ends.members[1].channels[0], &told, LARGE, &attached), RT_OK);
        CHECK(attached != NULL); /* the truth */
        rt_attached_release(attached);
        told.offset = lies[lie].offset;
        if (lies[lie].size != 1)
            told.handle_size = lies[lie].size;
        if (lies[lie].garbage)
            memset(told.handle, 0xa5, sizeof told.handle);
        CHECK_INT(team_attach_told(&table, ends.members[1].channels[0], &told, LARGE, &attached), RT_OK);
        CHECK(attached == NULL);
        rt_loan_end(&loan);
        rt_attachments_drop(&table);
        close_both(&ends);
    }
}

static void regions_in_use_are_not_replaced(void)
{
    team_ends ends;
    team_begin(&ends, 2, (enum team_memory[]){TEAM_READABLE, TEAM_READABLE});
    rt_region *regions[RT_ATTACHED_MAX + 1];
    rt_attached *held[RT_ATTACHED_MAX + 1];
    rt_attachments table = {0};
    for (uint32_t index = 0; index < RT_ATTACHED_MAX + 1; index++) {
        rt_loan loan;
        rt_announcement told;
        regions[index] = core_region(ends.members[0].device, 1 << 16, RT_RIGHT_REMOTE_READ);
        CHECK(rt_loan_begin(ends.members[0].device, (void *)(uintptr_t)rt_region_address(regions[index]), 64, &loan));
        rt_announcement_make(&loan, &told);
        CHECK_INT(team_attach_told(&table, ends.members[1].channels[0], &told, 64, &held[index]), RT_OK);
        CHECK_INT(held[index] != NULL, index < RT_ATTACHED_MAX);
        if (index == RT_ATTACHED_MAX) { /* one is let go: its place is free for the next */
            rt_attached_release(held[3]);
            CHECK_INT(team_attach_told(&table, ends.members[1].channels[0], &told, 64, &held[index]), RT_OK);
            CHECK(held[index] == held[3]);
        }
        rt_loan_end(&loan);
    }
    rt_attachments_drop(&table);
    for (uint32_t index = 0; index < RT_ATTACHED_MAX + 1; index++)
        rt_region_drop(regions[index]);
    close_both(&ends);
}

static void a_chunk_that_no_announcement_fits_is_refused(void)
{
    team_ends ends;
    team_begin(&ends, 2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY});
    team_member *member = &ends.members[0];
    const uint32_t chunks[] = {RT_TEAM_CHUNK_MIN - 64, RT_TEAM_CHUNK_MIN + 1, RT_TEAM_CHUNK_MAX + 64};
    for (uint32_t index = 0; index < 3; index++) {
        rt_pair *made = NULL;
        CHECK_INT(rt_pair_create(member->channels[1], member->shared[1], 0, member->remotes[1], chunks[index], TEAM_CHUNKS, &made,
                                 &member->detail),
                  RT_E_INVALID);
        CHECK(made == NULL);
    }
    team_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(ordinary_memory),
    CHECK_TEST(memory_that_peers_may_read),
    CHECK_TEST(memory_here_and_there),
    CHECK_TEST(sends_over_verbs_are_read_with_one_sided_reads),
    CHECK_TEST(a_team_is_dropped_after_all_it_stands_on),
    CHECK_TEST(a_tensor_that_was_sent_arrives_without_another_call_of_the_sender),
    CHECK_TEST(a_send_that_is_given_up_fails_the_receive_which_has_read_it),
    CHECK_TEST(a_receive_that_is_given_up_leaves_the_send_whole),
    CHECK_TEST(a_send_and_a_receive_that_disagree_are_told_so),
    CHECK_TEST(a_lie_about_where_a_piece_lies_is_answered_with_no),
    CHECK_TEST(regions_in_use_are_not_replaced),
    CHECK_TEST(a_chunk_that_no_announcement_fits_is_refused),
};

CHECK_MAIN(tests)
