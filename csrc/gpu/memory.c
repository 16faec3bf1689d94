/* memory.c: makes memory of a GPU, maps that of other processes, finds out about that of frameworks, and exports to a NIC.
 *
 * Memory is made without an address and mapped, since only such memory has a descriptor that goes over a socket. */
#include "gpu/driver.h"

#include <assert.h>
#include <unistd.h>

static unsigned long long bytes(uint64_t size)
{
    return size;
}

/* Takes addresses and puts `handle` there; the handle stays the caller's. */
static cuda_result handle_map(const cuda_driver *cuda, const rt_gpu *gpu, cuda_handle handle, uint64_t size, bool is_writable,
                              uint64_t *address_out)
{
    const cuda_access access = {{CUDA_LOCATION_DEVICE, gpu->device}, is_writable ? CUDA_ACCESS_READWRITE : CUDA_ACCESS_READ};
    cuda_address address = 0;
    cuda_result result = cuda->addresses_take(&address, size, 0, 0, 0);
    if (result != CUDA_OK)
        return result;
    result = cuda->memory_map(address, size, 0, handle, 0);
    if (result != CUDA_OK)
        goto give;
    result = cuda->memory_access(address, size, &access, 1);
    if (result != CUDA_OK)
        goto unmap;
    *address_out = address;
    return CUDA_OK;

unmap:
    cuda->memory_unmap(address, size);
give:
    cuda->addresses_give(address, size);
    return result;
}

static void handle_unmap(const cuda_driver *cuda, uint64_t address, uint64_t size)
{
    cuda->memory_unmap(address, size);
    cuda->addresses_give(address, size);
}

/* Makes calls of CUDA that say they are synchronous be so for this memory: a NIC and a peer know nothing of the caller's streams.
 * Memory of cuMemCreate does not take it by address; then the whole context does, from CUDA 12.1 on, and before that nothing
 * does: the stream that makes a tensor is waited for in any case. Setting flags replaces all, so they are read first. */
static cuda_result memory_synchronize(const cuda_driver *cuda, uint64_t address)
{
    const unsigned on = 1;
    unsigned flags = 0;
    cuda_result result = cuda->pointer_set(&on, CUDA_P_SYNC_MEMOPS, address);
    if (result != CUDA_E_NOT_SUPPORTED)
        return result;
    if (cuda->context_get_flags == NULL || cuda->context_set_flags == NULL)
        return CUDA_OK;
    result = cuda->context_get_flags(&flags);
    if (result != CUDA_OK || (flags & CUDA_CONTEXT_SYNC_MEMOPS) != 0)
        return result;
    return cuda->context_set_flags(flags | CUDA_CONTEXT_SYNC_MEMOPS);
}

static cuda_result memory_build(const cuda_driver *cuda, uint64_t size, rt_gpu_memory *memory)
{
    const rt_gpu *gpu = memory->gpu;
    cuda_making making = {.type = CUDA_PINNED,
                          .shares_by = CUDA_SHARE_DESCRIPTOR,
                          .location = {CUDA_LOCATION_DEVICE, gpu->device}};
    making.flags.direct = gpu->makes_direct;
    size_t granule = 0;
    uint64_t address = 0;
    cuda_result result = cuda->memory_granule(&granule, &making, 0);
    if (result != CUDA_OK)
        return result;
    assert(granule != 0);
    memory->size = (size + granule - 1) / granule * granule;
    result = cuda->memory_make(&memory->handle, memory->size, &making, 0);
    if (result != CUDA_OK)
        return result;
    result = cuda->memory_export(&memory->descriptor, memory->handle, CUDA_SHARE_DESCRIPTOR, 0);
    if (result != CUDA_OK)
        goto release;
    result = handle_map(cuda, gpu, memory->handle, memory->size, true, &address);
    if (result != CUDA_OK)
        goto close_descriptor;
    result = memory_synchronize(cuda, address);
    if (result != CUDA_OK)
        goto unmap;
    memory->address = address;
    memory->mapped = memory->share_size = memory->size;
    return CUDA_OK;

unmap:
    handle_unmap(cuda, address, memory->size);
close_descriptor:
    close(memory->descriptor);
release:
    cuda->memory_release(memory->handle);
    return result;
}

int rt_gpu_memory_make(rt_gpu *gpu, uint64_t size, rt_gpu_memory *memory_out, rt_detail *detail)
{
    gpu_entry entry;
    if (size == 0 || size > UINT64_MAX / 2)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot make %llu bytes of memory on cuda:%u", bytes(size), gpu->ordinal);
    int status = rt_gpu_check_sharing(gpu->ordinal, &gpu->traits, detail);
    if (status == RT_OK)
        status = gpu_enter(gpu, &entry, "make memory", detail);
    if (status != RT_OK)
        return status;
    rt_gpu_memory memory = {.gpu = gpu, .descriptor = -1};
    size_t left = 0, total = 0;
    cuda_result result = memory_build(entry.cuda, size, &memory);
    if (result == CUDA_E_OUT_OF_MEMORY && entry.cuda->memory_free_size(&left, &total) == CUDA_OK)
        status =
            rt_fail(detail, RT_E_NO_MEMORY, 0,
                    "cannot make %llu bytes of memory on cuda:%u: %llu of %llu are free; make the region smaller, or free memory "
                    "that a framework keeps (torch.cuda.empty_cache())",
                    bytes(size), gpu->ordinal, bytes(left), bytes(total));
    else if (result != CUDA_OK)
        status = gpu_fail(detail, result, gpu->ordinal, "make %llu bytes of memory", bytes(size));
    gpu_leave(&entry);
    if (status == RT_OK)
        *memory_out = memory;
    return status;
}

int rt_gpu_memory_import(rt_gpu *gpu, int descriptor, uint64_t share_size, bool is_writable, rt_gpu_memory *memory_out,
                         rt_detail *detail)
{
    gpu_entry entry;
    int status = gpu_enter(gpu, &entry, "map a peer's memory", detail);
    if (status != RT_OK)
        return status;
    const cuda_driver *cuda = entry.cuda;
    rt_gpu_memory memory = {.gpu = gpu, .size = share_size, .descriptor = -1, .share_size = share_size, .mapped = share_size};
    /* The driver takes the number itself as a pointer. */
    cuda_result result = cuda->memory_import(&memory.handle, (void *)(intptr_t)descriptor, CUDA_SHARE_DESCRIPTOR);
    if (result != CUDA_OK) {
        status = gpu_fail(detail, result, gpu->ordinal, "map a peer's descriptor of %llu bytes", bytes(share_size));
    } else {
        result = handle_map(cuda, gpu, memory.handle, share_size, is_writable, &memory.address);
        if (result != CUDA_OK) {
            status = gpu_fail(
                detail, result, gpu->ordinal,
                "map %llu bytes of a peer's (where they lie on another GPU, `nvidia-smi topo -p2p r` says if it is reached)",
                bytes(share_size));
            cuda->memory_release(memory.handle);
        }
    }
    gpu_leave(&entry);
    if (status == RT_OK)
        *memory_out = memory;
    return status;
}

/* Finds out how peers may map memory that somebody else made: whether it has a descriptor, and its place in there. Memory of several
 * pieces (a tensor over some of torch's expandable segments) has none as a whole. */
static cuda_result descriptor_find(const cuda_driver *cuda, rt_gpu_memory *memory)
{
    cuda_address base = 0;
    size_t size = 0;
    cuda_handle handle = 0;
    cuda_result result = cuda->memory_range(&base, &size, memory->address);
    if (result != CUDA_OK)
        return result;
    uint64_t offset = memory->address - base;
    if (offset > size || memory->size > size - offset)
        return CUDA_OK;
    result = cuda->memory_retain(&handle, (void *)(uintptr_t)memory->address);
    if (result == CUDA_E_INVALID_VALUE)
        return CUDA_OK; /* of cudaMalloc, which has no descriptors */
    if (result != CUDA_OK)
        return result;
    result = cuda->memory_export(&memory->descriptor, handle, CUDA_SHARE_DESCRIPTOR, 0);
    if (result != CUDA_OK)
        memory->descriptor = -1;
    cuda->memory_release(handle);
    memory->share_size = size;
    memory->share_offset = offset;
    /* Its maker did not ask for descriptors. */
    return result == CUDA_E_INVALID_VALUE || result == CUDA_E_NOT_SUPPORTED ? CUDA_OK : result;
}

int rt_gpu_memory_adopt(uint64_t address, uint64_t size, rt_gpu_memory *memory_out, rt_detail *detail)
{
    gpu_entry entry;
    rt_gpu *gpu = NULL;
    int32_t first = -1, last = -1;
    if (size == 0 || size > UINT64_MAX - address)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot register %llu bytes at 0x%llx", bytes(size), bytes(address));
    int status = rt_gpu_of(address, &first, detail);
    if (status == RT_OK)
        status = rt_gpu_of(address + size - 1, &last, detail);
    if (status != RT_OK)
        return status;
    if (first < 0 || first != last)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot register %llu bytes at 0x%llx: they are no memory of one GPU",
                       bytes(size), bytes(address));
    status = rt_gpu_open((uint32_t)first, &gpu, detail);
    if (status == RT_OK)
        status = gpu_enter(gpu, &entry, "register memory", detail);
    if (status != RT_OK)
        return status;
    rt_gpu_memory memory = {.gpu = gpu, .address = address, .size = size, .descriptor = -1};
    cuda_result result = memory_synchronize(entry.cuda, address);
    if (result == CUDA_OK)
        result = descriptor_find(entry.cuda, &memory);
    gpu_leave(&entry);
    if (result != CUDA_OK)
        return gpu_fail(detail, result, gpu->ordinal, "register %llu bytes of memory", bytes(size));
    *memory_out = memory;
    return RT_OK;
}

void rt_gpu_memory_drop(rt_gpu_memory *memory)
{
    gpu_entry entry;
    if (memory->descriptor >= 0)
        close(memory->descriptor);
    if (memory->mapped != 0 && gpu_enter_to_end(&entry)) { /* in a child made by fork the memory is the parent's */
        handle_unmap(entry.cuda, memory->address, memory->mapped);
        entry.cuda->memory_release(memory->handle);
        gpu_leave(&entry);
    }
    *memory = (rt_gpu_memory){.descriptor = -1};
}

int rt_gpu_memory_export(const rt_gpu_memory *memory, int *descriptor_out, uint64_t *offset_out, rt_detail *detail)
{
    gpu_entry entry;
    const rt_gpu *gpu = memory->gpu;
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), start = memory->address / page * page;
    const uint64_t end = (memory->address + memory->size + page - 1) / page * page;
    int descriptor = -1;
    int status = rt_gpu_check_dma_buf(gpu->ordinal, &gpu->traits, detail);
    if (status == RT_OK)
        status = gpu_enter(gpu, &entry, "make a dma-buf", detail);
    if (status != RT_OK)
        return status;
    cuda_result result = entry.cuda->range_export(&descriptor, start, end - start, CUDA_RANGE_DMA_BUF, 0);
    gpu_leave(&entry);
    if (result != CUDA_OK)
        return gpu_fail(detail, result, gpu->ordinal, "make a dma-buf of %llu bytes at 0x%llx", bytes(end - start), bytes(start));
    *descriptor_out = descriptor;
    *offset_out = memory->address - start;
    return RT_OK;
}
