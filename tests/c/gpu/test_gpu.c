/* test_gpu.c: csrc/gpu over the fake CUDA driver, in one process: contexts, memory, copies, numbers, marks, order. */
#include "cuda_user.h"

#include "base/lock_order.h"
#include "gpu/driver.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

enum { SIZE = 1 << 20, GRANULE = 2 << 20, OTHER = 0, MAIN = 1, CALLS = 2 };

static rt_gpu *main_gpu;

/* Every test begins with this: the GPU is open, and rules have been kept. */
static void begin(void)
{
    fake_take();
    CHECK_INT(rt_gpu_open(MAIN, &main_gpu, &detail), RT_OK);
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

static rt_gpu_memory memory_of(rt_gpu *gpu)
{
    rt_gpu_memory memory;
    CHECK_INT(rt_gpu_memory_make(gpu, SIZE, &memory, &detail), RT_OK);
    return memory;
}

/* ---- contexts ---- */

static void questions_make_no_context(void)
{
    fake_take();
    uint32_t count = 0;
    int32_t ordinal = 7;
    rt_gpu_traits traits;
    CHECK_INT(rt_gpu_count(&count, &detail), RT_OK);
    CHECK_INT(count, 3);
    CHECK_INT(rt_gpu_describe(MAIN, &traits, &detail), RT_OK);
    CHECK_STR(traits.name, "Fake GPU 1");
    CHECK_STR(traits.pci, "0000:18:00.0");
    CHECK_INT(traits.driver, 13000);
    CHECK_INT(traits.major, 9);
    CHECK_INT(traits.size, 16ll << 30);
    CHECK(traits.shares && traits.dma_buf && traits.direct && traits.writes_numbers);
    CHECK_INT(traits.flush, RT_GPU_ORDERED);
    CHECK_INT(rt_gpu_of((uint64_t)(uintptr_t)&count, &ordinal, &detail), RT_OK);
    CHECK_INT(ordinal, -1);
    for (int device = 0; device < 3; device++)
        CHECK(!faked.fake_cuda_has_context(device));
    CHECK_INT(rt_gpu_describe(3, &traits, &detail), RT_E_NOT_FOUND);
    CHECK_HAS(detail.text, "there is no cuda:3: this process sees 3");
}

static void opening_a_gpu_makes_a_context_on_no_other(void)
{
    begin();
    CHECK(faked.fake_cuda_has_context(MAIN));
    CHECK(!faked.fake_cuda_has_context(OTHER));
    rt_gpu *again = NULL;
    uint32_t live = faked.fake_cuda_live();
    CHECK_INT(rt_gpu_open(MAIN, &again, &detail), RT_OK);
    CHECK(again == main_gpu);
    CHECK_INT(faked.fake_cuda_live(), live);
    CHECK_INT(rt_gpu_open(64, &again, &detail), RT_E_NOT_FOUND);
    CHECK_INT(rt_gpu_open(3, &again, &detail), RT_E_NOT_FOUND);
}

static void the_callers_context_is_current_again(void)
{
    begin();
    cuda_context before = NULL, after = NULL;
    CHECK_INT(user.context_current(&before), CUDA_OK);
    CHECK(before == NULL);
    rt_gpu_memory memory = memory_of(main_gpu);
    CHECK_INT(user.context_current(&after), CUDA_OK);
    CHECK(after == NULL);
    user_stream(2);
    CHECK_INT(user.context_current(&before), CUDA_OK);
    uint64_t number;
    CHECK_INT(rt_gpu_number(main_gpu, &number, &detail), RT_OK);
    rt_gpu_memory_drop(&memory);
    CHECK_INT(user.context_current(&after), CUDA_OK);
    CHECK(before != NULL && after == before);
    user_leave();
}

static void a_capture_in_the_process_is_undisturbed(void)
{
    begin();
    bool was_pinned;
    static uint8_t page[8192] __attribute__((aligned(4096)));
    int mode = 1, relaxed = CUDA_CAPTURE_RELAXED;
    CHECK_INT(user.capture_mode(&mode), CUDA_OK); /* this thread has the thread-local mode, 1 */
    faked.fake_cuda_capture_process(true);
    rt_gpu_memory memory = memory_of(main_gpu), adopted;
    CHECK_INT(rt_gpu_memory_adopt(memory.address, 4096, &adopted, &detail), RT_OK);
    CHECK_INT(rt_gpu_pin(main_gpu, page, sizeof page, &was_pinned, &detail), RT_OK);
    CHECK_INT(rt_gpu_check(main_gpu, &detail), RT_OK);
    CHECK_INT(rt_gpu_unpin(main_gpu, page, &detail), RT_OK);
    rt_gpu_memory_drop(&adopted);
    rt_gpu_memory_drop(&memory);
    faked.fake_cuda_capture_process(false);
    CHECK_INT(user.capture_mode(&relaxed), CUDA_OK);
    CHECK_INT(relaxed, 1);
    CHECK_INT(user.capture_mode(&mode), CUDA_OK);
    no_rule_is_broken();
}

static void a_child_made_by_fork_is_refused_and_calls_no_driver(void)
{
    begin();
    rt_gpu_memory memory = memory_of(main_gpu);
    rt_gpu_mark mark;
    CHECK_INT(rt_gpu_mark_set(main_gpu, user_stream(MAIN), &mark, &detail), RT_OK);
    fflush(stdout);
    pthread_mutex_lock(&main_gpu->lock); /* as by a thread that the child does not have */
    pid_t child = fork();
    if (child == 0) {
        alarm(60); /* ends a child that waits for the lock */
        uint32_t count;
        int32_t ordinal;
        uint64_t number;
        rt_gpu *gpu;
        bool refused = rt_gpu_count(&count, &detail) == RT_E_FORKED && rt_gpu_open(OTHER, &gpu, &detail) == RT_E_FORKED &&
                       rt_gpu_open(MAIN, &gpu, &detail) == RT_E_FORKED && rt_gpu_of(1, &ordinal, &detail) == RT_E_FORKED &&
                       rt_gpu_number(main_gpu, &number, &detail) == RT_E_FORKED &&
                       rt_gpu_copy(main_gpu, memory.address, memory.address, 1, &detail) == RT_E_FORKED &&
                       strstr(detail.text, "spawn") != NULL;
        rt_gpu_mark_drop(main_gpu, &mark);
        rt_gpu_memory_drop(&memory);
        _exit(refused && faked.fake_cuda_violations() == 0 ? 0 : 1);
    }
    pthread_mutex_unlock(&main_gpu->lock);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_INT(status, 0);
    CHECK_INT(byte_at(memory.address), 0); /* the parent's memory is as it was */
    faked.fake_cuda_work();
    rt_gpu_mark_drop(main_gpu, &mark);
    rt_gpu_memory_drop(&memory);
    user_leave();
}

/* ---- memory ---- */

static sigjmp_buf after_fault;

static void on_fault(int number)
{
    (void)number;
    siglongjmp(after_fault, 1);
}

static bool faults(uint64_t address)
{
    struct sigaction action = {.sa_handler = on_fault}, before;
    volatile bool faulted = true;
    sigaction(SIGSEGV, &action, &before);
    if (sigsetjmp(after_fault, 1) == 0) {
        *(volatile uint8_t *)(uintptr_t)address = 1;
        faulted = false;
    }
    sigaction(SIGSEGV, &before, NULL);
    return faulted;
}

static void memory_is_rounded_up_shared_and_no_cpus(void)
{
    begin();
    uint32_t live = faked.fake_cuda_live();
    rt_gpu_memory memory = memory_of(main_gpu);
    int32_t ordinal = -1;
    CHECK_INT(memory.size, GRANULE);
    CHECK_INT(memory.share_size, GRANULE);
    CHECK_INT(memory.share_offset, 0);
    CHECK(memory.descriptor >= 0);
    CHECK_INT(rt_gpu_of(memory.address + SIZE, &ordinal, &detail), RT_OK);
    CHECK_INT(ordinal, MAIN);
    CHECK(faults(memory.address));
    CHECK(faults(memory.address + memory.size - 1));
    rt_gpu_memory_drop(&memory);
    CHECK_INT(memory.descriptor, -1);
    CHECK_INT(faked.fake_cuda_live(), live);
    rt_gpu_memory_drop(&memory); /* of nothing: nothing */
    CHECK_INT(rt_gpu_memory_make(main_gpu, 0, &memory, &detail), RT_E_INVALID);
    no_rule_is_broken();
}

static void too_much_memory_is_refused_with_the_bytes_that_are_free(void)
{
    begin();
    uint32_t live = faked.fake_cuda_live();
    rt_gpu_memory memory;
    CHECK_INT(rt_gpu_memory_make(main_gpu, 32ull << 30, &memory, &detail), RT_E_NO_MEMORY);
    CHECK_HAS(detail.text, "on cuda:1: 1073741824 of 17179869184 are free");
    CHECK_HAS(detail.text, "torch.cuda.empty_cache()");
    CHECK_INT(faked.fake_cuda_live(), live);
}

static void what_cuda_calls_synchronous_is_so(void)
{
    begin();
    user_stream(MAIN);
    rt_gpu_memory first = memory_of(main_gpu), second = memory_of(main_gpu);
    unsigned flags = 0;
    CHECK_INT(user.context_get_flags(&flags), CUDA_OK);
    CHECK((flags & CUDA_CONTEXT_SYNC_MEMOPS) != 0);
    CHECK_INT(user.fill_async(first.address, 5, SIZE, NULL), CUDA_OK);
    CHECK_INT(user.copy_between(second.address, first.address, SIZE), CUDA_OK);
    CHECK_INT(byte_at(second.address + SIZE - 1), 5);
    rt_gpu_memory_drop(&first);
    rt_gpu_memory_drop(&second);
    user_leave();
}

static void memory_that_is_adopted_is_synchronous_too(void)
{
    begin();
    user_stream(OTHER);
    cuda_address from, to;
    rt_gpu_memory memory;
    CHECK_INT(user.alloc(&from, SIZE), CUDA_OK);
    CHECK_INT(user.alloc(&to, SIZE), CUDA_OK);
    CHECK_INT(user.fill_async(from, 5, SIZE, NULL), CUDA_OK);
    CHECK_INT(user.copy_between(to, from, SIZE), CUDA_OK);
    CHECK_INT(byte_at(to), 0); /* the copy was begun, no more */
    CHECK_INT(rt_gpu_memory_adopt(to, SIZE, &memory, &detail), RT_OK);
    CHECK_INT(user.copy_between(to, from, SIZE), CUDA_OK);
    CHECK_INT(byte_at(to), 5);
    rt_gpu_memory_drop(&memory);
    CHECK_INT(user.release(from), CUDA_OK);
    CHECK_INT(user.release(to), CUDA_OK);
    user_leave();
}

static void flags_of_the_context_are_kept(void)
{
    fake_take();
    rt_gpu *gpu;
    user_stream(2);
    CHECK_INT(user.context_set_flags(0x4), CUDA_OK); /* CU_CTX_SCHED_BLOCKING_SYNC, the user's */
    CHECK_INT(rt_gpu_open(2, &gpu, &detail), RT_OK);
    rt_gpu_memory memory = memory_of(gpu);
    unsigned flags = 0;
    CHECK_INT(user.context_get_flags(&flags), CUDA_OK);
    CHECK_INT(flags, 0x4 | CUDA_CONTEXT_SYNC_MEMOPS);
    rt_gpu_memory_drop(&memory);
    user_leave();
}

static void a_part_of_memory_is_shared_with_its_place(void)
{
    begin();
    rt_gpu_memory memory = memory_of(main_gpu), part;
    CHECK_INT(rt_gpu_memory_adopt(memory.address + 100, 5000, &part, &detail), RT_OK);
    CHECK(part.gpu == main_gpu);
    CHECK(part.descriptor >= 0 && part.descriptor != memory.descriptor);
    CHECK_INT(part.share_offset, 100);
    CHECK_INT(part.share_size, GRANULE);
    CHECK_INT(part.size, 5000);
    rt_gpu_memory_drop(&part);
    CHECK_INT(byte_at(memory.address), 0); /* still there */
    rt_gpu_memory_drop(&memory);
}

static void memory_of_cuda_malloc_is_adopted_without_a_descriptor(void)
{
    begin();
    user_stream(MAIN);
    cuda_address address;
    rt_gpu_memory memory, second = memory_of(main_gpu);
    CHECK_INT(user.alloc(&address, SIZE), CUDA_OK);
    CHECK_INT(rt_gpu_memory_adopt(address, SIZE, &memory, &detail), RT_OK);
    CHECK_INT(memory.descriptor, -1);
    CHECK_INT(memory.size, SIZE);
    rt_gpu_memory_drop(&memory);
    CHECK_INT(byte_at(address), 0); /* the user's, and still there */
    CHECK_INT(user.release(address), CUDA_OK);
    rt_gpu_memory_drop(&second);
    user_leave();
    no_rule_is_broken();
}

static void memory_of_several_pieces_has_no_descriptor(void)
{
    begin();
    rt_gpu_memory memory;
    uint64_t shared = faked.fake_cuda_pieces(MAIN, 3, true), unshared = faked.fake_cuda_pieces(MAIN, 1, false);
    CHECK(shared != 0 && unshared != 0);
    CHECK_INT(rt_gpu_memory_adopt(shared + GRANULE - 10, 20, &memory, &detail), RT_OK);
    CHECK_INT(memory.descriptor, -1);
    rt_gpu_memory_drop(&memory);
    CHECK_INT(rt_gpu_memory_adopt(shared + GRANULE + 10, 20, &memory, &detail), RT_OK);
    CHECK(memory.descriptor >= 0);
    CHECK_INT(memory.share_offset, 10);
    rt_gpu_memory_drop(&memory);
    CHECK_INT(rt_gpu_memory_adopt(unshared, 20, &memory, &detail), RT_OK);
    CHECK_INT(memory.descriptor, -1);
    rt_gpu_memory_drop(&memory);
}

static void memory_that_is_no_gpus_is_not_adopted(void)
{
    begin();
    static uint8_t host[64];
    rt_gpu_memory memory = memory_of(main_gpu), none;
    CHECK_INT(rt_gpu_memory_adopt((uint64_t)(uintptr_t)host, sizeof host, &none, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "no memory of one GPU");
    CHECK_INT(rt_gpu_memory_adopt(memory.address, 1ull << 40, &none, &detail), RT_E_INVALID);
    CHECK_INT(rt_gpu_memory_adopt(memory.address, 0, &none, &detail), RT_E_INVALID);
    CHECK_INT(rt_gpu_memory_adopt(memory.address, UINT64_MAX, &none, &detail), RT_E_INVALID);
    faked.fake_cuda_manage(memory.address);
    CHECK_INT(rt_gpu_memory_adopt(memory.address, 64, &none, &detail), RT_E_UNSUPPORTED);
    CHECK_HAS(detail.text, "is managed (cudaMallocManaged)");
    rt_gpu_memory_drop(&memory);
}

static void an_import_maps_the_same_bytes_with_the_rights_given(void)
{
    begin();
    uint32_t live = faked.fake_cuda_live();
    cuda_stream stream = user_stream(MAIN);
    rt_gpu_memory memory = memory_of(main_gpu), writable, readable;
    CHECK_INT(rt_gpu_memory_import(main_gpu, memory.descriptor, memory.share_size, true, &writable, &detail), RT_OK);
    CHECK_INT(rt_gpu_memory_import(main_gpu, memory.descriptor, memory.share_size, false, &readable, &detail), RT_OK);
    CHECK(writable.address != memory.address && readable.address != memory.address);
    CHECK_INT(writable.descriptor, -1);
    CHECK(faults(writable.address));
    CHECK_INT(user.fill_async(writable.address, 9, SIZE, stream), CUDA_OK);
    CHECK_INT(user.stream_synchronize(stream), CUDA_OK);
    CHECK_INT(byte_at(memory.address + SIZE - 1), 9);
    CHECK_INT(byte_at(readable.address), 9);
    CHECK_INT(rt_gpu_copy(main_gpu, readable.address, memory.address, 64, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "cannot begin a copy of 64 bytes on cuda:1: CUDA_ERROR_INVALID_VALUE (1)");
    CHECK_INT(rt_gpu_copy(main_gpu, memory.address, readable.address, 64, &detail), RT_OK);
    faked.fake_cuda_work();
    rt_gpu_memory_drop(&memory); /* mappings outlive the memory's maker */
    CHECK_INT(byte_at(readable.address), 9);
    rt_gpu_memory_drop(&readable);
    rt_gpu_memory_drop(&writable);
    CHECK_INT(rt_gpu_memory_import(main_gpu, 0, GRANULE, true, &writable, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "a peer's descriptor of 2097152 bytes");
    user_leave();
    CHECK_INT(faked.fake_cuda_live(), live + CALLS); /* the user's context and stream */
    no_rule_is_broken();
}

static void a_dma_buf_holds_whole_pages_and_tells_the_place(void)
{
    begin();
    rt_gpu_memory memory = memory_of(main_gpu), part;
    int descriptor = -1, error = 0;
    uint64_t offset = 0;
    CHECK_INT(rt_gpu_memory_adopt(memory.address + 4096 * 3 + 100, 8000, &part, &detail), RT_OK);
    CHECK_INT(rt_gpu_memory_export(&part, &descriptor, &offset, &detail), RT_OK);
    CHECK_INT(offset, 100);
    CHECK(faked.fake_cuda_nic_hold(descriptor, 0, 4096 * 2 + 1, &error) == NULL); /* two pages, no more */
    uint8_t *bytes = faked.fake_cuda_nic_hold(descriptor, offset, 8000, &error);
    CHECK(bytes != NULL);
    static uint8_t written[8000];
    memset(written, 7, sizeof written);
    CHECK(faked.fake_cuda_nic_write(bytes, written, sizeof written));
    CHECK_INT(byte_at(part.address - 1), 0);
    CHECK_INT(byte_at(part.address), 7);
    CHECK_INT(byte_at(part.address + 7999), 7);
    CHECK_INT(byte_at(part.address + 8000), 0);
    faked.fake_cuda_nic_drop(bytes, 8000);
    close(descriptor);
    rt_gpu_memory_drop(&part);
    rt_gpu_memory_drop(&memory);
    no_rule_is_broken();
}

static void memory_is_pinned_once(void)
{
    begin();
    static uint8_t pages[4 * 4096] __attribute__((aligned(4096)));
    bool was_pinned = true;
    CHECK_INT(rt_gpu_pin(main_gpu, pages, 8192, &was_pinned, &detail), RT_OK);
    CHECK(!was_pinned);
    CHECK_INT(rt_gpu_pin(main_gpu, pages + 4096, 4096, &was_pinned, &detail), RT_OK);
    CHECK(was_pinned);
    CHECK_INT(rt_gpu_pin(main_gpu, pages + 4096, 8192, &was_pinned, &detail), RT_E_EXISTS);
    CHECK_HAS(detail.text, "a part of them is registered with CUDA");
    faked.fake_cuda_fail("cuMemHostRegister_v2", 1, CUDA_E_UNKNOWN);
    CHECK_INT(rt_gpu_pin(main_gpu, pages, 8192, &was_pinned, &detail), RT_E_SYSTEM);
    CHECK(faked.fake_cuda_triggered());
    CHECK_INT(rt_gpu_unpin(main_gpu, pages, &detail), RT_OK);
    CHECK_INT(rt_gpu_unpin(main_gpu, pages, &detail), RT_E_SYSTEM);
}

static const check_test tests[] = {
    CHECK_TEST(questions_make_no_context),
    CHECK_TEST(opening_a_gpu_makes_a_context_on_no_other),
    CHECK_TEST(the_callers_context_is_current_again),
    CHECK_TEST(a_capture_in_the_process_is_undisturbed),
    CHECK_TEST(a_child_made_by_fork_is_refused_and_calls_no_driver),
    CHECK_TEST(memory_is_rounded_up_shared_and_no_cpus),
    CHECK_TEST(too_much_memory_is_refused_with_the_bytes_that_are_free),
    CHECK_TEST(what_cuda_calls_synchronous_is_so),
    CHECK_TEST(memory_that_is_adopted_is_synchronous_too),
    CHECK_TEST(flags_of_the_context_are_kept),
    CHECK_TEST(a_part_of_memory_is_shared_with_its_place),
    CHECK_TEST(memory_of_cuda_malloc_is_adopted_without_a_descriptor),
    CHECK_TEST(memory_of_several_pieces_has_no_descriptor),
    CHECK_TEST(memory_that_is_no_gpus_is_not_adopted),
    CHECK_TEST(an_import_maps_the_same_bytes_with_the_rights_given),
    CHECK_TEST(a_dma_buf_holds_whole_pages_and_tells_the_place),
    CHECK_TEST(memory_is_pinned_once),
};

int main(int argument_count, char **arguments)
{
    setenv("FAKE_CUDA_DEVICES", "3", 1);
    return check_run(tests, sizeof tests / sizeof tests[0], argument_count > 1 ? arguments[1] : NULL);
}
