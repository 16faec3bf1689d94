/* test_operations.c: what becomes of copies that are not finished at once: their numbers, abandoned ones, more of them than fit,
 * posts that the provider takes in part, and completions that fail. Over the simulated provider and over the fake libibverbs.
 *
 * Needs the whole library. Looks into core where a moment must be made that lasts nanoseconds. */
#include "core_ends.h"

enum { MIB = 1 << 20 };

/* ---- every provider ---- */

static void failed_items_behind_finished_ones_are_told_apart(void)
{
    core_ends ends;
    core_begin(&ends, &(core_setup){.provider = "shm"});
    rt_region *other = core_region(ends.far, 4096, CORE_BOTH);
    rt_remote *gone = core_attach(ends.channel, other);
    CHECK_INT(rt_region_close(other, &ends.detail), RT_OK); /* the peer closes it: its device refuses from now on */
    rt_copy copies[4];
    core_fill(ends.here, 4096, 1);
    for (uint32_t index = 0; index < 4; index++)
        copies[index] = core_entry(&ends, RT_WRITE, index * 64, index * 64, 64);
    copies[2].remote = (uint64_t)(uintptr_t)gone;
    uint64_t bad;
    int64_t number = rt_channel_copy_many(ends.channel, 0, copies, 4, RT_SLICE_NS, &bad);
    CHECK(number > 0);
    CHECK_INT(core_finish(ends.channel, number, &ends.detail), RT_E_REMOTE_ACCESS);
    CHECK_HAS(ends.detail.text, "the peer closed the region");
    CHECK_BYTES(ends.there, ends.here, 128);
    CHECK_INT(ends.there[192], 0);
    CHECK_INT(rt_channel_failure(ends.channel, &ends.detail), RT_E_REMOTE_ACCESS);
    rt_remote_drop(gone);
    rt_region_drop(other);
    core_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(failed_items_behind_finished_ones_are_told_apart),
};
CHECK_MAIN(tests)
