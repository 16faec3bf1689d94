/* test_control.c: listeners, connections and their ends, over the simulated provider and over TCP. A second process, where one is
 * needed, is this program again, started with "--peer ADDRESS HOW". Strangers are in test_strangers.c. */
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control_ends.h"

extern char **environ;

static const char *const providers[] = {"sim", "shm"};
#define EACH_PROVIDER(provider)                                                                                                  \
    for (int at = 0; at < 2; at++)                                                                                               \
        for (const char *provider = providers[at]; provider != NULL; provider = NULL)

/* ---- two ends of this process ---- */

static void two_ends_connect_and_name_each_other(void)
{
    EACH_PROVIDER(provider)
    {
        two_ends ends;
        ends_open(&ends, provider, "");
        ends_connect(&ends, "");
        CHECK_INT(rt_channel_state(ends.accepted), RT_CHANNEL_READY);
        CHECK_HAS(rt_channel_peer(ends.accepted), rt_device_name(ends.there));
        CHECK_HAS(rt_channel_peer(ends.connected), rt_device_name(ends.here));
        CHECK_INT(rt_channel_qps(ends.accepted), rt_channel_qps(ends.connected));
        ends_close(&ends);
    }
}

static void the_fewer_qps_of_both_ends_are_used(void)
{
    two_ends ends = {0};
    rt_device_options many = {.provider = "shm", .name = "", .arguments = "", .qps_per_peer = 4};
    rt_device_options few = {.provider = "shm", .name = "", .arguments = "", .qps_per_peer = 2};
    CHECK_INT(rt_device_open(&few, &ends.here, &ends.detail), RT_OK);
    CHECK_INT(rt_device_open(&many, &ends.there, &ends.detail), RT_OK);
    CHECK_INT(rt_listener_open(ends.here, "127.0.0.1:0", NULL, 0, &ends.listener, &ends.detail), RT_OK);
    ends_connect(&ends, "");
    CHECK_INT(rt_channel_qps(ends.connected), 2);
    CHECK_INT(rt_channel_qps(ends.accepted), 2);
    ends_close(&ends);
}

static void a_goodbye_is_a_peer_that_closed(void)
{
    EACH_PROVIDER(provider)
    {
        two_ends ends;
        ends_open(&ends, provider, "");
        ends_connect(&ends, "");
        rt_channel_close(ends.connected);
        CHECK_INT(wait_failure(ends.here, ends.accepted, RT_E_PEER_CLOSED, &ends.detail), RT_E_PEER_CLOSED);
        CHECK_HAS(ends.detail.text, rt_channel_peer(ends.accepted));
        CHECK_HAS(ends.detail.text, "closed by its owner");
        CHECK_INT(rt_channel_failure(ends.connected, &ends.detail), RT_E_CLOSED);
        ends_close(&ends);
    }
}

static void a_device_that_closes_says_goodbye(void)
{
    EACH_PROVIDER(provider)
    {
        two_ends ends;
        ends_open(&ends, provider, "");
        ends_connect(&ends, "");
        rt_device_close(ends.there);
        CHECK_INT(wait_failure(ends.here, ends.accepted, RT_E_PEER_CLOSED, &ends.detail), RT_E_PEER_CLOSED);
        CHECK_INT(rt_channel_failure(ends.connected, NULL), RT_E_CLOSED);
        rt_channel_drop(ends.connected);
        rt_channel_drop(ends.accepted);
        rt_listener_close(ends.listener);
        rt_device_close(ends.here);
    }
}

static void the_same_secret_joins_and_another_one_does_not(void)
{
    EACH_PROVIDER(provider)
    {
        two_ends ends;
        rt_detail detail;
        ends_open(&ends, provider, "open sesame");
        rt_channel *wrong, *none;
        const char *address = rt_listener_address(ends.listener);
        CHECK_INT(rt_channel_connect(ends.there, address, (const uint8_t *)"close sesame", 12, &wrong, &detail), RT_OK);
        CHECK_INT(wait_ready(ends.there, wrong, &detail), RT_E_AUTH);
        CHECK_HAS(detail.text, "different secrets");
        CHECK_INT(wait_refusal(&ends, &detail), RT_E_AUTH);
        CHECK_INT(rt_channel_connect(ends.there, address, NULL, 0, &none, &detail), RT_OK);
        CHECK_INT(wait_ready(ends.there, none, &detail), RT_E_AUTH);
        CHECK_HAS(detail.text, "wants a secret");
        CHECK_INT(wait_refusal(&ends, &detail), RT_E_AUTH);
        ends_connect(&ends, "open sesame");
        rt_channel_drop(wrong);
        rt_channel_drop(none);
        ends_close(&ends);
    }
}

static void nobody_listening_is_refused_at_once(void)
{
    EACH_PROVIDER(provider)
    {
        two_ends ends;
        char address[96];
        ends_open(&ends, provider, "");
        snprintf(address, sizeof address, "%s", rt_listener_address(ends.listener));
        rt_listener_close(ends.listener);
        ends.listener = NULL;
        int status = rt_channel_connect(ends.there, address, NULL, 0, &ends.connected, &ends.detail);
        if (status == RT_OK)
            status = wait_ready(ends.there, ends.connected, &ends.detail);
        CHECK_INT(status, RT_E_REFUSED);
        CHECK_HAS(ends.detail.text, "nobody listens");
        CHECK_HAS(ends.detail.text, address);
        ends_close(&ends);
    }
}

static void a_second_listener_on_a_port_is_told_so(void)
{
    EACH_PROVIDER(provider)
    {
        two_ends ends;
        rt_listener *second;
        ends_open(&ends, provider, "");
        CHECK_INT(rt_listener_open(ends.there, rt_listener_address(ends.listener), NULL, 0, &second, &ends.detail), RT_E_EXISTS);
        CHECK_HAS(ends.detail.text, rt_listener_address(ends.listener));
        ends_connect(&ends, ""); /* the first is not harmed */
        ends_close(&ends);
    }
}

static void a_port_is_free_again_after_close(void)
{
    two_ends ends;
    char address[96];
    ends_open(&ends, "shm", "");
    ends_connect(&ends, "");
    snprintf(address, sizeof address, "%s", rt_listener_address(ends.listener));
    rt_listener_close(ends.listener);
    CHECK_INT(rt_listener_open(ends.here, address, NULL, 0, &ends.listener, &ends.detail), RT_OK);
    CHECK_STR(rt_listener_address(ends.listener), address);
    ends_close(&ends);
}

static void other_machines_are_not_let_in_without_a_secret(void)
{
    two_ends ends;
    rt_listener *open;
    ends_open(&ends, "shm", "");
    CHECK_INT(rt_listener_open(ends.here, "0.0.0.0:0", NULL, 0, &open, &ends.detail), RT_E_AUTH);
    CHECK_HAS(ends.detail.text, "RDMATENSOR_SECRET");
    CHECK_INT(rt_listener_open(ends.here, "0.0.0.0:0", (const uint8_t *)"s", 1, &open, &ends.detail), RT_OK);
    rt_listener_close(open);
    CHECK_INT(rt_channel_connect(ends.there, "192.0.2.1:4711", NULL, 0, &ends.connected, &ends.detail), RT_E_AUTH);
    CHECK_HAS(ends.detail.text, "secret");
    ends_close(&ends);
}

static void bad_addresses_are_named(void)
{
    static const struct {
        const char *address, *says;
        int status;
    } bad[] = {
        {"127.0.0.1", "no port", RT_E_INVALID},
        {":4711", "no host", RT_E_INVALID},
        {"::1:4711", "without brackets", RT_E_INVALID},
        {"[::1:4711", "open bracket", RT_E_INVALID},
        {"127.0.0.1:65536", "65535", RT_E_INVALID},
        {"127.0.0.1:http", "65535", RT_E_INVALID},
        {"127.0.0.1:0", "port 0", RT_E_INVALID},
        {"[]:1", "no host", RT_E_INVALID},
        {"no.such.host.invalid:1", "resolve", RT_E_NOT_FOUND},
    };
    two_ends ends;
    ends_open(&ends, "shm", "");
    for (size_t index = 0; index < sizeof bad / sizeof bad[0]; index++) {
        CHECK_INT(rt_channel_connect(ends.there, bad[index].address, NULL, 0, &ends.connected, &ends.detail), bad[index].status);
        CHECK_HAS(ends.detail.text, bad[index].says);
    }
    ends_close(&ends);
}

static void ipv6_and_names_work_where_the_machine_has_them(void)
{
    two_ends ends;
    ends_open(&ends, "shm", "");
    rt_listener_close(ends.listener);
    ends.listener = NULL;
    if (rt_listener_open(ends.here, "[::1]:0", NULL, 0, &ends.listener, &ends.detail) != RT_OK) {
        ends_close(&ends);
        CHECK_SKIP("no IPv6 here");
    }
    CHECK_HAS(rt_listener_address(ends.listener), "[::1]:");
    ends_connect(&ends, "");
    ends_close(&ends);
}

/* ---- other processes ---- */

/* Connects and waits to be killed. With `forks`, a child of its own stays behind. */
static int peer_main(const char *address, bool forks)
{
    rt_device_options options = {.provider = "shm", .name = "", .arguments = ""};
    rt_device *device;
    rt_channel *channel;
    rt_detail detail;
    if (rt_device_open(&options, &device, &detail) != RT_OK ||
        rt_channel_connect(device, address, NULL, 0, &channel, &detail) != RT_OK ||
        wait_ready(device, channel, &detail) != RT_OK) {
        printf("peer: %s\n", detail.text);
        return 1;
    }
    if (forks && fork() == 0) {
        bool refused = rt_channel_connect(device, address, NULL, 0, &channel, &detail) == RT_E_FORKED;
        int status = refused && rt_listener_open(device, address, NULL, 0, NULL, &detail) == RT_E_FORKED ? 'y' : 'n';
        if (write(STDOUT_FILENO, &status, 1) != 1)
            return 1;
    }
    struct pollfd reader = {.fd = STDOUT_FILENO}; /* gone when the test has ended in any way */
    return poll(&reader, 1, -1) == 1 ? 0 : 1;
}

typedef struct second_process {
    pid_t pid;
    int output;
} second_process;

static second_process peer_start(const two_ends *ends, const char *how)
{
    second_process peer;
    int pipe_ends[2];
    CHECK_INT(pipe(pipe_ends), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, pipe_ends[0]);
    posix_spawn_file_actions_addclose(&actions, pipe_ends[1]);
    char address[96];
    snprintf(address, sizeof address, "%s", rt_listener_address(ends->listener));
    char *arguments[] = {(char[]){"test_control"}, (char[]){"--peer"}, address, (char *)(uintptr_t)how, NULL};
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP); /* so that its own children can be ended with it */
    CHECK_INT(posix_spawn(&peer.pid, "/proc/self/exe", &actions, &attributes, arguments, environ), 0);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    close(pipe_ends[1]);
    peer.output = pipe_ends[0];
    return peer;
}

static void peer_end(const second_process *peer)
{
    kill(-peer->pid, SIGKILL);
    close(peer->output);
}

static void a_killed_peer_is_noticed_at_once(void)
{
    two_ends ends;
    ends_open(&ends, "shm", "");
    second_process peer = peer_start(&ends, "plain");
    CHECK_INT(wait_accept(&ends, &ends.accepted), RT_OK);
    kill(peer.pid, SIGKILL);
    int64_t killed = rt_clock_now_ns();
    CHECK_INT(wait_failure(ends.here, ends.accepted, RT_E_PEER_LOST, &ends.detail), RT_E_PEER_LOST);
    CHECK(rt_clock_now_ns() - killed < RT_NS_PER_S);
    char pid[32];
    snprintf(pid, sizeof pid, " pid %d ", (int)peer.pid);
    CHECK_HAS(ends.detail.text, pid);
    CHECK_INT(waitpid(peer.pid, NULL, 0), peer.pid);
    peer_end(&peer);
    ends_close(&ends);
}

static void a_forked_child_neither_works_nor_hides_its_parents_death(void)
{
    two_ends ends;
    ends_open(&ends, "shm", "");
    second_process peer = peer_start(&ends, "forks");
    CHECK_INT(wait_accept(&ends, &ends.accepted), RT_OK);
    char told = 0;
    CHECK_INT(read(peer.output, &told, 1), 1); /* the child lives */
    CHECK_INT(told, 'y');
    kill(peer.pid, SIGKILL);
    CHECK_INT(waitpid(peer.pid, NULL, 0), peer.pid);
    int64_t killed = rt_clock_now_ns();
    CHECK_INT(wait_failure(ends.here, ends.accepted, RT_E_PEER_LOST, &ends.detail), RT_E_PEER_LOST);
    CHECK(rt_clock_now_ns() - killed < RT_NS_PER_S);
    peer_end(&peer);
    ends_close(&ends);
}

static void an_idle_service_uses_no_time(void)
{
    two_ends ends;
    struct timespec before, after;
    ends_open(&ends, "shm", "");
    ends_connect(&ends, "");
    rt_channel *none;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    for (int slice = 0; slice < 20; slice++) /* one second of waiting */
        CHECK_INT(rt_listener_accept(ends.listener, RT_SLICE_NS, &none, NULL), RT_E_AGAIN);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    int64_t used = (after.tv_sec - before.tv_sec) * RT_NS_PER_S + after.tv_nsec - before.tv_nsec;
    CHECK(used < 20 * RT_NS_PER_MS);
    ends_close(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(two_ends_connect_and_name_each_other),
    CHECK_TEST(the_fewer_qps_of_both_ends_are_used),
    CHECK_TEST(a_goodbye_is_a_peer_that_closed),
    CHECK_TEST(a_device_that_closes_says_goodbye),
    CHECK_TEST(the_same_secret_joins_and_another_one_does_not),
    CHECK_TEST(nobody_listening_is_refused_at_once),
    CHECK_TEST(a_second_listener_on_a_port_is_told_so),
    CHECK_TEST(a_port_is_free_again_after_close),
    CHECK_TEST(other_machines_are_not_let_in_without_a_secret),
    CHECK_TEST(bad_addresses_are_named),
    CHECK_TEST(ipv6_and_names_work_where_the_machine_has_them),
    CHECK_TEST(a_killed_peer_is_noticed_at_once),
    CHECK_TEST(a_forked_child_neither_works_nor_hides_its_parents_death),
    CHECK_TEST(an_idle_service_uses_no_time),
};

int main(int argument_count, char **arguments)
{
    if (argument_count == 4 && strcmp(arguments[1], "--peer") == 0)
        return peer_main(arguments[2], strcmp(arguments[3], "forks") == 0);
    return check_run(tests, sizeof tests / sizeof tests[0], argument_count > 1 ? arguments[1] : NULL);
}
