/* test_verbs_limits.c: the limits of devices, processes and patience, over the fake libibverbs: room for the peers of a job,
 * refusals that name their limit, locked memory, silent hosts.
 *
 * Needs: csrc/base/, csrc/provider/absent.c, csrc/provider/verbs/ and libfakeibverbs.so (tests/c/fake_verbs*.c). */
#include "check.h"
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <sys/resource.h>

#include "verbs_pair.h"

enum { RANKS = 1024 };

static void the_control_connection_outlives_what_the_links_do(void)
{
    static const struct {
        const char *arguments;
        uint32_t seconds;
    } cases[] = {{"", 15}, {"keepalive=60", 60}, {"keepalive=1", 1}};
    rt_detail detail;
    rt_pdevice *device;
    begin();
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        CHECK_INT(device_open("fake0", cases[which].arguments, &device, &detail), RT_OK);
        CHECK_INT(device->silence_s, cases[which].seconds);
        verbs->close(device);
    }
    CHECK_INT(device_open("fake0", "keepalive=0", &device, &detail), RT_E_INVALID);
    end();
}

/* A channel to each of 1,024 ranks, with one queue pair each, on queues taken in turn as core does. */
static void a_device_has_room_for_the_links_that_were_asked_for(void)
{
    static rt_plink *links[RANKS];
    rt_detail detail;
    rt_pdevice *device;
    rt_open_options options = {.name = "fake0", .arguments = ""};
    begin();
    fake_device *here = faked.fake_device_at(0);
    here->attr.max_qp = 4 * RANKS;
    here->attr.max_cqe = 1 << 18;
    CHECK_INT(verbs->open(&options, &device, &detail), RT_OK);
    CHECK_INT(verbs_device_of(device)->queue_count, 5);
    CHECK_INT(device->limits.queues_default, 4);
    CHECK_INT(device->limits.link_count_max, 496);
    verbs->close(device);
    options.arguments = "links=1024";
    CHECK_INT(verbs->open(&options, &device, &detail), RT_OK);
    CHECK(device->limits.link_count_max >= RANKS);
    uint32_t made = 0;
    for (; made < RANKS; made++) {
        uint8_t address[RT_LINK_ADDRESS_SIZE_MAX];
        size_t size;
        if (verbs->link_create(device, made % 4, 4, &links[made], address, &size, &detail) != RT_OK)
            break;
    }
    CHECK_INT(made, RANKS);
    while (made > 0)
        verbs->link_destroy(links[--made]);
    verbs->close(device);
    here->attr.max_cqe = 8192;
    CHECK_INT(verbs->open(&options, &device, &detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, "room for 248 links, and links=1024");
    CHECK_HAS(detail.text, "8192 entries");
    end();
}

static void errors_of_limits_name_the_limit(void)
{
    static const struct {
        int error;
        const char *words;
    } cases[] = {{EAGAIN, "rdma.max"}, {EREMOTEIO, "firmware"}, {ENOSPC, "fewer or smaller"}};
    begin();
    pair_open();
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        rt_plink *link;
        faked.fake_fail_call("ibv_create_qp", 1, cases[which].error);
        CHECK_INT(verbs->link_create(both.a, DATA_QUEUE, SERVICE_QUEUE, &link, both.address_a, &both.address_a_size,
                                     &both.detail),
                  RT_E_SYSTEM);
        CHECK_HAS(both.detail.text, cases[which].words);
    }
    pair_close();
    end();
}

static void a_process_that_may_lock_all_memory_is_not_told_of_the_limit(void)
{
    struct rlimit before, small;
    char text[320];
    CHECK_INT(getrlimit(RLIMIT_MEMLOCK, &before), 0);
    small = before;
    small.rlim_cur = 4096;
    if (!lock_right_set(true))
        CHECK_SKIP("this process has no CAP_IPC_LOCK");
    CHECK_INT(setrlimit(RLIMIT_MEMLOCK, &small), 0);
    bool with_right = verbs_memlock_exceeded(1 << 20, text, sizeof text);
    CHECK(lock_right_set(false));
    bool without = verbs_memlock_exceeded(1 << 20, text, sizeof text);
    CHECK(lock_right_set(true));
    setrlimit(RLIMIT_MEMLOCK, &before);
    CHECK(!with_right && without);
}

static void a_full_completion_queue_takes_no_more_links(void)
{
    begin();
    rt_detail detail;
    rt_pdevice *device;
    rt_plink *links[4];
    uint8_t address[RT_LINK_ADDRESS_SIZE_MAX];
    size_t size;
    rt_open_options options = {.name = "fake0", .arguments = "completion_depth=128&work_depth=28", .data_queues = 2};
    CHECK_INT(verbs->open(&options, &device, &detail), RT_OK);
    CHECK_INT(device->limits.link_count_max, 4); /* the service queue has room for the receives of four */
    for (int index = 0; index < 3; index++)
        CHECK_INT(verbs->link_create(device, 0, 0, &links[index], address, &size, &detail), index < 2 ? RT_OK : RT_E_BUSY);
    CHECK_HAS(detail.text, "completion queue 0 of fake0 is full");
    CHECK_HAS(detail.text, "completion_depth");
    CHECK_INT(verbs->link_create(device, 1, 0, &links[2], address, &size, &detail), RT_E_BUSY); /* by its receives */
    CHECK_INT(verbs_device_of(device)->queues[1].reserved, 0);
    faked.fake_fail_call("ibv_create_qp", 1, EIO);
    CHECK_INT(verbs->link_create(device, 1, 2, &links[2], address, &size, &detail), RT_E_DEVICE_LOST);
    CHECK_INT(verbs_device_of(device)->queues[1].reserved, 0);
    CHECK_INT(verbs_device_of(device)->queues[2].reserved, 0);
    CHECK_INT(verbs->link_create(device, 1, 2, &links[2], address, &size, &detail), RT_OK);
    CHECK_INT(verbs->link_create(device, 1, 2, &links[3], address, &size, &detail), RT_OK);
    verbs->link_destroy(links[0]);
    CHECK_INT(verbs->link_create(device, 0, 0, &links[0], address, &size, &detail), RT_OK);
    for (int index = 0; index < 4; index++)
        verbs->link_destroy(links[index]);
    verbs->close(device);
    end();
}

#else

#include "without_verbs.h"

#endif

static const check_test tests[] = {
    CHECK_TEST(a_full_completion_queue_takes_no_more_links),
    CHECK_TEST(the_control_connection_outlives_what_the_links_do),
    CHECK_TEST(a_device_has_room_for_the_links_that_were_asked_for),
    CHECK_TEST(errors_of_limits_name_the_limit),
    CHECK_TEST(a_process_that_may_lock_all_memory_is_not_told_of_the_limit),
};
CHECK_MAIN(tests)
