/* memory.c: registrations and the memfds behind them. The memory itself is made elsewhere: the
 * caller brings a sealed memfd that backs it. exchange.c passes its descriptor to a peer, and
 * remote.c is the peer's use of it.
 *
 * A registration without the right of remote write hands out a descriptor opened for reading, so
 * the kernel refuses a writable mapping of it. Write without read cannot be enforced that way: a
 * writable mapping is readable on every machine. Peers see the end of a registration in the board
 * at their next item; it cannot take back a mapping, so a copy that a peer has begun is finished
 * into the file. */
#include "provider/shm/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/lock_order.h"
#include "base/order.h"
#include "base/random.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

int shm_memfd_create(const char *name, uint64_t size, int *descriptor_out, rt_detail *detail)
{
    int descriptor = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (descriptor < 0 && errno == EINVAL) /* before Linux 6.3 */
        descriptor = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (descriptor < 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot create shared memory for %s", name);
    if (ftruncate(descriptor, (off_t)size) != 0 ||
        fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        int error = errno;
        close(descriptor);
        return rt_fail(detail, RT_E_SYSTEM, error, "cannot size and seal %llu bytes of shared memory for %s",
                       (unsigned long long)size, name);
    }
    *descriptor_out = descriptor;
    return RT_OK;
}

int shm_reopen_readonly(int descriptor, int *descriptor_out, rt_detail *detail)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    int reopened = open(path, O_RDONLY | O_CLOEXEC);
    if (reopened < 0)
        return rt_fail(detail, RT_E_SYSTEM, errno,
                       "cannot open shared memory for reading through %s: shm needs /proc, and a "
                       "process that changed its user needs prctl(PR_SET_DUMPABLE, 1)",
                       path);
    *descriptor_out = reopened;
    return RT_OK;
}

int shm_check_sealed(int descriptor, uint64_t size, rt_detail *detail)
{
    int seals = fcntl(descriptor, F_GET_SEALS);
    if (seals < 0)
        return rt_fail(detail, RT_E_INVALID, errno, "the descriptor is not a memfd");
    if ((seals & F_SEAL_SHRINK) == 0)
        return rt_fail(detail, RT_E_INVALID, 0,
                       "the memfd is not sealed against shrinking: add F_SEAL_SHRINK before registering it");
    struct stat status;
    if (fstat(descriptor, &status) != 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot ask for the size of a memfd");
    if (status.st_size < 0 || size > (uint64_t)status.st_size)
        return rt_fail(detail, RT_E_INVALID, 0, "the memfd holds %lld bytes and not the %llu that are claimed",
                       (long long)status.st_size, (unsigned long long)size);
    return RT_OK;
}

/* A mapping of huge pages must be unmapped in whole ones; the file is a multiple of them, so this stays inside it. */
static int mapping_size(int descriptor, uint64_t size, uint64_t *mapped_size_out)
{
    struct statfs system;
    if (fstatfs(descriptor, &system) != 0)
        return -1;
    uint64_t page = system.f_type == HUGETLBFS_MAGIC ? (uint64_t)system.f_bsize : (uint64_t)sysconf(_SC_PAGESIZE);
    *mapped_size_out = (size + page - 1) / page * page;
    return 0;
}

int shm_map(int descriptor, uint64_t size, bool writable, void **address_out, uint64_t *mapped_size_out, rt_detail *detail)
{
    uint64_t mapped_size;
    int status = shm_check_sealed(descriptor, size, detail);
    if (status != RT_OK)
        return status;
    if (mapping_size(descriptor, size, &mapped_size) != 0)
        return rt_fail(detail, RT_E_SYSTEM, errno, "cannot ask for the page size of a memfd");
    void *address = mmap(NULL, mapped_size, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, descriptor, 0);
    if (address == MAP_FAILED)
        return rt_fail(detail, errno == ENOMEM ? RT_E_NO_MEMORY : RT_E_SYSTEM, errno, "cannot map %llu bytes of shared memory%s",
                       (unsigned long long)size, writable ? " for writing" : "");
    *address_out = address;
    *mapped_size_out = mapped_size;
    return RT_OK;
}

/* Checks the memory that the caller passes before anything is made of it. */
static int memory_check(const rt_memory *memory, uint32_t remote_rights, rt_detail *detail)
{
    if (memory->address == NULL || memory->size == 0 || memory->size > UINTPTR_MAX - (uintptr_t)memory->address)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot register %llu bytes at %p: the range is empty or wraps around",
                       (unsigned long long)memory->size, memory->address);
    if ((memory->access & RT_ACCESS_REMOTE_WRITE) != 0 && (memory->access & RT_ACCESS_LOCAL_WRITE) == 0)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot register memory with remote write and without local write");
    if (remote_rights == 0)
        return RT_OK;
    if (memory->descriptor < 0)
        return rt_fail(
            detail, RT_E_UNSUPPORTED, 0,
            "cannot give peers rights to memory of the caller's own (%llu bytes): shm shares memory by its descriptor; create a "
            "region with device.region() and copy into it, or register without remote rights",
            (unsigned long long)memory->size);
    return shm_check_sealed(memory->descriptor, memory->size, detail);
}

/* Takes a place in the board for the registration. Its number differs from all earlier ones, so an
 * old number never matches again. */
static int export_publish(shm_device *device, shm_memory *memory, rt_detail *detail)
{
    pthread_mutex_lock(&device->exports_lock);
    uint32_t index = 0;
    while (index < SHM_EXPORTS_MAX && atomic_load_explicit(&device->board->exports[index], memory_order_relaxed) != 0)
        index++;
    if (index < SHM_EXPORTS_MAX) {
        if (++device->generation == 0)
            device->generation = 1;
        memory->index = index;
        memory->generation = device->generation;
        shm_exported *exported = &device->exported[index];
        uint64_t tokens[4];
        memcpy(tokens, memory->token, SHM_TOKEN_SIZE);
        memcpy(tokens + 2, memory->source_token, SHM_TOKEN_SIZE);
        atomic_store_explicit(&exported->address, (uint64_t)(uintptr_t)memory->base.address, memory_order_relaxed);
        atomic_store_explicit(&exported->size, memory->base.size, memory_order_relaxed);
        atomic_store_explicit(&exported->access, memory->base.access, memory_order_relaxed);
        for (int word = 0; word < 2; word++) {
            atomic_store_explicit(&exported->token[word], tokens[word], memory_order_relaxed);
            atomic_store_explicit(&exported->source_token[word], tokens[2 + word], memory_order_relaxed);
        }
        if (index >= atomic_load_explicit(&device->export_high, memory_order_relaxed))
            atomic_store_explicit(&device->export_high, index + 1, memory_order_relaxed);
        atomic_store_explicit(&device->board->exports[index], memory->generation, memory_order_release);
        rt_list_append(&device->exports, &memory->node);
    }
    pthread_mutex_unlock(&device->exports_lock);
    if (index == SHM_EXPORTS_MAX)
        return rt_fail(detail, RT_E_BUSY, 0,
                       "cannot register: all %d registrations with remote rights of this device are in use; close some",
                       SHM_EXPORTS_MAX);
    return RT_OK;
}

int shm_memory_register(rt_pdevice *pdevice, const rt_memory *given, rt_pmemory **out, rt_detail *detail)
{
    uint32_t remote_rights = given->access & (RT_ACCESS_REMOTE_WRITE | RT_ACCESS_REMOTE_READ);
    int status = memory_check(given, remote_rights, detail);
    if (status != RT_OK)
        return status;
    shm_memory *memory = calloc(1, sizeof *memory);
    if (memory == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory to register %llu bytes", (unsigned long long)given->size);
    memory->base = (rt_pmemory){.address = given->address, .size = given->size, .access = given->access};
    memory->descriptor = -1;
    rt_list_init(&memory->node);
    if (remote_rights == 0) {
        *out = &memory->base;
        return RT_OK;
    }
    status = rt_random(memory->token, sizeof memory->token, detail);
    if (status == RT_OK)
        status = rt_random(memory->source_token, sizeof memory->source_token, detail);
    if (status != RT_OK)
        goto free_memory;
    if ((remote_rights & RT_ACCESS_REMOTE_WRITE) == 0) {
        status = shm_reopen_readonly(given->descriptor, &memory->descriptor, detail);
        if (status != RT_OK)
            goto free_memory;
    } else if ((memory->descriptor = fcntl(given->descriptor, F_DUPFD_CLOEXEC, 0)) < 0) {
        status = rt_fail(detail, RT_E_SYSTEM, errno, "cannot keep a descriptor of %llu bytes of shared memory",
                         (unsigned long long)given->size);
        goto free_memory;
    }
    status = export_publish(shm_device_of(pdevice), memory, detail);
    if (status != RT_OK)
        goto close_descriptor;
    *out = &memory->base;
    return RT_OK;

close_descriptor:
    close(memory->descriptor);
free_memory:
    free(memory);
    return status;
}

void shm_memory_release(rt_pdevice *pdevice, rt_pmemory *pmemory)
{
    shm_device *device = shm_device_of(pdevice);
    shm_memory *memory = (shm_memory *)(void *)pmemory;
    if (memory->descriptor >= 0) {
        pthread_mutex_lock(&device->exports_lock);
        rt_list_remove(&memory->node);
        /* Pairs with the check before every item in post.c: from here on the peer's items are
         * refused there. */
        atomic_store_explicit(&device->board->exports[memory->index], 0, memory_order_release);
        pthread_mutex_unlock(&device->exports_lock);
        rt_fence_full(); /* pairs with the entry of shm_memory_help: it finds no target here, or we see it inside */
        shm_helper_wait_out(device);
        close(memory->descriptor);
    }
    free(memory);
}

int shm_memory_key(rt_pdevice *device, rt_pmemory *pmemory, rt_plink *const *links, uint32_t link_count, uint8_t *key_out,
                   size_t *size_out, rt_detail *detail)
{
    (void)device;
    (void)links; /* no keys per peer */
    (void)link_count;
    const shm_memory *memory = (const shm_memory *)(const void *)pmemory;
    if (memory->descriptor < 0)
        return rt_fail(detail, RT_E_ACCESS, 0, "cannot give out a key: the region was registered without remote rights");
    key_out[0] = SHM_VERSION;
    memcpy(key_out + 1, memory->token, SHM_TOKEN_SIZE);
    *size_out = SHM_KEY_SIZE;
    return RT_OK;
}

int shm_export_find(shm_device *device, const uint8_t *token, bool as_source, shm_reply *reply, int *descriptor_out)
{
    int status = RT_E_REMOTE_ACCESS;
    pthread_mutex_lock(&device->exports_lock);
    RT_LIST_EACH(node, &device->exports) {
        const shm_memory *memory = RT_LIST_ENTRY(node, shm_memory, node);
        const uint8_t *known = as_source ? memory->source_token : memory->token;
        uint32_t rights = memory->base.access & (RT_ACCESS_REMOTE_WRITE | RT_ACCESS_REMOTE_READ);
        if (memcmp(known, token, SHM_TOKEN_SIZE) != 0 || (as_source && (rights & RT_ACCESS_REMOTE_READ) == 0))
            continue;
        rt_detail ignored;
        if (!as_source || (rights & RT_ACCESS_REMOTE_WRITE) == 0) /* then the descriptor is read-only already */
            *descriptor_out = fcntl(memory->descriptor, F_DUPFD_CLOEXEC, 0);
        else if (shm_reopen_readonly(memory->descriptor, descriptor_out, &ignored) != RT_OK)
            *descriptor_out = -1;
        status = *descriptor_out < 0 ? RT_E_SYSTEM : RT_OK;
        reply->value = as_source ? RT_ACCESS_REMOTE_READ : rights;
        reply->index = memory->index;
        reply->generation = memory->generation;
        reply->size = memory->base.size;
        break;
    }
    pthread_mutex_unlock(&device->exports_lock);
    return status;
}
