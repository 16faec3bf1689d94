/* test_team_counts.c: how many bytes each collective call sends, receives, stages and reads in place, for every way that it can go: what
 * TEAMS.md promises of each way, in numbers.
 *
 * Needs the whole library. */
#include "proto/dtype.h"
#include "team_ends.h"

enum { BLOCK = 4 * TEAM_CHUNK }; /* bytes of a member's block of a reduction: whole chunks and whole pieces */

typedef struct counts {
    uint64_t sent, received, staged, direct, reduced;
} counts;

static uint64_t size_of(const team_member *self)
{
    return (uint64_t)BLOCK * self->size;
}

static rt_team_call call_of(team_member *self, int32_t root)
{
    return (rt_team_call){.dtype = RT_DTYPE_INT32,
                          .reduction = RT_TEAM_SUM,
                          .root = root,
                          .timeout_ns = self->timeout_ns,
                          .detail = &self->detail};
}

/* ---- the calls, all of `size_of` bytes a member ---- */

static void reduce_all(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    team_note(self, rt_team_reduce(self->team, &call, self->bytes, self->bytes, size_of(self) / 4));
}

static void reduce_to_last(team_member *self)
{
    rt_team_call call = call_of(self, (int32_t)self->size - 1);
    team_note(self, rt_team_reduce(self->team, &call, self->bytes, self->bytes + size_of(self), size_of(self) / 4));
}

static void reduce_scatter(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    const void *inputs[TEAM_MAX];
    for (uint32_t rank = 0; rank < self->size; rank++)
        inputs[rank] = self->bytes + rank * size_of(self);
    team_note(self,
              rt_team_reduce_scatter(self->team, &call, inputs, self->bytes + self->size * size_of(self), size_of(self) / 4));
}

static void gather(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    void *outputs[TEAM_MAX];
    for (uint32_t rank = 0; rank < self->size; rank++)
        outputs[rank] = self->bytes + (rank + 1) * size_of(self);
    team_note(self, rt_team_gather_all(self->team, &call, self->bytes, outputs, size_of(self)));
}

static void broadcast(team_member *self)
{
    rt_team_call call = call_of(self, 0);
    team_note(self, rt_team_broadcast(self->team, &call, self->bytes, size_of(self)));
}

static void exchange(team_member *self)
{
    rt_team_call call = call_of(self, -1);
    rt_team_piece sends[TEAM_MAX], receives[TEAM_MAX];
    for (uint32_t peer = 0; peer < self->size; peer++) {
        sends[peer] = (rt_team_piece){self->bytes + peer * size_of(self), size_of(self)};
        receives[peer] = (rt_team_piece){self->bytes + (peer + self->size) * size_of(self), size_of(self)};
    }
    team_note(self, rt_team_exchange(self->team, &call, sends, receives));
}

/* ---- what each costs ---- */

/* The bytes in which members tell each other of `ranges` of their tensors, and agree `votes` times. */
static uint64_t talk(const team_member *self, uint32_t ranges, uint32_t votes)
{
    return (self->size - 1) * (ranges * sizeof(rt_announcement) + votes * sizeof(uint64_t));
}

static counts of_reduce(const team_member *self, enum team_memory memory)
{
    const uint64_t others = self->size - 1, part = others * BLOCK;
    uint64_t said = talk(self, 2, memory == TEAM_ORDINARY ? 0 : 2);
    switch (memory) {
    case TEAM_ORDINARY: return (counts){said + 2 * part, said + 2 * part, 2 * part, 0, part};
    case TEAM_READABLE: return (counts){said, said + 2 * part, 0, 2 * part, part};
    case TEAM_WRITABLE: return (counts){said + part, said + part, 0, part, part};
    }
    return (counts){0};
}

static counts of_reduce_to_last(const team_member *self, enum team_memory memory)
{
    const uint64_t others = self->size - 1, part = others * BLOCK, size = size_of(self);
    bool root = self->rank == self->size - 1;
    uint64_t said = talk(self, 2, memory == TEAM_ORDINARY ? 0 : 2);
    switch (memory) {
    case TEAM_ORDINARY: /* a block of every other one, and the own one as it was reduced, which lies in the message already */
        return root ? (counts){said + part, said + 2 * part, part, 0, part}
                    : (counts){said + part + BLOCK, said + part, part, 0, part};
    case TEAM_READABLE:
        return root ? (counts){said, said + others * size, 0, others * size, others * size} : (counts){said, said, 0, 0, 0};
    case TEAM_WRITABLE: return (counts){said + (root ? 0 : BLOCK), said + part, 0, part, part};
    }
    return (counts){0};
}

static counts of_reduce_scatter(const team_member *self, enum team_memory memory)
{
    const uint64_t all = (self->size - 1) * size_of(self);
    uint64_t said = talk(self, 1, memory == TEAM_ORDINARY ? 0 : 2);
    return memory == TEAM_ORDINARY ? (counts){said + all, said + all, all, 0, all} : (counts){said, said + all, 0, all, all};
}

static counts of_gather(const team_member *self, enum team_memory memory)
{
    counts same = of_reduce_scatter(self, memory);
    same.reduced = 0;
    return same;
}

static counts of_broadcast(const team_member *self, enum team_memory memory)
{
    const uint64_t others = self->size - 1, size = size_of(self), told = sizeof(rt_announcement);
    bool first = self->rank == 0, last = self->rank == self->size - 1;
    if (memory == TEAM_ORDINARY) /* down a chain */
        return (counts){(first ? others * told : 0) + (last ? 0 : size), first ? 0 : told + size, last ? 0 : size, 0, 0};
    return first ? (counts){others * told, others * sizeof(uint64_t), 0, 0, 0}
                 : (counts){sizeof(uint64_t), told + size, 0, size, 0};
}

static counts of_exchange(const team_member *self, enum team_memory memory)
{
    const uint64_t all = (self->size - 1) * size_of(self), said = talk(self, 1, 0);
    return memory == TEAM_ORDINARY ? (counts){said + all, all, all, 0, 0} : (counts){said, all, 0, all, 0};
}

static const struct {
    const char *name;
    void (*program)(team_member *self);
    counts (*cost)(const team_member *self, enum team_memory memory);
} calls[] = {
    {"reduce", reduce_all, of_reduce},
    {"reduce to the last", reduce_to_last, of_reduce_to_last},
    {"reduce_scatter", reduce_scatter, of_reduce_scatter},
    {"gather", gather, of_gather},
    {"broadcast", broadcast, of_broadcast},
    {"exchange", exchange, of_exchange},
};

static void check_counts(team_ends *ends, size_t which, enum team_memory memory)
{
    rt_team_stats before[TEAM_MAX];
    for (uint32_t rank = 0; rank < ends->size; rank++)
        before[rank] = team_stats(ends, rank);
    team_run_alike(ends, calls[which].program);
    for (uint32_t rank = 0; rank < ends->size; rank++) {
        rt_team_stats after = team_stats(ends, rank);
        const counts wanted = calls[which].cost(&ends->members[rank], memory);
        const counts got = {after.bytes_sent - before[rank].bytes_sent, after.bytes_received - before[rank].bytes_received,
                            after.staged_bytes - before[rank].staged_bytes, after.direct_bytes - before[rank].direct_bytes,
                            after.reduced_in_place_bytes - before[rank].reduced_in_place_bytes};
        if (memcmp(&wanted, &got, sizeof got) != 0)
            printf("%s, rank %u of %u, memory %d\n", calls[which].name, rank, ends->size, (int)memory);
        CHECK_INT(got.sent, wanted.sent);
        CHECK_INT(got.received, wanted.received);
        CHECK_INT(got.staged, wanted.staged);
        CHECK_INT(got.direct, wanted.direct);
        CHECK_INT(got.reduced, wanted.reduced);
        CHECK_INT(after.collectives - before[rank].collectives, 1);
    }
}

static void every_way_of_every_call_costs_what_it_must(void)
{
    for (uint32_t size = 2; size <= 3; size++) {
        for (enum team_memory memory = TEAM_ORDINARY; memory <= TEAM_WRITABLE; memory++) {
            team_ends ends;
            team_begin(&ends, size, (enum team_memory[]){memory, memory, memory});
            for (size_t which = 0; which < sizeof calls / sizeof calls[0]; which++)
                for (uint32_t turn = 0; turn < 2; turn++) /* the second time all regions are attached */
                    check_counts(&ends, which, memory);
            team_end(&ends);
        }
    }
}

static void copies_of_any_size_are_whole_and_no_longer(void)
{
    static const uint64_t sizes[] = {0, 1, 4097, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, (11 << 20) + 3};
    team_ends ends;
    team_begin(&ends, 1, (enum team_memory[]){TEAM_ORDINARY});
    uint8_t *from = ends.members[0].bytes, *to = from + TEAM_MEMORY / 2;
    core_fill(from, TEAM_MEMORY / 2, 3);
    for (size_t index = 0; index < sizeof sizes / sizeof sizes[0]; index++) {
        memset(to, 0, TEAM_MEMORY / 2);
        rt_direct_copy(ends.members[0].team, to, from, sizes[index]);
        CHECK_BYTES(to, from, sizes[index]);
        CHECK_INT(to[sizes[index]], 0);
    }
    team_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(every_way_of_every_call_costs_what_it_must),
    CHECK_TEST(copies_of_any_size_are_whole_and_no_longer),
};

CHECK_MAIN(tests)
