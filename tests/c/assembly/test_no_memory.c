/* test_no_memory.c: memory that runs out at any allocation of a call on edges and teams: the call says so, nothing that it took is kept, and
 * the same call works when there is memory again.
 *
 * The linker gives this test the library's calls of malloc and its like (the Makefile's test_no_memory-wraps). Needs the whole
 * library. */
#include <stdatomic.h>

#include "edge_ends.h"
#include "proto/dtype.h"
#include "transfer_ends.h"

/* ---- allocations that fail ---- */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void *__real_realloc(void *bytes, size_t size);
void __real_free(void *bytes);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void *__wrap_realloc(void *bytes, size_t size);
void __wrap_free(void *bytes);

static _Atomic int64_t until; /* allocations up to the one that fails; none does below 1 */
static _Atomic bool failed;
static _Atomic int64_t in_use; /* blocks */
static _Thread_local bool mine;

static bool fails(void)
{
    if (atomic_load(&until) < 1 || !mine || atomic_fetch_sub(&until, 1) != 1)
        return false;
    atomic_store(&failed, true);
    return true;
}

static void *counted(void *bytes)
{
    atomic_fetch_add(&in_use, bytes != NULL);
    return bytes;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : counted(__real_calloc(count, size));
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return fails() ? NULL : counted(__real_aligned_alloc(alignment, size));
}

void *__wrap_realloc(void *bytes, size_t size)
{
    if (fails())
        return NULL;
    return bytes != NULL ? __real_realloc(bytes, size) : counted(__real_realloc(bytes, size));
}

void __wrap_free(void *bytes)
{
    atomic_fetch_sub(&in_use, bytes != NULL);
    __real_free(bytes);
}

/* The allocation of this number fails, of those of this thread. */
static void fail_at(int64_t number)
{
    mine = true;
    atomic_store(&failed, false);
    atomic_store(&until, number);
}

/* Whether one has failed; none does from here on. */
static bool has_failed(void)
{
    atomic_store(&until, 0);
    return atomic_load(&failed);
}

/* ---- edges ---- */

static const uint64_t small = 5000, large = 5 << 20, wide[] = {8, 4096};
static uint8_t outside[70000];

static rt_edge_options static_edge(const edge_ends *ends, const uint64_t *size)
{
    rt_edge_options options = edge_options("memory");
    options.ordering = ends->place->ordering;
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = size;
    return options;
}

static rt_edge_options dynamic_edge(const edge_ends *ends)
{
    rt_edge_options options = edge_options("memory");
    options.ordering = ends->place->ordering;
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    return options;
}

static int64_t number; /* of the allocation that fails */

static int make_and_open(edge_ends *ends, const rt_edge_options *options, bool fails_meanwhile)
{
    if (fails_meanwhile)
        fail_at(number);
    int status = rt_edge_create(ends->core.far, options, NULL, &ends->receiver, &ends->detail);
    if (status == RT_OK)
        status = rt_edge_open(ends->core.channel, options, RT_NS_PER_S, &ends->sender, &ends->detail);
    return status == RT_OK ? edge_wait_open(ends) : status;
}

static int send_and_receive(edge_ends *ends, const rt_edge_options *options, const rt_edge_tensor *tensor, bool fails_before)
{
    rt_edge_arrival arrival;
    int status = make_and_open(ends, options, fails_before);
    if (status != RT_OK)
        return status;
    if (!fails_before)
        fail_at(number);
    status = edge_send(ends, tensor, true);
    if (status != RT_OK) /* the edge goes on */
        CHECK_INT(edge_send(ends, tensor, true), RT_OK);
    CHECK_INT(edge_receive(ends, &arrival), RT_OK);
    CHECK_INT(arrival.sequence, 1);
    return status;
}

static int a_static_edge(edge_ends *ends)
{
    rt_edge_options options = static_edge(ends, &small);
    return make_and_open(ends, &options, true);
}

static int a_static_edge_of_large_tensors(edge_ends *ends)
{
    rt_edge_options options = static_edge(ends, &large);
    return make_and_open(ends, &options, true);
}

static int a_static_edge_in_a_region_of_the_callers(edge_ends *ends)
{
    rt_edge_options options = static_edge(ends, &small);
    fail_at(number);
    return rt_edge_create(ends->core.far, &options, ends->core.target, &ends->receiver, &ends->detail);
}

static int a_tensor_that_is_staged(edge_ends *ends)
{
    rt_edge_options options = static_edge(ends, &small);
    options.staging = 1;
    rt_edge_tensor tensor = edge_bytes(outside, small);
    return send_and_receive(ends, &options, &tensor, false);
}

static int a_tensor_that_lies_in_a_region(edge_ends *ends)
{
    rt_edge_options options = static_edge(ends, &small);
    rt_edge_tensor tensor = edge_bytes(ends->core.here, small);
    return send_and_receive(ends, &options, &tensor, true);
}

static int a_tensor_of_many_runs(edge_ends *ends)
{
    rt_edge_options options = static_edge(ends, wide);
    options.rank = 2;
    rt_edge_tensor tensor = {.address = (uint64_t)(uintptr_t)ends->core.here, .dtype = RT_DTYPE_UINT8, .rank = 2};
    memcpy(tensor.dims, wide, sizeof wide);
    tensor.strides[0] = 2 * (int64_t)wide[1];
    tensor.strides[1] = 1;
    tensor.strided = 1;
    return send_and_receive(ends, &options, &tensor, false);
}

static int a_dynamic_edge_that_is_made(edge_ends *ends)
{
    rt_edge_options options = dynamic_edge(ends);
    fail_at(number);
    int status = rt_edge_create(ends->core.far, &options, NULL, &ends->receiver, &ends->detail);
    CHECK_INT(status, has_failed() ? RT_E_NO_MEMORY : RT_OK);
    return status;
}

static int a_dynamic_tensor_that_is_copied(edge_ends *ends)
{
    rt_edge_options options = dynamic_edge(ends);
    rt_edge_tensor tensor = edge_bytes(outside, sizeof outside);
    return send_and_receive(ends, &options, &tensor, false);
}

/* Of a slot that is not mapped, so that the edge takes memory for it. */
static int a_loan_of_a_static_tensor(edge_ends *ends)
{
    rt_edge_options options = static_edge(ends, &small);
    uint64_t address = 0;
    int status = make_and_open(ends, &options, false);
    CHECK_INT(status, RT_OK);
    fail_at(number);
    int64_t ticket = rt_edge_lend(ends->sender, NULL, RT_NS_PER_S, &address);
    if (ticket == RT_E_NO_MEMORY) { /* the edge goes on */
        status = RT_E_NO_MEMORY;
        rt_edge_explain(ends->sender, status, &ends->detail);
        ticket = rt_edge_lend(ends->sender, NULL, RT_NS_PER_S, &address);
    }
    CHECK_INT(ticket, 1);
    memset((void *)(uintptr_t)address, 7, small);
    CHECK(rt_edge_send_lent(ends->sender, 1, RT_NS_PER_S) >= 0);
    return status;
}

static int a_loan_of_a_dynamic_tensor(edge_ends *ends)
{
    rt_edge_options options = dynamic_edge(ends);
    rt_edge_tensor tensor = edge_bytes(NULL, sizeof outside);
    uint64_t address = 0;
    int status = make_and_open(ends, &options, false);
    CHECK_INT(status, RT_OK);
    fail_at(number);
    int64_t ticket = rt_edge_lend(ends->sender, &tensor, RT_NS_PER_S, &address);
    if (ticket == RT_E_NO_MEMORY) {
        status = RT_E_NO_MEMORY;
        rt_edge_explain(ends->sender, status, &ends->detail);
        ticket = rt_edge_lend(ends->sender, &tensor, RT_NS_PER_S, &address);
    }
    CHECK_INT(ticket, 1);
    rt_edge_give_back(ends->sender, 1);
    return status;
}

static void drop_edges(edge_ends *ends)
{
    if (ends->sender != NULL)
        rt_edge_drop(ends->sender);
    if (ends->receiver != NULL)
        rt_edge_drop(ends->receiver);
    ends->sender = ends->receiver = NULL;
}

/* Tries it on a new channel, since pools of memory belong to channels, with each allocation failing in turn. */
static void check_edge(const edge_place *place, int (*run)(edge_ends *), const char *name)
{
    edge_ends ends;
    bool hit = true;
    int64_t before = atomic_load(&in_use);
    number = 0;
    edge_begin(&ends, place, 1);
    while (hit) {
        rt_channel *channel = ends.core.channel, *accepted = ends.core.accepted;
        core_join(&ends.core, &ends.core.channel, &ends.core.accepted);
        number++;
        int status = run(&ends);
        hit = has_failed();
        if (status != RT_OK && !(hit && status == RT_E_NO_MEMORY))
            printf("%s, %s: allocation %lld: %s\n", place->name, name, (long long)number, ends.detail.text);
        CHECK(status == RT_OK || (hit && status == RT_E_NO_MEMORY));
        CHECK(status == RT_OK || strstr(ends.detail.text, "EPERM") == NULL); /* no system call failed */
        drop_edges(&ends);
        if (status != RT_OK) {
            int64_t failing = number;
            number = 0;
            CHECK_INT(run(&ends), RT_OK);
            number = failing;
        }
        drop_edges(&ends);
        rt_channel_drop(ends.core.channel);
        rt_channel_drop(ends.core.accepted);
        ends.core.channel = channel;
        ends.core.accepted = accepted;
    }
    CHECK(number > 1);
    edge_end(&ends);
    CHECK_INT(atomic_load(&in_use), before);
}

/* clang-format off */
#define LIFE(function) {#function, function}
/* clang-format on */

static const struct {
    const char *name;
    int (*run)(edge_ends *);
} lives[] = {
    LIFE(a_dynamic_edge_that_is_made),     LIFE(a_static_edge_of_large_tensors), LIFE(a_static_edge_in_a_region_of_the_callers),
    LIFE(a_tensor_that_is_staged),         LIFE(a_tensor_that_lies_in_a_region), LIFE(a_tensor_of_many_runs),
    LIFE(a_dynamic_tensor_that_is_copied), LIFE(a_loan_of_a_static_tensor),      LIFE(a_loan_of_a_dynamic_tensor),
};

static void an_edge_that_finds_no_memory_says_so_and_the_next_one_works(void)
{
    for (size_t index = 0; index < sizeof lives / sizeof lives[0]; index++)
        check_edge(&edge_places[2], lives[index].run, lives[index].name);
    check_edge(&edge_places[5], a_static_edge, "a_static_edge");
}

static void a_device_that_finds_no_memory_is_not_opened(void)
{
    for (uint32_t which = 0; which < 2; which++) {
        const rt_device_options options = {.provider = which == 0 ? "shm" : "sim", .name = "", .arguments = ""};
        bool hit = true;
        number = 0;
        while (hit) {
            rt_device *device = NULL;
            rt_detail detail;
            int64_t before = atomic_load(&in_use);
            fail_at(++number);
            int status = rt_device_open(&options, &device, &detail);
            hit = has_failed();
            CHECK_INT(status, hit ? RT_E_NO_MEMORY : RT_OK);
            CHECK_INT(device != NULL, !hit);
            if (device != NULL)
                rt_device_close(device);
            CHECK_INT(atomic_load(&in_use), before);
        }
        CHECK(number > 3);
    }
}

/* ---- teams ---- */

static const enum team_memory ordinary[] = {TEAM_ORDINARY, TEAM_ORDINARY}, readable[] = {TEAM_READABLE, TEAM_ORDINARY};

static void a_team_and_a_pair_that_find_no_memory_are_not_made(void)
{
    team_ends ends;
    team_begin(&ends, 2, ordinary);
    team_member *member = &ends.members[0];
    const rt_team_options options = team_options(0, 2);
    uint32_t references = atomic_load(&member->words->references), shared = atomic_load(&member->shared[1]->references);
    for (number = 1; number <= 4; number++) {
        rt_team *team = NULL;
        fail_at(number);
        int status = rt_team_create(member->device, member->words, 0, &options, &team, &member->detail);
        CHECK_INT(status, has_failed() ? RT_E_NO_MEMORY : RT_OK);
        CHECK_INT(status == RT_OK, number > 3);
        if (status != RT_OK)
            CHECK_HAS(member->detail.text, "no memory for a team of 2");
        if (team != NULL)
            rt_team_drop(team);
        CHECK_INT(atomic_load(&member->words->references), references);
    }
    rt_pair *made = NULL;
    fail_at(1);
    CHECK_INT(rt_pair_create(member->channels[1], member->shared[1], 0, member->remotes[1], TEAM_CHUNK, TEAM_CHUNKS, &made,
                             &member->detail),
              RT_E_NO_MEMORY);
    CHECK_HAS(member->detail.text, "no memory for a pair");
    CHECK(has_failed());
    CHECK_INT(atomic_load(&member->shared[1]->references), shared);
    team_end(&ends);
}

/* Drives both until they are done, or the receiver's team is at its end. */
static int drive(team_ends *ends, started *send, started *receive)
{
    int64_t end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS;
    int status = RT_OK;
    for (bool more = true; more && status == RT_OK && rt_clock_now_ns() < end_ns;) {
        more = ask(receive) == RT_E_AGAIN;
        more = ask(send) == RT_E_AGAIN || more;
        status = rt_team_failure(ends->members[1].team, NULL);
    }
    return status;
}

/* A tensor is sent, and arrives, or its receiver or sender says that there was no memory. Returns whether an allocation failed. */
static bool transfer(const enum team_memory *memory, uint64_t size)
{
    team_ends ends;
    int64_t before = atomic_load(&in_use);
    team_begin(&ends, 2, memory);
    core_fill(ends.members[0].bytes, size, (uint32_t)number);
    started other = begin_receive(&ends, 1, 0, 4, 8); /* for which the receiver looks at what has come */
    fail_at(number);
    started send = begin_send(&ends, 0, 1, 3, size);
    rt_team_progress(ends.members[1].team, 0);
    started receive = begin_receive(&ends, 1, 0, 3, size);
    bool begun = send.status == RT_OK || send.transfer != NULL;
    int status = begun ? receive.status : send.status;
    if (begun && receive.transfer != NULL)
        status = drive(&ends, &send, &receive);
    bool hit = has_failed();
    if (begun && receive.transfer != NULL && status != RT_OK) { /* neither end waits for an answer that could not be made */
        CHECK(finish(&receive, &send) != RT_E_AGAIN);
        CHECK(finish(&send, &receive) != RT_E_AGAIN);
        CHECK(finish(&other, NULL) != RT_E_AGAIN); /* a receive that nothing was sent for, as the team has ended */
    }
    CHECK(status == RT_OK || (hit && status == RT_E_NO_MEMORY));
    if (status == RT_OK) {
        CHECK_INT(send.status, RT_OK);
        CHECK_INT(receive.status, RT_OK);
        CHECK_BYTES(ends.members[1].bytes + TEAM_MEMORY / 2, ends.members[0].bytes, size);
    }
    drop(&send), drop(&receive), drop(&other);
    team_end(&ends);
    CHECK_INT(atomic_load(&in_use), before);
    return hit;
}

static void a_transfer_that_finds_no_memory_says_so_or_goes_another_way(void)
{
    const struct {
        const enum team_memory *memory;
        uint64_t size;
        int64_t first; /* of a later one, the allocations before are as they were */
    } cases[] = {{ordinary, 100, 1}, {readable, 2 * TEAM_CHUNK, 4}, {ordinary, 2 * TEAM_CHUNK, 4}};
    for (size_t each = 0; each < sizeof cases / sizeof cases[0]; each++) {
        number = cases[each].first;
        while (transfer(cases[each].memory, cases[each].size))
            number++;
        CHECK(number > cases[each].first);
    }
}

static const check_test tests[] = {
    CHECK_TEST(an_edge_that_finds_no_memory_says_so_and_the_next_one_works),
    CHECK_TEST(a_device_that_finds_no_memory_is_not_opened),
    CHECK_TEST(a_team_and_a_pair_that_find_no_memory_are_not_made),
    CHECK_TEST(a_transfer_that_finds_no_memory_says_so_or_goes_another_way),
};

CHECK_MAIN(tests)
