/* test_team_attached.c: what a peer announces of its tensors: every word of it may be a lie, and a lie reaches nothing. */
#include "proto/dtype.h"
#include "team_ends.h"

enum { BYTES = 1 << 16 };

typedef struct announced {
    team_ends ends;
    rt_region *regions[RT_ATTACHED_MAX + 2]; /* of member 0 */
    rt_attachments table;                    /* of member 1 */
} announced;

static void begin_announced(announced *all, uint32_t rights)
{
    memset(all, 0, sizeof *all);
    team_begin(&all->ends, 2, (enum team_memory[]){TEAM_READABLE, TEAM_READABLE});
    for (uint32_t index = 0; index < RT_ATTACHED_MAX + 2; index++)
        all->regions[index] = core_region(all->ends.members[0].device, BYTES, rights);
}

static void end_announced(announced *all)
{
    rt_attachments_drop(&all->table);
    for (uint32_t index = 0; index < RT_ATTACHED_MAX + 2; index++)
        rt_region_drop(all->regions[index]);
    team_end(&all->ends);
}

/* The truth about a range of a region, as a loan tells it. */
static rt_announcement truth(const announced *all, uint32_t region, uint64_t offset)
{
    rt_loan loan = {.region = all->regions[region], .offset = offset};
    rt_announcement told;
    rt_detail detail;
    CHECK_INT(rt_region_handle(loan.region, 0, BYTES, loan.handle, &loan.handle_size, &detail), RT_OK);
    rt_announcement_make(&loan, &told);
    CHECK_INT(told.direct, 1);
    CHECK_INT(told.offset, offset);
    CHECK_INT(told.handle_size, loan.handle_size);
    CHECK_BYTES(told.handle, loan.handle, loan.handle_size);
    return told;
}

static rt_attached *attach(announced *all, const rt_announcement *told, uint64_t size)
{
    rt_attached *attached = (rt_attached *)(void *)all; /* to be set in any case */
    CHECK_INT(team_attach_told(&all->table, all->ends.members[1].channels[0], told, size, &attached), RT_OK);
    CHECK(attached != (rt_attached *)(void *)all);
    return attached;
}

static uint32_t used_places(const announced *all)
{
    uint32_t used = 0;
    for (uint32_t index = 0; index < RT_ATTACHED_MAX && all->table.places != NULL; index++)
        used += all->table.places[index].remote != NULL;
    return used;
}

static void a_range_that_is_not_lent_is_told_as_such(void)
{
    rt_announcement told;
    memset(&told, 0xff, sizeof told);
    rt_announcement_make(NULL, &told);
    CHECK_INT(told.direct, 0);
    CHECK_INT(told.handle_size, 0);
    CHECK_INT(told.offset, 0);
}

static void a_range_is_reached_up_to_the_last_byte_of_its_region(void)
{
    static const struct {
        uint64_t offset, size;
        bool reached;
    } ranges[] = {
        {0, BYTES, true},       {0, BYTES + 1, false},      {0, 0, true},           {1, BYTES - 1, true},
        {1, BYTES, false},      {BYTES - 8, 8, true},       {BYTES - 8, 9, false},  {BYTES, 0, true},
        {BYTES + 1, 0, false},  {UINT64_MAX, 1, false},     {UINT64_MAX, 0, false}, {0, UINT64_MAX, false},
        {8, UINT64_MAX, false}, {UINT64_MAX - 7, 8, false}, {BYTES, 1, false},
    };
    announced all;
    begin_announced(&all, RT_RIGHT_REMOTE_READ);
    for (uint32_t index = 0; index < sizeof ranges / sizeof ranges[0]; index++) {
        rt_announcement told = truth(&all, 0, ranges[index].offset);
        rt_attached *attached = attach(&all, &told, ranges[index].size);
        if ((attached != NULL) != ranges[index].reached)
            printf("%llu bytes at %llu\n", (unsigned long long)ranges[index].size, (unsigned long long)ranges[index].offset);
        CHECK_INT(attached != NULL, ranges[index].reached);
        CHECK_INT(all.table.places[0].holders, ranges[index].reached); /* what is not given is not held */
        rt_attached_release(attached);
        CHECK_INT(all.table.places[0].holders, 0);
        CHECK_INT(used_places(&all), 1);
    }
    end_announced(&all);
}

static void an_announcement_that_makes_no_sense_attaches_nothing(void)
{
    static const struct {
        uint32_t direct, handle_size;
    } lies[] = {{0, 0},          {1, 0},
                {2, 0},          {UINT32_MAX, 0},
                {1, 1},          {1, RT_HANDLE_SIZE_MAX + 1},
                {1, UINT32_MAX}, {1, RT_HANDLE_SIZE_MAX}};
    announced all;
    begin_announced(&all, RT_RIGHT_REMOTE_READ);
    const rt_announcement good = truth(&all, 0, 0);
    for (uint32_t index = 0; index < sizeof lies / sizeof lies[0]; index++) {
        rt_announcement told = good;
        told.direct = lies[index].direct;
        if (lies[index].direct == 1) /* else the handle is a good one */
            told.handle_size = lies[index].handle_size;
        CHECK(attach(&all, &told, 8) == NULL);
        CHECK_INT(used_places(&all), 0);
        CHECK_INT(all.table.uses, 0);
    }
    for (uint32_t at = 0; at < good.handle_size; at++) { /* each byte of the handle in turn */
        rt_announcement told = good;
        told.handle[at] ^= 0x41;
        rt_attached_release(attach(&all, &told, 8)); /* what it reaches, if anything, is this peer's own */
        for (uint32_t place = 0; place < RT_ATTACHED_MAX && all.table.places != NULL; place++)
            CHECK_INT(all.table.places[place].holders, 0);
    }
    rt_announcement told = good;
    rt_attached *attached = attach(&all, &told, 8);
    CHECK(attached != NULL); /* no lie spoils the truth */
    rt_attached_release(attached);
    end_announced(&all);
}

static void a_region_without_the_right_to_read_is_not_read(void)
{
    announced all;
    begin_announced(&all, RT_RIGHT_REMOTE_WRITE);
    rt_announcement told = truth(&all, 0, 0);
    CHECK(attach(&all, &told, 8) == NULL);
    end_announced(&all);
    begin_announced(&all, CORE_BOTH);
    told = truth(&all, 0, 0);
    rt_attached *attached = attach(&all, &told, 8);
    CHECK(attached != NULL);
    rt_attached_release(attached);
    end_announced(&all);
}

static void a_region_is_attached_once_and_held_by_each_of_its_ranges(void)
{
    announced all;
    begin_announced(&all, RT_RIGHT_REMOTE_READ);
    rt_announcement first = truth(&all, 0, 0), second = truth(&all, 0, 64), other = truth(&all, 1, 0);
    rt_attached *one = attach(&all, &first, 64), *two = attach(&all, &second, 64), *three = attach(&all, &other, 64);
    CHECK(one != NULL && one == two && three != NULL && three != one);
    CHECK_INT(one->holders, 2);
    CHECK_INT(three->holders, 1);
    CHECK_INT(used_places(&all), 2);
    CHECK(rt_remote_size(one->remote) == BYTES);
    rt_attached_release(one);
    CHECK_INT(one->holders, 1);
    rt_attached_release(two);
    rt_attached_release(three);
    rt_attached_release(NULL);
    CHECK_INT(one->holders + three->holders, 0);
    CHECK_INT(used_places(&all), 2); /* they stay attached, for the next call */
    CHECK(attach(&all, &second, 64) == one);
    rt_attached_release(one);
    end_announced(&all);
}

static void the_region_that_was_used_longest_ago_makes_room(void)
{
    announced all;
    rt_attached *places[RT_ATTACHED_MAX];
    begin_announced(&all, RT_RIGHT_REMOTE_READ);
    for (uint32_t index = 0; index < RT_ATTACHED_MAX; index++) {
        rt_announcement told = truth(&all, index, 0);
        places[index] = attach(&all, &told, 8);
        CHECK(places[index] == &all.table.places[index]);
        rt_attached_release(places[index]);
    }
    for (uint32_t index = 0; index < RT_ATTACHED_MAX; index++) { /* all but 5 are used again, 2 is held too */
        rt_announcement told = truth(&all, index, 0);
        if (index == 5)
            continue;
        CHECK(attach(&all, &told, 8) == places[index]);
        if (index != 2)
            rt_attached_release(places[index]);
    }
    rt_announcement told = truth(&all, RT_ATTACHED_MAX, 0), more = truth(&all, RT_ATTACHED_MAX + 1, 0);
    CHECK(attach(&all, &told, 8) == places[5]);
    CHECK(attach(&all, &more, 8) == places[0]);
    CHECK_INT(used_places(&all), RT_ATTACHED_MAX);
    told = truth(&all, 5, 0);
    CHECK(attach(&all, &told, 8) == places[1]); /* 5 went, and comes again; 0 went too */
    told = truth(&all, 0, 0);
    CHECK(attach(&all, &told, 8) == places[3]); /* 2 is held */
    told = truth(&all, 2, 0);
    CHECK(attach(&all, &told, 8) == places[2]);
    end_announced(&all);
}

static void while_all_places_are_held_nothing_more_is_attached(void)
{
    announced all;
    rt_attached *places[RT_ATTACHED_MAX];
    begin_announced(&all, RT_RIGHT_REMOTE_READ);
    for (uint32_t index = 0; index < RT_ATTACHED_MAX; index++) {
        rt_announcement told = truth(&all, index, 0);
        places[index] = attach(&all, &told, 8);
        CHECK(places[index] != NULL);
    }
    rt_announcement told = truth(&all, RT_ATTACHED_MAX, 0), known = truth(&all, 3, 8);
    CHECK(attach(&all, &told, 8) == NULL);
    CHECK(attach(&all, &known, 8) == places[3]); /* what is attached needs no room */
    rt_attached_release(places[3]);
    CHECK(attach(&all, &told, 8) == NULL); /* held once more */
    rt_attached_release(places[3]);
    CHECK(attach(&all, &told, 8) == places[3]);
    end_announced(&all);
}

static void a_region_that_is_dropped_is_not_attached_any_more(void)
{
    announced all;
    begin_announced(&all, RT_RIGHT_REMOTE_READ);
    rt_announcement told = truth(&all, 0, 0), other = truth(&all, 1, 0);
    rt_attached_release(attach(&all, &told, 8));
    rt_attached_release(attach(&all, &other, 8));
    rt_channel *channel = all.ends.members[1].channels[0];
    uint32_t before = atomic_load(&channel->references);
    rt_attachments_drop(&all.table);
    CHECK_INT(before - atomic_load(&channel->references), 2); /* each attached region kept the channel */
    CHECK(all.table.places == NULL);                          /* dropping twice is fine */
    end_announced(&all);
}

/* The caller finds out by itself that the channel has ended; here it is told that there is nothing to read. */
static void over_a_channel_that_has_ended_nothing_is_attached(void)
{
    announced all;
    begin_announced(&all, RT_RIGHT_REMOTE_READ);
    rt_announcement told = truth(&all, 0, 0);
    rt_channel_close(all.ends.members[1].channels[0]);
    CHECK(attach(&all, &told, 8) == NULL);
    CHECK_INT(used_places(&all), 0);
    end_announced(&all);
}

/* ---- calls of members that have no room for another region ---- */

enum { LARGE = 3 * TEAM_CHUNK + 5 };

static void run_calls(team_member *self)
{
    uint8_t *own = self->bytes, *got = self->bytes + (1 << 20), *more = self->bytes + (2 << 20);
    rt_team_call call = {.dtype = RT_DTYPE_UINT8,
                         .reduction = RT_TEAM_SUM,
                         .timeout_ns = self->timeout_ns,
                         .detail = &self->detail};
    rt_team_piece sends[2] = {{own, LARGE}, {own, LARGE}}, receives[2] = {{got, LARGE}, {more, LARGE}};
    core_fill(own, LARGE, self->rank);
    team_note(self, rt_team_exchange(self->team, &call, sends, receives));
    for (uint64_t index = 0; index < LARGE; index++) {
        self->wrong += got[index] != (uint8_t)(index % 251 + 1);
        self->wrong += more[index] != (uint8_t)((index + 1) % 251 + 1);
    }
    team_note(self, rt_team_broadcast(self->team, &call, self->rank == 0 ? own : more, LARGE));
    for (uint64_t index = 0; index < LARGE && self->rank != 0; index++)
        self->wrong += more[index] != (uint8_t)(index % 251 + 1);
    call.root = -1;
    team_note(self, rt_team_reduce(self->team, &call, own, got, LARGE));
    for (uint64_t index = 0; index < LARGE; index++)
        self->wrong += got[index] != (uint8_t)(index % 251 + 1 + (index + 1) % 251 + 1);
}

static void a_tensor_that_cannot_be_attached_is_sent_instead(void)
{
    announced all;
    rt_attached *held[RT_ATTACHED_MAX];
    begin_announced(&all, RT_RIGHT_REMOTE_READ);
    team_member *full = &all.ends.members[1];
    for (uint32_t index = 0; index < RT_ATTACHED_MAX; index++) {
        rt_announcement told = truth(&all, index, 0);
        CHECK_INT(team_attach_told(&full->team->directs[0].attached, full->channels[0], &told, 8, &held[index]), RT_OK);
        CHECK(held[index] != NULL);
    }
    team_run_alike(&all.ends, run_calls);
    CHECK_INT(team_stats(&all.ends, 1).direct_bytes, 0);
    CHECK_INT(team_stats(&all.ends, 0).direct_bytes, LARGE); /* of the exchange: this one had room */
    CHECK_INT(team_stats(&all.ends, 1).bytes_received >= 2 * LARGE, 1);
    for (uint32_t rank = 0; rank < 2; rank++) /* nothing is lent any more */
        CHECK_INT(rt_region_close(all.ends.members[rank].tensors, &all.ends.members[rank].detail), RT_OK);
    for (uint32_t index = 0; index < RT_ATTACHED_MAX; index++)
        rt_attached_release(held[index]);
    end_announced(&all);
}

static const check_test tests[] = {
    CHECK_TEST(a_range_that_is_not_lent_is_told_as_such),
    CHECK_TEST(a_range_is_reached_up_to_the_last_byte_of_its_region),
    CHECK_TEST(an_announcement_that_makes_no_sense_attaches_nothing),
    CHECK_TEST(a_region_without_the_right_to_read_is_not_read),
    CHECK_TEST(a_region_is_attached_once_and_held_by_each_of_its_ranges),
    CHECK_TEST(the_region_that_was_used_longest_ago_makes_room),
    CHECK_TEST(while_all_places_are_held_nothing_more_is_attached),
    CHECK_TEST(a_region_that_is_dropped_is_not_attached_any_more),
    CHECK_TEST(over_a_channel_that_has_ended_nothing_is_attached),
    CHECK_TEST(a_tensor_that_cannot_be_attached_is_sent_instead),
};

CHECK_MAIN(tests)
