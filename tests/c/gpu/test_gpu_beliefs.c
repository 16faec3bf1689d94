/* test_gpu_beliefs.c: the rules of CUDA's driver that csrc/gpu and the fake driver are built on (GPU.md lists them), each shown.
 *
 * They run over the fake, where they hold by construction, and on a real GPU with `RT_CUDA=libcuda.so.1`: a test that fails there is
 * a rule that the fake has wrong. Waits end after WAIT_NS. Nothing of the fake's own interface is used. */
#include "cuda_user.h"

#include "base/clock.h"

#include <sched.h>
#include <sys/mman.h>

enum { SIZE = 1 << 20 };
static const int64_t WAIT_NS = 20000000000;

static rt_gpu *gpu;

static void begin(void)
{
    const char *real = getenv("RT_CUDA");
    if (gpu != NULL)
        return;
    setenv("FAKE_CUDA_ENGINE", "ripening", 1);
    setenv("RDMATENSOR_LIBCUDA", real != NULL ? real : fake_path(), 1);
    user_take(getenv("RDMATENSOR_LIBCUDA"));
}

static void gpu_take(void)
{
    begin();
    if (rt_gpu_open(0, &gpu, &detail) != RT_OK)
        CHECK_STR(detail.text, "");
}

static rt_gpu_memory memory_make(uint64_t size)
{
    rt_gpu_memory memory;
    if (rt_gpu_memory_make(gpu, size, &memory, &detail) != RT_OK)
        CHECK_STR(detail.text, "");
    return memory;
}

static void number_await(uint64_t number)
{
    int64_t until = rt_clock_now_ns() + WAIT_NS;
    while (!rt_gpu_reached(gpu, number)) {
        CHECK(rt_clock_now_ns() < until);
        sched_yield();
    }
}

static void copy_now(uint64_t to, uint64_t from, uint64_t size)
{
    uint64_t number;
    CHECK_INT(rt_gpu_copy(gpu, to, from, size, &detail), RT_OK);
    CHECK_INT(rt_gpu_number(gpu, &number, &detail), RT_OK);
    number_await(number);
}

/* ---- contexts ---- */

static void asking_about_an_address_makes_no_context_and_knows_the_host(void)
{
    begin();
    static int host;
    unsigned flags;
    int active = 1;
    int32_t ordinal = 7;
    cuda_device device;
    rt_gpu_traits traits;
    CHECK_INT(rt_gpu_of((uint64_t)(uintptr_t)&host, &ordinal, &detail), RT_OK);
    CHECK_INT(ordinal, -1);
    CHECK_INT(rt_gpu_describe(0, &traits, &detail), RT_OK);
    printf("%s at %s, compute capability %u.%u, driver of CUDA %u: shares %d, dma-buf %d, direct %d, numbers %d, flush %d\n",
           traits.name, traits.pci, traits.major, traits.minor, traits.driver, traits.shares, traits.dma_buf, traits.direct,
           traits.writes_numbers, (int)traits.flush);
    CHECK_INT(user.device_get(&device, 0), CUDA_OK);
    CHECK_INT(user.primary_state(device, &flags, &active), CUDA_OK);
    CHECK_INT(active, 0);
}

static void a_relaxed_thread_breaks_no_capture(void)
{
    gpu_take();
    void *graph = NULL;
    cuda_stream stream = user_stream(0);
    CHECK_INT(user.capture_begin(stream, 0), CUDA_OK);
    rt_gpu_memory memory = memory_make(SIZE);
    copy_now(memory.address, memory.address + SIZE / 2, 4096);
    rt_gpu_memory_drop(&memory);
    CHECK_INT(user.capture_end(stream, &graph), CUDA_OK);
    user_leave();
}

/* ---- memory ---- */

static void memory_that_is_made_refuses_to_synchronize_by_address(void)
{
    gpu_take();
    const unsigned on = 1;
    rt_gpu_memory memory = memory_make(SIZE);
    user_stream(0);
    CHECK_INT(user.pointer_set(&on, CUDA_P_SYNC_MEMOPS, memory.address), CUDA_E_NOT_SUPPORTED);
    user_leave();
    rt_gpu_memory_drop(&memory);
}

static void memory_of_cuda_malloc_has_no_handle(void)
{
    gpu_take();
    cuda_address address;
    cuda_handle handle;
    const unsigned on = 1;
    user_stream(0);
    CHECK_INT(user.alloc(&address, SIZE), CUDA_OK);
    CHECK_INT(user.memory_retain(&handle, (void *)(uintptr_t)address), CUDA_E_INVALID_VALUE);
    CHECK_INT(user.pointer_set(&on, CUDA_P_SYNC_MEMOPS, address), CUDA_OK);
    CHECK_INT(user.release(address), CUDA_OK);
    user_leave();
}

static void memory_made_without_descriptors_gives_none(void)
{
    gpu_take();
    const cuda_making making = {.type = CUDA_PINNED, .location = {CUDA_LOCATION_DEVICE, 0}};
    size_t granule;
    cuda_handle handle;
    int descriptor = -1;
    user_stream(0);
    CHECK_INT(user.memory_granule(&granule, &making, 0), CUDA_OK);
    CHECK_INT(user.memory_make(&handle, granule, &making, 0), CUDA_OK);
    cuda_result result = user.memory_export(&descriptor, handle, CUDA_SHARE_DESCRIPTOR, 0);
    CHECK(result == CUDA_E_INVALID_VALUE || result == CUDA_E_NOT_SUPPORTED);
    CHECK_INT(user.memory_release(handle), CUDA_OK);
    user_leave();
}

static void a_descriptor_keeps_memory_that_its_maker_has_dropped(void)
{
    gpu_take();
    uint8_t byte = 77;
    rt_gpu_memory memory = memory_make(SIZE), theirs;
    uint64_t size = memory.share_size;
    int kept = dup(memory.descriptor);
    user_stream(0);
    CHECK_INT(user.copy_up(memory.address + 5, &byte, 1), CUDA_OK);
    rt_gpu_memory_drop(&memory);
    byte = 0;
    CHECK_INT(rt_gpu_memory_import(gpu, kept, size, false, &theirs, &detail), RT_OK);
    CHECK_INT(user.copy_down(&byte, theirs.address + 5, 1), CUDA_OK);
    CHECK_INT(byte, 77);
    rt_gpu_memory_drop(&theirs);
    close(kept);
    user_leave();
}

static void memory_is_dropped_without_a_context(void)
{
    gpu_take();
    rt_gpu_memory memory = memory_make(SIZE);
    cuda_context current = &memory;
    CHECK_INT(user.context_current(&current), CUDA_OK);
    CHECK(current == NULL);
    CHECK_INT(user.memory_unmap(memory.address, memory.mapped), CUDA_OK);
    CHECK_INT(user.addresses_give(memory.address, memory.mapped), CUDA_OK);
    CHECK_INT(user.memory_release(memory.handle), CUDA_OK);
    close(memory.descriptor);
}

static void a_mapping_for_reading_can_be_copied_from(void)
{
    gpu_take();
    rt_gpu_memory memory = memory_make(SIZE), theirs;
    CHECK_INT(rt_gpu_memory_import(gpu, memory.descriptor, memory.share_size, false, &theirs, &detail), RT_OK);
    copy_now(memory.address, theirs.address + SIZE / 2, 4096);
    rt_gpu_memory_drop(&theirs);
    rt_gpu_memory_drop(&memory);
}

static void a_dma_buf_is_made_of_any_pages(void)
{
    gpu_take();
    rt_gpu_memory memory = memory_make(3 * SIZE), part;
    int descriptor;
    uint64_t offset = 0;
    CHECK_INT(rt_gpu_memory_adopt(memory.address + 3 * 4096 + 100, 8000, &part, &detail), RT_OK);
    int status = rt_gpu_memory_export(&part, &descriptor, &offset, &detail);
    rt_gpu_memory_drop(&part);
    rt_gpu_memory_drop(&memory);
    if (status == RT_E_UNSUPPORTED)
        CHECK_SKIP("this GPU gives no dma-buf");
    CHECK_INT(status, RT_OK);
    CHECK_INT(offset, 100);
    close(descriptor);
}

/* ---- work ---- */

static void a_number_comes_into_pinned_memory_though_nobody_asks(void)
{
    gpu_take();
    uint64_t first, second;
    CHECK_INT(rt_gpu_number(gpu, &first, &detail), RT_OK);
    number_await(first);
    CHECK_INT(rt_gpu_number(gpu, &second, &detail), RT_OK);
    number_await(second);
    CHECK(!rt_gpu_reached(gpu, second + 1));
}

static void a_mark_of_an_idle_stream_is_reached_though_nobody_asks(void)
{
    gpu_take();
    rt_gpu_mark mark;
    cuda_stream stream = user_stream(0);
    CHECK_INT(rt_gpu_mark_set(gpu, stream, &mark, &detail), RT_OK);
    int64_t until = rt_clock_now_ns() + WAIT_NS;
    while (!rt_gpu_mark_reached(&mark)) {
        CHECK(rt_clock_now_ns() < until);
        sched_yield();
    }
    rt_gpu_mark_drop(gpu, &mark);
    user_leave();
}

static void bytes_are_there_when_the_number_is(void)
{
    gpu_take();
    static uint8_t up[SIZE] __attribute__((aligned(4096))), down[SIZE] __attribute__((aligned(4096)));
    bool was_pinned;
    rt_gpu_memory memory = memory_make(2 * SIZE);
    CHECK_INT(rt_gpu_pin(gpu, up, SIZE, &was_pinned, &detail), RT_OK);
    CHECK_INT(rt_gpu_pin(gpu, down, SIZE, &was_pinned, &detail), RT_OK);
    CHECK(!was_pinned);
    for (int round = 1; round <= 50; round++) {
        memset(up, round, SIZE);
        CHECK_INT(rt_gpu_copy(gpu, memory.address, (uint64_t)(uintptr_t)up, SIZE, &detail), RT_OK);
        CHECK_INT(rt_gpu_copy(gpu, memory.address + SIZE, memory.address, SIZE, &detail), RT_OK);
        copy_now((uint64_t)(uintptr_t)down, memory.address + SIZE, SIZE);
        CHECK_BYTES(down, up, SIZE);
    }
    CHECK_INT(rt_gpu_unpin(gpu, up, &detail), RT_OK);
    CHECK_INT(rt_gpu_unpin(gpu, down, &detail), RT_OK);
    rt_gpu_memory_drop(&memory);
}

static void pinned_memory_is_not_pinned_again(void)
{
    gpu_take();
    static uint8_t pages[3 * 4096] __attribute__((aligned(4096)));
    bool was_pinned = true;
    CHECK_INT(rt_gpu_pin(gpu, pages, 8192, &was_pinned, &detail), RT_OK);
    CHECK(!was_pinned);
    CHECK_INT(rt_gpu_pin(gpu, pages, 8192, &was_pinned, &detail), RT_OK);
    CHECK(was_pinned);
    CHECK_INT(rt_gpu_pin(gpu, pages + 4096, 8192, &was_pinned, &detail), RT_E_EXISTS);
    CHECK_INT(rt_gpu_unpin(gpu, pages, &detail), RT_OK);
}

static const check_test tests[] = {
    CHECK_TEST(asking_about_an_address_makes_no_context_and_knows_the_host),
    CHECK_TEST(a_relaxed_thread_breaks_no_capture),
    CHECK_TEST(memory_that_is_made_refuses_to_synchronize_by_address),
    CHECK_TEST(memory_of_cuda_malloc_has_no_handle),
    CHECK_TEST(memory_made_without_descriptors_gives_none),
    CHECK_TEST(a_descriptor_keeps_memory_that_its_maker_has_dropped),
    CHECK_TEST(memory_is_dropped_without_a_context),
    CHECK_TEST(a_mapping_for_reading_can_be_copied_from),
    CHECK_TEST(a_dma_buf_is_made_of_any_pages),
    CHECK_TEST(a_number_comes_into_pinned_memory_though_nobody_asks),
    CHECK_TEST(a_mark_of_an_idle_stream_is_reached_though_nobody_asks),
    CHECK_TEST(bytes_are_there_when_the_number_is),
    CHECK_TEST(pinned_memory_is_not_pinned_again),
};

CHECK_MAIN(tests)
