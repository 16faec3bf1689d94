/* device.c: the GPUs that this process sees: their traits, the GPU that an address belongs to, and opening one.
 *
 * A GPU is open from its first use until the process ends, as frameworks beside us keep its primary context. */
#include "gpu/driver.h"

#include "base/lock_order.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GPUS_MAX = 64 };

RT_STATIC_MUTEX(gpus_lock, RT_RANK_LAST); /* guards `gpus`: an entry is made once and stays */
static rt_gpu *gpus[GPUS_MAX];

int rt_gpu_count(uint32_t *count_out, rt_detail *detail)
{
    const cuda_driver *cuda;
    int count = 0, status = gpu_driver(&cuda, detail);
    if (status != RT_OK)
        return status;
    cuda_result result = cuda->device_count(&count);
    if (result != CUDA_OK)
        return gpu_fail(detail, result, 0, "count the GPUs that begin");
    *count_out = (uint32_t)(count < GPUS_MAX ? count : GPUS_MAX);
    return RT_OK;
}

/* ---- traits ---- */

/* An attribute that an older driver does not know is 0. */
static cuda_result attribute_read(const cuda_driver *cuda, cuda_device device, int attribute, int *value_out)
{
    cuda_result result = cuda->device_attribute(value_out, attribute, device);
    if (result != CUDA_E_INVALID_VALUE)
        return result;
    *value_out = 0;
    return CUDA_OK;
}

static cuda_result traits_read(const cuda_driver *cuda, cuda_device device, rt_gpu_traits *traits_out, bool *makes_direct_out)
{
    enum { MAJOR, MINOR, APART, SHARES, MADE_DIRECT, DIRECT, OPTIONS, ORDERING, NUMBERS, DMA_BUF, COUNT };
    static const int attributes[COUNT] = {
        [MAJOR] = CUDA_A_MAJOR,
        [MINOR] = CUDA_A_MINOR,
        [APART] = CUDA_A_ADDRESSES_APART,
        [SHARES] = CUDA_A_SHARES_BY_DESCRIPTOR,
        [MADE_DIRECT] = CUDA_A_DIRECT_WHEN_MADE,
        [DIRECT] = CUDA_A_DIRECT,
        [OPTIONS] = CUDA_A_FLUSH_OPTIONS,
        [ORDERING] = CUDA_A_WRITES_ORDERING,
        [NUMBERS] = CUDA_A_WRITES_NUMBERS,
        [DMA_BUF] = CUDA_A_DMA_BUF,
    };
    int values[COUNT], version = 0;
    size_t size = 0;
    cuda_result result = cuda->driver_version(&version);
    for (int index = 0; result == CUDA_OK && index < COUNT; index++)
        result = attribute_read(cuda, device, attributes[index], &values[index]);
    if (result == CUDA_OK)
        result = cuda->device_memory(&size, device);
    if (result != CUDA_OK)
        return result;
    bool flushes = cuda->flush_writes != NULL && (values[OPTIONS] & CUDA_FLUSH_OPTION_HOST) != 0;
    *makes_direct_out = values[MADE_DIRECT] != 0;
    *traits_out = (rt_gpu_traits){
        .size = size,
        .driver = (uint32_t)version,
        .major = (uint32_t)values[MAJOR],
        .minor = (uint32_t)values[MINOR],
        .shares = values[APART] != 0 && values[SHARES] != 0,
        .dma_buf = values[DMA_BUF] != 0 && cuda->range_export != NULL,
        .direct = values[DIRECT] != 0,
        .writes_numbers = values[NUMBERS] != 0 && cuda->write_number != NULL,
        .flush = values[ORDERING] >= CUDA_ORDERING_OWNER ? RT_GPU_ORDERED
                 : flushes                               ? RT_GPU_FLUSHED
                                                         : RT_GPU_READ,
    };
    result = cuda->device_name(traits_out->name, sizeof traits_out->name, device);
    return result == CUDA_OK ? cuda->device_pci(traits_out->pci, sizeof traits_out->pci, device) : result;
}

/* Finds a GPU and reads its traits. */
static int gpu_find(const cuda_driver *cuda, uint32_t ordinal, rt_gpu *gpu_out, rt_detail *detail)
{
    uint32_t count = 0;
    int status = rt_gpu_count(&count, detail);
    if (status != RT_OK)
        return status;
    if (ordinal >= count)
        return rt_fail(detail, RT_E_NOT_FOUND, 0,
                       "there is no cuda:%u: this process sees %u (`nvidia-smi -L`, CUDA_VISIBLE_DEVICES)", ordinal, count);
    gpu_out->ordinal = ordinal;
    cuda_result result = cuda->device_get(&gpu_out->device, (int)ordinal);
    if (result == CUDA_OK)
        result = traits_read(cuda, gpu_out->device, &gpu_out->traits, &gpu_out->makes_direct);
    return result == CUDA_OK ? RT_OK : gpu_fail(detail, result, ordinal, "read the traits");
}

int rt_gpu_describe(uint32_t ordinal, rt_gpu_traits *traits_out, rt_detail *detail)
{
    const cuda_driver *cuda;
    int status = gpu_driver(&cuda, detail);
    if (status != RT_OK)
        return status;
    rt_gpu found = {0};
    status = gpu_find(cuda, ordinal, &found, detail);
    *traits_out = found.traits;
    return status;
}

int rt_gpu_check_sharing(uint32_t ordinal, const rt_gpu_traits *traits, rt_detail *detail)
{
    if (traits->shares)
        return RT_OK;
    return rt_fail(
        detail, RT_E_UNSUPPORTED, 0,
        "cannot make memory that peers reach on cuda:%u (%s): this driver shares no memory by a descriptor; that takes one of "
        "CUDA 11.3 or newer, and in a virtual machine a GPU that is passed through; or use memory of the host",
        ordinal, traits->name);
}

int rt_gpu_check_dma_buf(uint32_t ordinal, const rt_gpu_traits *traits, rt_detail *detail)
{
    if (traits->dma_buf)
        return RT_OK;
    return rt_fail(
        detail, RT_E_UNSUPPORTED, 0,
        "cuda:%u (%s, driver of CUDA %u.%u) gives no dma-buf: that takes CUDA 11.7, the open kernel modules (`modinfo -F "
        "license nvidia` says Dual MIT/GPL), Linux 5.12, and a data centre or professional GPU",
        ordinal, traits->name, traits->driver / 1000, traits->driver % 1000 / 10);
}

/* ---- opening ---- */

/* Makes the parts that live in the context; undoes all of them when one fails. */
static cuda_result parts_make(const cuda_driver *cuda, rt_gpu *gpu)
{
    const size_t page = (GPU_MARKS + 1) * sizeof(uint64_t);
    void *words = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (words == MAP_FAILED)
        return CUDA_E_OUT_OF_MEMORY;
    cuda_result result = cuda->host_register(words, page, CUDA_REGISTER_PORTABLE);
    if (result != CUDA_OK)
        goto unmap;
    result = cuda->stream_create(&gpu->stream, CUDA_STREAM_NON_BLOCKING);
    if (result != CUDA_OK)
        goto unpin;
    result = cuda->event_create(&gpu->order, CUDA_EVENT_NO_TIMING);
    if (result != CUDA_OK)
        goto destroy_stream;
    gpu->words = words;
    return CUDA_OK;

destroy_stream:
    cuda->stream_destroy(gpu->stream);
unpin:
    cuda->host_unregister(words);
unmap:
    munmap(words, page);
    return result;
}

static int gpu_make(const cuda_driver *cuda, uint32_t ordinal, rt_gpu **gpu_out, rt_detail *detail)
{
    gpu_entry entry;
    rt_gpu *gpu = calloc(1, sizeof *gpu);
    if (gpu == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory to open cuda:%u", ordinal);
    int status = gpu_find(cuda, ordinal, gpu, detail);
    if (status != RT_OK)
        goto free_gpu;
    cuda_result result = cuda->primary_retain(&gpu->context, gpu->device);
    if (result != CUDA_OK) {
        status = gpu_fail(detail, result, ordinal, "make the context");
        goto free_gpu;
    }
    status = gpu_enter(gpu, &entry, "enter the context", detail);
    if (status != RT_OK)
        goto release;
    result = parts_make(cuda, gpu);
    gpu_leave(&entry);
    if (result != CUDA_OK) {
        status = gpu_fail(detail, result, ordinal, "make a stream for copies");
        goto release;
    }
    rt_mutex_begin(&gpu->lock, NULL, RT_RANK_LAST);
    *gpu_out = gpu;
    return RT_OK;

release:
    cuda->primary_release(gpu->device);
free_gpu:
    free(gpu);
    return status;
}

int rt_gpu_open(uint32_t ordinal, rt_gpu **gpu_out, rt_detail *detail)
{
    const cuda_driver *cuda;
    int status = gpu_driver(&cuda, detail);
    if (status != RT_OK)
        return status;
    if (ordinal >= GPUS_MAX)
        return rt_fail(detail, RT_E_NOT_FOUND, 0, "there is no cuda:%u: at most %d GPUs are seen", ordinal, GPUS_MAX);
    pthread_mutex_lock(&gpus_lock);
    if (gpus[ordinal] == NULL)
        status = gpu_make(cuda, ordinal, &gpus[ordinal], detail);
    *gpu_out = gpus[ordinal];
    pthread_mutex_unlock(&gpus_lock);
    return status;
}

const rt_gpu_traits *rt_gpu_traits_of(const rt_gpu *gpu)
{
    return &gpu->traits;
}

int rt_gpu_of(uint64_t address, int32_t *ordinal_out, rt_detail *detail)
{
    const cuda_driver *cuda;
    int type = 0, managed = 0, ordinal = -1;
    const int attributes[] = {CUDA_P_MEMORY_TYPE, CUDA_P_IS_MANAGED, CUDA_P_ORDINAL};
    void *values[] = {&type, &managed, &ordinal};
    *ordinal_out = -1;
    int status = gpu_driver(&cuda, detail);
    if (status == RT_E_UNAVAILABLE) { /* without a GPU all memory is the host's */
        rt_detail_clear(detail);
        return RT_OK;
    }
    if (status != RT_OK)
        return status;
    cuda_result result = cuda->pointer_attributes(3, attributes, values, address);
    if (result != CUDA_OK)
        return rt_fail(detail, RT_E_SYSTEM, 0, "cannot ask CUDA about the address 0x%llx: error %d", (unsigned long long)address,
                       result);
    if (managed != 0)
        return rt_fail(
            detail, RT_E_UNSUPPORTED, 0,
            "the memory at 0x%llx is managed (cudaMallocManaged), which moves between host and GPU: copy the tensor into memory "
            "of one of them",
            (unsigned long long)address);
    if (type == CUDA_MEMORY_DEVICE)
        *ordinal_out = ordinal;
    return RT_OK;
}
