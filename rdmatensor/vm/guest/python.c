/* python.c: stands in for `python` in the guest, so that an interpreter starts in milliseconds. It asks the agent for a
 * copy of an interpreter that has the heavy modules imported already, hands over its arguments, directory, environment
 * and descriptors, passes signals on, and ends as that copy ends. Requests that the copy could not serve exactly as
 * a fresh interpreter would (flags, variables that Python or the loader read at the start) are left to the real one. */
#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DESCRIPTORS_MAX = 250 };

extern char **environ;

static const int forwarded[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGWINCH};
static volatile pid_t copy;

static void forward(int number)
{
    int saved = errno;
    kill(copy, number);
    errno = saved;
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* The copy knows -c, -m, -u and -B, and a few variables. */
static bool needs_the_real_one(int count, char **arguments)
{
    static const char *const known[] = {"PYTHONPATH=", "PYTHONUNBUFFERED=", "PYTHONDONTWRITEBYTECODE=", "PYTHONIOENCODING=utf-8"};
    for (char **entry = environ; *entry != NULL; entry++) {
        if (begins(*entry, "RDMATENSOR_VM_FAST=0") || begins(*entry, "LD_") || begins(*entry, "MALLOC_") || begins(*entry, "GLIBC_"))
            return true;
        bool fine = !begins(*entry, "PYTHON");
        for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
            fine = fine || begins(*entry, known[i]);
        if (!fine)
            return true;
    }
    for (int i = 1; i < count && arguments[i][0] == '-'; i++) {
        if (strcmp(arguments[i], "-u") == 0 || strcmp(arguments[i], "-B") == 0)
            continue;
        return i + 1 >= count || (strcmp(arguments[i], "-c") != 0 && strcmp(arguments[i], "-m") != 0);
    }
    return count < 2 || geteuid() != 0;
}

/* Becomes the real interpreter, which lies beside this program and must take itself for it. */
static int be_the_real_one(char **arguments)
{
    char place[PATH_MAX], real[PATH_MAX + 16];
    ssize_t length = readlink("/proc/self/exe", place, sizeof place - 1);
    if (length <= 0)
        return 127;
    place[length] = '\0';
    if (strchr(arguments[0], '/') == NULL)
        arguments[0] = strdup(place);
    snprintf(real, sizeof real, "%s/.python-real", dirname(place));
    execv(real, arguments);
    perror(real);
    return 127;
}

struct text {
    char *bytes;
    size_t size;
};

static void append(struct text *text, const char *word)
{
    size_t length = strlen(word) + 1;
    char *grown = realloc(text->bytes, text->size + length);
    if (grown == NULL)
        abort();
    memcpy(grown + text->size, word, length);
    text->bytes = grown;
    text->size += length;
}

static void append_number(struct text *text, int number)
{
    char digits[16];
    snprintf(digits, sizeof digits, "%d", number);
    append(text, digits);
}

static int open_descriptors(int except, int *numbers)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    if (folder == NULL)
        return -1;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        int number = atoi(entry->d_name);
        if (entry->d_name[0] == '.' || number == except || number == dirfd(folder))
            continue;
        if (count == DESCRIPTORS_MAX) {
            count = -1;
            break;
        }
        numbers[count++] = number;
    }
    closedir(folder);
    return count;
}

/* The request: how long it is, with the descriptors beside it; then words, each ended by a zero byte: how many
 * descriptors and their numbers, the directory, how many arguments and they, and the environment. */
static int request(int agent, int count, char **arguments, int *numbers, int descriptors)
{
    struct text text = {0};
    char directory[PATH_MAX];
    append_number(&text, descriptors);
    for (int i = 0; i < descriptors; i++)
        append_number(&text, numbers[i]);
    append(&text, getcwd(directory, sizeof directory) != NULL ? directory : "/");
    append_number(&text, count - 1);
    for (int i = 1; i < count; i++)
        append(&text, arguments[i]);
    for (char **entry = environ; *entry != NULL; entry++)
        append(&text, *entry);

    uint32_t size = (uint32_t)text.size;
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int) * DESCRIPTORS_MAX)];
    } beside = {0};
    struct iovec part = {&size, sizeof size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (descriptors > 0) {
        message.msg_control = &beside;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)descriptors);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        *head = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int) * (size_t)descriptors)};
        memcpy(CMSG_DATA(head), numbers, sizeof(int) * (size_t)descriptors);
    }
    if (sendmsg(agent, &message, MSG_NOSIGNAL) != sizeof size)
        return -1;
    for (size_t sent = 0; sent < text.size;) {
        ssize_t now = send(agent, text.bytes + sent, text.size - sent, MSG_NOSIGNAL);
        if (now <= 0)
            return -1;
        sent += (size_t)now;
    }
    free(text.bytes);
    return 0;
}

static int read_number(int agent, int32_t *number_out)
{
    size_t have = 0;
    while (have < sizeof *number_out) {
        ssize_t now = read(agent, (char *)number_out + have, sizeof *number_out - have);
        if (now == 0 || (now < 0 && errno != EINTR))
            return -1;
        have += now > 0 ? (size_t)now : 0;
    }
    return 0;
}

static int end_as(int32_t status)
{
    if (!WIFSIGNALED(status))
        return WEXITSTATUS(status);
    int number = WTERMSIG(status);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    signal(number, SIG_DFL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    raise(number);
    return 128 + number;
}

int main(int count, char **arguments)
{
    if (needs_the_real_one(count, arguments))
        return be_the_real_one(arguments);
    int agent = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/run/rdmatensor/python.socket"};
    int numbers[DESCRIPTORS_MAX];
    if (agent < 0 || connect(agent, (struct sockaddr *)&address, sizeof address) != 0)
        return be_the_real_one(arguments);
    int descriptors = open_descriptors(agent, numbers);
    if (descriptors < 0)
        return be_the_real_one(arguments);

    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    int32_t pid, status;
    if (request(agent, count, arguments, numbers, descriptors) != 0 || read_number(agent, &pid) != 0) {
        fprintf(stderr, "python: the agent of this machine is gone\n");
        return 127;
    }
    copy = pid;
    for (size_t i = 0; i < sizeof forwarded / sizeof forwarded[0]; i++)
        sigaction(forwarded[i], &(struct sigaction){.sa_handler = forward}, NULL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    for (int i = 0; i < descriptors; i++) { /* the copy holds them now; a reader that waits for their end must see it */
        if (numbers[i] > STDERR_FILENO)
            close(numbers[i]);
    }
    close(STDIN_FILENO);
    close(STDOUT_FILENO);
    return read_number(agent, &status) == 0 ? end_as(status) : 127;
}
