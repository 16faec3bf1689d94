/* host.c: maps, populates and unmaps host memory: sealed memfds for memory that other processes
 * map, anonymous memory otherwise.
 *
 * Transparent huge pages are asked for (MADV_HUGEPAGE) where they help, from 2 MiB on. Anonymous memory gets them where
 * /sys/kernel/mm/transparent_hugepage/enabled is madvise or always. A memfd gets them only where shmem_enabled there is
 * advise, within_size or always; the usual default is never, and then the memory has 4 KiB pages and nothing fails.
 *
 * Populating is paid once, at registration, so that no transfer meets a page fault. 1 GiB on Linux 6.18 (EPYC, virtual): memfd
 * 0.8 s (0.1 s with shmem_enabled=advise), anonymous 0.5 s, from the pool 0.1 s; unpopulated, the first pass over a memfd takes
 * 1.1 s instead of 5 ms. Mapping alone takes 0.1 ms. */
#include "memory/host.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define MIB (1ull << 20)

/* Newer than the C library's headers may be. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u
#endif

static double mib_of(uint64_t size)
{
    return (double)size / (double)MIB;
}

/* ---- the machine's memory ---- */

/* Reads "`key`   123" from a file of /proc, in units of `unit`. False when it is not there. */
static bool number_read(const char *path, const char *key, uint64_t unit, uint64_t *value_out)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    char line[256];
    bool found = false;
    while (!found && fgets(line, sizeof line, file) != NULL) {
        uint64_t value;
        if (strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), "%" SCNu64, &value) == 1) {
            *value_out = value > UINT64_MAX / unit ? UINT64_MAX : value * unit;
            found = true;
        }
    }
    fclose(file);
    return found;
}

/* The memory limit of this process's own cgroup (version 2), or UINT64_MAX. */
static uint64_t cgroup_limit(void)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL)
        return UINT64_MAX;
    char line[3072], path[4096];
    uint64_t limit = UINT64_MAX;
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "0::", 3) != 0)
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", line + 3);
        if (!number_read(path, "", 1, &limit)) /* "max": no limit */
            limit = UINT64_MAX;
    }
    fclose(file);
    return limit;
}

/* The size of the pages that vm.nr_hugepages counts; 0 where the kernel has none. */
static uint64_t huge_page_size(void)
{
    uint64_t size = 0;
    return number_read("/proc/meminfo", "Hugepagesize:", 1024, &size) ? size : 0;
}

static int huge_pages_fail(uint64_t size, uint64_t page, int error, rt_detail *detail)
{
    uint64_t total = 0, available = 0, promised = 0, wanted = size / page;
    number_read("/proc/meminfo", "HugePages_Total:", 1, &total);
    number_read("/proc/meminfo", "HugePages_Free:", 1, &available);
    number_read("/proc/meminfo", "HugePages_Rsvd:", 1, &promised);
    available -= promised < available ? promised : available;
    if (available >= wanted)
        return rt_fail(detail, RT_E_NO_MEMORY, error,
                       "cannot map %" PRIu64 " huge pages of %.0f MiB, although %" PRIu64 " are free", wanted, mib_of(page),
                       available);
    return rt_fail(detail, RT_E_NO_MEMORY, 0,
                   "cannot map %.1f MiB in huge pages: %" PRIu64 " of %.0f MiB are needed and %" PRIu64
                   " are free; reserve them (sysctl vm.nr_hugepages=%" PRIu64 ") or do not require them",
                   mib_of(size), wanted, mib_of(page), available, total - available + wanted);
}

/* ---- mapping ---- */

/* Creates a sealed memfd of this size. */
static int descriptor_create(uint64_t size, bool huge, rt_detail *detail)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < size) /* beyond it the kernel sends SIGXFSZ */
        return rt_fail(detail, RT_E_NO_MEMORY, 0,
                       "cannot make %.1f MiB of shared memory: the limit of file sizes is %.1f MiB (ulimit -f)", mib_of(size),
                       mib_of(limit.rlim_cur));
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB : 0u);
    int descriptor = memfd_create("rdmatensor", flags | MFD_NOEXEC_SEAL);
    if (descriptor < 0 && errno == EINVAL)
        descriptor = memfd_create("rdmatensor", flags); /* before Linux 6.3 */
    if (descriptor < 0 && (errno == EMFILE || errno == ENFILE))
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot open a memfd: too many files are open (ulimit -n)");
    if (descriptor < 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot open a memfd for %.1f MiB of shared memory", mib_of(size));
    if (ftruncate(descriptor, (off_t)size) != 0) {
        int error = errno;
        close(descriptor);
        return rt_fail(detail, RT_E_NO_MEMORY, error, "cannot make %.1f MiB of shared memory", mib_of(size));
    }
    if (fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        int error = errno;
        close(descriptor);
        return rt_fail(detail, RT_E_SYSTEM, error, "cannot seal a memfd of %.1f MiB", mib_of(size));
    }
    return descriptor;
}

/* Maps at a multiple of RT_HOST_ALIGNMENT: reserves room and maps over it, so that other threads
 * never find a hole to map into. Pages from the pool are aligned by themselves. */
static void *pages_map_aligned(uint64_t size, uint64_t page, int flags, int descriptor)
{
    if (page >= RT_HOST_ALIGNMENT)
        return mmap(NULL, size, PROT_READ | PROT_WRITE, flags, descriptor, 0);
    uint8_t *room = mmap(NULL, size + RT_HOST_ALIGNMENT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return MAP_FAILED;
    uint64_t before = (RT_HOST_ALIGNMENT - (uintptr_t)room % RT_HOST_ALIGNMENT) % RT_HOST_ALIGNMENT;
    uint64_t after = RT_HOST_ALIGNMENT - before;
    void *address = mmap(room + before, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, descriptor, 0);
    int error = errno;
    /* Keep the middle even after a failure: it may be unmapped by now, and mapped again by another
     * thread. */
    if (before != 0)
        munmap(room, before);
    munmap(room + before + size, after);
    errno = error;
    return address;
}

int rt_host_map(uint64_t size, bool shared, enum rt_host_pages pages, rt_host_memory *memory_out, rt_detail *detail)
{
    bool huge = pages == RT_HOST_PAGES_HUGE;
    uint64_t page = huge ? huge_page_size() : (uint64_t)sysconf(_SC_PAGESIZE);
    if (page == 0)
        return rt_fail(detail, RT_E_UNSUPPORTED, 0,
                       "cannot map %.1f MiB in huge pages: this kernel has none; do not require them", mib_of(size));
    if (size == 0)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot map memory of size 0");
    if (size > (uint64_t)INT64_MAX - page - RT_HOST_ALIGNMENT)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot map %" PRIu64 " bytes: more than the address space has", size);
    uint64_t padded = (size + page - 1) / page * page;

    rt_host_memory memory = {.size = padded, .descriptor = -1, .huge = huge};
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | (huge ? MAP_HUGETLB : 0);
    if (shared) {
        flags = MAP_SHARED;
        memory.descriptor = descriptor_create(padded, huge, detail);
        if (memory.descriptor < 0)
            return memory.descriptor;
    }
    memory.address = pages_map_aligned(padded, page, flags, memory.descriptor);
    if (memory.address == MAP_FAILED) {
        int error = errno;
        if (memory.descriptor >= 0)
            close(memory.descriptor);
        if (huge)
            return huge_pages_fail(padded, page, error, detail);
        return rt_fail(detail, error == ENOMEM ? RT_E_NO_MEMORY : RT_E_SYSTEM, error, "cannot map %.1f MiB of memory",
                       mib_of(padded));
    }
    /* Advice: a kernel without transparent huge pages refuses it, and that is fine. */
    if (pages == RT_HOST_PAGES_AUTO && padded >= RT_HOST_ALIGNMENT)
        madvise(memory.address, padded, MADV_HUGEPAGE);
    if (pages == RT_HOST_PAGES_SMALL)
        madvise(memory.address, padded, MADV_NOHUGEPAGE);
    *memory_out = memory;
    return RT_OK;
}

void rt_host_unmap(rt_host_memory *memory)
{
    munmap(memory->address, memory->size);
    if (memory->descriptor >= 0)
        close(memory->descriptor);
    *memory = (rt_host_memory){.descriptor = -1};
}

/* ---- populating ---- */

/* Refuses a size that the machine cannot provide. Huge pages were reserved when they were
 * mapped. */
static int available_check(const rt_host_memory *memory, rt_detail *detail)
{
    uint64_t available = UINT64_MAX, swap = 0, limit = cgroup_limit();
    if (memory->huge)
        return RT_OK;
    if (number_read("/proc/meminfo", "MemAvailable:", 1024, &available) && number_read("/proc/meminfo", "SwapFree:", 1024, &swap))
        available += swap;
    if (memory->size > available)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for %.1f MiB: the machine has %.1f MiB available",
                       mib_of(memory->size), mib_of(available));
    if (memory->size > limit)
        return rt_fail(detail, RT_E_NO_MEMORY, 0,
                       "no memory for %.1f MiB: the cgroup of this process is limited to %.1f MiB (memory.max)",
                       mib_of(memory->size), mib_of(limit));
    return RT_OK;
}

/* Does what MADV_POPULATE_WRITE does, which exists since Linux 5.14. The memory is fresh, so
 * storing zeros changes nothing. */
static int pages_touch(const rt_host_memory *memory, rt_detail *detail)
{
    /* The system call fills a memfd first: if there is no room, it returns an error, where a store
     * would raise SIGBUS. */
    if (memory->descriptor >= 0 && fallocate(memory->descriptor, 0, 0, (off_t)memory->size) != 0)
        return rt_fail(detail, RT_E_NO_MEMORY, errno, "cannot fill %.1f MiB of shared memory", mib_of(memory->size));
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    for (uint64_t offset = 0; offset < memory->size; offset += page)
        ((volatile uint8_t *)memory->address)[offset] = 0;
    return RT_OK;
}

int rt_host_populate(const rt_host_memory *memory, rt_detail *detail)
{
    int status = available_check(memory, detail);
    if (status != RT_OK)
        return status;
    int result;
    do {
        result = madvise(memory->address, memory->size, MADV_POPULATE_WRITE);
    } while (result != 0 && errno == EINTR);
    if (result == 0)
        return RT_OK;
    if (errno == EINVAL)
        return pages_touch(memory, detail);
    return rt_fail(detail, errno == ENOMEM || errno == EFAULT ? RT_E_NO_MEMORY : RT_E_SYSTEM, errno,
                   "cannot populate %.1f MiB of memory", mib_of(memory->size));
}
