/* test_shm_users.c: the socket of the shared memory provider against processes of other users, who need prove nothing to connect to
 * it. They are played by children that have given up root, so that all of it is skipped for others. Each test of what the
 * kernel refuses runs a second time on a kernel that does not: a filter of system calls hides SO_PASSRIGHTS from the device. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "provider/shm/shm.h"
#include "shm_ends.h"

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

enum { STRANGER = 65534, HONEST = 65533, LINGER_S = 60, FAR_LESS_S = 30 };

/* ---- other processes ---- */

typedef struct process {
    pid_t pid;
    int tells; /* one byte from it */
} process;

/* Runs `main` as another user, in a process that lives until process_end. */
static process process_start(uid_t user, void (*main)(const end *victim, int tells), const end *victim)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        abort();
    process self = {.pid = fork(), .tells = ends[0]};
    if (self.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (setresuid(user, user, user) != 0)
            _exit(1);
        main(victim, ends[1]);
        for (;;)
            pause();
    }
    close(ends[1]);
    return self;
}

static char process_hear(const process *self)
{
    char byte = 0;
    return read(self->tells, &byte, 1) == 1 ? byte : 0;
}

static void process_end(process *self)
{
    kill(self->pid, SIGKILL);
    waitpid(self->pid, NULL, 0);
    close(self->tells);
}

static void tell(int tells, char byte)
{
    if (write(tells, &byte, 1) != 1)
        _exit(1);
}

/* ---- what strangers do ---- */

static int stranger_connect(const end *victim)
{
    struct sockaddr_un address;
    socklen_t size = shm_socket_address(victim->address + 1, &address);
    int client = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (client < 0 || connect(client, (struct sockaddr *)&address, size) != 0)
        _exit(1);
    return client;
}

/* A TCP socket whose last close waits LINGER_S seconds for an end that never reads. */
static int lingering_socket(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    const struct linger linger = {.l_onoff = 1, .l_linger = LINGER_S};
    const int small = 4096;
    char bytes[4096] = {0};
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 1) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) != 0 ||
        connect(client, (struct sockaddr *)&address, size) != 0 || accept(listener, NULL, NULL) < 0)
        _exit(1);
    while (send(client, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
        continue;
    if (setsockopt(client, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) != 0)
        _exit(1);
    return client;
}

/* Sends a message with a descriptor, of which this process keeps none. */
static void send_trap(int client, size_t size)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    memset(&control, 0, sizeof control);
    uint8_t request[SHM_REQUEST_SIZE] = {SHM_VERSION, SHM_REQUEST_LINK};
    struct iovec part = {.iov_base = request, .iov_len = size};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    *CMSG_FIRSTHDR(&message) =
        (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    int trap = lingering_socket();
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &trap, sizeof trap);
    ssize_t sent = sendmsg(client, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) { /* refused: closing it here must not wait either */
        const struct linger none = {.l_onoff = 1, .l_linger = 0};
        setsockopt(trap, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    }
    close(trap);
}

static void lays_traps(const end *victim, int tells)
{
    static const size_t sizes[] = {SHM_REQUEST_SIZE, 0, 5};
    for (size_t index = 0; index < sizeof sizes / sizeof sizes[0]; index++)
        send_trap(stranger_connect(victim), sizes[index]);
    tell(tells, 'y');
}

static void crowds(const end *victim, int tells)
{
    for (int index = 0; index < 3 * SHM_STRANGERS_MAX; index++)
        stranger_connect(victim);
    tell(tells, 'y');
}

/* Asks as a peer does, for the link and then for memory; tells how many replies and descriptors came. */
static void asks(const end *victim, int tells)
{
    int client = stranger_connect(victim), got = 0;
    tell(tells, 'c');
    const uint8_t *tokens[] = {victim->address + 1 + SHM_TOKEN_SIZE, victim->key + 1};
    for (int index = 0; index < 2; index++) {
        uint8_t bytes[SHM_REQUEST_SIZE] = {SHM_VERSION, (uint8_t)(SHM_REQUEST_LINK + index)}, reply[64];
        memcpy(bytes + 8, tokens[index], SHM_TOKEN_SIZE);
        send(client, bytes, sizeof bytes, MSG_NOSIGNAL);
        if (recv(client, reply, sizeof reply, 0) == SHM_REPLY_SIZE && reply[1] == bytes[1] &&
            memcmp(reply + 8, "\0\0\0\0", 4) == 0)
            got++;
    }
    tell(tells, (char)('0' + got));
}

/* ---- the device they try ---- */

/* How long something takes that must not wait for the traps. */
static double seconds_of(void (*doing)(end *self), end *self)
{
    int64_t begun = rt_clock_now_ns();
    doing(self);
    return (double)(rt_clock_now_ns() - begun) / (double)RT_NS_PER_S;
}

static void serve_end(end *self)
{
    serve(self->device);
}

static int try_traps(bool expects, bool served)
{
    end victim;
    end_open(&victim, 4096, RIGHTS_ALL);
    victim.link->any_user = expects;
    process stranger = process_start(STRANGER, lays_traps, &victim);
    int wrong = process_hear(&stranger) != 'y';
    if (served && seconds_of(serve_end, &victim) > FAR_LESS_S)
        wrong |= 2;
    if (seconds_of(end_close, &victim) > FAR_LESS_S)
        wrong |= 4;
    process_end(&stranger);
    return wrong;
}

/* From here on this process believes that its kernel knows no SO_PASSRIGHTS. */
static bool hide_passrights(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_setsockopt, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SO_PASSRIGHTS, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOPROTOOPT),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static int on_an_older_kernel(int (*doing)(bool one, bool other), bool one, bool other)
{
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(hide_passrights() ? doing(one, other) : 64);
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void a_strangers_descriptors_block_nothing(void)
{
    if (geteuid() != 0)
        CHECK_SKIP("only root can start a process of another user");
    for (int variant = 0; variant < 4; variant++) {
        CHECK_INT(try_traps(variant % 2 != 0, variant / 2 != 0), 0);
        int older = on_an_older_kernel(try_traps, variant % 2 != 0, variant / 2 != 0);
        if (older != 64)
            CHECK_INT(older, 0);
    }
}

static uint32_t guests_of(const end *self)
{
    return ((const shm_device *)(const void *)self->device)->guest_count;
}

static void strangers_are_turned_away_where_no_link_waits_for_another_user(void)
{
    if (geteuid() != 0)
        CHECK_SKIP("only root can start a process of another user");
    end victim;
    end_open(&victim, 4096, RIGHTS_ALL);
    process stranger = process_start(STRANGER, asks, &victim);
    CHECK_INT(process_hear(&stranger), 'c');
    rt_event event = serve(victim.device);
    CHECK_INT(event.kind, RT_EVENT_NOTICE);
    CHECK_HAS(event.detail.text, "user 65534");
    CHECK_INT(guests_of(&victim), 0);
    CHECK_INT(process_hear(&stranger), '0');
    process_end(&stranger);
    end_close(&victim);
}

static void a_crowd_of_strangers_leaves_room_for_an_honest_one(void)
{
    if (geteuid() != 0)
        CHECK_SKIP("only root can start a process of another user");
    end victim;
    end_open(&victim, 4096, RIGHTS_ALL);
    victim.link->any_user = true;
    process crowd = process_start(STRANGER, crowds, &victim);
    CHECK_INT(process_hear(&crowd), 'y');
    serve(victim.device);
    CHECK_INT(guests_of(&victim), SHM_STRANGERS_MAX);
    process honest = process_start(HONEST, asks, &victim);
    CHECK_INT(process_hear(&honest), 'c');
    struct pollfd heard = {.fd = honest.tells, .events = POLLIN};
    while (poll(&heard, 1, 1) == 0)
        serve(victim.device);
    CHECK_INT(process_hear(&honest), '2'); /* the link, which proved it, and then memory */
    end other;
    end_open_on(&other, victim.device, 4096, RIGHTS_ALL);
    other.link->any_user = true; /* that of the victim has been handed out */
    process late = process_start(STRANGER, crowds, &victim);
    CHECK_INT(process_hear(&late), 'y');
    serve(victim.device);
    CHECK_INT(guests_of(&victim), SHM_STRANGERS_MAX + 1); /* the proven one was not taken for a stranger */
    process_end(&late);
    process_end(&honest);
    process_end(&crowd);
    end_close_on(&other);
    end_close(&victim);
}

static void a_link_of_one_user_is_not_handed_to_another_who_knows_its_token(void)
{
    if (geteuid() != 0)
        CHECK_SKIP("only root can start a process of another user");
    end victim, other;
    end_open(&victim, 4096, RIGHTS_ALL);
    end_open_on(&other, victim.device, 4096, RIGHTS_ALL);
    other.link->any_user = true; /* strangers are listened to, for this link's sake */
    process stranger = process_start(STRANGER, asks, &victim);
    CHECK_INT(process_hear(&stranger), 'c');
    struct pollfd heard = {.fd = stranger.tells, .events = POLLIN};
    while (poll(&heard, 1, 1) == 0)
        serve(victim.device);
    CHECK_INT(process_hear(&stranger), '0');
    CHECK_INT(guests_of(&victim), 0);
    process_end(&stranger);
    end_close_on(&other);
    end_close(&victim);
}

static const check_test tests[] = {
    CHECK_TEST(a_strangers_descriptors_block_nothing),
    CHECK_TEST(strangers_are_turned_away_where_no_link_waits_for_another_user),
    CHECK_TEST(a_crowd_of_strangers_leaves_room_for_an_honest_one),
    CHECK_TEST(a_link_of_one_user_is_not_handed_to_another_who_knows_its_token),
};

CHECK_MAIN(tests)
