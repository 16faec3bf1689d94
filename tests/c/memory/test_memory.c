/* test_memory.c: host memory: alignment, seals, huge pages, populating, and what is refused with which words.
 *
 * Needs csrc/memory/host.c and csrc/base/status.c. Defines madvise, to see what is advised and to play an older kernel. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "memory/host.h"

#define PAGE ((uint64_t)sysconf(_SC_PAGESIZE))

enum { HUGE_HINT = MADV_HUGEPAGE, SMALL_HINT = MADV_NOHUGEPAGE, POPULATE = 23 };

static bool kernel_is_old;   /* MADV_POPULATE_WRITE is not known */
static unsigned hints_given; /* bit HUGE_HINT or SMALL_HINT */

int madvise(void *address, size_t size, int advice)
{
    if (advice == HUGE_HINT || advice == SMALL_HINT)
        hints_given |= 1u << advice;
    if (advice == POPULATE && kernel_is_old) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_madvise, address, size, advice);
}

static rt_host_memory map(uint64_t size, bool shared, enum rt_host_pages pages)
{
    rt_host_memory memory;
    rt_detail detail;
    rt_detail_clear(&detail);
    if (rt_host_map(size, shared, pages, &memory, &detail) != RT_OK)
        printf("%s\n", detail.text);
    CHECK_INT(detail.status, RT_OK);
    return memory;
}

static uint64_t pages_present(const rt_host_memory *memory)
{
    uint64_t count = memory->size / PAGE, present = 0;
    unsigned char *bits = malloc(count);
    CHECK(bits != NULL && mincore(memory->address, memory->size, bits) == 0);
    for (uint64_t index = 0; index < count; index++)
        present += bits[index] & 1u;
    free(bits);
    return present;
}

static uint64_t meminfo(const char *key)
{
    FILE *file = fopen("/proc/meminfo", "re");
    char line[256];
    uint64_t value = 0;
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, key, strlen(key)) == 0)
            value = strtoull(line + strlen(key), NULL, 10);
    fclose(file);
    return value;
}

static int lowest_free_descriptor(void)
{
    int descriptor = dup(STDOUT_FILENO);
    close(descriptor);
    return descriptor;
}

/* ---- mapping ---- */

static void memory_is_whole_zeroed_pages_at_a_multiple_of_2_mib(void)
{
    const uint64_t sizes[] = {1, PAGE, PAGE + 1, (2 << 20) - 1, 2 << 20, (5 << 20) + 12345};
    for (unsigned index = 0; index < 2 * sizeof sizes / sizeof sizes[0]; index++) {
        uint64_t size = sizes[index / 2];
        rt_host_memory memory = map(size, index % 2 != 0, RT_HOST_PAGES_AUTO);
        CHECK_INT((uintptr_t)memory.address % RT_HOST_ALIGNMENT, 0);
        CHECK_INT(memory.size, (size + PAGE - 1) / PAGE * PAGE);
        CHECK(!memory.huge);
        const uint8_t *bytes = memory.address;
        for (uint64_t offset = 0; offset < memory.size; offset += 509)
            CHECK_INT(bytes[offset], 0);
        CHECK_INT(bytes[memory.size - 1], 0);
        rt_host_unmap(&memory);
    }
}

static void private_memory_has_no_descriptor(void)
{
    rt_host_memory memory = map(PAGE, false, RT_HOST_PAGES_AUTO);
    CHECK_INT(memory.descriptor, -1);
    rt_host_unmap(&memory);
}

static void shared_memory_is_seen_through_its_descriptor(void)
{
    rt_host_memory memory = map(3 * PAGE, true, RT_HOST_PAGES_AUTO);
    uint8_t *other = mmap(NULL, memory.size, PROT_READ | PROT_WRITE, MAP_SHARED, memory.descriptor, 0);
    CHECK(other != MAP_FAILED);
    ((uint8_t *)memory.address)[2 * PAGE + 5] = 77;
    CHECK_INT(other[2 * PAGE + 5], 77);
    munmap(other, memory.size);
    rt_host_unmap(&memory);
}

static void shared_memory_can_neither_shrink_nor_grow_nor_leak_into_a_program(void)
{
    rt_host_memory memory = map(PAGE, true, RT_HOST_PAGES_AUTO);
    int wanted = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    CHECK_INT(fcntl(memory.descriptor, F_GET_SEALS) & wanted, wanted);
    CHECK_INT(fcntl(memory.descriptor, F_GET_SEALS) & F_SEAL_WRITE, 0);
    CHECK_INT(ftruncate(memory.descriptor, 0), -1);
    CHECK_INT(ftruncate(memory.descriptor, (off_t)(2 * PAGE)), -1);
    CHECK_INT(fcntl(memory.descriptor, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    rt_host_unmap(&memory);
}

static void unmapping_gives_back_addresses_and_descriptors(void)
{
    int before = lowest_free_descriptor();
    for (int round = 0; round < 50; round++) {
        rt_host_memory memory = map(PAGE, round % 2 == 0, RT_HOST_PAGES_AUTO);
        void *address = memory.address;
        rt_host_unmap(&memory);
        unsigned char present;
        CHECK(mincore(address, PAGE, &present) == -1 && errno == ENOMEM);
        CHECK_INT(memory.descriptor, -1);
    }
    CHECK_INT(lowest_free_descriptor(), before);
}

/* ---- populating ---- */

static void mapping_touches_no_page_and_populating_touches_all(void)
{
    for (int kind = 0; kind < 4; kind++) {
        kernel_is_old = kind >= 2;
        rt_host_memory memory = map((3 << 20) + PAGE, kind % 2 != 0, RT_HOST_PAGES_AUTO);
        CHECK_INT(pages_present(&memory), 0);
        CHECK_INT(rt_host_populate(&memory, NULL), RT_OK);
        CHECK_INT(pages_present(&memory), memory.size / PAGE);
        for (uint64_t offset = 0; offset < memory.size; offset += 61)
            CHECK_INT(((const uint8_t *)memory.address)[offset], 0);
        rt_host_unmap(&memory);
    }
    kernel_is_old = false;
}

static void more_than_the_machine_has_is_refused_before_it_is_touched(void)
{
    rt_host_memory memory;
    rt_detail detail;
    uint64_t size = (meminfo("MemAvailable:") + meminfo("SwapFree:")) * 1024 + (8ull << 30);
    if (rt_host_map(size, true, RT_HOST_PAGES_AUTO, &memory, &detail) != RT_OK)
        CHECK_SKIP("this process may not map more than the machine has");
    CHECK_INT(rt_host_populate(&memory, &detail), RT_E_NO_MEMORY);
    CHECK_HAS(detail.text, "no memory for ");
    CHECK_INT(pages_present(&memory), 0);
    rt_host_unmap(&memory);
}

/* ---- huge pages ---- */

static void huge_pages_are_hinted_from_2_mib_on_and_refused_on_request(void)
{
    const struct {
        uint64_t size;
        enum rt_host_pages pages;
        unsigned hints;
    } cases[] = {
        {PAGE, RT_HOST_PAGES_AUTO, 0},
        {(2 << 20) - PAGE, RT_HOST_PAGES_AUTO, 0},
        {2 << 20, RT_HOST_PAGES_AUTO, 1u << HUGE_HINT},
        {8 << 20, RT_HOST_PAGES_SMALL, 1u << SMALL_HINT},
    };
    for (unsigned index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        hints_given = 0;
        rt_host_memory memory = map(cases[index].size, index % 2 != 0, cases[index].pages);
        CHECK_INT(hints_given, cases[index].hints);
        rt_host_unmap(&memory);
    }
}

static void required_huge_pages_that_are_not_there_say_how_to_reserve_them(void)
{
    if (meminfo("Hugepagesize:") == 0)
        CHECK_SKIP("this kernel has no huge pages");
    rt_host_memory memory;
    rt_detail detail;
    int before = lowest_free_descriptor();
    uint64_t page = meminfo("Hugepagesize:") * 1024, count = meminfo("HugePages_Free:") + 1000;
    for (int shared = 0; shared < 2; shared++) {
        CHECK_INT(rt_host_map(count * page, shared != 0, RT_HOST_PAGES_HUGE, &memory, &detail), RT_E_NO_MEMORY);
        CHECK_HAS(detail.text, "reserve them (sysctl vm.nr_hugepages=");
        uint64_t advised = strtoull(strstr(detail.text, "hugepages=") + strlen("hugepages="), NULL, 10);
        CHECK_INT(advised, meminfo("HugePages_Total:") - (meminfo("HugePages_Free:") - meminfo("HugePages_Rsvd:")) + count);
    }
    CHECK_INT(lowest_free_descriptor(), before);
}

static void required_huge_pages_are_whole_and_sealed(void)
{
    if (meminfo("HugePages_Free:") <= meminfo("HugePages_Rsvd:"))
        CHECK_SKIP("no huge page is reserved (sysctl vm.nr_hugepages=1)");
    for (int shared = 0; shared < 2; shared++) {
        rt_host_memory memory = map(100, shared != 0, RT_HOST_PAGES_HUGE);
        CHECK(memory.huge);
        CHECK_INT(memory.size, meminfo("Hugepagesize:") * 1024);
        CHECK_INT((uintptr_t)memory.address % memory.size, 0);
        CHECK_INT(rt_host_populate(&memory, NULL), RT_OK);
        if (shared)
            CHECK_INT(ftruncate(memory.descriptor, 0), -1);
        rt_host_unmap(&memory);
    }
}

/* ---- what is refused ---- */

static void sizes_that_cannot_be_are_refused_with_the_size(void)
{
    rt_host_memory memory;
    rt_detail detail;
    CHECK_INT(rt_host_map(0, false, RT_HOST_PAGES_AUTO, &memory, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "size 0");
    CHECK_INT(rt_host_map(UINT64_MAX, true, RT_HOST_PAGES_AUTO, &memory, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "18446744073709551615 bytes");
    CHECK_INT(rt_host_map(INT64_MAX, false, RT_HOST_PAGES_AUTO, &memory, &detail), RT_E_INVALID);
    int before = lowest_free_descriptor();
    CHECK_INT(rt_host_map(1ull << 60, false, RT_HOST_PAGES_AUTO, &memory, &detail), RT_E_NO_MEMORY);
    CHECK_HAS(detail.text, "1099511627776.0 MiB");
    CHECK_HAS(detail.text, "ENOMEM");
    CHECK_INT(rt_host_map(1ull << 60, true, RT_HOST_PAGES_AUTO, &memory, &detail), RT_E_NO_MEMORY);
    CHECK_INT(lowest_free_descriptor(), before);
}

static void limits_of_the_process_are_named(void)
{
    rt_host_memory memory;
    rt_detail files_detail, size_detail;
    struct rlimit files, size;
    CHECK(getrlimit(RLIMIT_NOFILE, &files) == 0 && getrlimit(RLIMIT_FSIZE, &size) == 0);
    struct rlimit few = {.rlim_cur = (rlim_t)lowest_free_descriptor(), .rlim_max = files.rlim_max};
    struct rlimit small = {.rlim_cur = PAGE, .rlim_max = size.rlim_max};

    setrlimit(RLIMIT_NOFILE, &few);
    int files_status = rt_host_map(PAGE, true, RT_HOST_PAGES_AUTO, &memory, &files_detail);
    setrlimit(RLIMIT_NOFILE, &files);
    setrlimit(RLIMIT_FSIZE, &small);
    int size_status = rt_host_map(2 * PAGE, true, RT_HOST_PAGES_AUTO, &memory, &size_detail);
    setrlimit(RLIMIT_FSIZE, &size);

    CHECK_INT(files_status, RT_E_SYSTEM);
    CHECK_HAS(files_detail.text, "ulimit -n");
    CHECK_INT(size_status, RT_E_NO_MEMORY);
    CHECK_HAS(size_detail.text, "ulimit -f");
}

static const check_test tests[] = {
    CHECK_TEST(memory_is_whole_zeroed_pages_at_a_multiple_of_2_mib),
    CHECK_TEST(private_memory_has_no_descriptor),
    CHECK_TEST(shared_memory_is_seen_through_its_descriptor),
    CHECK_TEST(shared_memory_can_neither_shrink_nor_grow_nor_leak_into_a_program),
    CHECK_TEST(unmapping_gives_back_addresses_and_descriptors),
    CHECK_TEST(mapping_touches_no_page_and_populating_touches_all),
    CHECK_TEST(more_than_the_machine_has_is_refused_before_it_is_touched),
    CHECK_TEST(huge_pages_are_hinted_from_2_mib_on_and_refused_on_request),
    CHECK_TEST(required_huge_pages_that_are_not_there_say_how_to_reserve_them),
    CHECK_TEST(required_huge_pages_are_whole_and_sealed),
    CHECK_TEST(sizes_that_cannot_be_are_refused_with_the_size),
    CHECK_TEST(limits_of_the_process_are_named),
};
CHECK_MAIN(tests)
