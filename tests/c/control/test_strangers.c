/* test_strangers.c: what connects to a listener and is no peer: other programs, broken handshakes, other users, nobody at all; and
 * what answers a connector and is no listener. It harms nobody else, and both sides are told. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/connection.h"
#include "control/listener.h"
#include "control_ends.h"
#include "device/device.h"
#include "stream/stream.h"

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

/* Whether a connection is still held by the other end. */
static bool held(int descriptor)
{
    char byte;
    return recv(descriptor, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static uint64_t refused(two_ends *ends)
{
    rt_device_stats stats;
    rt_device_get_stats(ends->here, &stats);
    return stats.connects_refused;
}

static void wait_refused(two_ends *ends, uint64_t count)
{
    int64_t end = rt_device_now_ns(ends->here) + END_PATIENCE_NS;
    while (refused(ends) < count && rt_device_now_ns(ends->here) < end)
        rt_device_nap(ends->here, RT_NS_PER_MS);
    CHECK_INT(refused(ends), count);
}

static void silent_connections_make_way_for_those_that_come(void)
{
    two_ends ends;
    rt_detail detail;
    enum { SILENT = RT_PENDING_MAX + 10 };
    int descriptors[SILENT];
    ends_open(&ends, "shm", "");
    for (int index = 0; index < SILENT; index++)
        descriptors[index] = raw_connect(&ends);
    wait_refused(&ends, 10); /* the oldest */
    for (int index = 0; index < SILENT; index++)
        CHECK_INT(held(descriptors[index]), index >= 10);
    ends_connect(&ends, "");
    CHECK_INT(refused(&ends), 11);
    CHECK_INT(rt_listener_refusal(ends.listener, &detail), RT_E_BUSY);
    CHECK_HAS(detail.text, "made way");
    for (int index = 0; index < SILENT; index++)
        close(descriptors[index]);
    ends_close(&ends);
}

/* Runs a crowd of silent connections of another user, who opens a new one whenever one is ended, as long as `pipe` is open. */
static pid_t crowd_start(const two_ends *ends, int count, int *told_out)
{
    int told[2];
    CHECK_INT(pipe(told), 0);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int descriptors[256];
        bool moved = setresuid(65534, 65534, 65534) == 0;
        for (int index = 0; moved && index < count; index++)
            descriptors[index] = raw_connect(ends);
        (void)!write(told[1], "y", moved);
        close(told[1]);
        for (;;) {
            for (int index = 0; index < count; index++) {
                if (held(descriptors[index]))
                    continue;
                close(descriptors[index]);
                descriptors[index] = raw_connect(ends);
            }
            sched_yield();
        }
    }
    close(told[1]);
    *told_out = told[0];
    return child;
}

static void crowd_end(pid_t child, int told)
{
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    close(told);
}

/* Under a crowd of another user's that never rests, connects are made within the first deadline of a stranger. */
static void crowd_is_harmless(const char *secret)
{
    two_ends ends;
    int told;
    char byte;
    if (geteuid() != 0)
        CHECK_SKIP("only root can start a process of another user");
    ends_open(&ends, "shm", secret);
    int quiet = raw_connect(&ends); /* of this user, and never the oldest of the crowd's */
    pid_t child = crowd_start(&ends, 200, &told);
    CHECK_INT(read(told, &byte, 1), 1);
    int64_t begun = rt_clock_now_ns();
    ends_connect(&ends, secret);
    CHECK(rt_clock_now_ns() - begun < RT_ACCEPTOR_PATIENCE_NS);
    CHECK(refused(&ends) >= 200 - RT_PENDING_MAX);
    CHECK(held(quiet) || rt_clock_now_ns() - begun >= RT_ACCEPTOR_PATIENCE_NS);
    crowd_end(child, told);
    close(quiet);
    ends_close(&ends);
}

static void another_users_silent_crowd_holds_nobody_up(void)
{
    crowd_is_harmless("");
}

static void another_users_silent_crowd_before_a_secret_ends_itself_only(void)
{
    crowd_is_harmless("a secret");
}

/* The kernel is asked in two ways for whoever listens. */
static void the_owner_of_a_listener_is_found_in_two_ways(void)
{
    two_ends ends;
    struct sockaddr_storage peer = {0};
    socklen_t size = sizeof peer;
    uid_t by_netlink = 1, by_proc = 2;
    ends_open(&ends, "shm", "");
    int descriptor = raw_connect(&ends);
    CHECK_INT(getpeername(descriptor, (struct sockaddr *)&peer, &size), 0);
    CHECK_INT(rt_listener_owner_by_netlink(&peer, &by_netlink), RT_OK);
    CHECK_INT(rt_listener_owner_by_proc(&peer, &by_proc), RT_OK);
    CHECK_INT(by_netlink, geteuid());
    CHECK_INT(by_proc, geteuid());
    rt_listener_close(ends.listener); /* the connection may still be there, and is not taken for it */
    ends.listener = NULL;
    CHECK_INT(rt_listener_owner_by_netlink(&peer, &by_netlink), RT_E_NOT_FOUND);
    CHECK_INT(rt_listener_owner_by_proc(&peer, &by_proc), RT_E_NOT_FOUND);
    close(descriptor);
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

static const check_test tests[] = {
    CHECK_TEST(a_silent_connection_is_ended_at_the_deadline),
    CHECK_TEST(a_silent_acceptor_is_given_up_at_the_deadline),
    CHECK_TEST(something_else_that_connects_is_named),
    CHECK_TEST(a_handshake_cut_at_any_byte_harms_nobody_else),
    CHECK_TEST(a_flipped_byte_anywhere_in_the_handshake_is_refused),
    CHECK_TEST(different_providers_are_named_at_both_ends),
    CHECK_TEST(silent_connections_make_way_for_those_that_come),
    CHECK_TEST(another_users_silent_crowd_holds_nobody_up),
    CHECK_TEST(another_users_silent_crowd_before_a_secret_ends_itself_only),
    CHECK_TEST(the_owner_of_a_listener_is_found_in_two_ways),
    CHECK_TEST(a_process_of_another_user_is_turned_away),
    CHECK_TEST(a_connection_that_nobody_owns_is_not_believed),
    CHECK_TEST(the_kernel_is_asked_in_two_ways_with_one_answer),
};

CHECK_MAIN(tests)
