/* test_team_calls.c: what a team is made of, calls that cannot be, teams of one, and how calls of members that leave, give up, disagree or
 * do not come end.
 *
 * Needs the whole library. Meant for ThreadSanitizer too. */
#include "proto/dtype.h"
#include "team/block.h"
#include "team_ends.h"

enum { COUNT = 1000 };

static rt_team_call call_of(team_member *self, int32_t root)
{
    return (rt_team_call){.dtype = RT_DTYPE_INT32,
                          .reduction = RT_TEAM_SUM,
                          .root = root,
                          .timeout_ns = self->timeout_ns,
                          .detail = &self->detail};
}

/* ---- what a team is made of ---- */

static void a_team_is_made_with_every_option_up_to_its_bounds(void)
{
    static const struct {
        uint32_t rank, size, slots;
        bool made;
    } cases[] = {
        {0, 0, 4, false}, {0, 1, 4, true},  {1, 1, 4, false},  {1, 2, 4, true},     {2, 2, 4, false},
        {0, 2, 3, false}, {0, 2, 16, true}, {0, 2, 17, false}, {0, 1025, 4, false}, {1023, 1024, 4, true},
    };
    const core_setup setup = {.provider = "shm"};
    rt_device *device = core_device(&setup, "", true);
    rt_region *words = core_region(device, 64 << 20, 0);
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        rt_team_options options = {cases[index].rank, cases[index].size, 512, cases[index].slots, 0};
        rt_team *team = NULL;
        rt_detail detail;
        int status = rt_team_create(device, words, 0, &options, &team, &detail);
        if ((status == RT_OK) != cases[index].made)
            printf("case %zu\n", index);
        CHECK_INT(status, cases[index].made ? RT_OK : RT_E_INVALID);
        CHECK_INT(team != NULL, cases[index].made);
        if (team != NULL)
            rt_team_drop(team);
    }
    rt_team_options options = {0, 3, 512, 4, 0};
    rt_team *team;
    rt_detail detail;
    uint64_t last = words->size - rt_team_words_size(&options);
    CHECK_INT(rt_team_create(device, words, last + 1, &options, &team, &detail), RT_E_INVALID);
    CHECK_INT(rt_team_create(device, words, words->size + 1, &options, &team, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "bytes for its words");
    CHECK_INT(rt_team_create(device, words, last, &options, &team, &detail), RT_OK);
    rt_team_drop(team);
    rt_device_close(device);
    rt_region_drop(words);
}

static void a_pair_is_made_with_every_size_up_to_its_bounds(void)
{
    static const struct {
        uint32_t chunk, chunks;
        bool made;
    } cases[] = {
        {448, 4, false}, {512, 4, true},     {544, 4, false},
        {576, 4, true},  {512, 3, false},    {512, 8, true},
        {512, 9, false}, {4 << 20, 4, true}, {(4 << 20) + 64, 4, false},
    };
    team_ends ends;
    team_begin(&ends, 2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY});
    team_member *member = &ends.members[0];
    rt_region *near = core_region(member->device, 20 << 20, CORE_BOTH),
              *far = core_region(ends.members[1].device, 20 << 20, CORE_BOTH);
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        uint64_t size = rt_pair_size(cases[index].chunk, cases[index].chunks, 1);
        uint64_t last = near->size - size;
        rt_remote *remote = team_attach(member->channels[1], far, 0, size);
        rt_pair *made = NULL;
        int status = rt_pair_create(member->channels[1], near, last, remote, cases[index].chunk, cases[index].chunks, &made,
                                    &member->detail);
        CHECK_INT(status, cases[index].made ? RT_OK : RT_E_INVALID);
        CHECK_INT(made != NULL, cases[index].made);
        if (!cases[index].made)
            CHECK_HAS(member->detail.text, "chunk");
        if (made != NULL) {
            rt_pair_drop(made);
            CHECK_INT(rt_pair_create(member->channels[1], near, last + 1, remote, cases[index].chunk, cases[index].chunks, &made,
                                     &member->detail),
                      RT_E_INVALID);
            CHECK_HAS(member->detail.text, "this pair needs ");
        }
        rt_remote_drop(remote);
    }
    rt_remote *remote = team_attach(member->channels[1], far, 0, rt_pair_size(512, 8, 1));
    rt_pair *made;
    CHECK_INT(rt_pair_create(member->channels[1], near, 0, remote, 512, 7, &made, &member->detail), RT_E_PROTOCOL);
    CHECK_HAS(member->detail.text, "the two disagree on chunks");
    rt_remote_drop(remote);
    team_end(&ends);
    rt_region_drop(near);
    rt_region_drop(far);
}

static void the_parts_of_a_block_and_of_the_words_do_not_overlap(void)
{
    for (uint32_t each = 0; each < 4 * 3; each++) {
        rt_team_options options = {.size = (uint32_t[]){1, 2, 3, 17}[each % 4],
                                   .chunk = 512,
                                   .slots = (uint32_t[]){4, 5, 16}[each / 4]};
        uint64_t end = 0;
        for (uint32_t kind = 0; kind < RT_LANE_KINDS; kind++) { /* a line each */
            CHECK_INT(rt_block_word_at(RT_BLOCK_ARRIVED, kind), end);
            CHECK_INT(rt_block_word_at(RT_BLOCK_ACKED, kind), end + RT_TEAM_LINE);
            end += 2 * RT_TEAM_LINE;
        }
        CHECK_INT(rt_block_word_at(RT_BLOCK_EATEN, 0), end);
        CHECK_INT(rt_block_word_at(RT_BLOCK_MET, 0), end + RT_TEAM_LINE);
        CHECK_INT(RT_BLOCK_NOTICE, end + 2 * RT_TEAM_LINE);
        end = RT_BLOCK_NOTICE + RT_TEAM_NOTICE_SIZE;
        for (uint32_t copies = 0; copies < 2; copies++) {
            for (uint32_t kind = 0; kind < RT_LANE_KINDS; kind++) {
                CHECK_INT(rt_block_slots_at(&options, kind, copies), end);
                end += (uint64_t)options.slots * RT_TEAM_SLOT;
            }
            CHECK_INT(rt_team_block_size(&options, copies == 0), end); /* copies where memory cannot be mapped */
        }
        CHECK_INT(rt_words_met_at(), RT_TEAM_NOTICE_SIZE);
        end = rt_words_met_at() + RT_TEAM_LINE;
        for (uint32_t peer = 0; peer < options.size; peer++, end += sizeof(uint64_t))
            CHECK_INT(rt_words_eaten_at(peer), end);
        for (uint32_t peer = 0; peer < options.size; peer++)
            for (uint32_t kind = 0; kind < RT_LANE_KINDS; kind++) {
                CHECK_INT(rt_words_lane_at(&options, peer, kind), end);
                end += 2 * options.slots * sizeof(uint64_t);
            }
        CHECK_INT(rt_team_words_size(&options), end);
    }
}

static void only_another_member_of_the_same_options_joins_and_once(void)
{
    team_ends ends;
    team_begin(&ends, 2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY});
    team_member *member = &ends.members[0];
    rt_region *region = member->shared[1];
    rt_team_options options = team_options(0, 2);
    const uint64_t part = rt_pair_size(TEAM_CHUNK, TEAM_CHUNKS, 1), block = rt_team_block_size(&options, 1);
    rt_team_place place = {member->blocks[1], part, block};
    for (uint32_t rank = 0; rank < 3; rank++) {
        CHECK_INT(rt_team_join(member->team, rank, member->pairs[1], region, part, &place, &member->detail), RT_E_INVALID);
        CHECK_HAS(member->detail.text, " cannot join rank 0 of 2");
    }
    rt_team *other;
    CHECK_INT(rt_team_create(member->device, member->words, 0, &options, &other, &member->detail), RT_OK);
    const uint64_t wrong[] = {region->size - block + RT_TEAM_LINE, region->size + RT_TEAM_LINE, part + 8};
    for (size_t index = 0; index < sizeof wrong / sizeof wrong[0]; index++) {
        CHECK_INT(rt_team_join(other, 1, member->pairs[1], region, wrong[index], &place, &member->detail), RT_E_INVALID);
        CHECK_HAS(member->detail.text, " for rank 1, at a multiple of 64");
    }
    const uint64_t elsewhere[] = {part + RT_TEAM_LINE, 8, UINT64_MAX - 63};
    for (size_t index = 0; index < sizeof elsewhere / sizeof elsewhere[0]; index++) {
        place.offset = elsewhere[index];
        CHECK_INT(rt_team_join(other, 1, member->pairs[1], region, part, &place, &member->detail), RT_E_PROTOCOL);
        CHECK_HAS(member->detail.text, "rank 1 says that its block lies at ");
    }
    place.offset = part;
    rt_team_drop(other);
    options.chunk = TEAM_CHUNK / 2;
    CHECK_INT(rt_team_create(member->device, member->words, 0, &options, &other, &member->detail), RT_OK);
    CHECK_INT(rt_team_join(other, 1, member->pairs[1], region, part, &place, &member->detail), RT_E_INVALID);
    CHECK_HAS(member->detail.text, "the team has chunks of 32768 bytes and the pair of 65536");
    rt_team_drop(other);
    options = team_options(0, 2);
    options.slots++;
    rt_region *words = core_region(member->device, rt_team_words_size(&options), 0);
    rt_region *larger = core_region(member->device, rt_team_block_size(&options, 1), CORE_BOTH);
    CHECK_INT(rt_team_create(member->device, words, 0, &options, &other, &member->detail), RT_OK);
    CHECK_INT(rt_team_join(other, 1, member->pairs[1], larger, 0, &place, &member->detail), RT_E_PROTOCOL);
    CHECK_HAS(member->detail.text, "the members disagree on its slots");
    rt_team_drop(other);
    team_end(&ends);
    rt_region_drop(words);
    rt_region_drop(larger);
}

/* ---- calls that cannot be ---- */

static void a_call_that_cannot_be_is_refused_and_the_next_one_works(void)
{
    static const struct {
        uint32_t dtype, reduction;
        int32_t root;
        bool works;
    } cases[] = {{RT_DTYPE_ANY, 0, -1, false},
                 {RT_DTYPE_COUNT, 0, -1, false},
                 {RT_DTYPE_INT32, RT_TEAM_XOR, -1, true},
                 {RT_DTYPE_INT32, RT_TEAM_XOR + 1, -1, false},
                 {RT_DTYPE_INT32, 0, 1, false},
                 {RT_DTYPE_INT32, 0, 0, true}};
    team_ends ends;
    team_begin(&ends, 1, (enum team_memory[]){TEAM_ORDINARY});
    team_member *self = &ends.members[0];
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        int32_t input[4] = {1, 2, 3, 4}, output[4] = {0};
        rt_team_call call = call_of(self, cases[index].root);
        call.dtype = cases[index].dtype;
        call.reduction = cases[index].reduction;
        CHECK_INT(rt_team_reduce(self->team, &call, input, output, 4), cases[index].works ? RT_OK : RT_E_INVALID);
        CHECK_INT(output[3], cases[index].works ? 4 : 0);
        if (!cases[index].works)
            CHECK_HAS(self->detail.text, "no such dtype (");
    }
    rt_team_call call = call_of(self, -1);
    CHECK_INT(rt_team_broadcast(self->team, &call, self->bytes, 4), RT_E_INVALID);
    CHECK_HAS(self->detail.text, "a broadcast needs a root");
    CHECK_INT(team_stats(&ends, 0).collectives, 2);
    team_end(&ends);
}

static void a_team_of_one_has_everything_from_itself(void)
{
    team_ends ends;
    team_begin(&ends, 1, (enum team_memory[]){TEAM_ORDINARY});
    team_member *self = &ends.members[0];
    int32_t input[4] = {1, 2, 3, 4};
    for (uint32_t turn = 0; turn < 4; turn++) {
        int32_t output[5] = {0, 0, 0, 0, 77};
        rt_team_call call = call_of(self, turn == 2 ? 0 : -1);
        const void *inputs[1] = {input};
        void *outputs[1] = {output};
        rt_team_piece sends[1] = {{input, sizeof input}}, receives[1] = {{output, sizeof input}};
        CHECK_INT(turn == 0   ? rt_team_reduce_scatter(self->team, &call, inputs, output, 4)
                  : turn == 1 ? rt_team_gather_all(self->team, &call, input, outputs, sizeof input)
                  : turn == 2 ? rt_team_reduce(self->team, &call, input, output, 4)
                              : rt_team_exchange(self->team, &call, sends, receives),
                  RT_OK);
        CHECK_BYTES(output, input, sizeof input);
        CHECK_INT(output[4], 77);
    }
    rt_team_call call = call_of(self, 0);
    CHECK_INT(rt_team_broadcast(self->team, &call, input, sizeof input), RT_OK);
    CHECK_INT(rt_team_barrier(self->team, &call), RT_OK);
    rt_team_piece sends[1] = {{input, 8}}, receives[1] = {{input + 1, 8}}; /* they overlap */
    CHECK_INT(rt_team_exchange(self->team, &call, sends, receives), RT_OK);
    CHECK_INT(input[1], 1);
    CHECK_INT(input[2], 2);
    sends[0].size = receives[0].size = 1;
    receives[0].address = (uint8_t *)input + 7;
    input[1] = 0;
    CHECK_INT(rt_team_exchange(self->team, &call, sends, receives), RT_OK);
    CHECK_INT(input[1], 1 << 24); /* its first byte is now the last one there */
    sends[0].size = 8;
    receives[0].size = 4;
    CHECK_INT(rt_team_exchange(self->team, &call, sends, receives), RT_E_INVALID);
    CHECK_HAS(self->detail.text, "rank 0 would send itself 8 bytes and receive 4");
    team_end(&ends);
}

/* ---- barriers, and what is counted ---- */

static _Atomic uint32_t arrivals;

static void meet_often(team_member *self)
{
    for (uint32_t turn = 0; turn < 50; turn++) {
        rt_team_call call = call_of(self, -1);
        atomic_fetch_add(&arrivals, 1);
        team_note(self, rt_team_barrier(self->team, &call));
        self->wrong += atomic_load(&arrivals) < (turn + 1) * self->size; /* nobody goes on before all have come */
    }
}

static void nobody_passes_a_barrier_before_all_have_come(void)
{
    for (uint32_t size = 2; size <= 3; size++) {
        team_ends ends;
        atomic_store(&arrivals, 0);
        team_begin(&ends, size, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY, TEAM_ORDINARY});
        team_run_alike(&ends, meet_often);
        CHECK_INT(team_stats(&ends, 0).collectives, 50);
        CHECK_INT(team_stats(&ends, 0).bytes_sent, 0);
        team_end(&ends);
    }
}

static void reduce_once(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    memset(self->bytes, 1, COUNT * 4);
    team_note(self, rt_team_reduce(self->team, &call, self->bytes, self->bytes, COUNT));
}

static void every_byte_is_counted_once(void)
{
    for (uint32_t size = 2; size <= 3; size++) {
        team_ends ends;
        team_begin(&ends, size, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY, TEAM_ORDINARY});
        team_run_alike(&ends, reduce_once);
        for (uint32_t rank = 0; rank < size; rank++) {
            rt_team_stats stats = team_stats(&ends, rank);
            CHECK_INT(stats.collectives, 1);
            CHECK_INT(stats.bytes_sent, (size - 1) * 4 * COUNT);
            CHECK_INT(stats.bytes_received, (size - 1) * 4 * COUNT);
            CHECK_INT(stats.staged_bytes, (size - 1) * 4 * COUNT);
            CHECK_INT(stats.reduced_in_place_bytes, (size - 1) * 4 * COUNT);
            CHECK_INT(stats.direct_bytes, 0);
        }
        team_end(&ends);
    }
}

/* ---- how calls end otherwise ---- */

static void say_nothing(team_member *self)
{
    (void)self;
}

static void gather_once(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    void *outputs[TEAM_MAX] = {self->bytes, self->bytes + 64, self->bytes + 128};
    team_note(self, rt_team_gather_all(self->team, &call, self->bytes, outputs, 64));
}

static void broadcast_once(team_member *self)
{
    rt_team_call call = call_of(self, 2);
    team_note(self, rt_team_broadcast(self->team, &call, self->bytes, 64));
}

/* More than the lane of a peer that takes nothing has room for. */
static void broadcast_much(team_member *self)
{
    rt_team_call call = call_of(self, 0);
    team_note(self, rt_team_broadcast(self->team, &call, self->bytes, 16 * TEAM_CHUNK));
}

static void gather_much(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    void *outputs[TEAM_MAX] = {self->bytes, self->bytes + 16 * TEAM_CHUNK, self->bytes + 32 * TEAM_CHUNK};
    team_note(self, rt_team_gather_all(self->team, &call, self->bytes, outputs, 16 * TEAM_CHUNK));
}

static void reduce_to_the_first(team_member *self)
{
    rt_team_call call = call_of(self, 0);
    team_note(self, rt_team_reduce(self->team, &call, self->bytes, self->bytes, 16));
}

/* The last one alone has a piece for this member. */
static void exchange_with_the_last(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    const rt_team_piece sends[TEAM_MAX] = {{NULL, 0}}, receives[TEAM_MAX] = {{NULL, 0}, {NULL, 0}, {self->bytes, 64}};
    team_note(self, rt_team_exchange(self->team, &call, sends, receives));
}

static void those_that_do_not_come_are_named(void)
{
    team_ends ends;
    static void (*const programs[][3])(
        team_member *) = {{gather_once, say_nothing, say_nothing},           {gather_once, gather_once, say_nothing},
                          {broadcast_once, say_nothing, say_nothing},        {broadcast_much, say_nothing, say_nothing},
                          {gather_much, gather_much, say_nothing},           {reduce_to_the_first, say_nothing, say_nothing},
                          {exchange_with_the_last, say_nothing, say_nothing}};
    static const char *const words[] = {"in all_gather (call 1 of the group): waiting for rank 1, 2",
                                        "in all_gather (call 1 of the group): waiting for rank 2",
                                        "in broadcast (call 1 of the group): waiting for rank 2",
                                        "in broadcast (call 1 of the group): waiting for rank 1",
                                        "in all_gather (call 1 of the group): waiting for rank 2",
                                        "in reduce (call 1 of the group): waiting for rank 1",
                                        "in all_to_all (call 1 of the group): waiting for rank 2"};
    for (uint32_t turn = 0; turn < sizeof words / sizeof words[0]; turn++) {
        team_begin(&ends, 3, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY, TEAM_ORDINARY});
        bool alone = programs[turn][1] == say_nothing; /* else the second one must have come by then */
        ends.members[0].timeout_ns = alone ? RT_NS_PER_S / 20 : RT_NS_PER_S / 4;
        team_run(&ends, programs[turn]);
        CHECK_INT(ends.members[0].status, RT_E_DEADLINE);
        const char *text = ends.members[0].detail.text, *end = strstr(text, words[turn]);
        CHECK_HAS(text, alone ? "Timed out after 0.05 s " : "Timed out after 0.25 s ");
        CHECK_STR(end != NULL ? end : text, words[turn]); /* … and nobody else */
        rt_team_call call = call_of(&ends.members[0], -1);
        CHECK_INT(rt_team_barrier(ends.members[0].team, &call), RT_E_DEADLINE); /* the team is at its end, for the same reason */
        CHECK_HAS(ends.members[0].detail.text, words[turn]);
        team_end(&ends);
    }
}

static void members_that_call_something_else_are_told_what(void)
{
    team_ends ends;
    team_begin(&ends, 2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY});
    team_run(&ends, (void (*[])(team_member *)){reduce_once, gather_once});
    uint32_t told = 0;
    for (uint32_t rank = 0; rank < 2; rank++) {
        const team_member *member = &ends.members[rank];
        CHECK(member->status == RT_E_PROTOCOL || member->status == RT_E_PEER_LOST);
        if (member->status != RT_E_PROTOCOL)
            continue;
        told++;
        CHECK_HAS(member->detail.text, "the members do not agree: rank ");
        CHECK_HAS(member->detail.text, "call 1, reduce of 4000 bytes of int32, reduction 0, root -1");
        CHECK_HAS(member->detail.text, "call 1, all_gather of 64 bytes of int32, reduction 0, root -1");
    }
    CHECK(told > 0);
    team_end(&ends);
}

static void after_leaving_no_call_is_made(void)
{
    team_ends ends;
    team_begin(&ends, 2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY});
    team_member *left = &ends.members[1], *stays = &ends.members[0];
    team_run_alike(&ends, reduce_once);
    CHECK_INT(rt_team_left(stays->team), 0);
    CHECK_INT(rt_team_left(left->team), 0);
    rt_team_leave(left->team);
    rt_team_leave(left->team); /* twice is fine */
    CHECK_INT(rt_team_left(stays->team), 1);
    CHECK_INT(rt_team_left(left->team), 0);
    rt_detail detail;
    CHECK_INT(rt_team_failure(left->team, &detail), RT_E_CLOSED);
    CHECK_INT(rt_team_failure(stays->team, &detail), RT_OK);
    rt_team_call call = call_of(left, -1);
    uint64_t sent = team_stats(&ends, 1).bytes_sent;
    CHECK_INT(rt_team_reduce(left->team, &call, left->bytes, left->bytes, COUNT), RT_E_CLOSED);
    CHECK_HAS(left->detail.text, "the team was left");
    CHECK_INT(rt_team_barrier(left->team, &call), RT_E_CLOSED);
    const void *inputs[2] = {left->bytes, left->bytes};
    void *outputs[2] = {left->bytes, left->bytes + 64};
    rt_team_piece pieces[2] = {{left->bytes, 64}, {left->bytes, 64}};
    CHECK_INT(rt_team_reduce_scatter(left->team, &call, inputs, left->bytes, COUNT), RT_E_CLOSED);
    CHECK_INT(rt_team_gather_all(left->team, &call, left->bytes, outputs, 64), RT_E_CLOSED);
    CHECK_INT(rt_team_exchange(left->team, &call, pieces, pieces), RT_E_CLOSED);
    call.root = 0;
    CHECK_INT(rt_team_broadcast(left->team, &call, left->bytes, 64), RT_E_CLOSED);
    rt_team_transfer *transfer = NULL;
    CHECK_INT(rt_team_send(left->team, 0, 1, RT_DTYPE_UINT8, left->bytes, 64, &transfer, &left->detail), RT_E_CLOSED);
    CHECK_INT(rt_team_receive(left->team, 0, 1, RT_DTYPE_UINT8, left->bytes, 64, &transfer, NULL, &left->detail), RT_E_AGAIN);
    CHECK_INT(rt_team_transfer_wait(transfer, RT_SLICE_NS, NULL, &left->detail), RT_E_CLOSED); /* nothing comes any more */
    rt_team_transfer_drop(transfer);
    CHECK_INT(team_stats(&ends, 1).bytes_sent, sent);
    call = call_of(stays, -1);
    CHECK_INT(rt_team_barrier(stays->team, &call), RT_E_PEER_CLOSED);
    CHECK_HAS(stays->detail.text, "rank 1 has left the group");
    team_end(&ends);
}

static void a_team_that_was_aborted_says_so_to_all_and_again(void)
{
    team_ends ends;
    team_begin(&ends, 3, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY, TEAM_ORDINARY});
    rt_team_abort(ends.members[1].team, "enough is enough");
    rt_team_abort(ends.members[1].team, "another reason"); /* the first stays */
    for (uint32_t turn = 0; turn < 2; turn++) {
        for (uint32_t rank = 0; rank < 3; rank++) {
            team_member *member = &ends.members[rank];
            rt_team_call call = call_of(member, -1);
            CHECK_INT(rt_team_barrier(member->team, &call), rank == 1 ? RT_E_CLOSED : RT_E_PEER_LOST);
            CHECK_HAS(member->detail.text, rank == 1 ? "enough is enough" : "rank 1 gave up: enough is enough");
        }
    }
    team_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(a_team_is_made_with_every_option_up_to_its_bounds),
    CHECK_TEST(a_pair_is_made_with_every_size_up_to_its_bounds),
    CHECK_TEST(the_parts_of_a_block_and_of_the_words_do_not_overlap),
    CHECK_TEST(only_another_member_of_the_same_options_joins_and_once),
    CHECK_TEST(a_call_that_cannot_be_is_refused_and_the_next_one_works),
    CHECK_TEST(a_team_of_one_has_everything_from_itself),
    CHECK_TEST(nobody_passes_a_barrier_before_all_have_come),
    CHECK_TEST(every_byte_is_counted_once),
    CHECK_TEST(those_that_do_not_come_are_named),
    CHECK_TEST(members_that_call_something_else_are_told_what),
    CHECK_TEST(after_leaving_no_call_is_made),
    CHECK_TEST(a_team_that_was_aborted_says_so_to_all_and_again),
};

CHECK_MAIN(tests)
