/* test_fork.c: what a child made by fork may do: nothing of what was open, whichever locks threads of the parent held at that
 * moment, and everything where nothing was. test_device.c asks every call on devices, regions and channels. */
#include <sys/wait.h>
#include <unistd.h>

#include "edge_ends.h"
#include "proto/dtype.h"
#include "team_ends.h"

/* Forks, and gives what the child's function gave: it must not wait for a lock, and is killed when it does. */
static int in_child(int (*function)(void *object), void *object)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        if (setjmp(check_jump) != 0) /* a check of the child failed: it must not go on with the parent's tests */
            _exit(200);
        _exit(function(object));
    }
    int how = 0;
    CHECK_INT(waitpid(child, &how, 0), child);
    CHECK(WIFEXITED(how));
    return WEXITSTATUS(how);
}

/* ---- edges ---- */

static int edge_calls(void *object)
{
    edge_ends *ends = object;
    rt_detail detail;
    rt_edge_stats stats;
    rt_edge_sending send = {.edge = (uint64_t)(uintptr_t)ends->sender};
    rt_edge_fetching fetch = {.edge = (uint64_t)(uintptr_t)ends->receiver, .sequence = 1, .status = RT_E_AGAIN};
    rt_edge_arrival arrival;
    uint64_t address;
    uint32_t ready;
    int32_t sent = RT_OK, received = RT_OK;
    const int64_t done = rt_edges_send_many(&send, 1, RT_SLICE_NS, &sent);
    const int64_t came = rt_edges_receive_many(&ends->receiver, 1, RT_SLICE_NS, &arrival, &received);
    const uint64_t pending = rt_edges_fetch_many(&fetch, 1, RT_SLICE_NS);
    const int64_t statuses[] = {
        rt_edge_explain(ends->sender, RT_E_BUSY, &detail),
        rt_edge_failure(ends->sender, &detail),
        rt_edge_wait_open(ends->sender, RT_SLICE_NS, &detail),
        rt_edge_send(ends->sender, 0, 64, RT_SLICE_NS),
        rt_edge_wait_sent(ends->sender, 1, RT_SLICE_NS),
        rt_edge_wait_released(ends->sender, 1, RT_SLICE_NS),
        rt_edge_receive(ends->receiver, RT_SLICE_NS, &arrival),
        rt_edge_receive_static(ends->receiver, RT_SLICE_NS),
        rt_edge_release(ends->receiver, 1),
        rt_edge_fetch(ends->receiver, 1, NULL, 0, RT_SLICE_NS),
        rt_edge_borrow(ends->receiver, 1, &address),
        rt_edges_wait_any(&ends->receiver, 1, RT_SLICE_NS, &ready, 1),
        done == 0 && came == 0 && pending == 0 ? sent : RT_OK,
        received,
        fetch.status,
    };
    for (int index = 0; index < (int)(sizeof statuses / sizeof statuses[0]); index++)
        if (statuses[index] != RT_E_FORKED)
            return index + 1;
    rt_edge_get_stats(ends->sender, &stats);
    if (rt_edge_ready(ends->receiver) != 0 || stats.sequence != 0)
        return 100;
    rt_edge_close(ends->sender);
    rt_edge_drop(ends->receiver);
    return 0;
}

static void calls_on_edges_in_a_child_wait_for_no_thread_of_the_parent(void)
{
    edge_ends ends;
    rt_edge_options options = edge_options("forked");
    const uint64_t dims[] = {16};
    options.dtype = RT_DTYPE_FLOAT32;
    options.rank = 1;
    options.dims = dims;
    edge_begin(&ends, &edge_places[0], 1);
    edge_join(&ends, &edge_places[0], &options);
    while (!rt_turn_try(&ends.sender->turn)) /* not `take`: no order allows two of one rank */
        sched_yield();
    while (!rt_turn_try(&ends.receiver->turn))
        sched_yield();
    int found = in_child(edge_calls, &ends);
    rt_turn_leave(&ends.receiver->turn);
    rt_turn_leave(&ends.sender->turn);
    CHECK_INT(found, 0);
    edge_end(&ends);
}

/* ---- teams ---- */

static int team_calls(void *object)
{
    team_member *member = object;
    rt_team *team = member->team;
    rt_detail detail;
    rt_team_stats stats;
    rt_team_transfer *transfer = NULL;
    int32_t source;
    rt_team_call call = {.dtype = RT_DTYPE_UINT8, .root = 0, .timeout_ns = RT_NS_PER_S, .detail = &detail};
    const rt_team_place place = {.remote = member->blocks[1]};
    const int64_t statuses[] = {
        rt_team_join(team, 1, member->pairs[1], member->shared[1], 0, &place, &detail),
        rt_team_failure(team, &detail),
        rt_team_barrier(team, &call),
        rt_team_broadcast(team, &call, member->bytes, 8),
        rt_team_send(team, 1, 7, RT_DTYPE_UINT8, member->bytes, 8, &transfer, &detail),
        rt_team_receive(team, 1, 7, RT_DTYPE_UINT8, member->bytes, 8, &transfer, &source, &detail),
        rt_team_progress(team, RT_SLICE_NS),
    };
    for (int index = 0; index < (int)(sizeof statuses / sizeof statuses[0]); index++)
        if (statuses[index] != RT_E_FORKED)
            return index + 1;
    rt_team_get_stats(team, &stats);
    rt_team_abort(team, "a child");
    rt_team_leave(team);
    rt_team_drop(team);
    return 0;
}

static void calls_on_teams_in_a_child_wait_for_no_thread_of_the_parent(void)
{
    team_ends ends;
    const enum team_memory memory[TEAM_MAX] = {TEAM_ORDINARY, TEAM_ORDINARY};
    team_begin(&ends, 2, memory);
    rt_team *team = ends.members[0].team;
    pthread_mutex_lock(&team->lock);
    pthread_mutex_lock(&team->failing);
    int found = in_child(team_calls, &ends.members[0]);
    pthread_mutex_unlock(&team->failing);
    pthread_mutex_unlock(&team->lock);
    CHECK_INT(found, 0);
    team_end(&ends);
}

/* ---- nothing open ---- */

/* Uses a device as any process does: 0 when all of it works. */
static int use(void *object)
{
    (void)object;
    core_ends ends;
    core_begin(&ends, &(core_setup){.provider = "shm"});
    int status = core_copy(&ends, 0, RT_WRITE, 0, 0, 64);
    core_end(&ends);
    return status == RT_OK ? 0 : 1;
}

/* A child of a child, of which the first had devices and closed them. */
static int use_twice(void *object)
{
    return use(object) == 0 && in_child(use, NULL) == 0 ? 0 : 2;
}

static void a_child_made_after_everything_was_closed_opens_devices_of_its_own(void)
{
    CHECK_INT(use(NULL), 0);
    for (int round = 0; round < 3; round++)
        CHECK_INT(in_child(use_twice, NULL), 0);
    CHECK_INT(use(NULL), 0);
}

static int opens_one(void *object)
{
    (void)object;
    rt_device *device = NULL;
    rt_detail detail;
    const rt_device_options options = {.provider = "shm", .name = "", .arguments = ""};
    int status = rt_device_open(&options, &device, &detail);
    return status == RT_E_FORKED && strstr(detail.text, "spawn") != NULL ? 0 : 1;
}

static void a_child_made_while_a_device_is_open_is_told_what_to_do(void)
{
    core_ends ends;
    core_begin(&ends, &(core_setup){.provider = "shm"});
    CHECK_INT(in_child(opens_one, NULL), 0);
    core_end(&ends);
}

static int touches(void *object)
{
    rt_region *region = object;
    rt_detail detail;
    rt_region_stats stats;
    if (use(NULL) != 0) /* so that the child is a user of the library itself */
        return 1;
    rt_region_get_stats(region, &stats);
    if (rt_region_free(region, 1) != RT_E_FORKED || rt_region_allocate(region, 8, 8) != RT_E_FORKED)
        return 2;
    if (rt_region_close(region, &detail) != RT_E_FORKED || stats.size != 0)
        return 3;
    rt_region_drop(region);
    return 0;
}

static void memory_that_outlived_its_device_stays_the_parents(void)
{
    const core_setup setup = {.provider = "shm"};
    rt_device *device = core_device(&setup, "", true);
    rt_region *region = core_region(device, 1 << 16, 0);
    rt_device_close(device);
    (pthread_mutex_lock)(&region->settling); /* as another thread's lock, which no order counts as this thread's */
    int found = in_child(touches, region);
    (pthread_mutex_unlock)(&region->settling);
    CHECK_INT(found, 0);
    rt_region_drop(region);
}

static const check_test tests[] = {
    CHECK_TEST(calls_on_edges_in_a_child_wait_for_no_thread_of_the_parent),
    CHECK_TEST(calls_on_teams_in_a_child_wait_for_no_thread_of_the_parent),
    CHECK_TEST(a_child_made_after_everything_was_closed_opens_devices_of_its_own),
    CHECK_TEST(a_child_made_while_a_device_is_open_is_told_what_to_do),
    CHECK_TEST(memory_that_outlived_its_device_stays_the_parents),
};
CHECK_MAIN(tests)
