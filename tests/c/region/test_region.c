/* test_region.c: regions over devices: rights, limits, what ends when, what is counted, fork. Under a running operation:
 * test_quarantine.c.
 *
 * Needs the whole library. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "device/device.h"
#include "proto/handle.h"
#include "region/region.h"

enum { MIB = 1 << 20, BOTH = RT_RIGHT_REMOTE_WRITE | RT_RIGHT_REMOTE_READ };

static const char *const providers[] = {"shm", "sim"};
enum { PROVIDERS = sizeof providers / sizeof providers[0] };

static rt_detail detail;

static rt_device *device_open(const char *provider, const char *name, const char *arguments)
{
    rt_device_options options = {.provider = provider, .name = name, .arguments = arguments};
    rt_device *device = NULL;
    if (rt_device_open(&options, &device, &detail) != RT_OK)
        printf("%s\n", detail.text);
    CHECK(device != NULL);
    return device;
}

static rt_region *region_create(rt_device *device, uint64_t size, uint32_t rights)
{
    rt_region *region = NULL;
    if (rt_region_create(device, size, rights, RT_HUGE_AUTO, &region, &detail) != RT_OK)
        printf("%s\n", detail.text);
    CHECK(region != NULL);
    return region;
}

static void region_end(rt_region *region)
{
    CHECK_INT(rt_region_close(region, &detail), RT_OK);
    rt_region_drop(region);
}

static bool mapped(uint64_t address)
{
    unsigned char present;
    return mincore((void *)(uintptr_t)address, (size_t)sysconf(_SC_PAGESIZE), &present) == 0;
}

/* ---- making ---- */

static void a_region_is_zeroed_memory_at_a_multiple_of_2_mib(void)
{
    for (unsigned index = 0; index < PROVIDERS; index++) {
        rt_device *device = device_open(providers[index], "", "");
        rt_region *region = region_create(device, 3 * MIB + 100, BOTH);
        CHECK_INT(rt_region_size(region), 3 * MIB + 128);
        CHECK_INT(rt_region_address(region) % (2 * MIB), 0);
        CHECK_INT(rt_region_rights(region), BOTH);
        uint8_t *bytes = (uint8_t *)(uintptr_t)rt_region_address(region);
        for (uint64_t offset = 0; offset < rt_region_size(region); offset += 101)
            CHECK_INT(bytes[offset], 0);
        memset(bytes, 7, rt_region_size(region));
        region_end(region);
        rt_device_close(device);
    }
}

static void requests_that_cannot_be_are_refused_with_the_reason(void)
{
    rt_device *device = device_open("sim", "", "region_size_max=1048576");
    rt_region *region = NULL;
    CHECK_INT(rt_region_create(device, 0, 0, RT_HUGE_AUTO, &region, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "size 0");
    CHECK_INT(rt_region_create(device, MIB + 1, 0, RT_HUGE_AUTO, &region, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "1048577 bytes: sim registers at most 1048576 at once");
    CHECK_INT(rt_region_create(device, UINT64_MAX, 0, RT_HUGE_AUTO, &region, &detail), RT_E_INVALID);
    CHECK_INT(rt_region_create(device, 64, 1, RT_HUGE_AUTO, &region, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "rights 0x1");
    CHECK_INT(rt_region_create(device, 64, 0, 3, &region, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "huge pages 3");
    CHECK_INT(rt_region_adopt(device, NULL, 64, 0, &region, &detail), RT_E_INVALID);
    CHECK_INT(rt_region_adopt(device, (void *)UINTPTR_MAX, 64, 0, &region, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "lies outside the address space");
    CHECK(region == NULL);
    rt_device_close(device);
}

static void a_device_holds_as_many_regions_as_it_says(void)
{
    enum { MOST = 6 };
    rt_device *device = device_open("sim", "", "region_count_max=6");
    rt_region *regions[MOST + 1] = {NULL};
    int count = 0, status;
    do
        status = rt_region_create(device, 64, 0, RT_HUGE_AUTO, &regions[count], &detail);
    while (status == RT_OK && ++count <= MOST);
    CHECK_INT(status, RT_E_BUSY);
    CHECK(count > 0);
    CHECK_HAS(detail.text, "registers at most 6");
    region_end(regions[0]);
    regions[0] = region_create(device, 64, 0); /* the place is free again */
    for (int index = 0; index < count; index++)
        region_end(regions[index]);
    rt_device_close(device);
}

static void a_refused_registration_leaves_nothing(void)
{
    rt_device *device = device_open("sim", "n", "world=refusing");
    rt_device_stats before, after;
    rt_device_get_stats(device, &before);
    char reply[200];
    rt_region *region = NULL;
    CHECK_INT(rt_provider_command("sim", "world=refusing refuse party=n call=memory_register nth=1 status=memlock", reply,
                                  sizeof reply, &detail),
              RT_OK);
    CHECK_INT(rt_region_create(device, MIB, BOTH, RT_HUGE_AUTO, &region, &detail), RT_E_MEMLOCK);
    CHECK(region == NULL && detail.text[0] != '\0');
    rt_device_get_stats(device, &after);
    CHECK_BYTES(&after, &before, sizeof before);
    rt_device_close(device);
}

static void running_out_of_descriptors_while_registering_leaves_none_open(void)
{
    rt_device *device = device_open("shm", "", "");
    int before = dup(STDOUT_FILENO);
    close(before);
    struct rlimit files;
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &files), 0);
    rt_region *region = NULL;
    for (int spare = 0; spare < 2; spare++) { /* for the memfd, then for what the provider opens */
        struct rlimit few = {.rlim_cur = (rlim_t)(before + spare), .rlim_max = files.rlim_max};
        setrlimit(RLIMIT_NOFILE, &few);
        int status = rt_region_create(device, MIB, RT_RIGHT_REMOTE_READ, RT_HUGE_AUTO, &region, &detail);
        setrlimit(RLIMIT_NOFILE, &files);
        CHECK(status == RT_E_SYSTEM || (spare == 1 && status == RT_OK));
        if (status == RT_OK)
            region_end(region);
        int after = dup(STDOUT_FILENO);
        close(after);
        CHECK_INT(after, before);
    }
    rt_device_close(device);
}

static void memory_of_the_caller_is_exposed_only_where_the_provider_can(void)
{
    static uint8_t bytes[5000];
    rt_region *region = NULL;
    rt_device *shm = device_open("shm", "", ""), *sim = device_open("sim", "", "");
    CHECK_INT(rt_region_adopt(shm, bytes, sizeof bytes, RT_RIGHT_REMOTE_READ, &region, &detail), RT_E_UNSUPPORTED);
    CHECK_HAS(detail.text, "create a region and copy into it");
    CHECK_INT(rt_region_adopt(shm, bytes, sizeof bytes, 0, &region, &detail), RT_OK);
    CHECK_INT(rt_region_address(region), (uintptr_t)bytes);
    CHECK_INT(rt_region_size(region), sizeof bytes);
    CHECK_INT(rt_region_allocate(region, 64, 64), RT_E_UNSUPPORTED);
    CHECK_INT(rt_region_free(region, 1), RT_E_UNSUPPORTED);
    region_end(region);
    CHECK_INT(rt_region_adopt(sim, bytes, sizeof bytes, BOTH, &region, &detail), RT_OK);
    region_end(region);
    bytes[sizeof bytes - 1] = 1; /* still the caller's */
    rt_device_close(shm);
    rt_device_close(sim);
}

/* ---- ending ---- */

static void a_closed_region_keeps_its_memory_until_it_is_dropped(void)
{
    for (unsigned index = 0; index < PROVIDERS; index++) {
        rt_device *device = device_open(providers[index], "", "");
        rt_region *region = region_create(device, MIB, BOTH);
        uint64_t address = rt_region_address(region);
        int64_t block = rt_region_allocate(region, 100, 64);
        uint8_t handle[RT_HANDLE_SIZE_MAX];
        size_t size;
        CHECK(block > 0);
        CHECK_INT(rt_region_close(region, &detail), RT_OK);
        *(volatile uint8_t *)(uintptr_t)address = 5;
        CHECK_INT(rt_region_allocate(region, 100, 64), RT_E_CLOSED);
        CHECK_INT(rt_region_handle(region, 0, 64, handle, &size, &detail), RT_E_CLOSED);
        CHECK_INT(rt_region_close(region, &detail), RT_E_CLOSED);
        CHECK_INT(rt_region_free(region, block), RT_OK); /* a tensor may outlive the registration */
        CHECK(mapped(address));
        rt_region_drop(region);
        CHECK(!mapped(address));
        rt_device_close(device);
    }
}

static void a_dropped_region_stays_registered_until_the_device_is_closed(void)
{
    for (unsigned index = 0; index < PROVIDERS; index++) {
        rt_device *device = device_open(providers[index], "", "");
        rt_region *dropped = region_create(device, MIB, BOTH), *kept = region_create(device, MIB, BOTH);
        uint64_t dropped_address = rt_region_address(dropped), kept_address = rt_region_address(kept);
        rt_region_drop(dropped);
        CHECK(mapped(dropped_address));
        rt_device_close(device);
        CHECK(!mapped(dropped_address));
        CHECK(mapped(kept_address));
        CHECK_INT(rt_region_close(kept, &detail), RT_E_CLOSED);
        CHECK_INT(rt_region_allocate(kept, 64, 64), RT_E_CLOSED);
        rt_region_drop(kept);
        CHECK(!mapped(kept_address));
    }
}

static void closing_a_region_takes_back_the_names_it_was_published_under(void)
{
    rt_device *device = device_open("sim", "", "");
    rt_region *region = region_create(device, 4096, RT_RIGHT_REMOTE_READ),
              *other = region_create(device, 4096, RT_RIGHT_REMOTE_READ);
    CHECK_INT(rt_device_publish(device, "weights", region, 0, 4096, &detail), RT_OK);
    CHECK_INT(rt_device_publish(device, "weights", other, 0, 4096, &detail), RT_E_EXISTS);
    region_end(region);
    CHECK_INT(rt_device_publish(device, "weights", other, 0, 4096, &detail), RT_OK);
    region_end(other);
    rt_device_close(device);
}

/* ---- asking ---- */

static void a_handle_names_a_range_and_only_of_a_region_with_rights(void)
{
    for (unsigned index = 0; index < PROVIDERS; index++) {
        rt_device *device = device_open(providers[index], "", "");
        rt_region *open = region_create(device, MIB, RT_RIGHT_REMOTE_READ),
                  *mine = region_create(device, MIB, RT_RIGHT_RELAXED_ORDER);
        uint8_t bytes[RT_HANDLE_SIZE_MAX], id[16];
        size_t size = 0;
        CHECK_INT(rt_region_handle(open, 4096, 100, bytes, &size, &detail), RT_OK);
        rt_handle handle;
        CHECK_INT(rt_handle_decode(bytes, size, &handle, &detail), RT_OK);
        rt_device_id(device, id);
        CHECK_STR(handle.provider, providers[index]);
        CHECK_BYTES(handle.device_id, id, sizeof id);
        CHECK_INT(handle.offset, 4096);
        CHECK_INT(handle.size, 100);
        CHECK_INT(handle.registration_size, MIB);
        CHECK_INT(handle.rights, RT_RIGHT_REMOTE_READ);
        CHECK_INT(rt_region_handle(open, MIB - 64, 65, bytes, &size, &detail), RT_E_BOUNDS);
        CHECK_HAS(detail.text, "65 bytes at offset 1048512: the region has 1048576");
        CHECK_INT(rt_region_handle(open, UINT64_MAX, 2, bytes, &size, &detail), RT_E_BOUNDS);
        CHECK_INT(rt_region_handle(open, 0, 0, bytes, &size, &detail), RT_E_INVALID);
        CHECK_INT(rt_region_handle(mine, 0, 64, bytes, &size, &detail), RT_E_ACCESS);
        CHECK_HAS(detail.text, "gives peers no right; create it with access=");
        region_end(open);
        region_end(mine);
        rt_device_close(device);
    }
}

static void registering_is_counted_by_region_and_by_device(void)
{
    rt_device *device = device_open("shm", "", "");
    rt_device_stats before, during, after;
    rt_region_stats stats;
    rt_device_get_stats(device, &before);
    rt_region *region = region_create(device, 8 * MIB, BOTH);
    rt_device_get_stats(device, &during);
    rt_region_get_stats(region, &stats);
    CHECK(stats.registering_ns > 0);
    CHECK_INT(during.regions - before.regions, 1);
    CHECK_INT(during.region_bytes - before.region_bytes, 8 * MIB);
    CHECK_INT(during.registering_ns - before.registering_ns, stats.registering_ns);
    region_end(region);
    rt_device_get_stats(device, &after);
    CHECK_INT(after.regions, before.regions);
    CHECK_INT(after.region_bytes, before.region_bytes);
    CHECK_INT(after.registrations - before.registrations, 1);
    CHECK_INT(after.registered_bytes - before.registered_bytes, 8 * MIB);
    CHECK_INT(after.registering_ns, during.registering_ns);
    rt_device_close(device);
}

static void allocation_is_counted(void)
{
    rt_device *device = device_open("sim", "", "");
    rt_region *region = region_create(device, MIB, 0);
    rt_region_stats stats;
    int64_t first = rt_region_allocate(region, 1000, 64), second = rt_region_allocate(region, 64, 64);
    CHECK(first > 0 && second > 0);
    CHECK_INT(rt_region_free(region, first), RT_OK);
    CHECK_INT(rt_region_free(region, first), RT_E_INVALID);
    rt_region_get_stats(region, &stats);
    CHECK_INT(stats.size, MIB);
    CHECK_INT(stats.allocations, 1);
    CHECK_INT(stats.allocated_bytes, 64);
    CHECK_INT(stats.peak_bytes, 1024 + 64);
    CHECK_INT(stats.largest_free_bytes, MIB - 1024 - 64);
    CHECK_INT(stats.quarantined_bytes, 0);
    CHECK_INT(stats.huge_pages, 0);
    CHECK_INT(rt_region_free(region, second), RT_OK);
    region_end(region);
    rt_device_close(device);
}

/* The calls that a child makes; the exit status says which one was wrong. */
static int call_everything(rt_device *device, rt_region *region, int64_t block)
{
    rt_region *other = NULL;
    uint8_t bytes[RT_HANDLE_SIZE_MAX];
    size_t size = 0;
    rt_region_stats stats;
    if (rt_region_create(device, 64, 0, RT_HUGE_AUTO, &other, &detail) != RT_E_FORKED || strstr(detail.text, "spawn") == NULL)
        return 1;
    if (rt_region_adopt(device, bytes, sizeof bytes, 0, &other, &detail) != RT_E_FORKED)
        return 2;
    if (rt_region_allocate(region, 64, 64) != RT_E_FORKED || rt_region_free(region, block) != RT_E_FORKED)
        return 3;
    if (rt_region_handle(region, 0, 64, bytes, &size, &detail) != RT_E_FORKED)
        return 4;
    if (rt_region_address(region) != 0 || rt_region_size(region) != 0 || rt_region_rights(region) != 0)
        return 5;
    rt_region_get_stats(region, &stats);
    if (stats.size != 0 || rt_region_close(region, &detail) != RT_E_FORKED)
        return 6;
    rt_region_drop(region);
    rt_region_drop(region); /* as finalisers do; nothing is touched */
    return 0;
}

static void a_child_made_by_fork_gets_errors_and_the_parent_goes_on(void)
{
    rt_device *device = device_open("shm", "", "");
    rt_region *region = region_create(device, MIB, BOTH);
    int64_t block = rt_region_allocate(region, 64, 64);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0)
        _exit(call_everything(device, region, block));
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_INT(status, 0);
    CHECK_INT(rt_region_free(region, block), RT_OK);
    region_end(region);
    rt_device_close(device);
}

static const check_test tests[] = {
    CHECK_TEST(a_region_is_zeroed_memory_at_a_multiple_of_2_mib),
    CHECK_TEST(requests_that_cannot_be_are_refused_with_the_reason),
    CHECK_TEST(a_device_holds_as_many_regions_as_it_says),
    CHECK_TEST(a_refused_registration_leaves_nothing),
    CHECK_TEST(running_out_of_descriptors_while_registering_leaves_none_open),
    CHECK_TEST(memory_of_the_caller_is_exposed_only_where_the_provider_can),
    CHECK_TEST(a_closed_region_keeps_its_memory_until_it_is_dropped),
    CHECK_TEST(a_dropped_region_stays_registered_until_the_device_is_closed),
    CHECK_TEST(closing_a_region_takes_back_the_names_it_was_published_under),
    CHECK_TEST(a_handle_names_a_range_and_only_of_a_region_with_rights),
    CHECK_TEST(registering_is_counted_by_region_and_by_device),
    CHECK_TEST(allocation_is_counted),
    CHECK_TEST(a_child_made_by_fork_gets_errors_and_the_parent_goes_on),
};
CHECK_MAIN(tests)
