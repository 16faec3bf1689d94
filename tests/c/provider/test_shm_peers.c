/* test_shm_peers.c: the shared memory provider between processes: copies, sleeping and waking, peers that are killed, stopped, or
 * of another user. Children report by their exit status; every wait has a deadline. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/order.h"
#include "provider/shm/shm.h"
#include "shm_ends.h"

#define NOBODY 65534

/* In a child: ends it with a line when the condition does not hold. */
#define NEED(condition)                                                                                                          \
    do {                                                                                                                         \
        if (!(condition)) {                                                                                                      \
            printf("%s:%d: in the child: failed: %s\n", __FILE__, __LINE__, #condition);                                         \
            fflush(stdout);                                                                                                      \
            _exit(1);                                                                                                            \
        }                                                                                                                        \
    } while (0)

typedef struct party {
    pid_t pid;
    int socket;
} party;

static party party_start(void (*run)(int socket))
{
    int ends[2];
    fflush(stdout);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        abort();
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends[0]);
        alarm(120);
        run(ends[1]);
        _exit(0);
    }
    close(ends[1]);
    return (party){.pid = pid, .socket = ends[0]};
}

/* Waits for the end of a party; its exit status, or minus the signal. */
static int party_end(party *self)
{
    int status = 0;
    close(self->socket);
    if (waitpid(self->pid, &status, 0) != self->pid)
        return 99;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

typedef struct hello {
    uint8_t address[RT_LINK_ADDRESS_SIZE_MAX], key[RT_MEMORY_KEY_SIZE_MAX];
    size_t address_size, key_size;
    uint64_t size;
    uint32_t access;
} hello;

static void hello_send(const end *self, int socket)
{
    hello mine = {.address_size = self->address_size,
                  .key_size = self->key_size,
                  .size = self->size,
                  .access = self->memory->access};
    memcpy(mine.address, self->address, sizeof mine.address);
    memcpy(mine.key, self->key, sizeof mine.key);
    if (send(socket, &mine, sizeof mine, MSG_NOSIGNAL) != (ssize_t)sizeof mine)
        abort();
}

/* Serves until something comes on the socket, and takes it. False at the end of it or of patience. */
static bool listen_and_serve(end *self, int socket, void *bytes_out, size_t size)
{
    for (int round = 0; round < PATIENCE_MS / 10; round++) {
        struct pollfd ready[2] = {{.fd = shm->service_fd(self->device), .events = POLLIN}, {.fd = socket, .events = POLLIN}};
        poll(ready, 2, 10);
        serve(self->device);
        if ((ready[1].revents & (POLLIN | POLLHUP)) != 0)
            return recv(socket, bytes_out, size, 0) > 0;
    }
    return false;
}

/* Joins this end to that of the process at the other end of the socket, which does the same. */
static int meet(end *self, int socket, rt_detail *detail)
{
    hello theirs;
    char byte = 'j';
    hello_send(self, socket);
    if (!listen_and_serve(self, socket, &theirs, sizeof theirs))
        return rt_fail(detail, RT_E_DEADLINE, 0, "the other process said nothing");
    int status = join(self, theirs.address, theirs.address_size, NULL, detail);
    if (status == RT_OK)
        status = attach(self, theirs.key, theirs.key_size, theirs.size, theirs.access, NULL, &self->remote, detail);
    if (status != RT_OK)
        return status;
    send(socket, &byte, 1, MSG_NOSIGNAL);
    return listen_and_serve(self, socket, &byte, 1) ? RT_OK : rt_fail(detail, RT_E_DEADLINE, 0, "the other process did not join");
}

/* ---- copies ---- */

static void child_echoes(int socket)
{
    end self;
    rt_detail detail;
    char byte;
    end_open(&self, 1 << 20, RIGHTS_ALL);
    for (uint64_t slot = 0; slot < 4; slot++)
        NEED(post_one(&self, RT_WORK_RECV, 4096 + 256 * slot, 256, 0, slot).accepted == 1);
    NEED(meet(&self, socket, &detail) == RT_OK);
    NEED(listen_and_serve(&self, socket, &byte, 1));
    rt_completion first = poll_one(&self, SERVICE_QUEUE), second = poll_one(&self, SERVICE_QUEUE);
    NEED(first.status == RT_OK && first.size == 100 && !first.has_immediate);
    NEED(second.status == RT_OK && second.size == 1000 && second.immediate == 77);
    NEED(memcmp(self.bytes + 4096, self.bytes + 8192, 100) == 0);
    NEED(post_one(&self, RT_WORK_WRITE, 8192, 1000, 16384, 0).completed == 1);
    send(socket, &byte, 1, MSG_NOSIGNAL);
    NEED(!listen_and_serve(&self, socket, &byte, 1));
    end_close(&self);
}

static void two_processes_write_read_and_send(void)
{
    party other = party_start(child_echoes);
    end self;
    rt_detail detail = {0};
    char byte = 'x';
    end_open(&self, 1 << 20, RIGHTS_ALL);
    CHECK_INT(meet(&self, other.socket, &detail), RT_OK);
    for (int at = 0; at < 1000; at++)
        self.bytes[at] = (uint8_t)(at * 7);
    POST_DONE(&self, RT_WORK_SEND, 0, 100, 0);
    CHECK_INT(post_one(&self, RT_WORK_WRITE_IMM, 0, 1000, 8192, 77).completed, 1);
    POST_DONE(&self, RT_WORK_READ, 2000, 1000, 8192);
    CHECK_BYTES(self.bytes + 2000, self.bytes, 1000);
    send(other.socket, &byte, 1, MSG_NOSIGNAL);
    CHECK(listen_and_serve(&self, other.socket, &byte, 1));
    CHECK_BYTES(self.bytes + 16384, self.bytes, 1000);
    CHECK_INT(party_end(&other), 0);
    end_close(&self);
}

/* ---- waking. The sleepers never spin, so each of their rounds sleeps. The writer sleeps in every fourth round; in the others
 * it answers at once. Both linger for changing lengths, so that its look for sleepers falls before, into and after their
 * announcement. ---- */

enum { SLEEPERS_MAX = 4, ROUNDS = 100000, WORD_STRIDE = 64, ACK_OFFSET = 4096, SOURCE_OFFSET = 8192 };

static uint32_t sleeper_count; /* of this test; set before the child is made */

/* A pause of a length that changes with the round. */
static void linger(uint64_t round, uint64_t lengths)
{
    for (uint64_t pause = round * 7919 % lengths; pause > 0; pause--)
        rt_pause();
}

/* Waits for a word to reach a value. False: the sleep ran to its end although the peer goes on, so a wake-up was lost. */
static bool sleep_for(rt_pdevice *device, const uint64_t *word, uint64_t value)
{
    while (rt_load_acquire_u64(word) < value) {
        uint32_t epoch = shm->memory_epoch(device);
        bool there = rt_load_acquire_u64(word) >= value;
        int status = shm->memory_sleep(device, epoch, there ? 0 : 10 * RT_NS_PER_S);
        if (!there && status == RT_E_AGAIN)
            return false;
    }
    return true;
}

/* Spins until the word is there, for some hundred microseconds at most. */
static void spin_for(const uint64_t *word, uint64_t value)
{
    for (int spin = 0; spin < 20000 && rt_load_acquire_u64(word) < value; spin++)
        rt_pause();
}

static void child_wakes_many(int socket)
{
    end self;
    rt_detail detail;
    end_open(&self, 1 << 16, RIGHTS_ALL);
    NEED(meet(&self, socket, &detail) == RT_OK);
    rt_segment segment = {.memory = self.memory, .address = self.bytes + SOURCE_OFFSET, .size = 8};
    rt_work items[SLEEPERS_MAX];
    for (uint64_t index = 0; index < sleeper_count; index++)
        items[index] = (rt_work){.opcode = RT_WORK_WRITE,
                                 .segment_count = 1,
                                 .segments = &segment,
                                 .remote = self.remote,
                                 .remote_offset = index * WORD_STRIDE};
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        rt_posted posted;
        *(uint64_t *)(void *)segment.address = round;
        /* Together; or one by one, so that a sleeper sees wake-ups that are not for it while it goes to sleep. */
        uint32_t step = round % 2 == 0 ? sleeper_count : 1;
        for (uint32_t index = 0; index < sleeper_count; index += step)
            NEED(shm->post(self.link, items + index, step, &posted) == RT_OK && posted.completed == step);
        if (round % 4 != 0)
            spin_for((const uint64_t *)(const void *)(self.bytes + ACK_OFFSET), round);
        linger(round, 13);
        NEED(sleep_for(self.device, (const uint64_t *)(const void *)(self.bytes + ACK_OFFSET), round));
    }
    end_close(&self);
}

typedef struct sleeper {
    end *self;
    const uint64_t *word;
    _Atomic uint64_t *arrived;
    bool good;
} sleeper;

static void *sleeper_run(void *argument)
{
    sleeper *me = argument;
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        linger(round, 31);
        if (!sleep_for(me->self->device, me->word, round))
            return NULL;
        if (atomic_fetch_add(me->arrived, 1) + 1 != round * sleeper_count)
            continue;
        *(uint64_t *)(void *)(me->self->bytes + SOURCE_OFFSET) = round; /* the last of the round answers for all */
        if (post_one(me->self, RT_WORK_WRITE, SOURCE_OFFSET, 8, ACK_OFFSET, 0).completed != 1)
            return NULL;
    }
    me->good = true;
    return NULL;
}

static void sleep_and_wake(uint32_t count)
{
    sleeper_count = count;
    party other = party_start(child_wakes_many);
    end self;
    rt_detail detail = {0};
    _Atomic uint64_t arrived = 0;
    sleeper sleepers[SLEEPERS_MAX];
    pthread_t threads[SLEEPERS_MAX];
    end_open(&self, 1 << 16, RIGHTS_ALL);
    CHECK_INT(meet(&self, other.socket, &detail), RT_OK);
    for (uint32_t index = 0; index < count; index++) {
        sleepers[index] = (sleeper){.self = &self,
                                    .word = (const uint64_t *)(const void *)(self.bytes + index * WORD_STRIDE),
                                    .arrived = &arrived};
        CHECK_INT(pthread_create(&threads[index], NULL, sleeper_run, &sleepers[index]), 0);
    }
    for (uint32_t index = 0; index < count; index++)
        pthread_join(threads[index], NULL);
    for (uint32_t index = 0; index < count; index++)
        CHECK(sleepers[index].good);
    CHECK_INT(party_end(&other), 0);
    end_close(&self);
}

static void no_wake_up_of_one_sleeper_is_lost(void)
{
    sleep_and_wake(1);
}

static void no_wake_up_of_many_sleepers_is_lost(void)
{
    sleep_and_wake(SLEEPERS_MAX);
}

static void *wake_later(void *argument)
{
    shm->memory_wake(argument);
    return NULL;
}

static void a_sleep_ends_at_its_deadline_or_by_memory_wake(void)
{
    rt_pdevice *device = device_open();
    uint32_t epoch = shm->memory_epoch(device);
    int64_t before = rt_clock_now_ns();
    CHECK_INT(shm->memory_sleep(device, epoch, 20 * RT_NS_PER_MS), RT_E_AGAIN);
    CHECK(rt_clock_now_ns() - before >= 20 * RT_NS_PER_MS);
    epoch = shm->memory_epoch(device);
    pthread_t thread;
    CHECK_INT(pthread_create(&thread, NULL, wake_later, device), 0);
    CHECK_INT(shm->memory_sleep(device, epoch, 10 * RT_NS_PER_S), RT_OK);
    pthread_join(thread, NULL);
    epoch = shm->memory_epoch(device);
    CHECK_INT(shm->memory_sleep(device, epoch, 0), RT_E_AGAIN);
    shm->close(device);
}

/* ---- peers that die, stop, or belong to someone else ---- */

static void child_writes_for_ever(int socket)
{
    end self;
    rt_detail detail;
    end_open(&self, 1 << 20, RIGHTS_ALL);
    NEED(meet(&self, socket, &detail) == RT_OK);
    for (uint64_t round = 1;; round++) {
        *(uint64_t *)(void *)self.bytes = round;
        NEED(post_one(&self, RT_WORK_WRITE, 4096, 500000, 4096, 0).completed == 1);
        NEED(post_one(&self, RT_WORK_WRITE, 0, 8, 0, 0).completed == 1);
        post_one(&self, RT_WORK_SEND, 0, 64, 0, 0);
    }
}

static void a_killed_peer_is_reported_and_the_device_goes_on(void)
{
    rt_pdevice *device = device_open();
    int descriptors = 0, mappings = 0;
    for (int round = 0; round < 8; round++) {
        party other = party_start(child_writes_for_ever);
        end self, late;
        rt_detail detail = {0};
        rt_premote *remote;
        uint8_t key[64];
        end_open_on(&self, device, 1 << 20, RIGHTS_ALL);
        post_one(&self, RT_WORK_RECV, 1000, 64, 0, 1);
        CHECK_INT(meet(&self, other.socket, &detail), RT_OK);
        CHECK(sleep_for(device, (const uint64_t *)(const void *)self.bytes, (uint64_t)(3 + round)));
        CHECK_INT(poll_one(&self, SERVICE_QUEUE).size, 64);
        post_one(&self, RT_WORK_RECV, 1000, 64, 0, 2);
        kill(other.pid, SIGKILL);
        CHECK_INT(party_end(&other), -SIGKILL);
        POST_DONE(&self, RT_WORK_WRITE, 0, 64, 128); /* into memory that nobody else has any more */
        memset(key, round, sizeof key);
        key[0] = SHM_VERSION;
        CHECK_INT(attach(&self, key, SHM_KEY_SIZE, 4096, RIGHTS_ALL, NULL, &remote, &detail), RT_E_PEER_LOST);
        end_open_on(&late, device, 4096, RIGHTS_ALL);
        CHECK_INT(shm->link_connect(late.link, shm_link_of(self.link)->peer_address, SHM_ADDRESS_SIZE, &detail), RT_E_PEER_LOST);
        CHECK_HAS(detail.text, "its process ended");
        end_close_on(&late);
        end_close_on(&self);
        serve(device);
        if (round == 0) {
            descriptors = descriptors_open();
            mappings = mappings_open();
        }
        CHECK_INT(descriptors_open(), descriptors);
        CHECK_INT(mappings_open(), mappings);
    }
    shm->close(device);
}

static void child_says_hello_and_stops(int socket)
{
    end self;
    char byte;
    end_open(&self, 4096, RIGHTS_ALL);
    hello_send(&self, socket);
    raise(SIGSTOP);
    NEED(!listen_and_serve(&self, socket, &byte, 1));
}

static void connecting_to_a_stopped_peer_does_not_block(void)
{
    for (int variant = 0; variant < 2; variant++) {
        party other = party_start(child_says_hello_and_stops);
        end self;
        hello theirs;
        rt_detail detail = {0};
        int status;
        end_open(&self, 4096, RIGHTS_ALL);
        CHECK_INT(recv(other.socket, &theirs, sizeof theirs, 0), sizeof theirs);
        CHECK_INT(waitpid(other.pid, &status, WUNTRACED), other.pid);
        CHECK(WIFSTOPPED(status));
        for (int again = 0; again < 5; again++) {
            CHECK_INT(shm->link_connect(self.link, theirs.address, theirs.address_size, &detail), RT_E_AGAIN);
            CHECK_INT(serve(self.device).kind, RT_EVENT_NONE);
        }
        kill(other.pid, variant == 0 ? SIGCONT : SIGKILL);
        CHECK_INT(join(&self, theirs.address, theirs.address_size, NULL, &detail), variant == 0 ? RT_OK : RT_E_PEER_LOST);
        CHECK_INT(party_end(&other), variant == 0 ? 0 : -SIGKILL);
        end_close(&self);
    }
}

static void become_nobody(void)
{
    NEED(setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
    prctl(PR_SET_DUMPABLE, 1);
}

static void child_of_another_user_says_hello(int socket)
{
    char byte;
    become_nobody();
    end self;
    end_open(&self, 4096, RIGHTS_ALL);
    hello_send(&self, socket);
    listen_and_serve(&self, socket, &byte, 1);
}

/* Our provider refuses the device of another user before it asks it; and that device refuses even who asks it bare. */
static void child_of_another_user_connects(int socket_to_parent)
{
    hello theirs;
    rt_detail detail;
    become_nobody();
    end self;
    end_open(&self, 4096, RIGHTS_ALL);
    NEED(recv(socket_to_parent, &theirs, sizeof theirs, 0) == (ssize_t)sizeof theirs);
    NEED(shm->link_connect(self.link, theirs.address, theirs.address_size, &detail) == RT_E_AUTH);
    NEED(strstr(detail.text, "belongs to user 0") != NULL);
    struct sockaddr_un address;
    socklen_t size = shm_socket_address(theirs.address + 1, &address);
    int client = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    uint8_t bytes[64], request[SHM_REQUEST_SIZE] = {SHM_VERSION, SHM_REQUEST_REGION};
    memcpy(request + 8, theirs.key + 1, SHM_TOKEN_SIZE);
    NEED(connect(client, (struct sockaddr *)&address, size) == 0);
    struct iovec part = {.iov_base = bytes, .iov_len = sizeof bytes};
    char control[256];
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    NEED(recvmsg(client, &message, 0) == SHM_REPLY_SIZE);
    NEED(bytes[1] == SHM_REFUSAL && message.msg_controllen == 0);
    NEED(recv(client, bytes, sizeof bytes, 0) <= 0);               /* it is closed right after */
    NEED(send(client, request, sizeof request, MSG_NOSIGNAL) < 0); /* a good token, and nobody to take it */
}

static void a_peer_of_another_user_is_refused_at_both_ends(void)
{
    if (geteuid() != 0)
        CHECK_SKIP("needs root, to become another user in a child");
    party other = party_start(child_of_another_user_says_hello);
    end self;
    hello theirs;
    rt_detail detail = {0};
    end_open(&self, 4096, RIGHTS_ALL);
    CHECK_INT(recv(other.socket, &theirs, sizeof theirs, 0), sizeof theirs);
    CHECK_INT(shm->link_connect(self.link, theirs.address, theirs.address_size, &detail), RT_E_AUTH);
    CHECK_HAS(detail.text, "belongs to user 65534");
    CHECK_INT(party_end(&other), 0);
    other = party_start(child_of_another_user_connects);
    hello_send(&self, other.socket);
    int refused = 0; /* twice: the child's provider connected before it looked who listens */
    for (int round = 0; round < PATIENCE_MS / 100 && refused < 2; round++) {
        readable(shm->service_fd(self.device), 100);
        rt_event event;
        shm->service(self.device, &event);
        if (event.kind != RT_EVENT_NOTICE)
            continue;
        CHECK_INT(event.detail.status, RT_E_AUTH);
        CHECK_HAS(event.detail.text, "belongs to user 65534");
        refused++;
    }
    CHECK_INT(refused, 2);
    CHECK_INT(party_end(&other), 0);
    end_close(&self);
}

static const check_test tests[] = {
    CHECK_TEST(two_processes_write_read_and_send),
    CHECK_TEST(no_wake_up_of_one_sleeper_is_lost),
    CHECK_TEST(no_wake_up_of_many_sleepers_is_lost),
    CHECK_TEST(a_sleep_ends_at_its_deadline_or_by_memory_wake),
    CHECK_TEST(a_killed_peer_is_reported_and_the_device_goes_on),
    CHECK_TEST(connecting_to_a_stopped_peer_does_not_block),
    CHECK_TEST(a_peer_of_another_user_is_refused_at_both_ends),
};

CHECK_MAIN(tests)
