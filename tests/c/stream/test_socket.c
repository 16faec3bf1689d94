/* test_socket.c: TCP streams and the limits of a process and of patience: open files, and a host that falls silent.
 *
 * Needs: csrc/base/, csrc/stream/. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "stream/stream.h"

enum { STREAMS = 80, FEW_FILES = 48, TRIES = 20000 };

typedef struct ends {
    void *listener, *near, *far;
    char address[RT_SOCKET_TEXT_SIZE];
    rt_detail detail;
} ends;

static int listen_begin(ends *both, rt_pdevice *device)
{
    return rt_socket_ops.listen(device, "127.0.0.1:0", &both->listener, both->address, sizeof both->address, &both->detail);
}

/* One connection to the listener, accepted. Both sides are of this process, so each step is done once poll says so. */
static int join(ends *both, rt_pdevice *device)
{
    int status = rt_socket_ops.connect(device, both->address, &both->near, &both->detail);
    if (status != RT_OK)
        return status;
    for (int tries = 0; tries < TRIES; tries++) {
        struct pollfd look = {.fd = rt_socket_descriptor(both->near), .events = POLLOUT};
        poll(&look, 1, 10);
        status = rt_socket_connected(both->near, &both->detail);
        if (status != RT_E_AGAIN)
            break;
    }
    if (status != RT_OK)
        return status;
    for (int tries = 0; tries < TRIES; tries++) {
        struct pollfd look = {.fd = rt_socket_descriptor(both->listener), .events = POLLIN};
        poll(&look, 1, 10);
        status = rt_socket_ops.accept(both->listener, &both->far, &both->detail);
        if (status != RT_E_AGAIN)
            break;
    }
    return status;
}

static void a_limit_of_open_files_that_may_be_raised_is_raised(void)
{
    struct rlimit before, few;
    void *streams[2 * STREAMS];
    ends both = {.listener = NULL};
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &before), 0);
    if (before.rlim_max < 4 * STREAMS)
        CHECK_SKIP("this process may not have 320 open files");
    few = before;
    few.rlim_cur = FEW_FILES;
    CHECK_INT(listen_begin(&both, NULL), RT_OK);
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &few), 0);
    int made = 0;
    for (int each = 0; each < STREAMS && join(&both, NULL) == RT_OK; each++) {
        streams[made++] = both.near;
        streams[made++] = both.far;
    }
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &before), 0);
    for (int each = 0; each < made; each++)
        rt_socket_ops.close(streams[each]);
    rt_socket_ops.unlisten(both.listener);
    CHECK_INT(made, 2 * STREAMS);
}

/* In a process of its own, whose limit stays low: 0, or the line that was not as expected. */
static int refused_at_the_limit(void)
{
    const struct rlimit few = {FEW_FILES, FEW_FILES};
    ends both = {.listener = NULL};
    int status = RT_OK;
    if (listen_begin(&both, NULL) != RT_OK || setrlimit(RLIMIT_NOFILE, &few) != 0)
        return 1;
    for (int each = 0; each < STREAMS && status == RT_OK; each++)
        status = join(&both, NULL);
    if (status != RT_E_SYSTEM || both.detail.error_number != EMFILE)
        return 2;
    return strstr(both.detail.text, "ulimit -n") != NULL ? 0 : 3;
}

static void a_limit_of_open_files_that_stays_is_named(void)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0)
        _exit(refused_at_the_limit());
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK_INT(WEXITSTATUS(status), 0);
}

static int option_of(const void *stream, int name)
{
    int value = -1;
    socklen_t size = sizeof value;
    return getsockopt(rt_socket_descriptor(stream), IPPROTO_TCP, name, &value, &size) == 0 ? value : -1;
}

static void a_device_says_for_how_long_a_host_may_be_silent(void)
{
    static const struct {
        uint32_t silence_s;
        int total_ms, idle;
    } cases[] = {{0, 4000, 1}, {1, 1000, 1}, {15, 15000, 4}, {60, 60000, 15}};
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        rt_pdevice device = {.silence_s = cases[which].silence_s};
        ends both = {.listener = NULL};
        CHECK_INT(listen_begin(&both, &device), RT_OK);
        CHECK_INT(join(&both, &device), RT_OK);
        const void *sides[] = {both.near, both.far};
        for (int side = 0; side < 2; side++) {
            CHECK_INT(option_of(sides[side], TCP_USER_TIMEOUT), cases[which].total_ms);
            CHECK_INT(option_of(sides[side], TCP_KEEPIDLE), cases[which].idle);
            CHECK_INT(option_of(sides[side], TCP_KEEPINTVL), cases[which].idle);
        }
        rt_socket_ops.close(both.near);
        rt_socket_ops.close(both.far);
        rt_socket_ops.unlisten(both.listener);
    }
}

static const check_test tests[] = {
    CHECK_TEST(a_limit_of_open_files_that_may_be_raised_is_raised),
    CHECK_TEST(a_limit_of_open_files_that_stays_is_named),
    CHECK_TEST(a_device_says_for_how_long_a_host_may_be_silent),
};
CHECK_MAIN(tests)
