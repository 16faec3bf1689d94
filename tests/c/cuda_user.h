/* cuda_user.h: for the tests of csrc/gpu: the fake CUDA driver, and a program that uses CUDA beside us, as a framework does.
 *
 * The fake is RT_FAKE_CUDA, or libfakecuda.so two folders above the executable, where the Makefile puts it. */
#ifndef RT_TESTS_CUDA_USER_H
#define RT_TESTS_CUDA_USER_H

#include "check.h"
#include "fake_cuda.h"
#include "gpu/cuda_abi.h"
#include "gpu/gpu.h"

#include <dlfcn.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define FAKE_CALLS(X)                                                                                                            \
    X(fake_cuda_fail)                                                                                                            \
    X(fake_cuda_triggered)                                                                                                       \
    X(fake_cuda_live)                                                                                                            \
    X(fake_cuda_violations)                                                                                                      \
    X(fake_cuda_last_violation)                                                                                                  \
    X(fake_cuda_has_context)                                                                                                     \
    X(fake_cuda_set_attribute)                                                                                                   \
    X(fake_cuda_flushes)                                                                                                         \
    X(fake_cuda_capture_process)                                                                                                 \
    X(fake_cuda_break)                                                                                                           \
    X(fake_cuda_work)                                                                                                            \
    X(fake_cuda_peek)                                                                                                            \
    X(fake_cuda_pieces)                                                                                                          \
    X(fake_cuda_manage)                                                                                                          \
    X(fake_cuda_nic_hold)                                                                                                        \
    X(fake_cuda_nic_hold_address)                                                                                                \
    X(fake_cuda_nic_drop)                                                                                                        \
    X(fake_cuda_nic_write)

/* Calls that a user makes and csrc/gpu does not. */
#define USER_CALLS(X)                                                                                                            \
    X(primary_state, cuDevicePrimaryCtxGetState, (cuda_device device, unsigned *flags_out, int *active_out))                     \
    X(context_current, cuCtxGetCurrent, (cuda_context * context_out))                                                            \
    X(alloc, cuMemAlloc_v2, (cuda_address * address_out, size_t size))                                                           \
    X(release, cuMemFree_v2, (cuda_address address))                                                                             \
    X(fill_async, cuMemsetD8Async, (cuda_address to, unsigned char value, size_t size, cuda_stream stream))                      \
    X(copy_between, cuMemcpyDtoD_v2, (cuda_address to, cuda_address from, size_t size))                                          \
    X(copy_down, cuMemcpyDtoH_v2, (void *to, cuda_address from, size_t size))                                                    \
    X(copy_up, cuMemcpyHtoD_v2, (cuda_address to, const void *from, size_t size))                                                \
    X(stream_synchronize, cuStreamSynchronize, (cuda_stream stream))                                                             \
    X(capture_begin, cuStreamBeginCapture_v2, (cuda_stream stream, int mode))                                                    \
    X(capture_end, cuStreamEndCapture, (cuda_stream stream, void **graph_out))

typedef struct fake_interface {
#define X(name) __typeof__(name) *name;
    FAKE_CALLS(X)
#undef X
} fake_interface;

typedef struct user_interface {
#define X(name, symbol, arguments) cuda_result(*name) arguments;
    CUDA_CALLS(X) CUDA_CALLS_OPTIONAL(X) USER_CALLS(X)
#undef X
} user_interface;

static fake_interface faked; /* of tests that run over the fake alone */
static user_interface user;
static rt_detail detail;

__attribute__((unused)) static const char *fake_path(void)
{
    static char path[4096];
    const char *named = getenv("RT_FAKE_CUDA");
    if (named != NULL && named[0] != '\0')
        return named;
    char self[3800] = "";
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0)
        return "libfakecuda.so";
    snprintf(path, sizeof path, "%s/../../libfakecuda.so", dirname(self));
    return path;
}

/* Loads a driver for the user. */
static void *user_take(const char *path)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        printf("cannot load %s: %s\n", path, dlerror());
        exit(1);
    }
#define X(name, symbol, arguments) user.name = (__typeof__(user.name))dlsym(handle, #symbol);
    CUDA_CALLS(X)
    CUDA_CALLS_OPTIONAL(X)
    USER_CALLS(X)
#undef X
    return handle;
}

/* Makes this process one that uses the fake. */
__attribute__((unused)) static void fake_take(void)
{
    if (faked.fake_cuda_live != NULL)
        return;
    setenv("RDMATENSOR_LIBCUDA", fake_path(), 1);
    void *handle = user_take(fake_path());
#define X(name)                                                                                                                  \
    faked.name = (__typeof__(faked.name))dlsym(handle, #name);                                                                   \
    if (faked.name == NULL)                                                                                                      \
        exit(1);
    FAKE_CALLS(X)
#undef X
}

/* A user's stream on a GPU, whose context stays current in this thread: cudaSetDevice and cudaStreamCreate. */
__attribute__((unused)) static cuda_stream user_stream(int device)
{
    cuda_context context;
    cuda_stream stream;
    CHECK_INT(user.primary_retain(&context, device), CUDA_OK);
    CHECK_INT(user.context_push(context), CUDA_OK);
    CHECK_INT(user.stream_create(&stream, CUDA_STREAM_NON_BLOCKING), CUDA_OK);
    return stream;
}

/* The context is no more current. */
__attribute__((unused)) static void user_leave(void)
{
    cuda_context ignored;
    CHECK_INT(user.context_pop(&ignored), CUDA_OK);
}

/* Runs a test in a child, in which no driver is loaded yet. The result is the child's exit status: 0, 1 after a failed CHECK. */
__attribute__((unused)) static int in_child(int (*run)(void))
{
    int status = -1;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int result = setjmp(check_jump) == 0 ? run() : 1;
        fflush(stdout);
        _exit(result);
    }
    CHECK(child > 0);
    CHECK(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#endif
