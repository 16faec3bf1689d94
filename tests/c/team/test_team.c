/* test_team.c: collective calls of members that are threads of this process, each with a device over shm: through slots, and
 * straight out of each other's tensors where all of these lie in regions that peers may read.
 *
 * Needs the whole library. Meant for ThreadSanitizer too. */
#include "proto/dtype.h"
#include "team_ends.h"

#include <math.h>
#include <sched.h>

/* Around what is reduced in one message, what goes direct, pieces, and blocks that are not alike. Elements of four bytes. */
static const uint64_t counts[] = {1, 1000, 8191, 8192, 8193, 32768, 200003, 600000};
enum { COUNTS = sizeof counts / sizeof counts[0], LARGEST = 600000 };

/* ---- what members do ---- */

static int32_t element(uint32_t rank, uint64_t index, uint32_t salt)
{
    return (int32_t)(index * 2654435761u + rank * 40503u + salt);
}

static void fill(int32_t *to, uint32_t rank, uint64_t count, uint32_t salt)
{
    for (uint64_t index = 0; index < count; index++)
        to[index] = element(rank, index, salt);
}

static rt_team_call call_of(team_member *self, int32_t root)
{
    return (rt_team_call){.dtype = RT_DTYPE_INT32,
                          .reduction = RT_TEAM_SUM,
                          .root = root,
                          .timeout_ns = self->timeout_ns,
                          .detail = &self->detail};
}

static int32_t sum_of(const team_member *self, uint64_t index, uint32_t salt)
{
    uint32_t sum = 0;
    for (uint32_t rank = 0; rank < self->size; rank++)
        sum += (uint32_t)element(rank, index, salt);
    return (int32_t)sum;
}

/* In place, and from one tensor to another. */
static void reduce_all(team_member *self)
{
    int32_t *input = (int32_t *)(void *)self->bytes, *other = input + LARGEST + 5;
    for (uint32_t turn = 0; turn < 2 * COUNTS; turn++) {
        uint64_t count = counts[turn / 2];
        int32_t *output = turn % 2 == 0 ? input : other;
        rt_team_call call = call_of(self, -1);
        fill(input, self->rank, count, turn);
        output[count] = 77;
        team_note(self, rt_team_reduce(self->team, &call, input, output, count));
        for (uint64_t index = 0; index < count; index++)
            self->wrong += output[index] != sum_of(self, index, turn);
        for (uint64_t index = 0; index < count && input != output; index++)
            self->wrong += input[index] != element(self->rank, index, turn);
        self->wrong += output[count] != 77;
    }
}

/* To each member in turn, in place and not. The outputs of the others stay as they were. */
static void reduce_to_one(team_member *self)
{
    int32_t *input = (int32_t *)(void *)self->bytes, *other = input + LARGEST + 5;
    for (uint32_t turn = 0; turn < 2 * COUNTS * self->size; turn++) {
        uint64_t count = counts[turn / (2 * self->size)];
        uint32_t root = turn / 2 % self->size;
        bool own = root == self->rank, in_place = turn % 2 == 0 && own;
        int32_t *output = in_place ? input : other;
        rt_team_call call = call_of(self, (int32_t)root);
        fill(input, self->rank, count, turn);
        fill(other, self->rank, count + 1, turn + 1);
        team_note(self, rt_team_reduce(self->team, &call, input, output, count));
        for (uint64_t index = 0; index < count && own; index++)
            self->wrong += output[index] != sum_of(self, index, turn);
        for (uint64_t index = 0; index < count && !in_place; index++)
            self->wrong += input[index] != element(self->rank, index, turn);
        for (uint64_t index = own && !in_place ? count : 0; index < count + 1; index++)
            self->wrong += other[index] != element(self->rank, index, turn + 1);
    }
}

static void reduce_scatter(team_member *self)
{
    int32_t *input = (int32_t *)(void *)self->bytes, *output = input + TEAM_MAX * LARGEST;
    const void *inputs[TEAM_MAX];
    for (uint32_t turn = 0; turn < COUNTS; turn++) {
        uint64_t count = counts[turn];
        rt_team_call call = call_of(self, -1);
        fill(input, self->rank, count * self->size, turn);
        for (uint32_t rank = 0; rank < self->size; rank++)
            inputs[rank] = input + rank * count;
        team_note(self, rt_team_reduce_scatter(self->team, &call, inputs, output, count));
        for (uint64_t index = 0; index < count; index++)
            self->wrong += output[index] != sum_of(self, self->rank * count + index, turn);
    }
}

static void gather(team_member *self)
{
    int32_t *input = (int32_t *)(void *)self->bytes, *output = input + LARGEST;
    void *outputs[TEAM_MAX];
    for (uint32_t turn = 0; turn < COUNTS; turn++) {
        uint64_t count = counts[turn];
        rt_team_call call = call_of(self, -1);
        fill(input, self->rank, count, turn);
        memset(output, 0, count * self->size * sizeof *output);
        for (uint32_t rank = 0; rank < self->size; rank++)
            outputs[rank] = output + rank * count;
        team_note(self, rt_team_gather_all(self->team, &call, input, outputs, count * sizeof *input));
        for (uint32_t rank = 0; rank < self->size; rank++)
            for (uint64_t index = 0; index < count; index++)
                self->wrong += output[rank * count + index] != element(rank, index, turn);
    }
}

static void broadcast(team_member *self)
{
    int32_t *bytes = (int32_t *)(void *)self->bytes;
    for (uint32_t turn = 0; turn < 2 * COUNTS; turn++) {
        uint64_t count = counts[turn / 2];
        uint32_t root = turn % 2;
        rt_team_call call = call_of(self, (int32_t)root);
        fill(bytes, self->rank, count, turn);
        team_note(self, rt_team_broadcast(self->team, &call, bytes, count * sizeof *bytes));
        for (uint64_t index = 0; index < count; index++)
            self->wrong += bytes[index] != element(root, index, turn);
    }
}

static void (*const programs[])(team_member *) = {reduce_all, reduce_to_one, reduce_scatter, gather, broadcast};
enum { PROGRAMS = sizeof programs / sizeof programs[0] };

/* ---- what comes of it ---- */

static void run_all(uint32_t size, const enum team_memory *memory, bool direct)
{
    team_ends ends;
    team_begin(&ends, size, memory);
    for (uint32_t index = 0; index < PROGRAMS; index++) {
        rt_team_stats before = team_stats(&ends, 0), after;
        team_run_alike(&ends, programs[index]);
        after = team_stats(&ends, 0);
        CHECK_INT(after.direct_bytes > before.direct_bytes, direct);
        CHECK(after.bytes_received > before.bytes_received);
    }
    team_end(&ends);
}

static void two_members_through_slots(void)
{
    run_all(2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY}, false);
}

static void three_members_through_slots(void)
{
    run_all(3, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY, TEAM_ORDINARY}, false);
}

static void tensors_that_peers_may_read(void)
{
    run_all(2, (enum team_memory[]){TEAM_READABLE, TEAM_READABLE}, true);
    run_all(3, (enum team_memory[]){TEAM_READABLE, TEAM_READABLE, TEAM_READABLE}, true);
}

static void tensors_that_peers_may_write_too(void)
{
    run_all(2, (enum team_memory[]){TEAM_WRITABLE, TEAM_WRITABLE}, true);
    run_all(3, (enum team_memory[]){TEAM_WRITABLE, TEAM_WRITABLE, TEAM_WRITABLE}, true);
}

static void members_whose_tensors_lie_here_and_there(void)
{
    team_ends ends;
    run_all(2, (enum team_memory[]){TEAM_WRITABLE, TEAM_READABLE}, true);
    team_begin(&ends, 3, (enum team_memory[]){TEAM_WRITABLE, TEAM_WRITABLE, TEAM_ORDINARY});
    for (uint32_t index = 0; index + 1 < PROGRAMS; index++) /* a broadcast asks only the root */
        team_run_alike(&ends, programs[index]);
    CHECK_INT(team_stats(&ends, 0).direct_bytes, 0);
    team_run_alike(&ends, broadcast);
    CHECK(team_stats(&ends, 2).direct_bytes > 0);
    team_end(&ends);
}

/* ---- what is staged, and what is not ---- */

static void reduce_once(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    memset(self->bytes, 1, LARGEST * 4);
    team_note(self, rt_team_reduce(self->team, &call, self->bytes, self->bytes, LARGEST));
}

static void nothing_is_staged_of_what_is_read_directly(void)
{
    team_ends ends;
    for (enum team_memory memory = TEAM_READABLE; memory <= TEAM_WRITABLE; memory++) {
        team_begin(&ends, 2, (enum team_memory[]){memory, memory});
        team_run_alike(&ends, reduce_once);
        rt_team_stats stats = team_stats(&ends, 0);
        CHECK_INT(stats.staged_bytes, 0);
        CHECK_INT(rt_region_close(ends.members[0].tensors, &ends.members[0].detail), RT_OK); /* it is lent no more */
        CHECK(stats.direct_bytes >= LARGEST / 2 * 4 - 64 && stats.reduced_in_place_bytes >= LARGEST / 2 * 4 - 64);
        team_end(&ends);
    }
}

/* ---- trouble ---- */

static void say_nothing(team_member *self)
{
    (void)self;
}

static void a_member_that_does_not_come_is_named(void)
{
    team_ends ends;
    team_begin(&ends, 2, (enum team_memory[]){TEAM_WRITABLE, TEAM_WRITABLE});
    ends.members[0].timeout_ns = RT_NS_PER_S / 5;
    team_run(&ends, (void (*[])(team_member *)){reduce_once, say_nothing});
    CHECK_INT(ends.members[0].status, RT_E_DEADLINE);
    CHECK(strstr(ends.members[0].detail.text, "rank 1") != NULL);
    CHECK_INT(rt_region_close(ends.members[0].tensors, &ends.members[0].detail), RT_OK); /* it is lent no more */
    team_end(&ends);
}

static void give_up(team_member *self)
{
    rt_team_abort(self->team, "enough");
}

static void a_member_that_gives_up_ends_the_others_call(void)
{
    team_ends ends;
    team_begin(&ends, 2, (enum team_memory[]){TEAM_READABLE, TEAM_READABLE});
    team_run(&ends, (void (*[])(team_member *)){reduce_once, give_up});
    CHECK_INT(ends.members[0].status, RT_E_PEER_LOST);
    CHECK(strstr(ends.members[0].detail.text, "enough") != NULL);
    team_end(&ends);
}

static void reduce_less(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    team_note(self, rt_team_reduce(self->team, &call, self->bytes, self->bytes, LARGEST - 1));
}

static void members_that_disagree_are_told_so(void)
{
    team_ends ends;
    team_begin(&ends, 2, (enum team_memory[]){TEAM_WRITABLE, TEAM_WRITABLE});
    team_run(&ends, (void (*[])(team_member *)){reduce_once, reduce_less});
    for (uint32_t rank = 0; rank < 2; rank++)
        CHECK(ends.members[rank].status == RT_E_PROTOCOL || ends.members[rank].status == RT_E_PEER_LOST);
    CHECK(ends.members[0].status == RT_E_PROTOCOL || ends.members[1].status == RT_E_PROTOCOL);
    team_end(&ends);
}

static void reduce_to_itself(team_member *self)
{
    rt_team_call call = call_of(self, (int32_t)self->rank);
    team_note(self, rt_team_reduce(self->team, &call, self->bytes, self->bytes, 1));
}

static void exchange_for(team_member *self, uint32_t what)
{
    rt_team_call call = call_of(self, 0);
    rt_team_piece sends[TEAM_MAX] = {0}, receives[TEAM_MAX] = {0};
    call.reduction = what;
    receives[1 - self->rank] = (rt_team_piece){self->bytes, 4};
    team_note(self, rt_team_exchange(self->team, &call, sends, receives));
}

static void gather_here(team_member *self)
{
    exchange_for(self, RT_TEAM_GATHER);
}

static void scatter_here(team_member *self)
{
    exchange_for(self, RT_TEAM_SCATTER);
}

static void broadcast_here(team_member *self)
{
    rt_team_call call = call_of(self, 1 - (int32_t)self->rank);
    call.reduction = 0;
    team_note(self, rt_team_broadcast(self->team, &call, self->bytes, 4));
}

/* Each only receives, so no message of either call ever comes. */
static void members_that_wait_for_each_other_in_different_calls_are_told_so(void)
{
    void (*const pairs[][2])(team_member *) = {{reduce_to_itself, reduce_to_itself},
                                               {gather_here, scatter_here},
                                               {reduce_to_itself, broadcast_here},
                                               {broadcast_here, broadcast_here},
                                               {gather_here, reduce_to_itself}};
    for (size_t index = 0; index < sizeof pairs / sizeof pairs[0]; index++) {
        team_ends ends;
        team_begin(&ends, 2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY});
        team_run(&ends, pairs[index]);
        for (uint32_t rank = 0; rank < 2; rank++) {
            const rt_detail *detail = &ends.members[rank].detail;
            CHECK(detail->status == RT_E_PROTOCOL || detail->status == RT_E_PEER_LOST);
            CHECK(strstr(detail->text, "do not agree: rank") != NULL);
        }
        team_end(&ends);
    }
}

enum { LATE = 10 }; /* calls: more words than a lane has room for */

/* Each time until the other member's word is here, or no more of them have room. */
static void come_late(team_member *self)
{
    const rt_lane *lane = &self->team->peers[0].lanes[RT_LANE_COLLECTIVE];
    rt_team_call call = call_of(self, 0);
    for (uint64_t words = 0; words < LATE; words++) {
        while (rt_load_acquire_u64(lane->arrived) <= words && words < self->team->options.slots)
            sched_yield();
        team_note(self, rt_team_reduce(self->team, &call, self->bytes, self->bytes, 1));
    }
    reduce_once(self);
}

static void wait_long(team_member *self)
{
    for (uint64_t call = 0; call < LATE; call++)
        reduce_to_itself(self);
    reduce_once(self);
}

static void words_of_calls_that_went_well_disturb_none(void)
{
    team_ends ends;
    team_begin(&ends, 2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY});
    team_run(&ends, (void (*[])(team_member *)){wait_long, come_late});
    for (uint32_t rank = 0; rank < 2; rank++)
        CHECK_INT(ends.members[rank].status, RT_OK);
    team_end(&ends);
}

static void reduce_floats(team_member *self)
{
    enum { FEW = 100 };
    float *values = (float *)(void *)self->bytes;
    for (uint32_t reduction = RT_TEAM_MIN; reduction <= RT_TEAM_MAX; reduction++) {
        rt_team_call call = call_of(self, -1);
        call.dtype = RT_DTYPE_FLOAT32;
        call.reduction = reduction;
        for (uint32_t index = 0; index < FEW; index++)
            values[index] = index % self->size == self->rank ? NAN : (float)index;
        team_note(self, rt_team_reduce(self->team, &call, values, values, FEW - 1));
        for (uint32_t index = 0; index < FEW - 1; index++)
            self->wrong += isnan(values[index]) ? 0 : 1;
    }
}

static void a_nan_at_any_member_is_the_minimum_and_the_maximum(void)
{
    team_ends ends;
    team_begin(&ends, 3, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY, TEAM_ORDINARY});
    team_run_alike(&ends, reduce_floats);
    team_end(&ends);
}

/* ---- what a peer announces is not believed ---- */

static uint32_t lie; /* which of them */
enum { LIES = 5 };

/* An announcement as direct.c has it: the flag, the handle's size, the offset, the handle. */
static uint64_t announcement(team_member *self, uint8_t *to)
{
    uint32_t words[2] = {1, 0};
    uint64_t offset = 0;
    size_t size = 0;
    rt_region_handle(self->tensors, 0, rt_region_size(self->tensors), to + 16, &size, &self->detail);
    words[1] = (uint32_t)size;
    switch (lie) {
    case 0: words[1] = UINT32_MAX; break;
    case 1: words[1] = 0; break;
    case 2: memset(to + 16, 0xa5, RT_HANDLE_SIZE_MAX); break;
    case 3: offset = rt_region_size(self->tensors) - 8; break;
    case 4: offset = UINT64_MAX - 8; break;
    }
    memcpy(to, words, sizeof words);
    memcpy(to + 8, &offset, sizeof offset);
    return 16 + RT_HANDLE_SIZE_MAX;
}

/* Says that everything can be read and written, of memory that is not there, and that it agrees. */
static void lies(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    rt_run run;
    uint8_t told[2 * (16 + RT_HANDLE_SIZE_MAX)] = {0};
    uint64_t one = announcement(self, told), vote = RT_REACH_WRITE;
    announcement(self, told + one);
    team_note(self, rt_run_begin(&run, self->team, &call, RT_WHAT_REDUCE, LARGEST * 4));
    team_note(self, rt_run_send(&run, 0, told, 2 * one));
    team_note(self, rt_run_send(&run, 0, &vote, sizeof vote));
    rt_team_waiter_end(&run.waiter);
}

static void an_announcement_of_a_peer_is_checked(void)
{
    for (lie = 0; lie < LIES; lie++) {
        team_ends ends;
        team_begin(&ends, 2, (enum team_memory[]){TEAM_WRITABLE, TEAM_WRITABLE});
        ends.members[0].timeout_ns = RT_NS_PER_S / 5;
        team_run(&ends, (void (*[])(team_member *)){reduce_once, lies});
        CHECK_INT(ends.members[1].status, RT_OK);
        CHECK_INT(ends.members[0].status, RT_E_DEADLINE); /* it sent through slots, and waits for what comes in them */
        CHECK_INT(team_stats(&ends, 0).direct_bytes, 0);
        CHECK(team_stats(&ends, 0).staged_bytes > 0);
        team_end(&ends);
    }
}

/* ---- loans ---- */

static void only_what_peers_may_read_is_lent_and_it_cannot_be_closed_meanwhile(void)
{
    const core_setup setup = {.provider = "shm"};
    rt_device *device = core_device(&setup, "", true);
    rt_region *readable = core_region(device, 1 << 16, RT_RIGHT_REMOTE_READ);
    rt_region *private = core_region(device, 1 << 16, 0), *written = core_region(device, 1 << 16, RT_RIGHT_REMOTE_WRITE);
    uint8_t *bytes = (uint8_t *)(uintptr_t)rt_region_address(readable);
    rt_detail detail;
    rt_loan loan;
    CHECK(!rt_loan_begin(device, (void *)(uintptr_t)rt_region_address(private), 64, &loan));
    CHECK(!rt_loan_begin(device, (void *)(uintptr_t)rt_region_address(written), 64, &loan));
    CHECK(!rt_loan_begin(device, &loan, sizeof loan, &loan));
    CHECK(!rt_loan_begin(device, bytes + (1 << 16) - 8, 9, &loan));
    CHECK(!rt_loan_begin(device, bytes, 0, &loan));
    CHECK(rt_loan_begin(device, bytes + 100, (1 << 16) - 100, &loan));
    CHECK_INT(loan.offset, 100);
    CHECK_INT(rt_region_close(readable, &detail), RT_E_BUSY);
    rt_loan_end(&loan);
    rt_loan_end(&loan);
    CHECK_INT(rt_region_close(readable, &detail), RT_OK);
    CHECK(!rt_loan_begin(device, bytes, 64, &loan));
    rt_device_close(device);
    rt_region_drop(readable);
    rt_region_drop(private);
    rt_region_drop(written);
}

static const check_test tests[] = {
    CHECK_TEST(two_members_through_slots),
    CHECK_TEST(three_members_through_slots),
    CHECK_TEST(tensors_that_peers_may_read),
    CHECK_TEST(tensors_that_peers_may_write_too),
    CHECK_TEST(members_whose_tensors_lie_here_and_there),
    CHECK_TEST(nothing_is_staged_of_what_is_read_directly),
    CHECK_TEST(a_member_that_does_not_come_is_named),
    CHECK_TEST(a_member_that_gives_up_ends_the_others_call),
    CHECK_TEST(members_that_disagree_are_told_so),
    CHECK_TEST(members_that_wait_for_each_other_in_different_calls_are_told_so),
    CHECK_TEST(words_of_calls_that_went_well_disturb_none),
    CHECK_TEST(a_nan_at_any_member_is_the_minimum_and_the_maximum),
    CHECK_TEST(an_announcement_of_a_peer_is_checked),
    CHECK_TEST(only_what_peers_may_read_is_lent_and_it_cannot_be_closed_meanwhile),
};

CHECK_MAIN(tests)
