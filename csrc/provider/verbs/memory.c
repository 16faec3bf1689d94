/* memory.c: registration, the key bytes that travel to a peer, and reading such bytes of a peer.
 *
 * A key is a capability (RDMA-RULES 14): it is given to the caller and appears in no message. Least
 * privilege: the rights of a registration are those asked for, and relaxed ordering is never
 * added. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

/* version 1 · rkey 4 · address 8 · size 8 · access 4, and where the rkeys of a channel's links differ, those of its second and
 * later links, 4 each */
enum { KEY_VERSION = 1, KEY_SIZE = 25, RKEY_SIZE = 4, REMOTE_RIGHTS = RT_ACCESS_REMOTE_WRITE | RT_ACCESS_REMOTE_READ };
_Static_assert(KEY_SIZE + (RT_MEMORY_KEY_LINKS_MAX - 1) * RKEY_SIZE <= (int)RT_MEMORY_KEY_SIZE_MAX, "a key fits the seam");
_Static_assert((RT_MEMORY_KEY_LINKS_MAX & (RT_MEMORY_KEY_LINKS_MAX - 1)) == 0,
               "a link's index becomes that of its key by a mask");

static unsigned access_of(uint32_t access)
{
    unsigned flags = 0;
    if ((access & RT_ACCESS_LOCAL_WRITE) != 0)
        flags |= IBV_ACCESS_LOCAL_WRITE;
    if ((access & RT_ACCESS_PER_PEER_KEYS) != 0) {
        flags |= IBV_ACCESS_MW_BIND;
        access &= ~(uint32_t)REMOTE_RIGHTS; /* the windows carry them: the registration's own key gives a peer no access */
    }
    if ((access & RT_ACCESS_REMOTE_WRITE) != 0)
        flags |= IBV_ACCESS_REMOTE_WRITE;
    if ((access & RT_ACCESS_REMOTE_READ) != 0)
        flags |= IBV_ACCESS_REMOTE_READ;
    if ((access & RT_ACCESS_RELAXED_ORDER) != 0)
        flags |= IBV_ACCESS_RELAXED_ORDERING;
    return flags;
}

static int memory_register_failed(const verbs_device *device, const rt_memory *memory, int error, rt_detail *detail)
{
    const char *name = device->base.name;
    uint64_t size = memory->size;
    char memlock[320];
    if (error == ENOMEM && verbs_memlock_exceeded(size, memlock, sizeof memlock))
        return rt_fail(detail, RT_E_MEMLOCK, 0, "cannot register memory with %s: %s", name, memlock);
    switch (error) {
    case ENOMEM:
        return rt_fail(detail, RT_E_NO_MEMORY, error,
                       "cannot register %" PRIu64 " bytes with %s (out of memory, more than %u registrations, or more "
                       "than the driver takes at once, which is 1 GiB for rdma_rxe: then make several regions)",
                       size, name, device->base.limits.region_count_max);
    case EFAULT:
        return rt_fail(detail, RT_E_INVALID, error,
                       "cannot register %" PRIu64
                       " bytes with %s: not all of the range is mapped, or it is mapped read-only, or it "
                       "is a file's: copy a file's bytes into a region",
                       size, name);
    case EINVAL:
        return rt_fail(
            detail, RT_E_INVALID, error,
            "cannot register %" PRIu64
            " bytes with %s: the driver refuses this range with the rights 0x%x (with huge pages on kernels before 5.12, RDMAV_HUGEPAGES_SAFE=1 must be set)",
            size, name, memory->access);
    case EOPNOTSUPP:
        return rt_fail(detail, RT_E_UNSUPPORTED, error,
                       "cannot register %" PRIu64 " bytes with %s: the driver does not support the rights 0x%x", size, name,
                       memory->access);
    default: return verbs_fail(detail, error, "register %" PRIu64 " bytes with %s", size, name);
    }
}

static struct ibv_mr *memory_register(const verbs_device *device, const rt_memory *memory)
{
    unsigned flags = access_of(memory->access);
    errno = 0;
    if (device->library->ibv_reg_mr_iova2 != NULL)
        return device->library->ibv_reg_mr_iova2(device->pd, memory->address, memory->size, (uintptr_t)memory->address, flags);
    /* The ibv_reg_mr of such an old library takes no optional flags: those that ask for speed only
     * are left out. */
    return device->library->ibv_reg_mr(device->pd, memory->address, memory->size,
                                       (int)(flags & ~(unsigned)IBV_ACCESS_OPTIONAL_RANGE));
}

int verbs_memory_register(rt_pdevice *base, const rt_memory *memory, rt_pmemory **out, rt_detail *detail)
{
    verbs_device *device = verbs_device_of(base);
    if (memory->address == NULL || memory->size == 0)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot register an empty range");
    if (memory->size > base->limits.region_size_max)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot register %" PRIu64 " bytes: %s takes at most %" PRIu64 " at once",
                       memory->size, base->name, base->limits.region_size_max);
    if ((memory->access & RT_ACCESS_REMOTE_WRITE) != 0 && (memory->access & RT_ACCESS_LOCAL_WRITE) == 0)
        return rt_fail(detail, RT_E_INVALID, 0,
                       "cannot register memory for remote writing without the right to write it locally");
    verbs_memory *made = calloc(1, sizeof *made);
    if (made == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a registration");
    made->mr = memory_register(device, memory);
    if (made->mr == NULL) {
        int status = memory_register_failed(device, memory, verbs_errno(), detail);
        free(made);
        return status;
    }
    rt_list_init(&made->windows);
    made->base = (rt_pmemory){.address = memory->address, .size = memory->size, .access = memory->access};
    *out = &made->base;
    return RT_OK;
}

void verbs_memory_release(rt_pdevice *base, rt_pmemory *memory)
{
    verbs_device *device = verbs_device_of(base);
    verbs_memory *registered = (verbs_memory *)(void *)memory;
    if ((memory->access & RT_ACCESS_PER_PEER_KEYS) == 0 || verbs_windows_release(device, registered))
        verbs_memory_free(device, registered);
}

int verbs_memory_key(rt_pdevice *base, rt_pmemory *memory, rt_plink *const *links, uint32_t link_count, uint8_t *key_out,
                     size_t *size_out, rt_detail *detail)
{
    verbs_memory *registered = (verbs_memory *)(void *)memory;
    uint32_t rkeys[RT_MEMORY_KEY_LINKS_MAX] = {registered->mr->rkey}, count = 1;
    if ((memory->access & RT_ACCESS_PER_PEER_KEYS) != 0) {
        if (link_count == 0)
            return rt_fail(detail, RT_E_ACCESS, 0, "memory with a key for each peer has none that is good for all of them");
        int status = verbs_windows_bind(verbs_device_of(base), registered, links, link_count, rkeys, detail);
        if (status != RT_OK)
            return status;
        count = link_count;
    }
    rt_writer writer = rt_writer_of(key_out, RT_MEMORY_KEY_SIZE_MAX);
    rt_write_uint(&writer, KEY_VERSION, 1);
    rt_write_uint(&writer, rkeys[0], RKEY_SIZE);
    rt_write_uint(&writer, (uintptr_t)memory->address, 8);
    rt_write_uint(&writer, memory->size, 8);
    rt_write_uint(&writer, memory->access & REMOTE_RIGHTS, 4);
    for (uint32_t index = 1; index < count; index++)
        rt_write_uint(&writer, rkeys[index], RKEY_SIZE);
    assert(!writer.failed && writer.size == KEY_SIZE + (count - 1) * RKEY_SIZE);
    *size_out = writer.size;
    return RT_OK;
}

int verbs_remote_attach(rt_plink *link, const uint8_t *key, size_t key_size, uint64_t size, uint32_t access, rt_premote **out,
                        rt_detail *detail)
{
    (void)link;
    rt_reader reader = rt_reader_of(key, key_size);
    uint64_t version = rt_read_uint(&reader, 1);
    uint32_t rkeys[RT_MEMORY_KEY_LINKS_MAX] = {(uint32_t)rt_read_uint(&reader, RKEY_SIZE)};
    uint64_t address = rt_read_uint(&reader, 8);
    uint64_t key_says = rt_read_uint(&reader, 8);
    uint32_t rights = (uint32_t)rt_read_uint(&reader, 4);
    size_t further = key_size > KEY_SIZE ? (key_size - KEY_SIZE) / RKEY_SIZE : 0;
    for (size_t index = 1; index <= further && index < RT_MEMORY_KEY_LINKS_MAX; index++)
        rkeys[index] = (uint32_t)rt_read_uint(&reader, RKEY_SIZE);
    if (key_size >= 1 && version != KEY_VERSION)
        return rt_fail(detail, RT_E_VERSION, 0, "the peer's memory key has version %u, this end knows %u", (unsigned)version,
                       KEY_VERSION);
    if (!rt_reader_done(&reader))
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's memory key has %zu bytes, not %u and 4 for each further link",
                       key_size, KEY_SIZE);
    if (key_says != size || size == 0 || size > UINT64_MAX - address)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's memory key is for %" PRIu64 " bytes, its handle for %" PRIu64,
                       key_says, size);
    if ((rights & ~(uint32_t)REMOTE_RIGHTS) != 0 || rights != (access & REMOTE_RIGHTS))
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's memory key gives the rights 0x%x, its handle 0x%x", rights, access);
    verbs_remote *remote = calloc(1, sizeof *remote);
    if (remote == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a remote range");
    *remote = (verbs_remote){.base = {.size = size, .access = rights}, .address = address};
    remote->key_mask = further == 0 ? 0 : RT_MEMORY_KEY_LINKS_MAX - 1;
    memcpy(remote->keys, rkeys, sizeof rkeys); /* missing keys are 0, which the peer refuses */
    *out = &remote->base;
    return RT_OK;
}

void verbs_remote_detach(rt_plink *link, rt_premote *remote)
{
    (void)link;
    free(remote);
}

#endif
