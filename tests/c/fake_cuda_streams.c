/* fake_cuda_streams.c: the fake CUDA driver's streams: work is queued, and done when somebody waits for it, or as the engine says. */
#include "fake_cuda_state.h"

#include "base/clock.h"

#include <assert.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

FAKE_CUDA_API cuda_result cuStreamSynchronize(cuda_stream stream);
FAKE_CUDA_API cuda_result cuMemsetD8Async(cuda_address to, unsigned char value, size_t size, cuda_stream stream);
FAKE_CUDA_API cuda_result cuMemcpyDtoD_v2(cuda_address to, cuda_address from, size_t size);
FAKE_CUDA_API cuda_result cuMemcpyDtoH_v2(void *to, cuda_address from, size_t size);
FAKE_CUDA_API cuda_result cuMemcpyHtoD_v2(cuda_address to, const void *from, size_t size);
FAKE_CUDA_API cuda_result cuStreamBeginCapture_v2(cuda_stream stream, int mode);
FAKE_CUDA_API cuda_result cuStreamEndCapture(cuda_stream stream, void **graph_out);

enum { RIPENING_YIELDS = 200 };
static const int64_t RIPENING_NS = 1000000;

static pthread_t ripening_thread;

/* ---- doing ---- */

/* The bytes of an end of a copy: of a GPU, or of the host. NULL: no such memory, or no right. */
static uint8_t *end_bytes(uint64_t address, uint64_t size, bool is_written)
{
    const fake_mapping *mapping = fake_find(address, 1);
    if (mapping == NULL)
        return fake_is_pinned(address, size) ? (uint8_t *)(uintptr_t)address : NULL;
    if (fake_find(address, size) == NULL || (is_written ? !mapping->is_writable : !mapping->is_readable))
        return NULL;
    return fake_bytes(mapping, address);
}

static void work_do(const fake_work *work)
{
    uint8_t *to = NULL, *from = NULL;
    switch (work->kind) {
    case FAKE_COPY:
        to = end_bytes(work->to, work->size, true);
        from = end_bytes(work->from, work->size, false);
        if (to != NULL && from != NULL)
            memcpy(to, from, work->size);
        else
            fake_violate("memory is gone while a copy of it is queued");
        break;
    case FAKE_FILL:
        to = end_bytes(work->to, work->size, true);
        if (to != NULL)
            memset(to, (int)work->value, work->size);
        else
            fake_violate("memory is gone while work on it is queued");
        break;
    case FAKE_NUMBER:
        to = end_bytes(work->to, sizeof work->value, true);
        if (to != NULL)
            __atomic_store_n((uint64_t *)(void *)to, work->value, __ATOMIC_RELEASE);
        else
            fake_violate("a word is gone while its number is queued");
        break;
    case FAKE_CALL:
        pthread_mutex_unlock(&fake_cuda.lock);
        work->call(work->argument);
        pthread_mutex_lock(&fake_cuda.lock);
        break;
    case FAKE_MARK:
    case FAKE_WAIT: break;
    }
}

/* Does the first piece of work; false where that cannot be done yet. */
static bool stream_step(fake_stream *stream)
{
    fake_work *work = stream->head;
    if (work == NULL || fake_cuda.is_broken)
        return false;
    if (work->kind == FAKE_WAIT && work->other->done < work->value) {
        fake_stream_run(work->other, work->value);
        return work->other->done >= work->value;
    }
    stream->head = work->next;
    if (stream->head == NULL)
        stream->tail = &stream->head;
    stream->is_running = true;
    work_do(work);
    stream->is_running = false;
    stream->done = work->number;
    free(work);
    pthread_cond_broadcast(&fake_cuda.changed);
    return true;
}

void fake_stream_run(fake_stream *stream, uint64_t number)
{
    while (stream->done < number) {
        if (stream->is_running)
            pthread_cond_wait(&fake_cuda.changed, &fake_cuda.lock);
        else if (!stream_step(stream))
            return;
    }
}

void fake_cuda_work(void)
{
    pthread_mutex_lock(&fake_cuda.lock);
    for (fake_stream *stream = fake_cuda.streams; stream != NULL; stream = stream->next)
        fake_stream_run(stream, stream->queued);
    pthread_mutex_unlock(&fake_cuda.lock);
}

/* A GPU works although nobody asks it: here after a while, in which a missing wait can show. */
static void *ripening_run(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&fake_cuda.lock);
    for (;;) {
        bool found = false;
        for (fake_stream *stream = fake_cuda.streams; stream != NULL; stream = stream->next)
            found = found || (stream->done < stream->ripe && !fake_cuda.is_broken);
        if (!found) {
            pthread_cond_wait(&fake_cuda.ripening, &fake_cuda.lock);
            continue;
        }
        pthread_mutex_unlock(&fake_cuda.lock);
        int64_t until = rt_clock_now_ns() + RIPENING_NS; /* beside busy processes, one yield takes milliseconds */
        for (int turn = 0; turn < RIPENING_YIELDS && rt_clock_now_ns() < until; turn++)
            sched_yield();
        pthread_mutex_lock(&fake_cuda.lock);
        for (fake_stream *stream = fake_cuda.streams; stream != NULL; stream = stream->next)
            fake_stream_run(stream, stream->ripe);
    }
    return NULL;
}

/* ---- queueing ---- */

fake_stream *fake_stream_make(int device, bool is_blocking)
{
    fake_stream *made = calloc(1, sizeof *made);
    assert(made != NULL);
    made->device = device;
    made->is_blocking = is_blocking;
    made->tail = &made->head;
    made->next = fake_cuda.streams;
    fake_cuda.streams = made;
    return made;
}

static fake_work *work_append(fake_stream *stream, enum fake_kind kind)
{
    fake_work *made = calloc(1, sizeof *made);
    assert(made != NULL);
    made->kind = kind;
    made->number = ++stream->queued;
    *stream->tail = made;
    stream->tail = &made->next;
    return made;
}

static void wait_append(fake_stream *stream, fake_stream *other, uint64_t number)
{
    if (other->done >= number)
        return;
    fake_work *work = work_append(stream, FAKE_WAIT);
    work->other = other;
    work->value = number;
}

/* The default stream and streams that are made blocking wait for each other. */
static fake_work *work_queue(fake_stream *stream, enum fake_kind kind)
{
    fake_stream *usual = fake_cuda.contexts[stream->device].default_stream;
    if (stream->is_blocking)
        wait_append(stream, usual, usual->queued);
    for (fake_stream *other = fake_cuda.streams; stream == usual && other != NULL; other = other->next)
        if (other->is_blocking && other->device == stream->device)
            wait_append(stream, other, other->queued);
    return work_append(stream, kind);
}

static fake_stream *stream_of(cuda_stream stream)
{
    return stream != NULL ? stream : fake_current()->default_stream;
}

static cuda_result queue_leave(fake_stream *stream)
{
    if (fake_cuda.engine == FAKE_EAGER)
        fake_stream_run(stream, stream->queued);
    return fake_leave(CUDA_OK);
}

/* Somebody will look at what comes of the work so far. */
static void stream_ripen(fake_stream *stream)
{
    stream->ripe = stream->queued;
    if (fake_cuda.engine != FAKE_RIPENING)
        return;
    if (ripening_thread == 0 && pthread_create(&ripening_thread, NULL, ripening_run, NULL) == 0)
        pthread_detach(ripening_thread);
    pthread_cond_signal(&fake_cuda.ripening);
}

/* ---- streams ---- */

cuda_result cuStreamCreate(cuda_stream *stream_out, unsigned flags)
{
    FAKE_ENTER(FAKE_CONTEXT | FAKE_UNSAFE);
    *stream_out = fake_stream_make(fake_current()->device, (flags & CUDA_STREAM_NON_BLOCKING) == 0);
    fake_cuda.live++;
    return fake_leave(CUDA_OK);
}

/* The stream stays in the list, since events may refer to it. */
cuda_result cuStreamDestroy_v2(cuda_stream stream)
{
    cuda_result result = fake_enter_to_end(__func__, FAKE_CONTEXT | FAKE_UNSAFE);
    fake_stream_run(stream, ((fake_stream *)stream)->queued);
    fake_cuda.live--;
    return fake_leave(result);
}

cuda_result cuStreamQuery(cuda_stream stream)
{
    FAKE_ENTER(FAKE_CONTEXT | FAKE_UNSAFE);
    const fake_stream *asked = stream_of(stream);
    return fake_leave(asked->done == asked->queued ? CUDA_OK : CUDA_E_NOT_READY);
}

cuda_result cuStreamSynchronize(cuda_stream stream)
{
    FAKE_ENTER(FAKE_CONTEXT | FAKE_UNSAFE);
    fake_stream *waited = stream_of(stream);
    work_queue(waited, FAKE_MARK);
    fake_stream_run(waited, waited->queued);
    return fake_leave(CUDA_OK);
}

cuda_result cuStreamWaitEvent(cuda_stream stream, cuda_event event, unsigned flags)
{
    FAKE_ENTER(FAKE_CONTEXT);
    (void)flags;
    const fake_event *awaited = event;
    fake_stream *waits = stream_of(stream);
    if (awaited->stream != NULL)
        wait_append(waits, awaited->stream, awaited->number);
    return queue_leave(waits);
}

cuda_result cuStreamIsCapturing(cuda_stream stream, int *status_out)
{
    FAKE_ENTER(FAKE_CONTEXT);
    *status_out = stream_of(stream)->is_capturing;
    return fake_leave(CUDA_OK);
}

/* A capture by this thread, in the global mode: what is queued on the stream meanwhile is of no interest here. */
cuda_result cuStreamBeginCapture_v2(cuda_stream stream, int mode)
{
    FAKE_ENTER(FAKE_CONTEXT);
    stream_of(stream)->is_capturing = true;
    fake_cuda.is_capturing = mode == 0;
    return fake_leave(CUDA_OK);
}

cuda_result cuStreamEndCapture(cuda_stream stream, void **graph_out)
{
    FAKE_ENTER(FAKE_CONTEXT);
    stream_of(stream)->is_capturing = fake_cuda.is_capturing = false;
    *graph_out = NULL;
    return fake_leave(CUDA_OK);
}

cuda_result cuLaunchHostFunc(cuda_stream stream, void (*call)(void *), void *argument)
{
    FAKE_ENTER(FAKE_CONTEXT);
    fake_stream *queue = stream_of(stream);
    fake_work *work = work_queue(queue, FAKE_CALL);
    work->call = call;
    work->argument = argument;
    stream_ripen(queue);
    return queue_leave(queue);
}

cuda_result cuStreamWriteValue64_v2(cuda_stream stream, cuda_address word, uint64_t value, unsigned flags)
{
    FAKE_ENTER(FAKE_CONTEXT);
    fake_stream *queue = stream_of(stream);
    if (fake_cuda.attributes[queue->device][CUDA_A_WRITES_NUMBERS] == 0)
        return fake_leave(CUDA_E_NOT_SUPPORTED);
    if (flags != 0 || word % sizeof value != 0 || end_bytes(word, sizeof value, true) == NULL)
        return fake_leave(CUDA_E_INVALID_VALUE);
    fake_work *work = work_queue(queue, FAKE_NUMBER);
    work->to = word;
    work->value = value;
    stream_ripen(queue);
    return queue_leave(queue);
}

/* ---- events ---- */

cuda_result cuEventCreate(cuda_event *event_out, unsigned flags)
{
    FAKE_ENTER(FAKE_CONTEXT);
    (void)flags;
    *event_out = calloc(1, sizeof(fake_event));
    assert(*event_out != NULL);
    fake_cuda.live++;
    return fake_leave(CUDA_OK);
}

cuda_result cuEventDestroy_v2(cuda_event event)
{
    cuda_result result = fake_enter_to_end(__func__, FAKE_CONTEXT);
    free(event);
    fake_cuda.live--;
    return fake_leave(result);
}

cuda_result cuEventRecord(cuda_event event, cuda_stream stream)
{
    FAKE_ENTER(FAKE_CONTEXT);
    fake_stream *queue = stream_of(stream);
    *(fake_event *)event = (fake_event){queue, work_queue(queue, FAKE_MARK)->number};
    return queue_leave(queue);
}

/* ---- copies ---- */

static bool is_pageable(uint64_t address, uint64_t size)
{
    return fake_find(address, 1) == NULL && !fake_is_pinned(address, size);
}

cuda_result cuMemcpyAsync(cuda_address to, cuda_address from, size_t size, cuda_stream stream)
{
    FAKE_ENTER(FAKE_CONTEXT);
    fake_stream *queue = stream_of(stream);
    if (is_pageable(to, size) || is_pageable(from, size)) {
        fake_violate("a copy on a stream has an end that is not pinned");
        return fake_leave(CUDA_E_INVALID_VALUE);
    }
    if (end_bytes(to, size, true) == NULL || end_bytes(from, size, false) == NULL)
        return fake_leave(CUDA_E_INVALID_VALUE);
    fake_work *work = work_queue(queue, FAKE_COPY);
    work->to = to;
    work->from = from;
    work->size = size;
    return queue_leave(queue);
}

cuda_result cuMemsetD8Async(cuda_address to, unsigned char value, size_t size, cuda_stream stream)
{
    FAKE_ENTER(FAKE_CONTEXT);
    fake_stream *queue = stream_of(stream);
    if (fake_find(to, size) == NULL || end_bytes(to, size, true) == NULL)
        return fake_leave(CUDA_E_INVALID_VALUE);
    fake_work *work = work_queue(queue, FAKE_FILL);
    work->to = to;
    work->size = size;
    work->value = value;
    return queue_leave(queue);
}

/* "Synchronous" between memory of GPUs it is only where the memory or the context asks for that. */
cuda_result cuMemcpyDtoD_v2(cuda_address to, cuda_address from, size_t size)
{
    FAKE_ENTER(FAKE_CONTEXT | FAKE_UNSAFE);
    const fake_mapping *target = fake_find(to, size), *source = fake_find(from, size);
    if (target == NULL || source == NULL || !target->is_writable)
        return fake_leave(CUDA_E_INVALID_VALUE);
    fake_stream *queue = stream_of(NULL);
    bool waits = target->synchronizes || source->synchronizes || (fake_current()->flags & CUDA_CONTEXT_SYNC_MEMOPS) != 0;
    fake_work *work = work_queue(queue, FAKE_COPY);
    work->to = to;
    work->from = from;
    work->size = size;
    if (waits)
        fake_stream_run(queue, queue->queued);
    return queue_leave(queue);
}

cuda_result cuMemcpyDtoH_v2(void *to, cuda_address from, size_t size)
{
    FAKE_ENTER(FAKE_CONTEXT | FAKE_UNSAFE);
    fake_stream *queue = stream_of(NULL);
    work_queue(queue, FAKE_MARK);
    fake_stream_run(queue, queue->queued);
    const uint8_t *bytes = fake_find(from, size) != NULL ? end_bytes(from, size, false) : NULL;
    if (bytes == NULL)
        return fake_leave(CUDA_E_INVALID_VALUE);
    memcpy(to, bytes, size);
    return fake_leave(CUDA_OK);
}

cuda_result cuMemcpyHtoD_v2(cuda_address to, const void *from, size_t size)
{
    FAKE_ENTER(FAKE_CONTEXT | FAKE_UNSAFE);
    fake_stream *queue = stream_of(NULL);
    work_queue(queue, FAKE_MARK);
    fake_stream_run(queue, queue->queued);
    uint8_t *bytes = fake_find(to, size) != NULL ? end_bytes(to, size, true) : NULL;
    if (bytes == NULL)
        return fake_leave(CUDA_E_INVALID_VALUE);
    memcpy(bytes, from, size);
    return fake_leave(CUDA_OK);
}
