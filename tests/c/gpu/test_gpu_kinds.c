/* test_gpu_kinds.c: csrc/gpu over kinds of GPU and machines: each test is a child, in which no driver is loaded yet. */
#include "cuda_user.h"

#include <sys/socket.h>

enum { SIZE = 1 << 20 };

static void gpu_of_kind(const char *kind)
{
    setenv("FAKE_CUDA_GPU", kind, 1);
    fake_take();
}

/* ---- machines without a driver ---- */

static int count_says(const char *library, const char *wanted)
{
    uint32_t count = 7;
    int32_t ordinal = 7;
    setenv("RDMATENSOR_LIBCUDA", library, 1);
    CHECK_INT(rt_gpu_count(&count, &detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, wanted);
    CHECK_INT(rt_gpu_of(4096, &ordinal, &detail), RT_OK); /* without a GPU all memory is the host's */
    CHECK_INT(ordinal, -1);
    CHECK_INT(detail.status, RT_OK);
    return 0;
}

static int run_without_a_library(void)
{
    return count_says("/nowhere/libcuda.so", "cannot load /nowhere/libcuda.so, which RDMATENSOR_LIBCUDA names");
}

static int run_with_another_library(void)
{
    return count_says("libm.so.6", "libm.so.6 has no cu");
}

static int run_with_a_driver_that_does_not_begin(void)
{
    static const struct {
        int result;
        const char *says;
    } reasons[] = {
        {CUDA_E_NO_DEVICE, "CUDA_ERROR_NO_DEVICE (100): no GPU is visible"},
        {CUDA_E_UNKNOWN, "modprobe nvidia"},
        {CUDA_E_SYSTEM_NOT_READY, "start nvidia-fabricmanager"},
        {CUDA_E_DRIVER_MISMATCH, "reboot, or load the module again"},
    };
    uint32_t count = 0;
    fake_take();
    for (size_t index = 0; index < sizeof reasons / sizeof reasons[0]; index++) {
        faked.fake_cuda_fail("cuInit", 1, reasons[index].result);
        CHECK_INT(rt_gpu_count(&count, &detail), RT_E_UNAVAILABLE);
        CHECK_HAS(detail.text, reasons[index].says);
        CHECK(faked.fake_cuda_triggered());
    }
    CHECK_INT(rt_gpu_count(&count, &detail), RT_OK); /* a driver that begins later is used */
    CHECK_INT(count, 2);
    return 0;
}

static int run_in_a_child_of_one_that_only_asked(void)
{
    uint32_t count;
    setenv("RDMATENSOR_LIBCUDA", "/nowhere/libcuda.so", 1);
    CHECK_INT(rt_gpu_count(&count, &detail), RT_E_UNAVAILABLE);
    pid_t child = fork();
    if (child == 0) {
        fake_take();
        _exit(rt_gpu_count(&count, &detail) == RT_OK ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_INT(status, 0);
    return 0;
}

static void a_library_that_is_missing_is_named(void)
{
    CHECK_INT(in_child(run_without_a_library), 0);
}

static void a_library_of_another_kind_is_named(void)
{
    CHECK_INT(in_child(run_with_another_library), 0);
}

static void a_driver_that_does_not_begin_says_why_and_is_tried_again(void)
{
    CHECK_INT(in_child(run_with_a_driver_that_does_not_begin), 0);
}

static void a_child_of_a_process_without_a_gpu_may_use_one(void)
{
    CHECK_INT(in_child(run_in_a_child_of_one_that_only_asked), 0);
}

/* ---- kinds of GPU ---- */

static int run_on_every_kind(void)
{
    static const struct {
        const char *name;
        bool dma_buf, direct, numbers;
        int flush;
    } kinds[] = {
        {"h200", true, true, true, RT_GPU_ORDERED},  {"a100", true, true, true, RT_GPU_ORDERED},
        {"t4", false, true, true, RT_GPU_FLUSHED},   {"geforce", false, false, true, RT_GPU_READ},
        {"old", false, true, false, RT_GPU_FLUSHED},
    };
    const char *name = getenv("KIND");
    gpu_of_kind(name);
    rt_gpu *gpu;
    rt_gpu_memory memory;
    uint64_t number, offset;
    CHECK_INT(rt_gpu_open(0, &gpu, &detail), RT_OK);
    const rt_gpu_traits *traits = rt_gpu_traits_of(gpu);
    for (size_t index = 0; index < sizeof kinds / sizeof kinds[0]; index++) {
        if (strcmp(kinds[index].name, name) != 0)
            continue;
        CHECK_INT(traits->dma_buf, kinds[index].dma_buf);
        CHECK_INT(traits->direct, kinds[index].direct);
        CHECK_INT(traits->writes_numbers, kinds[index].numbers);
        CHECK_INT(traits->flush, kinds[index].flush);
    }
    CHECK_INT(rt_gpu_memory_make(gpu, SIZE, &memory, &detail), RT_OK);
    CHECK_INT(rt_gpu_copy(gpu, memory.address + SIZE / 2, memory.address, SIZE / 2, &detail), RT_OK);
    CHECK_INT(rt_gpu_number(gpu, &number, &detail), RT_OK);
    faked.fake_cuda_work();
    CHECK(rt_gpu_reached(gpu, number));
    int descriptor = -1, exported = rt_gpu_memory_export(&memory, &descriptor, &offset, &detail);
    CHECK_INT(exported, traits->dma_buf ? RT_OK : RT_E_UNSUPPORTED);
    if (!traits->dma_buf)
        CHECK_HAS(detail.text,
                  strcmp(name, "old") == 0 ? "driver of CUDA 11.6) gives no dma-buf" : "gives no dma-buf: that takes");
    rt_gpu_memory_drop(&memory);
    CHECK_INT(faked.fake_cuda_violations(), 0);
    return 0;
}

static void every_kind_of_gpu_makes_memory_and_copies(void)
{
    static const char *const names[] = {"h200", "a100", "t4", "geforce", "old"};
    for (size_t index = 0; index < sizeof names / sizeof names[0]; index++) {
        setenv("KIND", names[index], 1);
        CHECK_INT(in_child(run_on_every_kind), 0);
    }
}

static int run_flush(void)
{
    gpu_of_kind("t4");
    rt_gpu *gpu;
    rt_gpu_memory memory;
    int error;
    uint8_t byte = 9;
    CHECK_INT(rt_gpu_open(0, &gpu, &detail), RT_OK);
    user_stream(0);
    cuda_address address;
    CHECK_INT(user.alloc(&address, SIZE), CUDA_OK);
    CHECK_INT(rt_gpu_memory_adopt(address, SIZE, &memory, &detail), RT_OK);
    void *bytes = faked.fake_cuda_nic_hold_address(address, SIZE, &error);
    CHECK(bytes != NULL);
    CHECK(faked.fake_cuda_nic_write(bytes, &byte, 1));
    byte = 0;
    CHECK(faked.fake_cuda_peek(address, &byte, 1));
    CHECK_INT(byte, 0); /* posted, and not yet there */
    CHECK_INT(rt_gpu_flush(gpu, &detail), RT_OK);
    CHECK(faked.fake_cuda_peek(address, &byte, 1));
    CHECK_INT(byte, 9);
    CHECK_INT(faked.fake_cuda_flushes(), 1);
    faked.fake_cuda_nic_drop(bytes, SIZE);
    rt_gpu_memory_drop(&memory);
    CHECK_INT(user.release(address), CUDA_OK);
    CHECK_INT(faked.fake_cuda_violations(), 0);
    return 0;
}

static void a_flush_makes_visible_what_a_nic_wrote(void)
{
    CHECK_INT(in_child(run_flush), 0);
}

static int run_flush_that_is_none(void)
{
    gpu_of_kind("geforce");
    rt_gpu *gpu;
    CHECK_INT(rt_gpu_open(0, &gpu, &detail), RT_OK);
    CHECK_INT(rt_gpu_flush(gpu, &detail), RT_E_UNSUPPORTED);
    CHECK_HAS(detail.text, "READ the last bytes by the same NIC");
    return 0;
}

static int run_flush_that_is_needless(void)
{
    gpu_of_kind("a100");
    rt_gpu *gpu;
    CHECK_INT(rt_gpu_open(0, &gpu, &detail), RT_OK);
    CHECK_INT(rt_gpu_flush(gpu, &detail), RT_OK);
    CHECK_INT(faked.fake_cuda_flushes(), 0);
    return 0;
}

static void a_gpu_that_cannot_flush_says_so_and_an_ordered_one_need_not(void)
{
    CHECK_INT(in_child(run_flush_that_is_none), 0);
    CHECK_INT(in_child(run_flush_that_is_needless), 0);
}

static int run_without_sharing(void)
{
    fake_take();
    rt_gpu *gpu;
    uint32_t count;
    rt_gpu_memory memory;
    CHECK_INT(rt_gpu_count(&count, &detail), RT_OK);
    faked.fake_cuda_set_attribute(1, CUDA_A_SHARES_BY_DESCRIPTOR, 0);
    CHECK_INT(rt_gpu_open(1, &gpu, &detail), RT_OK);
    CHECK_INT(rt_gpu_memory_make(gpu, SIZE, &memory, &detail), RT_E_UNSUPPORTED);
    CHECK_HAS(detail.text, "cannot make memory that peers reach on cuda:1 (Fake GPU 1)");
    return 0;
}

static void a_driver_that_shares_no_memory_makes_none(void)
{
    CHECK_INT(in_child(run_without_sharing), 0);
}

/* ---- two processes ---- */

enum { ROUNDS = 200 };

static int sockets[2];
static bool sender_waits;

static void descriptor_send(int socket, int descriptor)
{
    char room[CMSG_SPACE(sizeof descriptor)] = {0};
    char byte = 1;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof descriptor);
    memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    CHECK_INT(sendmsg(socket, &message, 0), 1);
}

static int descriptor_receive(int socket)
{
    char room[CMSG_SPACE(sizeof(int))];
    char byte;
    int descriptor = -1;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    CHECK_INT(recvmsg(socket, &message, 0), 1);
    memcpy(&descriptor, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof descriptor);
    return descriptor;
}

/* Makes a tensor on its stream each round, and tells the peer: after the stream's end, or at once. */
static int run_sender(void)
{
    fake_take();
    rt_gpu *gpu;
    rt_gpu_memory tensor;
    uint8_t byte;
    CHECK_INT(rt_gpu_open(0, &gpu, &detail), RT_OK);
    CHECK_INT(rt_gpu_memory_make(gpu, SIZE, &tensor, &detail), RT_OK);
    cuda_stream stream = user_stream(0);
    descriptor_send(sockets[0], tensor.descriptor);
    for (int round = 1; round <= ROUNDS; round++) {
        rt_gpu_mark mark;
        byte = (uint8_t)round;
        CHECK_INT(user.fill_async(tensor.address, byte, SIZE, stream), CUDA_OK);
        CHECK_INT(rt_gpu_mark_set(gpu, stream, &mark, &detail), RT_OK);
        while (sender_waits && !rt_gpu_mark_reached(&mark))
            faked.fake_cuda_work();
        CHECK_INT(write(sockets[0], &byte, 1), 1);
        CHECK_INT(read(sockets[0], &byte, 1), 1);
        faked.fake_cuda_work();
        rt_gpu_mark_drop(gpu, &mark);
    }
    rt_gpu_memory_drop(&tensor);
    return faked.fake_cuda_violations() == 0 ? 0 : 1;
}

/* READs each tensor from GPU to GPU. The result is 0 when all are right, 10 when all are wrong, else 1. */
static int run_receiver(void)
{
    fake_take();
    rt_gpu *gpu;
    rt_gpu_memory theirs, own;
    uint8_t told, bytes[2];
    int wrong = 0, descriptor = descriptor_receive(sockets[1]);
    CHECK_INT(rt_gpu_open(0, &gpu, &detail), RT_OK);
    CHECK_INT(rt_gpu_memory_make(gpu, SIZE, &own, &detail), RT_OK);
    CHECK_INT(rt_gpu_memory_import(gpu, descriptor, own.size, false, &theirs, &detail), RT_OK);
    for (int round = 1; round <= ROUNDS; round++) {
        uint64_t number;
        CHECK_INT(read(sockets[1], &told, 1), 1);
        CHECK_INT(rt_gpu_copy(gpu, own.address, theirs.address, SIZE, &detail), RT_OK);
        CHECK_INT(rt_gpu_number(gpu, &number, &detail), RT_OK);
        while (!rt_gpu_reached(gpu, number))
            faked.fake_cuda_work();
        CHECK(faked.fake_cuda_peek(own.address, &bytes[0], 1));
        CHECK(faked.fake_cuda_peek(own.address + SIZE - 1, &bytes[1], 1));
        wrong += bytes[0] != told || bytes[1] != told;
        CHECK_INT(write(sockets[1], &told, 1), 1);
    }
    rt_gpu_memory_drop(&theirs);
    rt_gpu_memory_drop(&own);
    close(descriptor);
    return wrong == 0 ? 0 : wrong == ROUNDS ? 10 : 1;
}

static int run_pair(void)
{
    int sender_status = -1, receiver_status;
    CHECK_INT(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets), 0);
    fflush(stdout);
    pid_t sender = fork();
    if (sender == 0) {
        close(sockets[1]); /* so that each end sees the other's death */
        _exit(setjmp(check_jump) == 0 ? run_sender() : 1);
    }
    close(sockets[0]);
    receiver_status = run_receiver();
    close(sockets[1]);
    CHECK(waitpid(sender, &sender_status, 0) == sender);
    CHECK_INT(sender_status, 0);
    return receiver_status;
}

static void a_tensor_goes_from_gpu_to_gpu_between_processes(void)
{
    sender_waits = true;
    CHECK_INT(in_child(run_pair), 0);
}

static void a_wait_that_is_missing_makes_every_tensor_wrong(void)
{
    sender_waits = false;
    CHECK_INT(in_child(run_pair), 10);
}

static const check_test tests[] = {
    CHECK_TEST(a_library_that_is_missing_is_named),
    CHECK_TEST(a_library_of_another_kind_is_named),
    CHECK_TEST(a_driver_that_does_not_begin_says_why_and_is_tried_again),
    CHECK_TEST(a_child_of_a_process_without_a_gpu_may_use_one),
    CHECK_TEST(every_kind_of_gpu_makes_memory_and_copies),
    CHECK_TEST(a_flush_makes_visible_what_a_nic_wrote),
    CHECK_TEST(a_gpu_that_cannot_flush_says_so_and_an_ordered_one_need_not),
    CHECK_TEST(a_driver_that_shares_no_memory_makes_none),
    CHECK_TEST(a_tensor_goes_from_gpu_to_gpu_between_processes),
    CHECK_TEST(a_wait_that_is_missing_makes_every_tensor_wrong),
};

CHECK_MAIN(tests)
