/* test_gpu_failures.c: each call of the driver fails once, the first, the second, …: csrc/gpu says so, and leaves nothing behind. */
#include "cuda_user.h"

#include <fcntl.h>

enum { SIZE = 1 << 20, GOOD = 0, BAD = 1, NEVER_MADE = 2 };

static const char *failing; /* the symbol */
static uint32_t failing_nth;
static uint8_t page[4096] __attribute__((aligned(4096)));

/* Calls that end something, or are of use for the text of an error alone, may fail without an error of ours. */
static bool may_pass(const char *symbol)
{
    static const char *const silent[] = {
        "cuGetErrorName",
        "cuDevicePrimaryCtxRelease_v2",
        "cuCtxPopCurrent_v2",
        "cuMemGetInfo_v2",
        "cuMemRelease",
        "cuMemAddressFree",
        "cuMemUnmap",
        "cuStreamDestroy_v2",
        "cuEventDestroy_v2",
        "cuMemHostUnregister",
        "cuThreadExchangeStreamCaptureMode",
    };
    for (size_t index = 0; index < sizeof silent / sizeof silent[0]; index++)
        if (strcmp(silent[index], symbol) == 0)
            return true;
    return false;
}

#define TRY(call)                                                                                                                \
    do {                                                                                                                         \
        if (status == RT_OK)                                                                                                     \
            status = (call);                                                                                                     \
    } while (0)

/* Work on memory that is there. After any failure this undoes its own part. */
static int scenario_work(rt_gpu *gpu, const rt_gpu_memory *memory, cuda_stream stream)
{
    rt_gpu_memory part = {.descriptor = -1}, theirs = {.descriptor = -1};
    rt_gpu_mark mark = {0};
    uint64_t number, offset;
    int descriptor = -1, status = rt_gpu_memory_adopt(memory->address + 5, SIZE / 2, &part, &detail);
    bool was_pinned, is_pinned = false;
    TRY(rt_gpu_memory_import(gpu, memory->descriptor, memory->share_size, true, &theirs, &detail));
    TRY(rt_gpu_memory_export(&part, &descriptor, &offset, &detail));
    TRY(rt_gpu_pin(gpu, page, sizeof page, &was_pinned, &detail));
    is_pinned = status == RT_OK;
    TRY(rt_gpu_after(gpu, stream, &detail));
    TRY(rt_gpu_copy(gpu, theirs.address, (uint64_t)(uintptr_t)page, sizeof page, &detail));
    TRY(rt_gpu_before(gpu, stream, &detail));
    TRY(rt_gpu_number(gpu, &number, &detail));
    TRY(rt_gpu_mark_set(gpu, stream, &mark, &detail));
    TRY(rt_gpu_flush(gpu, &detail));
    faked.fake_cuda_work();
    TRY(rt_gpu_check(gpu, &detail));
    TRY(rt_gpu_reached(gpu, number) && rt_gpu_mark_reached(&mark) ? RT_OK : RT_E_DEADLINE);
    if (mark.word != NULL)
        rt_gpu_mark_drop(gpu, &mark);
    if (is_pinned && rt_gpu_unpin(gpu, page, &detail) != RT_OK) {
        status = detail.status;
        rt_detail again; /* not what failed at first: it may have been done */
        rt_gpu_unpin(gpu, page, &again);
    }
    if (descriptor >= 0)
        close(descriptor);
    rt_gpu_memory_drop(&theirs);
    rt_gpu_memory_drop(&part);
    return status;
}

static int scenario(cuda_stream stream)
{
    uint32_t count = 0;
    rt_gpu_traits traits;
    rt_gpu *gpu = NULL;
    rt_gpu_memory memory = {.descriptor = -1};
    int status = rt_gpu_count(&count, &detail);
    TRY(rt_gpu_describe(0, &traits, &detail));
    TRY(rt_gpu_open(0, &gpu, &detail));
    TRY(rt_gpu_memory_make(gpu, SIZE, &memory, &detail));
    TRY(scenario_work(gpu, &memory, stream));
    rt_gpu_memory_drop(&memory);
    return status;
}

/* An open GPU stays: its context, stream, event and page. */
enum { OPEN_GPU = 4 };

static uint32_t descriptors_open(void)
{
    uint32_t open = 0;
    for (int descriptor = 0; descriptor < 256; descriptor++)
        open += fcntl(descriptor, F_GETFD) >= 0;
    return open;
}

static int run_once(void)
{
    fake_take();
    CHECK_INT(user.init(0), CUDA_OK);
    cuda_stream stream = user_stream(0);
    faked.fake_cuda_set_attribute(0, CUDA_A_WRITES_NUMBERS, getenv("BY_CALLS") == NULL);
    faked.fake_cuda_set_attribute(0, CUDA_A_WRITES_ORDERING, 0);
    int mode = 1; /* thread-local, the user's */
    cuda_context ours = NULL, current = NULL;
    CHECK_INT(user.capture_mode(&mode), CUDA_OK);
    CHECK_INT(user.context_current(&ours), CUDA_OK);
    uint32_t before = faked.fake_cuda_live(), descriptors = descriptors_open();
    faked.fake_cuda_fail(failing, failing_nth, CUDA_E_UNKNOWN);
    int status = scenario(stream);
    if (!faked.fake_cuda_triggered()) {
        CHECK_INT(status, RT_OK);
        return NEVER_MADE;
    }
    if (status != RT_OK)
        CHECK_HAS(detail.text, "999");
    else
        CHECK(may_pass(failing));
    CHECK(faked.fake_cuda_live() == before || faked.fake_cuda_live() == before + OPEN_GPU);
    CHECK_INT(user.context_current(&current), CUDA_OK);
    CHECK(current == ours);
    mode = 0;
    CHECK_INT(user.capture_mode(&mode), CUDA_OK);
    CHECK_INT(mode, 1);
    CHECK_INT(scenario(stream), RT_OK); /* as if nothing had been */
    CHECK_INT(faked.fake_cuda_live(), before + OPEN_GPU);
    CHECK_INT(descriptors_open(), descriptors);
    CHECK_STR(faked.fake_cuda_last_violation(), "");
    return GOOD;
}

static void fail_each(const char *symbol)
{
    failing = symbol;
    int result = GOOD;
    for (failing_nth = 1; result == GOOD; failing_nth++)
        result = in_child(run_once);
    if (result == BAD)
        printf("the failure of %s number %u\n", failing, failing_nth - 1);
    CHECK_INT(result, NEVER_MADE);
}

static void every_call_can_fail_at_every_time(void)
{
#define X(name, symbol, arguments) fail_each(#symbol);
    CUDA_CALLS(X)
    CUDA_CALLS_OPTIONAL(X)
#undef X
}

static void every_call_can_fail_where_streams_write_no_numbers(void)
{
    setenv("BY_CALLS", "1", 1);
    fail_each("cuLaunchHostFunc");
    fail_each("cuMemHostRegister_v2");
}

static const check_test tests[] = {
    CHECK_TEST(every_call_can_fail_at_every_time),
    CHECK_TEST(every_call_can_fail_where_streams_write_no_numbers),
};

CHECK_MAIN(tests)
