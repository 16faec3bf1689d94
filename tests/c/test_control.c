/* test_control.c: listeners, connections and their ends, over the simulated provider and over TCP. A second process, where one is
 * needed, is this program again, started with "--peer ADDRESS". */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control_ends.h"
#include "core/core.h"
#include "core/stream.h"

extern char **environ;

static const char *const providers[] = {"sim", "shm"};
#define EACH_PROVIDER(provider)                                                                                                  \
    for (int at = 0; at < 2; at++)                                                                                               \
        for (const char *provider = providers[at]; provider != NULL; provider = NULL)

/* ---- raw connections to a TCP listener ---- */

static int raw_connect(const two_ends *ends)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)atoi(strrchr(rt_listener_address(ends->listener), ':') + 1));
    int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(descriptor >= 0);
    CHECK_INT(connect(descriptor, (struct sockaddr *)&address, sizeof address), 0);
    return descriptor;
}

/* A connector that follows the protocol until it has said `most` bytes. Returns whether it had more to say. */
static bool raw_speak(int descriptor, rt_handshake *handshake, const rt_offer *offer, size_t most)
{
    size_t said = 0;
    for (;;) {
        if (rt_handshake_wants_offer(handshake))
            CHECK_INT(rt_handshake_offer(handshake, offer), RT_OK);
        size_t size = handshake->out_size < most - said ? handshake->out_size : most - said;
        bool more = size < handshake->out_size;
        if (size > 0)
            CHECK_INT(send(descriptor, handshake->out, size, MSG_NOSIGNAL), (int64_t)size);
        rt_handshake_sent(handshake, size);
        said += size;
        if (more)
            return true;
        uint8_t bytes[512];
        struct pollfd readable = {.fd = descriptor, .events = POLLIN};
        CHECK_INT(poll(&readable, 1, 10000), 1);
        size_t room = rt_handshake_room(handshake);
        ssize_t got = recv(descriptor, bytes, room < sizeof bytes ? room : sizeof bytes, 0);
        if (got <= 0) {
            rt_handshake_ended(handshake);
            return false;
        }
        if (rt_handshake_feed(handshake, bytes, (size_t)got) != RT_OK)
            return false;
    }
}

static rt_offer raw_offer(const char *provider)
{
    rt_offer offer = {.description = "raw pid 1 x", .link_count = 1};
    snprintf(offer.provider, sizeof offer.provider, "%s", provider);
    offer.address_sizes[0] = 33;
    return offer;
}

static void raw_begin(rt_handshake *handshake)
{
    uint8_t nonce[RT_NONCE_SIZE] = {1, 2, 3};
    CHECK_INT(rt_handshake_begin(handshake, RT_ROLE_CONNECTOR, NULL, 0, nonce), RT_OK);
}

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

/* ---- strangers ---- */

static void a_silent_connection_is_ended_at_the_deadline(void)
{
    two_ends ends;
    rt_detail detail;
    void *stream;
    ends_open(&ends, "sim", "");
    const rt_stream_ops *ops = ends.there->provider->streams;
    CHECK_INT(ops->connect(ends.there->pdevice, rt_listener_address(ends.listener), &stream, &detail), RT_OK);
    int64_t begun = rt_device_now_ns(ends.here);
    CHECK_INT(wait_refusal(&ends, &detail), RT_E_DEADLINE);
    CHECK_HAS(detail.text, "within 5 s");
    int64_t took = rt_device_now_ns(ends.here) - begun;
    CHECK(took >= 5 * RT_NS_PER_S && took < 6 * RT_NS_PER_S);
    ops->close(stream);
    ends_connect(&ends, "");
    ends_close(&ends);
}

static void a_silent_acceptor_is_given_up_at_the_deadline(void)
{
    two_ends ends;
    char address[96];
    void *listener;
    ends_open(&ends, "sim", "");
    const rt_stream_ops *ops = ends.here->provider->streams;
    CHECK_INT(ops->listen(ends.here->pdevice, "127.0.0.1:0", &listener, address, sizeof address, &ends.detail), RT_OK);
    int64_t begun = rt_device_now_ns(ends.there);
    CHECK_INT(rt_channel_connect(ends.there, address, NULL, 0, &ends.connected, &ends.detail), RT_OK);
    CHECK_INT(wait_ready(ends.there, ends.connected, &ends.detail), RT_E_DEADLINE);
    CHECK_HAS(ends.detail.text, "within 30 s");
    CHECK_HAS(ends.detail.text, address);
    CHECK(rt_device_now_ns(ends.there) - begun < 31 * RT_NS_PER_S);
    ops->unlisten(listener);
    ends_close(&ends);
}

static void something_else_that_connects_is_named(void)
{
    two_ends ends;
    rt_detail detail;
    ends_open(&ends, "shm", "");
    int descriptor = raw_connect(&ends);
    CHECK_INT(send(descriptor, "GET / HTTP/1.1\r\n", 16, MSG_NOSIGNAL), 16);
    CHECK_INT(wait_refusal(&ends, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "47 45 54");
    char end;
    CHECK(recv(descriptor, &end, 1, 0) <= 0);
    close(descriptor);
    ends_close(&ends);
}

static void a_handshake_cut_at_any_byte_harms_nobody_else(void)
{
    two_ends ends;
    rt_detail detail;
    static rt_handshake handshake;
    rt_offer offer = raw_offer("shm");
    ends_open(&ends, "shm", "");
    ends_connect(&ends, "");
    bool more = true;
    size_t most = 0;
    for (; more; most++) {
        int descriptor = raw_connect(&ends);
        raw_begin(&handshake);
        more = raw_speak(descriptor, &handshake, &offer, most);
        shutdown(descriptor, SHUT_WR);
        int status = wait_refusal(&ends, &detail);
        CHECK(status != RT_E_AGAIN && status != RT_E_DEADLINE);
        CHECK_HAS(detail.text, "peer");
        close(descriptor);
    }
    CHECK(most > RT_PREFACE_SIZE + RT_PROOF_SIZE + RT_FRAME_HEADER_SIZE + RT_FRAME_TAG_SIZE);
    CHECK_INT(rt_channel_state(ends.accepted), RT_CHANNEL_READY);
    CHECK_INT(rt_channel_state(ends.connected), RT_CHANNEL_READY);
    rt_device_stats stats;
    rt_device_get_stats(ends.here, &stats);
    CHECK(stats.channels <= 2); /* the last one may still be on its way out */
    ends_close(&ends);
}

static void a_flipped_byte_anywhere_in_the_handshake_is_refused(void)
{
    two_ends ends;
    rt_detail detail;
    static rt_handshake handshake;
    rt_offer offer = raw_offer("shm");
    ends_open(&ends, "shm", "");
    for (size_t flipped = 0; flipped < RT_PREFACE_SIZE + RT_PROOF_SIZE; flipped++) {
        int descriptor = raw_connect(&ends);
        raw_begin(&handshake);
        if (flipped < RT_PREFACE_SIZE)
            handshake.out[flipped] ^= 0x10;
        else
            raw_speak(descriptor, &handshake, &offer, RT_PREFACE_SIZE);
        if (flipped >= RT_PREFACE_SIZE)
            handshake.out[flipped - RT_PREFACE_SIZE] ^= 0x10;
        raw_speak(descriptor, &handshake, &offer, 4096);
        int status = wait_refusal(&ends, &detail);
        CHECK(status == RT_E_PROTOCOL || status == RT_E_VERSION || status == RT_E_AUTH);
        close(descriptor);
    }
    ends_connect(&ends, "");
    ends_close(&ends);
}

static void different_providers_are_named_at_both_ends(void)
{
    two_ends ends;
    rt_detail detail;
    static rt_handshake handshake;
    rt_offer offer = raw_offer("telex");
    ends_open(&ends, "shm", "");
    int descriptor = raw_connect(&ends);
    raw_begin(&handshake);
    CHECK(!raw_speak(descriptor, &handshake, &offer, 4096));
    CHECK_INT(handshake.failure.status, RT_E_REFUSED);
    CHECK_HAS(handshake.failure.text, "telex");
    CHECK_HAS(handshake.failure.text, "shm");
    CHECK_INT(wait_refusal(&ends, &detail), RT_E_REFUSED);
    CHECK_HAS(detail.text, "telex");
    close(descriptor);
    ends_close(&ends);
}

static void strangers_fill_their_places_only_until_they_go(void)
{
    two_ends ends;
    rt_detail detail;
    enum { STRANGERS = 64 };
    int descriptors[STRANGERS];
    ends_open(&ends, "shm", "");
    for (int index = 0; index < STRANGERS; index++)
        descriptors[index] = raw_connect(&ends);
    rt_channel *channel = NULL;
    CHECK_INT(rt_channel_connect(ends.there, rt_listener_address(ends.listener), NULL, 0, &ends.connected, &detail), RT_OK);
    CHECK_INT(rt_listener_accept(ends.listener, RT_SLICE_NS, &channel, &detail), RT_E_AGAIN); /* it waits in the backlog */
    for (int index = 0; index < STRANGERS; index++)
        close(descriptors[index]);
    CHECK_INT(wait_accept(&ends, &ends.accepted), RT_OK);
    CHECK_INT(wait_ready(ends.there, ends.connected, &detail), RT_OK);
    int told = 0;
    while (rt_listener_refusal(ends.listener, &detail) != RT_E_AGAIN) {
        if (told++ == 0)
            CHECK_HAS(detail.text, "(48 earlier refusals were dropped)");
    }
    CHECK_INT(told, 16);
    ends_close(&ends);
}

static void a_process_of_another_user_is_turned_away(void)
{
    two_ends ends;
    rt_detail detail;
    if (geteuid() != 0)
        CHECK_SKIP("only root can start a process of another user");
    ends_open(&ends, "shm", "");
    pid_t child = fork();
    if (child == 0) {
        int status = setresuid(65534, 65534, 65534) == 0 ? 0 : 1;
        int descriptor = raw_connect(&ends);
        char byte;
        send(descriptor, "RDMATNSR", 8, MSG_NOSIGNAL);
        _exit(recv(descriptor, &byte, 1, 0) > 0 ? 2 : status);
    }
    CHECK_INT(wait_refusal(&ends, &detail), RT_E_AUTH);
    CHECK_HAS(detail.text, "user 65534");
    int status = -1;
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK_INT(status, 0); /* it was told nothing */
    ends_close(&ends);
}

/* The kernel says user 0 of an end that no process owns any more. */
static void a_connection_that_nobody_owns_is_not_believed(void)
{
    two_ends ends;
    rt_detail detail;
    static rt_handshake handshake;
    uint8_t proof[RT_PROOF_SIZE] = {0};
    ends_open(&ends, "shm", "");
    pthread_mutex_lock(&ends.here->lock);
    int descriptor = raw_connect(&ends);
    raw_begin(&handshake);
    CHECK_INT(send(descriptor, handshake.out, RT_PREFACE_SIZE, MSG_NOSIGNAL), RT_PREFACE_SIZE);
    CHECK_INT(send(descriptor, proof, sizeof proof, MSG_NOSIGNAL), sizeof proof);
    close(descriptor);
    pthread_mutex_unlock(&ends.here->lock);
    CHECK_INT(wait_refusal(&ends, &detail), RT_E_AUTH);
    CHECK_HAS(detail.text, "before the kernel could tell");
    ends_close(&ends);
}

static void the_kernel_is_asked_in_two_ways_with_one_answer(void)
{
    two_ends ends;
    struct sockaddr_storage own = {0}, peer = {0};
    socklen_t own_size = sizeof own, peer_size = sizeof peer;
    uid_t by_netlink = 1, by_proc = 2;
    ends_open(&ends, "shm", "");
    int descriptor = raw_connect(&ends);
    CHECK_INT(getsockname(descriptor, (struct sockaddr *)&own, &own_size), 0);
    CHECK_INT(getpeername(descriptor, (struct sockaddr *)&peer, &peer_size), 0);
    CHECK_INT(rt_owner_by_netlink(&own, &peer, &by_netlink), RT_OK);
    CHECK_INT(rt_owner_by_proc(&own, &peer, &by_proc), RT_OK);
    CHECK_INT(by_netlink, geteuid());
    CHECK_INT(by_proc, geteuid());
    ((struct sockaddr_in *)(void *)&own)->sin_port ^= htons(1); /* no such connection, though there is a listener */
    CHECK_INT(rt_owner_by_netlink(&peer, &own, &by_netlink), RT_E_NOT_FOUND);
    CHECK_INT(rt_owner_by_proc(&peer, &own, &by_proc), RT_E_NOT_FOUND);
    close(descriptor);
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
    CHECK_TEST(a_silent_connection_is_ended_at_the_deadline),
    CHECK_TEST(a_silent_acceptor_is_given_up_at_the_deadline),
    CHECK_TEST(something_else_that_connects_is_named),
    CHECK_TEST(a_handshake_cut_at_any_byte_harms_nobody_else),
    CHECK_TEST(a_flipped_byte_anywhere_in_the_handshake_is_refused),
    CHECK_TEST(different_providers_are_named_at_both_ends),
    CHECK_TEST(strangers_fill_their_places_only_until_they_go),
    CHECK_TEST(a_process_of_another_user_is_turned_away),
    CHECK_TEST(a_connection_that_nobody_owns_is_not_believed),
    CHECK_TEST(the_kernel_is_asked_in_two_ways_with_one_answer),
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
