/* fake_cuda_memory.c: the fake CUDA driver's memory: of cuMemAlloc, of cuMemCreate with its addresses, and pinned memory. */
#include "fake_cuda_state.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

FAKE_CUDA_API cuda_result cuMemAlloc_v2(cuda_address *address_out, size_t size);
FAKE_CUDA_API cuda_result cuMemFree_v2(cuda_address address);

static bool range_holds(uint64_t begin, uint64_t length, uint64_t address, uint64_t size)
{
    return address >= begin && address - begin < length && size <= length - (address - begin);
}

fake_mapping *fake_find(uint64_t address, uint64_t size)
{
    for (fake_mapping *at = fake_cuda.mappings; at != NULL; at = at->next)
        if (range_holds(at->address, at->size, address, size))
            return at;
    return NULL;
}

uint8_t *fake_bytes(const fake_mapping *mapping, uint64_t address)
{
    return mapping->memory->bytes + (address - mapping->address);
}

/* ---- lists ---- */

static void range_add(fake_range **list, uint64_t address, uint64_t size)
{
    fake_range *made = calloc(1, sizeof *made);
    assert(made != NULL);
    *made = (fake_range){*list, address, size};
    *list = made;
    fake_cuda.live++;
}

static bool range_remove(fake_range **list, uint64_t address)
{
    for (fake_range **at = list; *at != NULL; at = &(*at)->next)
        if ((*at)->address == address) {
            fake_range *gone = *at;
            *at = gone->next;
            free(gone);
            fake_cuda.live--;
            return true;
        }
    return false;
}

static bool range_has(const fake_range *list, uint64_t address, uint64_t size)
{
    for (const fake_range *at = list; at != NULL; at = at->next)
        if (range_holds(at->address, at->size, address, size))
            return true;
    return false;
}

/* Takes over the descriptor. */
static fake_memory *memory_add(int descriptor, int device, uint64_t size)
{
    void *all = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    fake_memory *made = calloc(1, sizeof *made);
    assert(all != MAP_FAILED && made != NULL);
    *made = (fake_memory){.next = fake_cuda.memories,
                          .descriptor = descriptor,
                          .device = device,
                          .size = size,
                          .bytes = all,
                          .references = 1};
    fake_cuda.memories = made;
    fake_cuda.live++;
    return made;
}

static fake_memory *memory_make(int device, uint64_t size)
{
    char name[32];
    snprintf(name, sizeof name, "fakegpu%d", device);
    int descriptor = memfd_create(name, MFD_CLOEXEC);
    if (descriptor < 0 || ftruncate(descriptor, (off_t)size) != 0)
        return NULL;
    return memory_add(descriptor, device, size);
}

static void memory_drop(fake_memory *memory)
{
    if (--memory->references != 0)
        return;
    if (memory->holds != 0)
        fake_violate("memory is freed that a NIC holds");
    for (fake_memory **at = &fake_cuda.memories; *at != NULL; at = &(*at)->next)
        if (*at == memory) {
            *at = memory->next;
            break;
        }
    munmap(memory->bytes, memory->size);
    close(memory->descriptor);
    free(memory);
    fake_cuda.live--;
}

/* Puts memory at an address, or where there is room, without access for the CPU. */
static fake_mapping *mapping_add(fake_memory *memory, uint64_t address)
{
    void *at = mmap((void *)(uintptr_t)address, memory->size, PROT_NONE, MAP_SHARED | (address != 0 ? MAP_FIXED : 0),
                    memory->descriptor, 0);
    fake_mapping *made = calloc(1, sizeof *made);
    assert(at != MAP_FAILED && made != NULL);
    *made =
        (fake_mapping){.next = fake_cuda.mappings, .address = (uint64_t)(uintptr_t)at, .size = memory->size, .memory = memory};
    fake_cuda.mappings = made;
    fake_cuda.live++;
    return made;
}

static void mapping_remove(fake_mapping *mapping)
{
    for (fake_mapping **at = &fake_cuda.mappings; *at != NULL; at = &(*at)->next)
        if (*at == mapping) {
            *at = mapping->next;
            break;
        }
    fake_memory *memory = mapping->memory;
    free(mapping);
    fake_cuda.live--;
    memory_drop(memory);
}

static void addresses_empty(uint64_t address, uint64_t size)
{
    void *at = mmap((void *)(uintptr_t)address, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    assert(at != MAP_FAILED);
}

/* ---- memory with an address: cudaMalloc ---- */

cuda_result cuMemAlloc_v2(cuda_address *address_out, size_t size)
{
    FAKE_ENTER(FAKE_CONTEXT | FAKE_UNSAFE);
    fake_memory *memory = memory_make(fake_current()->device, (size + FAKE_GRANULE - 1) & ~(uint64_t)(FAKE_GRANULE - 1));
    if (memory == NULL)
        return fake_leave(CUDA_E_OUT_OF_MEMORY);
    memory->of_malloc = true;
    memory->direct = fake_cuda.attributes[memory->device][CUDA_A_DIRECT] != 0;
    fake_mapping *mapping = mapping_add(memory, 0);
    mapping->is_readable = mapping->is_writable = true;
    *address_out = mapping->address;
    return fake_leave(CUDA_OK);
}

cuda_result cuMemFree_v2(cuda_address address)
{
    FAKE_ENTER(FAKE_CONTEXT | FAKE_UNSAFE);
    fake_mapping *mapping = fake_find(address, 1);
    if (mapping == NULL || mapping->address != address || !mapping->memory->of_malloc)
        return fake_leave(CUDA_E_INVALID_VALUE);
    munmap((void *)(uintptr_t)address, mapping->size);
    mapping_remove(mapping);
    return fake_leave(CUDA_OK);
}

cuda_result cuMemGetInfo_v2(size_t *free_out, size_t *total_out)
{
    FAKE_ENTER(FAKE_CONTEXT);
    *free_out = 1 << 30;
    *total_out = 16ull << 30;
    return fake_leave(CUDA_OK);
}

cuda_result cuMemGetAddressRange_v2(cuda_address *base_out, size_t *size_out, cuda_address address)
{
    FAKE_ENTER(FAKE_CONTEXT);
    fake_mapping *mapping = fake_find(address, 1);
    if (mapping == NULL)
        return fake_leave(CUDA_E_INVALID_VALUE);
    *base_out = mapping->address;
    *size_out = mapping->size;
    return fake_leave(CUDA_OK);
}

/* An address that is nobody's is no error: zeros. */
cuda_result cuPointerGetAttributes(unsigned count, const int *attributes, void **values_out, cuda_address address)
{
    FAKE_ENTER(0);
    const fake_mapping *mapping = fake_find(address, 1);
    for (unsigned index = 0; index < count; index++) {
        int *value = values_out[index];
        switch (attributes[index]) {
        case CUDA_P_MEMORY_TYPE:
            *value = mapping != NULL ? CUDA_MEMORY_DEVICE : fake_is_pinned(address, 1) ? CUDA_MEMORY_HOST : 0;
            break;
        case CUDA_P_ORDINAL: *value = mapping != NULL ? mapping->memory->device : -2; break;
        case CUDA_P_IS_MANAGED: *value = mapping != NULL && mapping->is_managed; break;
        default: return fake_leave(CUDA_E_INVALID_VALUE);
        }
    }
    return fake_leave(CUDA_OK);
}

cuda_result cuPointerSetAttribute(const void *value, int attribute, cuda_address address)
{
    FAKE_ENTER(FAKE_CONTEXT);
    fake_mapping *mapping = fake_find(address, 1);
    if (mapping == NULL || attribute != CUDA_P_SYNC_MEMOPS)
        return fake_leave(CUDA_E_INVALID_VALUE);
    if (!mapping->memory->of_malloc)
        return fake_leave(CUDA_E_NOT_SUPPORTED);
    mapping->synchronizes = *(const unsigned *)value != 0;
    return fake_leave(CUDA_OK);
}

/* ---- memory apart from addresses ---- */

cuda_result cuMemGetAllocationGranularity(size_t *size_out, const cuda_making *making, int option)
{
    FAKE_ENTER(0);
    (void)making, (void)option;
    *size_out = FAKE_GRANULE;
    return fake_leave(CUDA_OK);
}

cuda_result cuMemCreate(cuda_handle *handle_out, size_t size, const cuda_making *making, unsigned long long flags)
{
    FAKE_ENTER(FAKE_UNSAFE);
    if (flags != 0 || size == 0 || size % FAKE_GRANULE != 0 || making->type != CUDA_PINNED ||
        making->location.type != CUDA_LOCATION_DEVICE || making->location.id >= fake_cuda.devices)
        return fake_leave(CUDA_E_INVALID_VALUE);
    if (making->flags.direct != 0 && fake_cuda.attributes[making->location.id][CUDA_A_DIRECT_WHEN_MADE] == 0)
        return fake_leave(CUDA_E_NOT_SUPPORTED);
    if (size > 16ull << 30)
        return fake_leave(CUDA_E_OUT_OF_MEMORY);
    fake_memory *memory = memory_make(making->location.id, size);
    if (memory == NULL)
        return fake_leave(CUDA_E_OUT_OF_MEMORY);
    memory->shares = (making->shares_by & CUDA_SHARE_DESCRIPTOR) != 0;
    memory->direct = making->flags.direct != 0;
    *handle_out = (cuda_handle)(uintptr_t)memory;
    return fake_leave(CUDA_OK);
}

cuda_result cuMemRelease(cuda_handle handle)
{
    cuda_result result = fake_enter_to_end(__func__, FAKE_UNSAFE);
    memory_drop((fake_memory *)(uintptr_t)handle);
    return fake_leave(result);
}

cuda_result cuMemAddressReserve(cuda_address *address_out, size_t size, size_t alignment, cuda_address wanted,
                                unsigned long long flags)
{
    FAKE_ENTER(FAKE_UNSAFE);
    if (flags != 0 || alignment != 0 || wanted != 0 || size == 0 || size % FAKE_GRANULE != 0)
        return fake_leave(CUDA_E_INVALID_VALUE);
    uint8_t *room = mmap(NULL, size + FAKE_GRANULE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return fake_leave(CUDA_E_OUT_OF_MEMORY);
    uint64_t before = (FAKE_GRANULE - (uint64_t)(uintptr_t)room % FAKE_GRANULE) % FAKE_GRANULE;
    if (before != 0)
        munmap(room, before);
    munmap(room + before + size, FAKE_GRANULE - before);
    *address_out = (cuda_address)(uintptr_t)(room + before);
    range_add(&fake_cuda.taken, *address_out, size);
    return fake_leave(CUDA_OK);
}

cuda_result cuMemAddressFree(cuda_address address, size_t size)
{
    cuda_result result = fake_enter_to_end(__func__, FAKE_UNSAFE);
    if (fake_find(address, 1) != NULL)
        fake_violate("addresses are given back with memory behind them");
    if (!range_remove(&fake_cuda.taken, address))
        return fake_leave(CUDA_E_INVALID_VALUE);
    munmap((void *)(uintptr_t)address, size);
    return fake_leave(result);
}

cuda_result cuMemMap(cuda_address address, size_t size, size_t offset, cuda_handle handle, unsigned long long flags)
{
    FAKE_ENTER(FAKE_UNSAFE);
    fake_memory *memory = (fake_memory *)(uintptr_t)handle;
    if (flags != 0 || offset != 0 || size != memory->size || !range_has(fake_cuda.taken, address, size) ||
        fake_find(address, 1) != NULL)
        return fake_leave(CUDA_E_INVALID_VALUE);
    mapping_add(memory, address);
    memory->references++;
    return fake_leave(CUDA_OK);
}

cuda_result cuMemUnmap(cuda_address address, size_t size)
{
    cuda_result result = fake_enter_to_end(__func__, FAKE_UNSAFE);
    fake_mapping *mapping = fake_find(address, size);
    if (mapping == NULL || mapping->address != address || mapping->size != size)
        return fake_leave(CUDA_E_INVALID_VALUE);
    addresses_empty(address, size);
    mapping_remove(mapping);
    return fake_leave(result);
}

cuda_result cuMemSetAccess(cuda_address address, size_t size, const cuda_access *access, size_t count)
{
    FAKE_ENTER(FAKE_UNSAFE);
    fake_mapping *mapping = fake_find(address, size);
    if (mapping == NULL || count != 1 || access->location.type != CUDA_LOCATION_DEVICE)
        return fake_leave(CUDA_E_INVALID_VALUE);
    mapping->is_readable = true;
    mapping->is_writable = access->flags == CUDA_ACCESS_READWRITE;
    return fake_leave(CUDA_OK);
}

cuda_result cuMemExportToShareableHandle(void *share_out, cuda_handle handle, int kind, unsigned long long flags)
{
    FAKE_ENTER(0);
    const fake_memory *memory = (const fake_memory *)(uintptr_t)handle;
    if (kind != CUDA_SHARE_DESCRIPTOR || flags != 0 || !memory->shares)
        return fake_leave(CUDA_E_INVALID_VALUE);
    *(int *)share_out = fcntl(memory->descriptor, F_DUPFD_CLOEXEC, 0);
    return fake_leave(*(int *)share_out < 0 ? CUDA_E_UNKNOWN : CUDA_OK);
}

cuda_result cuMemImportFromShareableHandle(cuda_handle *handle_out, void *share, int kind)
{
    FAKE_ENTER(FAKE_UNSAFE);
    char path[64], target[64] = "";
    struct stat found;
    int device = -1, descriptor = (int)(intptr_t)share;
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    if (kind != CUDA_SHARE_DESCRIPTOR || readlink(path, target, sizeof target - 1) < 0 ||
        sscanf(target, "/memfd:fakegpu%d", &device) != 1 || fstat(descriptor, &found) != 0)
        return fake_leave(CUDA_E_INVALID_VALUE);
    fake_memory *memory = memory_add(fcntl(descriptor, F_DUPFD_CLOEXEC, 0), device, (uint64_t)found.st_size);
    memory->shares = true;
    *handle_out = (cuda_handle)(uintptr_t)memory;
    return fake_leave(CUDA_OK);
}

cuda_result cuMemRetainAllocationHandle(cuda_handle *handle_out, void *address)
{
    FAKE_ENTER(0);
    const fake_mapping *mapping = fake_find((uint64_t)(uintptr_t)address, 1);
    if (mapping == NULL || mapping->memory->of_malloc)
        return fake_leave(CUDA_E_INVALID_VALUE);
    mapping->memory->references++;
    *handle_out = (cuda_handle)(uintptr_t)mapping->memory;
    return fake_leave(CUDA_OK);
}

/* ---- pinned memory ---- */

bool fake_is_pinned(uint64_t address, uint64_t size)
{
    return range_has(fake_cuda.pins, address, size);
}

cuda_result cuMemHostRegister_v2(void *address, size_t size, unsigned flags)
{
    FAKE_ENTER(FAKE_CONTEXT | FAKE_UNSAFE);
    uint64_t begin = (uint64_t)(uintptr_t)address;
    if (flags != CUDA_REGISTER_PORTABLE || size == 0)
        return fake_leave(CUDA_E_INVALID_VALUE);
    for (const fake_range *at = fake_cuda.pins; at != NULL; at = at->next)
        if (begin < at->address + at->size && at->address < begin + size)
            return fake_leave(CUDA_E_ALREADY_PINNED);
    range_add(&fake_cuda.pins, begin, size);
    return fake_leave(CUDA_OK);
}

cuda_result cuMemHostUnregister(void *address)
{
    cuda_result result = fake_enter_to_end(__func__, FAKE_CONTEXT | FAKE_UNSAFE);
    if (!range_remove(&fake_cuda.pins, (uint64_t)(uintptr_t)address))
        return fake_leave(CUDA_E_NOT_PINNED);
    return fake_leave(result);
}

/* ---- for the tests ---- */

bool fake_cuda_peek(uint64_t address, void *bytes_out, uint64_t size)
{
    pthread_mutex_lock(&fake_cuda.lock);
    const fake_mapping *mapping = fake_find(address, size);
    if (mapping != NULL)
        memcpy(bytes_out, fake_bytes(mapping, address), size);
    pthread_mutex_unlock(&fake_cuda.lock);
    return mapping != NULL;
}

uint64_t fake_cuda_pieces(int device, uint32_t count, bool with_descriptors)
{
    uint64_t size = (uint64_t)count * FAKE_GRANULE;
    cuda_address address = 0;
    if (cuMemAddressReserve(&address, size, 0, 0, 0) != CUDA_OK)
        return 0;
    pthread_mutex_lock(&fake_cuda.lock);
    for (uint32_t index = 0; index < count; index++) {
        fake_memory *memory = memory_make(device, FAKE_GRANULE);
        assert(memory != NULL);
        memory->shares = with_descriptors;
        memory->direct = true;
        fake_mapping *mapping = mapping_add(memory, address + (uint64_t)index * FAKE_GRANULE);
        mapping->is_readable = mapping->is_writable = true;
    }
    pthread_mutex_unlock(&fake_cuda.lock);
    return address;
}

void fake_cuda_manage(uint64_t address)
{
    pthread_mutex_lock(&fake_cuda.lock);
    fake_mapping *mapping = fake_find(address, 1);
    assert(mapping != NULL);
    mapping->is_managed = true;
    pthread_mutex_unlock(&fake_cuda.lock);
}
