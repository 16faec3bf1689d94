/* test_helped.c: operations over shm whose WRITEs the waiting end helps with, and those that wait for
 * a helper which keeps its piece (csrc/provider/shm/HELP.md): they stay under way, as on any provider
 * whose send queue is full. */
#include <pthread.h>
#include <sched.h>

#include "core_ends.h"
#include "provider/shm/shm.h"

enum { SIZE = 1 << 20 };

static const core_setup setup = {.provider = "shm", .size = SIZE + 4096, .wait_policy = RT_WAIT_SPIN};

/* The ends, with a local region that peers may read. */
static void helped_begin(core_ends *ends)
{
    core_begin(ends, &setup);
    rt_region_drop(ends->local);
    ends->local = core_region(ends->near, SIZE + 4096, CORE_BOTH);
    ends->here = (uint8_t *)(uintptr_t)rt_region_address(ends->local);
}

static shm_link *near_link(const core_ends *ends)
{
    return shm_link_of(ends->channel->links[0].plink);
}

static shm_offer *offer_to_far(const core_ends *ends)
{
    return &shm_link_of(ends->accepted->links[0].plink)->in->offer;
}

/* ---- a helper that keeps its piece ---- */

/* A thread inside memory_help, as the far device sees it. */
typedef struct kept_piece {
    shm_device *device;
    shm_offer *offer;
    _Atomic bool claimed, let_go;
    pthread_t thread;
} kept_piece;

static void *keep(void *object)
{
    kept_piece *self = object;
    shm_terms terms;
    uint32_t piece;
    atomic_fetch_add(&self->device->helping, 1);
    while (!shm_offer_look(self->offer, &terms) || !shm_offer_claim_last(self->offer, &terms, &piece))
        sched_yield();
    atomic_store(&self->claimed, true);
    while (!atomic_load(&self->let_go))
        sched_yield();
    shm_offer_did(self->offer);
    atomic_fetch_add(&self->device->helping, 1);
    return NULL;
}

static int64_t copy(core_ends *ends, uint64_t at, uint64_t size, int64_t timeout_ns)
{
    return rt_channel_copy(ends->channel, 0, RT_WRITE, ends->remote, at, ends->local, at, size, timeout_ns);
}

/* Copies until the keeper has a piece; that copy goes on after its call, and its number is returned. */
static int64_t copy_until_kept(core_ends *ends, kept_piece *keeper)
{
    int64_t number = 0, end_ns = rt_device_now_ns(ends->near) + CORE_PATIENCE_NS;
    *keeper = (kept_piece){.device = shm_device_of(ends->far->pdevice), .offer = offer_to_far(ends)};
    CHECK_INT(pthread_create(&keeper->thread, NULL, keep, keeper), 0);
    while (number == 0 && rt_device_now_ns(ends->near) < end_ns) {
        near_link(ends)->rest_end_ns = 0;
        number = copy(ends, 0, SIZE, RT_NS_PER_MS);
        sched_yield();
    }
    CHECK(number > 0);
    CHECK(atomic_load(&keeper->claimed));
    return number;
}

static void let_go(kept_piece *keeper)
{
    atomic_store(&keeper->let_go, true);
    pthread_join(keeper->thread, NULL);
}

static void an_operation_waits_for_a_late_helper_until_its_deadline_and_ends_after_it(void)
{
    core_ends ends;
    kept_piece keeper;
    helped_begin(&ends);
    core_fill(ends.here, SIZE, 1);
    int64_t number = copy_until_kept(&ends, &keeper);
    CHECK_INT(rt_op_wait(ends.channel, number, RT_NS_PER_MS), RT_E_AGAIN);
    CHECK_INT(rt_op_wait(ends.channel, number, 0), RT_E_AGAIN);
    let_go(&keeper);
    CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_OK);
    CHECK_BYTES(ends.there, ends.here, SIZE);
    CHECK_INT(copy(&ends, SIZE, 8, RT_SLICE_NS), RT_OK);
    core_end(&ends);
}

static void small_copies_behind_a_late_helper_keep_their_order(void)
{
    core_ends ends;
    kept_piece keeper;
    helped_begin(&ends);
    int64_t number = copy_until_kept(&ends, &keeper);
    memset(ends.here + SIZE, 7, 8);
    int64_t flag = copy(&ends, SIZE, 8, RT_NS_PER_MS);
    CHECK(flag > 0);
    CHECK_INT(ends.there[SIZE], 0);
    let_go(&keeper);
    CHECK_INT(core_finish(ends.channel, flag, &ends.detail), RT_OK);
    CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_OK);
    CHECK_INT(ends.there[SIZE], 7);
    core_end(&ends);
}

static void an_operation_given_up_for_a_late_helper_leaves_the_channel_usable(void)
{
    core_ends ends;
    kept_piece keeper;
    helped_begin(&ends);
    int64_t number = copy_until_kept(&ends, &keeper);
    CHECK_INT(rt_op_release(ends.channel, number, &ends.detail), RT_E_AGAIN);
    core_fill(ends.here, SIZE, 2);
    int64_t next = copy(&ends, 0, SIZE, RT_NS_PER_MS);
    CHECK(next > 0);
    let_go(&keeper);
    CHECK_INT(core_finish(ends.channel, next, &ends.detail), RT_OK);
    CHECK_BYTES(ends.there, ends.here, SIZE);
    core_end(&ends);
}

static void a_channel_closes_while_a_helper_is_late(void)
{
    core_ends ends;
    kept_piece keeper;
    helped_begin(&ends);
    int64_t number = copy_until_kept(&ends, &keeper);
    rt_channel_close(ends.channel);
    CHECK(core_finish(ends.channel, number, &ends.detail) < 0);
    let_go(&keeper);
    core_end(&ends);
}

/* ---- threads that wait ---- */

typedef struct word_reader {
    core_ends *ends;
    _Atomic uint64_t read; /* words seen, one after the other */
    _Atomic bool over, torn;
    pthread_t thread;
} word_reader;

/* Waits for each word, and looks at the bytes that came before it. */
static void *read_all(void *object)
{
    word_reader *self = object;
    core_ends *ends = self->ends;
    for (uint64_t word = 1; !atomic_load(&self->over); word++) {
        int status = RT_E_AGAIN;
        while (status != RT_OK && !atomic_load(&self->over))
            status = rt_channel_wait_word(ends->accepted, ends->target, SIZE, word, RT_SLICE_NS);
        bool whole = ends->there[0] == (uint8_t)word && memcmp(ends->there, ends->there + 1, SIZE - 1) == 0;
        if (status == RT_OK && !whole)
            atomic_store(&self->torn, true);
        if (status == RT_OK)
            atomic_store(&self->read, word);
    }
    return NULL;
}

static void a_thread_that_waits_for_a_word_copies_its_part_of_what_comes_before(void)
{
    core_ends ends;
    helped_begin(&ends);
    word_reader reader = {.ends = &ends};
    CHECK_INT(pthread_create(&reader.thread, NULL, read_all, &reader), 0);
    int64_t end_ns = rt_device_now_ns(ends.near) + CORE_PATIENCE_NS;
    uint64_t word = 0;
    while (atomic_load(&near_link(&ends)->bytes_helped) == 0 && rt_device_now_ns(ends.near) < end_ns) {
        word++;
        near_link(&ends)->rest_end_ns = 0;
        memset(ends.here, (uint8_t)word, SIZE);
        memcpy(ends.here + SIZE, &word, sizeof word);
        CHECK_INT(core_copy(&ends, 0, RT_WRITE, 0, 0, SIZE), RT_OK);
        CHECK_INT(core_copy(&ends, 0, RT_WRITE, SIZE, SIZE, 8), RT_OK);
        while (atomic_load(&reader.read) != word && rt_device_now_ns(ends.near) < end_ns)
            rt_pause(); /* keeps its core, as the reader does: they copy at the same time */
    }
    atomic_store(&reader.over, true);
    pthread_join(reader.thread, NULL);
    CHECK(!atomic_load(&reader.torn));
    CHECK(atomic_load(&near_link(&ends)->bytes_helped) > 0);
    core_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(an_operation_waits_for_a_late_helper_until_its_deadline_and_ends_after_it),
    CHECK_TEST(small_copies_behind_a_late_helper_keep_their_order),
    CHECK_TEST(an_operation_given_up_for_a_late_helper_leaves_the_channel_usable),
    CHECK_TEST(a_channel_closes_while_a_helper_is_late),
    CHECK_TEST(a_thread_that_waits_for_a_word_copies_its_part_of_what_comes_before),
};

CHECK_MAIN(tests)
