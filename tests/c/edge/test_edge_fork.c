/* test_edge_fork.c: a child made by fork has nothing of its parent's edges and teams: every call says so, and changes nothing that the parent
 * sees.
 *
 * Needs the whole library. */
#include <sys/wait.h>
#include <unistd.h>

#include "edge_ends.h"
#include "proto/dtype.h"
#include "team_ends.h"

enum { SIZE = 100 };
static const uint64_t dims[] = {SIZE};

/* The number of the first call that does not say what it should, or 0. */
#define EXPECT(got, wanted)                                                                                                      \
    do {                                                                                                                         \
        number++;                                                                                                                \
        if ((got) != (wanted))                                                                                                   \
            return number;                                                                                                       \
    } while (0)

static rt_edge_options options_of(const char *name)
{
    rt_edge_options options = edge_options(name);
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = dims;
    return options;
}

static int sender_calls(edge_ends *ends)
{
    int number = 0;
    rt_detail detail;
    rt_edge *edge = NULL;
    rt_edge_stats stats;
    char text[100];
    int32_t status = 0;
    const rt_edge_options options = options_of("child");
    const rt_edge_tensor tensor = edge_bytes(ends->core.here, SIZE);
    const uint64_t address = (uint64_t)(uintptr_t)ends->core.here;
    rt_edge_sending sending = {.edge = (uint64_t)(uintptr_t)ends->sender, .address = address, .size = SIZE};
    EXPECT(rt_edge_open(ends->core.channel, &options, 0, &edge, &detail), RT_E_FORKED);
    EXPECT(rt_edge_wait_open(ends->sender, 0, &detail), RT_E_FORKED);
    EXPECT(rt_edge_send(ends->sender, address, SIZE, 0), RT_E_FORKED);
    EXPECT(rt_edge_send_tensor(ends->sender, &tensor, 0), RT_E_FORKED);
    EXPECT(rt_edge_send_at_once(ends->sender, address, SIZE), RT_E_AGAIN);
    EXPECT(rt_edges_send_many(&sending, 1, 0, &status), 0);
    EXPECT(status, RT_E_FORKED);
    EXPECT(rt_edge_wait_sent(ends->sender, 1, 0), RT_E_FORKED);
    EXPECT(rt_edge_wait_released(ends->sender, 1, 0), RT_E_FORKED);
    EXPECT(rt_edge_failure(ends->sender, &detail), RT_E_FORKED);
    rt_edge_get_stats(ends->sender, &stats);
    EXPECT(stats.transfers, 0);
    EXPECT(rt_edge_dump(ends->sender, text, sizeof text), 0);
    rt_edge_close(ends->sender);
    rt_edge_drop(ends->sender);
    EXPECT(ends->sender->close_wanted, false);
    return 0;
}

static int receiver_calls(edge_ends *ends)
{
    int number = 100;
    rt_detail detail;
    rt_edge *edge = NULL;
    rt_edge_arrival arrival;
    uint32_t ready;
    int32_t status = 0;
    uint64_t address;
    const rt_edge_options options = options_of("child");
    rt_edge_fetching fetch = {.edge = (uint64_t)(uintptr_t)ends->receiver, .sequence = 1, .status = RT_E_AGAIN};
    EXPECT(rt_edge_create(ends->core.far, &options, NULL, &edge, &detail), RT_E_FORKED);
    EXPECT(rt_edge_receive(ends->receiver, 0, &arrival), RT_E_FORKED);
    EXPECT(rt_edge_receive_static(ends->receiver, 0), RT_E_FORKED);
    EXPECT(rt_edge_receive_at_once(ends->receiver, 4), RT_E_AGAIN);
    EXPECT(rt_edges_receive_many(&ends->receiver, 1, 0, &arrival, &status), 0);
    EXPECT(status, RT_E_FORKED);
    EXPECT(rt_edge_fetch(ends->receiver, 1, ends->core.target, 0, 0), RT_E_FORKED);
    rt_edges_fetch_many(&fetch, 1, 0);
    EXPECT(fetch.status, RT_E_FORKED);
    EXPECT(rt_edge_borrow(ends->receiver, 1, &address), RT_E_FORKED);
    EXPECT(rt_edge_borrowed(ends->receiver, 1), NULL);
    EXPECT(rt_edge_release(ends->receiver, 1), RT_E_FORKED);
    EXPECT(rt_edge_release_at_once(ends->receiver, 1), RT_E_AGAIN);
    EXPECT(rt_edge_ready(ends->receiver), 0);
    EXPECT(rt_edges_wait_any(&ends->receiver, 1, 0, &ready, 1), RT_E_FORKED);
    EXPECT(rt_edge_slots_region(ends->receiver), NULL);
    rt_edge_drop(ends->receiver);
    EXPECT(ends->receiver->close_wanted, false);
    return 0;
}

/* Runs the calls in a child: what it ended with. */
static int in_child(int (*calls)(void *), void *object)
{
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        _exit(calls(object));
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int edge_calls(void *object)
{
    int first = sender_calls(object);
    return first != 0 ? first : receiver_calls(object);
}

static void a_child_has_none_of_its_parents_edges(void)
{
    edge_ends ends;
    const rt_edge_options options = options_of("parent");
    edge_begin(&ends, &edge_places[0], 1);
    edge_join(&ends, &edge_places[0], &options);
    rt_edge_tensor tensor = edge_bytes(ends.core.here, SIZE);
    CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
    CHECK_INT(in_child(edge_calls, &ends), 0);
    rt_edge_arrival arrival; /* what the child could not touch */
    CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
    CHECK_INT(rt_edge_release(ends.receiver, 1), RT_OK);
    CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
    CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
    CHECK_INT(arrival.sequence, 2);
    edge_end(&ends);
}

/* ---- teams ---- */

static int team_calls(void *object)
{
    team_ends *ends = object;
    team_member *self = &ends->members[0];
    int number = 0;
    rt_detail detail;
    rt_team *other = NULL;
    rt_team_transfer *transfer = NULL;
    rt_team_call call = {.dtype = RT_DTYPE_UINT8, .root = 0, .timeout_ns = 0, .detail = &detail};
    void *outputs[2] = {self->bytes, self->bytes};
    const void *inputs[2] = {self->bytes, self->bytes};
    rt_team_piece pieces[2] = {{self->bytes, 8}, {self->bytes, 8}};
    EXPECT(rt_team_create(self->device, self->words, 0, &self->team->options, &other, &detail), RT_E_FORKED);
    EXPECT(rt_team_barrier(self->team, &call), RT_E_FORKED);
    EXPECT(rt_team_reduce(self->team, &call, self->bytes, self->bytes, 8), RT_E_FORKED);
    EXPECT(rt_team_reduce_scatter(self->team, &call, inputs, self->bytes, 8), RT_E_FORKED);
    EXPECT(rt_team_gather_all(self->team, &call, self->bytes, outputs, 8), RT_E_FORKED);
    EXPECT(rt_team_broadcast(self->team, &call, self->bytes, 8), RT_E_FORKED);
    EXPECT(rt_team_exchange(self->team, &call, pieces, pieces), RT_E_FORKED);
    EXPECT(rt_team_send(self->team, 1, 1, RT_DTYPE_UINT8, self->bytes, 8, &transfer, &detail), RT_E_FORKED);
    EXPECT(rt_team_receive(self->team, 1, 1, RT_DTYPE_UINT8, self->bytes, 8, &transfer, NULL, &detail), RT_E_FORKED);
    EXPECT(rt_team_progress(self->team, 0), RT_E_FORKED);
    EXPECT(detail.status, RT_E_FORKED);
    rt_team_abort(self->team, "by the child");
    rt_team_leave(self->team);
    rt_team_drop(self->team);
    return 0;
}

static void meet(team_member *self)
{
    rt_team_call call = {.dtype = RT_DTYPE_UINT8, .root = -1, .timeout_ns = self->timeout_ns, .detail = &self->detail};
    team_note(self, rt_team_barrier(self->team, &call));
}

static void a_child_has_none_of_its_parents_teams(void)
{
    team_ends ends;
    team_begin(&ends, 2, (enum team_memory[]){TEAM_ORDINARY, TEAM_ORDINARY});
    CHECK_INT(in_child(team_calls, &ends), 0);
    team_run_alike(&ends, meet); /* nobody was told that the child gave up, or left */
    team_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(a_child_has_none_of_its_parents_edges),
    CHECK_TEST(a_child_has_none_of_its_parents_teams),
};

CHECK_MAIN(tests)
