/* test_gpu_work.c: csrc/gpu over the fake CUDA driver: copies by the GPU, their numbers, marks of a user's streams, flushing. */
#include "cuda_user.h"

#include "gpu/driver.h"

#include <sys/mman.h>

enum { SIZE = 1 << 20, WORDS = 0, CALLS = 1, THREADS = 4, ROUNDS = 50 };

static rt_gpu *gpu; /* whose streams write numbers; calls_gpu's do not, so that calls of the host count for them */
static rt_gpu *calls_gpu;
static rt_gpu_memory first, second;

static void begin(void)
{
    if (gpu != NULL)
        return;
    fake_take();
    uint32_t count;
    CHECK_INT(rt_gpu_count(&count, &detail), RT_OK); /* begins the driver, which reads its environment */
    faked.fake_cuda_set_attribute(CALLS, CUDA_A_WRITES_NUMBERS, 0);
    CHECK_INT(rt_gpu_open(WORDS, &gpu, &detail), RT_OK);
    CHECK_INT(rt_gpu_open(CALLS, &calls_gpu, &detail), RT_OK);
    CHECK(!rt_gpu_traits_of(calls_gpu)->writes_numbers);
    CHECK_INT(rt_gpu_memory_make(gpu, SIZE, &first, &detail), RT_OK);
    CHECK_INT(rt_gpu_memory_make(gpu, SIZE, &second, &detail), RT_OK);
}

static void no_rule_is_broken(void)
{
    CHECK_STR(faked.fake_cuda_last_violation(), "");
    CHECK_INT(faked.fake_cuda_violations(), 0);
}

static uint8_t byte_at(uint64_t address)
{
    uint8_t byte = 0;
    CHECK(faked.fake_cuda_peek(address, &byte, 1));
    return byte;
}

static void fill(uint64_t address, uint8_t value, cuda_stream stream)
{
    CHECK_INT(user.fill_async(address, value, SIZE, stream), CUDA_OK);
}

static void finish(rt_gpu *which)
{
    uint64_t number;
    CHECK_INT(rt_gpu_number(which, &number, &detail), RT_OK);
    CHECK(!rt_gpu_reached(which, number));
    faked.fake_cuda_work();
    CHECK(rt_gpu_reached(which, number));
}

/* ---- copies and streams ---- */

static void a_copy_after_a_stream_takes_what_the_stream_makes(void)
{
    begin();
    cuda_stream stream = user_stream(WORDS);
    fill(first.address, 9, stream);
    CHECK_INT(rt_gpu_after(gpu, stream, &detail), RT_OK);
    CHECK_INT(rt_gpu_copy(gpu, second.address, first.address, SIZE, &detail), RT_OK);
    CHECK(byte_at(second.address) != 9); /* nothing has waited yet */
    user.context_push(gpu->context);
    CHECK_INT(user.stream_synchronize(gpu->stream), CUDA_OK); /* ours alone is waited for */
    user_leave();
    CHECK_INT(byte_at(second.address), 9);
    CHECK_INT(byte_at(second.address + SIZE - 1), 9);
    user_leave();
    no_rule_is_broken();
}

static void a_copy_that_waits_for_no_stream_takes_old_bytes(void)
{
    begin();
    cuda_stream stream = user_stream(WORDS);
    uint64_t number;
    fill(first.address, 3, stream);
    CHECK_INT(user.stream_synchronize(stream), CUDA_OK);
    fill(first.address, 4, stream);
    CHECK_INT(rt_gpu_copy(gpu, second.address, first.address, SIZE, &detail), RT_OK);
    CHECK_INT(rt_gpu_number(gpu, &number, &detail), RT_OK);
    user.context_push(gpu->context);
    CHECK_INT(user.stream_synchronize(gpu->stream), CUDA_OK); /* only ours is waited for */
    user_leave();
    CHECK_INT(byte_at(second.address), 3);
    faked.fake_cuda_work();
    user_leave();
}

static void work_before_a_copy_comes_before_it(void)
{
    begin();
    cuda_stream stream = user_stream(WORDS);
    static uint8_t bytes[SIZE] __attribute__((aligned(4096)));
    bool was_pinned;
    CHECK_INT(rt_gpu_pin(gpu, bytes, SIZE, &was_pinned, &detail), RT_OK);
    fill(first.address, 11, stream);
    CHECK_INT(rt_gpu_after(gpu, stream, &detail), RT_OK);
    CHECK_INT(rt_gpu_copy(gpu, second.address, first.address, SIZE, &detail), RT_OK);
    CHECK_INT(rt_gpu_before(gpu, stream, &detail), RT_OK);
    CHECK_INT(user.copy_async((cuda_address)(uintptr_t)bytes, second.address, SIZE, stream), CUDA_OK);
    CHECK_INT(bytes[0], 0);
    CHECK_INT(user.stream_synchronize(stream), CUDA_OK); /* the user's stream alone is waited for */
    CHECK_INT(bytes[0], 11);
    CHECK_INT(bytes[SIZE - 1], 11);
    CHECK_INT(rt_gpu_unpin(gpu, bytes, &detail), RT_OK);
    user_leave();
    no_rule_is_broken();
}

static void copies_to_and_from_the_host_take_pinned_memory(void)
{
    begin();
    static uint8_t bytes[2 * SIZE] __attribute__((aligned(4096)));
    bool was_pinned;
    memset(bytes, 5, SIZE);
    CHECK_INT(rt_gpu_pin(gpu, bytes, sizeof bytes, &was_pinned, &detail), RT_OK);
    CHECK_INT(rt_gpu_copy(gpu, first.address, (uint64_t)(uintptr_t)bytes, SIZE, &detail), RT_OK);
    CHECK_INT(rt_gpu_copy(gpu, (uint64_t)(uintptr_t)(bytes + SIZE), first.address, SIZE, &detail), RT_OK);
    finish(gpu);
    CHECK_BYTES(bytes, bytes + SIZE, SIZE);
    CHECK_INT(rt_gpu_unpin(gpu, bytes, &detail), RT_OK);
    no_rule_is_broken();
}

/* ---- numbers and marks, written by streams and counted by calls ---- */

static void numbers_ascend_on(rt_gpu *which)
{
    uint64_t numbers[3];
    for (int index = 0; index < 3; index++)
        CHECK_INT(rt_gpu_number(which, &numbers[index], &detail), RT_OK);
    CHECK_INT(numbers[1], numbers[0] + 1);
    CHECK_INT(numbers[2], numbers[0] + 2);
    CHECK(rt_gpu_reached(which, numbers[0] - 1));
    CHECK(!rt_gpu_reached(which, numbers[0]));
    CHECK_INT(rt_gpu_check(which, &detail), RT_OK); /* asking is not waiting */
    CHECK(!rt_gpu_reached(which, numbers[0]));
    faked.fake_cuda_work();
    CHECK(rt_gpu_reached(which, numbers[2]));
    CHECK(!rt_gpu_reached(which, numbers[2] + 1));
}

static void numbers_ascend_and_are_reached_with_their_copies(void)
{
    begin();
    numbers_ascend_on(gpu);
    numbers_ascend_on(calls_gpu);
}

static void mark_tells_the_end_on(rt_gpu *which, int device)
{
    cuda_stream busy = user_stream(device), idle = user_stream(device);
    rt_gpu_memory memory;
    rt_gpu_mark early, late, other;
    CHECK_INT(rt_gpu_memory_make(which, SIZE, &memory, &detail), RT_OK);
    CHECK_INT(rt_gpu_mark_set(which, busy, &early, &detail), RT_OK);
    fill(memory.address, 3, busy);
    CHECK_INT(rt_gpu_mark_set(which, busy, &late, &detail), RT_OK);
    CHECK_INT(rt_gpu_mark_set(which, idle, &other, &detail), RT_OK);
    CHECK(!rt_gpu_mark_reached(&early) && !rt_gpu_mark_reached(&late) && !rt_gpu_mark_reached(&other));
    CHECK_INT(user.stream_synchronize(idle), CUDA_OK); /* streams do not wait for each other */
    CHECK(rt_gpu_mark_reached(&other) && !rt_gpu_mark_reached(&early));
    CHECK_INT(user.stream_synchronize(busy), CUDA_OK);
    CHECK(rt_gpu_mark_reached(&early) && rt_gpu_mark_reached(&late));
    CHECK_INT(byte_at(memory.address), 3);
    rt_gpu_mark_drop(which, &early);
    rt_gpu_mark_drop(which, &late);
    rt_gpu_mark_drop(which, &other);
    rt_gpu_memory_drop(&memory);
    user_leave();
    user_leave();
}

static void a_mark_tells_the_end_of_one_streams_work(void)
{
    begin();
    mark_tells_the_end_on(gpu, WORDS);
    mark_tells_the_end_on(calls_gpu, CALLS);
    no_rule_is_broken();
}

static void the_default_stream_can_be_marked(void)
{
    begin();
    rt_gpu_mark mark;
    user_stream(WORDS);
    fill(first.address, 31, NULL);
    CHECK_INT(rt_gpu_mark_set(gpu, NULL, &mark, &detail), RT_OK);
    CHECK(!rt_gpu_mark_reached(&mark));
    CHECK_INT(user.stream_synchronize(NULL), CUDA_OK);
    CHECK(rt_gpu_mark_reached(&mark));
    rt_gpu_mark_drop(gpu, &mark);
    user_leave();
}

static void marks_that_are_dropped_early_are_used_again_when_they_are_reached(void)
{
    begin();
    static rt_gpu_mark marks[GPU_MARKS];
    rt_gpu_mark more;
    cuda_stream stream = user_stream(WORDS);
    for (int index = 0; index < GPU_MARKS; index++)
        CHECK_INT(rt_gpu_mark_set(gpu, stream, &marks[index], &detail), RT_OK);
    CHECK_INT(rt_gpu_mark_set(gpu, stream, &more, &detail), RT_E_BUSY);
    CHECK_HAS(detail.text, "cannot wait for one more stream of cuda:0: 511 are waited for");
    rt_gpu_mark_drop(gpu, &marks[7]);
    CHECK_INT(rt_gpu_mark_set(gpu, stream, &more, &detail), RT_E_BUSY); /* its number is still to be written */
    CHECK_INT(user.stream_synchronize(stream), CUDA_OK);
    CHECK_INT(rt_gpu_mark_set(gpu, stream, &more, &detail), RT_OK);
    CHECK(!rt_gpu_mark_reached(&more));
    CHECK(rt_gpu_mark_reached(&marks[6]));
    rt_gpu_mark none;
    CHECK_INT(rt_gpu_mark_set(gpu, stream, &none, &detail), RT_E_BUSY); /* one that is reached is still its taker's */
    CHECK_INT(user.stream_synchronize(stream), CUDA_OK);
    CHECK(rt_gpu_mark_reached(&more));
    rt_gpu_mark_drop(gpu, &more);
    for (int index = 0; index < GPU_MARKS; index++)
        if (index != 7)
            rt_gpu_mark_drop(gpu, &marks[index]);
    user_leave();
}

static void a_mark_that_could_not_be_set_is_free(void)
{
    begin();
    rt_gpu_mark mark;
    cuda_stream stream = user_stream(WORDS);
    for (int index = 0; index <= GPU_MARKS; index++) {
        faked.fake_cuda_fail("cuStreamWriteValue64_v2", 1, CUDA_E_UNKNOWN);
        CHECK_INT(rt_gpu_mark_set(gpu, stream, &mark, &detail), RT_E_SYSTEM);
        CHECK(faked.fake_cuda_triggered());
    }
    CHECK_INT(rt_gpu_mark_set(gpu, stream, &mark, &detail), RT_OK);
    CHECK_INT(user.stream_synchronize(stream), CUDA_OK);
    CHECK(rt_gpu_mark_reached(&mark));
    rt_gpu_mark_drop(gpu, &mark);
    user_leave();
}

static void a_stream_that_is_captured_is_refused(void)
{
    begin();
    rt_gpu_mark mark;
    void *graph;
    cuda_stream stream = user_stream(WORDS);
    CHECK_INT(user.capture_begin(stream, 0), CUDA_OK);
    CHECK_INT(rt_gpu_mark_set(gpu, stream, &mark, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "is being captured into a graph");
    CHECK_INT(rt_gpu_after(gpu, stream, &detail), RT_E_INVALID);
    CHECK_INT(rt_gpu_before(gpu, stream, &detail), RT_E_INVALID);
    CHECK_INT(user.capture_end(stream, &graph), CUDA_OK);
    CHECK_INT(rt_gpu_before(gpu, stream, &detail), RT_OK);
    user_leave();
    no_rule_is_broken();
}

/* ---- the end of all ---- */

static void a_context_that_failed_is_told_and_no_number_comes(void)
{
    begin();
    uint64_t number, later;
    CHECK_INT(rt_gpu_number(gpu, &number, &detail), RT_OK);
    faked.fake_cuda_break(true);
    faked.fake_cuda_work();
    CHECK(!rt_gpu_reached(gpu, number));
    CHECK_INT(rt_gpu_check(gpu, &detail), RT_E_DEVICE_LOST);
    CHECK_HAS(detail.text, "cannot end copies on cuda:0: CUDA_ERROR_ILLEGAL_ADDRESS (700)");
    CHECK_HAS(detail.text, "compute-sanitizer");
    CHECK_INT(rt_gpu_number(gpu, &later, &detail), RT_E_DEVICE_LOST);
    faked.fake_cuda_break(false);
    faked.fake_cuda_work();
    CHECK(rt_gpu_reached(gpu, number));
}

/* ---- threads ---- */

typedef struct worker {
    pthread_t thread;
    cuda_stream stream;
    rt_gpu_memory from, to;
    int status;
} worker;

static int worker_round(worker *own)
{
    rt_detail why;
    uint64_t number;
    rt_gpu_mark mark;
    int status = rt_gpu_mark_set(gpu, own->stream, &mark, &why);
    if (status != RT_OK)
        return status;
    if ((status = rt_gpu_after(gpu, own->stream, &why)) != RT_OK ||
        (status = rt_gpu_copy(gpu, own->to.address, own->from.address, SIZE, &why)) != RT_OK ||
        (status = rt_gpu_number(gpu, &number, &why)) != RT_OK)
        return status;
    while (!rt_gpu_mark_reached(&mark) || !rt_gpu_reached(gpu, number))
        faked.fake_cuda_work();
    rt_gpu_mark_drop(gpu, &mark);
    return RT_OK;
}

static void *worker_run(void *argument)
{
    worker *own = argument;
    for (int round = 0; round < ROUNDS && own->status == RT_OK; round++)
        own->status = worker_round(own);
    return NULL;
}

static void threads_copy_and_mark_at_the_same_time(void)
{
    begin();
    static worker workers[THREADS];
    for (uint8_t index = 0; index < THREADS; index++) {
        worker *own = &workers[index];
        own->stream = user_stream(WORDS);
        CHECK_INT(rt_gpu_memory_make(gpu, SIZE, &own->from, &detail), RT_OK);
        CHECK_INT(rt_gpu_memory_make(gpu, SIZE, &own->to, &detail), RT_OK);
        fill(own->from.address, (uint8_t)(100 + index), own->stream);
        user_leave();
    }
    for (int index = 0; index < THREADS; index++)
        CHECK_INT(pthread_create(&workers[index].thread, NULL, worker_run, &workers[index]), 0);
    for (int index = 0; index < THREADS; index++)
        pthread_join(workers[index].thread, NULL);
    for (int index = 0; index < THREADS; index++) {
        CHECK_INT(workers[index].status, RT_OK);
        CHECK_INT(byte_at(workers[index].to.address + SIZE - 1), 100 + index);
        rt_gpu_memory_drop(&workers[index].from);
        rt_gpu_memory_drop(&workers[index].to);
    }
    no_rule_is_broken();
}

static const check_test tests[] = {
    CHECK_TEST(a_copy_that_waits_for_no_stream_takes_old_bytes),
    CHECK_TEST(a_copy_after_a_stream_takes_what_the_stream_makes),
    CHECK_TEST(work_before_a_copy_comes_before_it),
    CHECK_TEST(copies_to_and_from_the_host_take_pinned_memory),
    CHECK_TEST(numbers_ascend_and_are_reached_with_their_copies),
    CHECK_TEST(a_mark_tells_the_end_of_one_streams_work),
    CHECK_TEST(the_default_stream_can_be_marked),
    CHECK_TEST(marks_that_are_dropped_early_are_used_again_when_they_are_reached),
    CHECK_TEST(a_mark_that_could_not_be_set_is_free),
    CHECK_TEST(a_stream_that_is_captured_is_refused),
    CHECK_TEST(threads_copy_and_mark_at_the_same_time),
    CHECK_TEST(a_context_that_failed_is_told_and_no_number_comes),
};

CHECK_MAIN(tests)
