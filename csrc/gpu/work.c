/* work.c: copies by the GPU, numbers that tell their end, marks of the caller's streams, the order between streams, flushing.
 *
 * A stream writes a number into a word of pinned memory when it gets there, so that to look is a load: no call of CUDA, no lock.
 * Where streams write no numbers, a thread of the driver adds 1, and every number is 1 more than the one before. */
#include "gpu/driver.h"

#include "base/lock_order.h"
#include "base/order.h"

/* Called by a thread of the driver when the stream gets here. */
static void word_advance(void *word)
{
    rt_store_release_u64(word, rt_load_acquire_u64(word) + 1);
}

/* Lets `stream` write `value`, which is 1 more than the last one, into a word. */
static cuda_result number_put(const cuda_driver *cuda, const rt_gpu *gpu, cuda_stream stream, uint64_t *word, uint64_t value)
{
    if (gpu->traits.writes_numbers)
        return cuda->write_number(stream, (cuda_address)(uintptr_t)word, value, 0);
    return cuda->host_call(stream, word_advance, word);
}

int rt_gpu_copy(rt_gpu *gpu, uint64_t to, uint64_t from, uint64_t size, rt_detail *detail)
{
    gpu_entry entry;
    int status = gpu_enter(gpu, &entry, "begin a copy", detail);
    if (status != RT_OK)
        return status;
    cuda_result result = entry.cuda->copy_async(to, from, size, gpu->stream);
    gpu_leave(&entry);
    return result == CUDA_OK ? RT_OK
                             : gpu_fail(detail, result, gpu->ordinal, "begin a copy of %llu bytes", (unsigned long long)size);
}

int rt_gpu_number(rt_gpu *gpu, uint64_t *number_out, rt_detail *detail)
{
    gpu_entry entry;
    int status = gpu_enter(gpu, &entry, "number a copy", detail);
    if (status != RT_OK)
        return status;
    pthread_mutex_lock(&gpu->lock);
    cuda_result result = number_put(entry.cuda, gpu, gpu->stream, gpu->words, gpu->number + 1);
    if (result == CUDA_OK)
        *number_out = ++gpu->number;
    pthread_mutex_unlock(&gpu->lock);
    gpu_leave(&entry);
    return result == CUDA_OK ? RT_OK : gpu_fail(detail, result, gpu->ordinal, "number a copy");
}

bool rt_gpu_reached(const rt_gpu *gpu, uint64_t number)
{
    return rt_load_acquire_u64(gpu->words) >= number; /* pairs with the write of the stream, behind the bytes of its copies */
}

int rt_gpu_check(rt_gpu *gpu, rt_detail *detail)
{
    gpu_entry entry;
    int status = gpu_enter(gpu, &entry, "look for the end of copies", detail);
    if (status != RT_OK)
        return status;
    cuda_result result = entry.cuda->stream_query(gpu->stream);
    gpu_leave(&entry);
    return result == CUDA_OK || result == CUDA_E_NOT_READY ? RT_OK : gpu_fail(detail, result, gpu->ordinal, "end copies");
}

/* ---- the caller's streams ---- */

/* A captured stream holds no work, but a plan for later: to wait for it would be to wait for ever, or to change the plan. */
static int stream_check(const cuda_driver *cuda, const rt_gpu *gpu, void *stream, rt_detail *detail)
{
    int capturing = 0;
    cuda_result result = cuda->stream_capturing(stream, &capturing);
    if (result != CUDA_OK)
        return gpu_fail(detail, result, gpu->ordinal, "look at a stream");
    if (capturing != 0)
        return rt_fail(
            detail, RT_E_INVALID, 0,
            "cannot wait for a stream of cuda:%u that is being captured into a graph: its work has not begun; send and receive "
            "outside of the capture",
            gpu->ordinal);
    return RT_OK;
}

/* The index of a free mark, now taken, or GPU_MARKS. One that was dropped before it was reached is free when it is. */
static uint32_t mark_take(rt_gpu *gpu)
{
    for (uint32_t tried = 0; tried < GPU_MARKS; tried++) {
        uint32_t index = (gpu->next_mark + tried) % GPU_MARKS;
        if (gpu->is_taken[index] || rt_load_acquire_u64(&gpu->words[1 + index]) != gpu->wanted[index])
            continue;
        gpu->is_taken[index] = true;
        gpu->next_mark = index + 1;
        return index;
    }
    return GPU_MARKS;
}

/* Under the lock. */
static int mark_put(rt_gpu *gpu, const cuda_driver *cuda, void *stream, rt_gpu_mark *mark_out, rt_detail *detail)
{
    uint32_t index = mark_take(gpu);
    if (index == GPU_MARKS)
        return rt_fail(detail, RT_E_BUSY, 0,
                       "cannot wait for one more stream of cuda:%u: %d are waited for; receive or release some tensors first",
                       gpu->ordinal, GPU_MARKS);
    uint64_t *word = &gpu->words[1 + index], value = gpu->wanted[index] + 1;
    cuda_result result = number_put(cuda, gpu, stream, word, value);
    if (result != CUDA_OK) {
        gpu->is_taken[index] = false;
        return gpu_fail(detail, result, gpu->ordinal, "mark the end of a stream's work");
    }
    gpu->wanted[index] = value;
    *mark_out = (rt_gpu_mark){word, value};
    return RT_OK;
}

int rt_gpu_mark_set(rt_gpu *gpu, void *stream, rt_gpu_mark *mark_out, rt_detail *detail)
{
    gpu_entry entry;
    int status = gpu_enter(gpu, &entry, "mark the end of a stream's work", detail);
    if (status != RT_OK)
        return status;
    status = stream_check(entry.cuda, gpu, stream, detail);
    if (status == RT_OK) {
        pthread_mutex_lock(&gpu->lock);
        status = mark_put(gpu, entry.cuda, stream, mark_out, detail);
        pthread_mutex_unlock(&gpu->lock);
    }
    gpu_leave(&entry);
    return status;
}

bool rt_gpu_mark_reached(const rt_gpu_mark *mark)
{
    return rt_load_acquire_u64(mark->word) >= mark->wanted; /* pairs with the write of the stream */
}

void rt_gpu_mark_drop(rt_gpu *gpu, rt_gpu_mark *mark)
{
    if (gpu_check_fork(NULL) != RT_OK)
        return; /* the lock may be held by a thread that the child does not have */
    pthread_mutex_lock(&gpu->lock);
    gpu->is_taken[mark->word - gpu->words - 1] = false;
    pthread_mutex_unlock(&gpu->lock);
    *mark = (rt_gpu_mark){0};
}

/* Lets `later` wait for what `earlier` holds now. */
static int streams_order(rt_gpu *gpu, void *stream, bool is_earlier, rt_detail *detail)
{
    gpu_entry entry;
    int status = gpu_enter(gpu, &entry, "order streams", detail);
    if (status != RT_OK)
        return status;
    const cuda_driver *cuda = entry.cuda;
    status = stream_check(cuda, gpu, stream, detail);
    if (status == RT_OK) {
        pthread_mutex_lock(&gpu->lock); /* the event is recorded for one wait at a time; the wait keeps what was recorded */
        cuda_result result = cuda->event_record(gpu->order, is_earlier ? stream : gpu->stream);
        if (result == CUDA_OK)
            result = cuda->stream_wait(is_earlier ? gpu->stream : stream, gpu->order, 0);
        pthread_mutex_unlock(&gpu->lock);
        if (result != CUDA_OK)
            status = gpu_fail(detail, result, gpu->ordinal, "order streams");
    }
    gpu_leave(&entry);
    return status;
}

int rt_gpu_after(rt_gpu *gpu, void *stream, rt_detail *detail)
{
    return streams_order(gpu, stream, true, detail);
}

int rt_gpu_before(rt_gpu *gpu, void *stream, rt_detail *detail)
{
    return streams_order(gpu, stream, false, detail);
}

/* ---- the host, and NICs ---- */

int rt_gpu_pin(rt_gpu *gpu, void *address, uint64_t size, bool *was_pinned_out, rt_detail *detail)
{
    gpu_entry entry;
    int status = gpu_enter(gpu, &entry, "pin memory of the host", detail);
    if (status != RT_OK)
        return status;
    const int attributes[] = {CUDA_P_MEMORY_TYPE};
    int first = 0, last = 0;
    void *firsts[] = {&first}, *lasts[] = {&last};
    const cuda_address begin = (cuda_address)(uintptr_t)address;
    cuda_result result = entry.cuda->host_register(address, size, CUDA_REGISTER_PORTABLE);
    *was_pinned_out = result == CUDA_E_ALREADY_PINNED &&
                      entry.cuda->pointer_attributes(1, attributes, firsts, begin) == CUDA_OK && first == CUDA_MEMORY_HOST &&
                      entry.cuda->pointer_attributes(1, attributes, lasts, begin + size - 1) == CUDA_OK &&
                      last == CUDA_MEMORY_HOST;
    gpu_leave(&entry);
    if (result == CUDA_OK || *was_pinned_out)
        return RT_OK;
    if (result == CUDA_E_ALREADY_PINNED)
        return rt_fail(
            detail, RT_E_EXISTS, 0,
            "cannot pin %llu bytes at %p for cuda:%u: a part of them is registered with CUDA, the rest is not; unregister it "
            "(cudaHostUnregister)",
            (unsigned long long)size, address, gpu->ordinal);
    return gpu_fail(detail, result, gpu->ordinal, "pin %llu bytes of the host's memory", (unsigned long long)size);
}

int rt_gpu_unpin(rt_gpu *gpu, void *address, rt_detail *detail)
{
    gpu_entry entry;
    int status = gpu_enter(gpu, &entry, "unpin memory of the host", detail);
    if (status != RT_OK)
        return status;
    cuda_result result = entry.cuda->host_unregister(address);
    gpu_leave(&entry);
    return result == CUDA_OK ? RT_OK : gpu_fail(detail, result, gpu->ordinal, "unpin the host's memory at %p", address);
}

int rt_gpu_flush(rt_gpu *gpu, rt_detail *detail)
{
    gpu_entry entry;
    if (gpu->traits.flush == RT_GPU_ORDERED)
        return RT_OK;
    if (gpu->traits.flush == RT_GPU_READ)
        return rt_fail(
            detail, RT_E_UNSUPPORTED, 0,
            "cuda:%u (%s) neither orders what a NIC writes nor flushes it, so that its work could see old bytes: READ the last "
            "bytes by the same NIC, or receive into memory of the host",
            gpu->ordinal, gpu->traits.name);
    int status = gpu_enter(gpu, &entry, "flush what a NIC wrote", detail);
    if (status != RT_OK)
        return status;
    cuda_result result = entry.cuda->flush_writes(CUDA_FLUSH_TARGET, CUDA_FLUSH_TO_OWNER);
    gpu_leave(&entry);
    return result == CUDA_OK ? RT_OK : gpu_fail(detail, result, gpu->ordinal, "flush what a NIC wrote");
}
