/* verbs_pair.h: for the tests of the verbs provider: the fake libibverbs, and two of its devices joined by one link.
 *
 * Everything goes through the provider's table, as core does it. The fake is RT_FAKE_IBVERBS, or libfakeibverbs.so two
 * folders above the executable, where the Makefile puts it. */
#ifndef RT_TESTS_VERBS_PAIR_H
#define RT_TESTS_VERBS_PAIR_H

#include "check.h"
#include "fake_verbs.h"
#include "provider/verbs/verbs.h"

#include <dlfcn.h>
#include <libgen.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FAKE_CALLS(X)                                                                                                            \
    X(fake_reset)                                                                                                                \
    X(fake_state)                                                                                                                \
    X(fake_device_at)                                                                                                            \
    X(fake_set_device_count)                                                                                                     \
    X(fake_set_engine)                                                                                                           \
    X(fake_fail_call)                                                                                                            \
    X(fake_triggered)                                                                                                            \
    X(fake_live)                                                                                                                 \
    X(fake_violations)                                                                                                           \
    X(fake_doorbells)                                                                                                            \
    X(fake_complete)                                                                                                             \
    X(fake_complete_receive)                                                                                                     \
    X(fake_accept)                                                                                                               \
    X(fake_slow)                                                                                                                 \
    X(fake_fail_polls)                                                                                                           \
    X(fake_sever)                                                                                                                \
    X(fake_overtake)                                                                                                             \
    X(fake_make_infiniband)                                                                                                      \
    X(fake_raise)                                                                                                                \
    X(fake_step)                                                                                                                 \
    X(fake_qp_attributes)                                                                                                        \
    X(fake_set_gid)

typedef struct fake_interface {
#define X(name) __typeof__(name) *name;
    FAKE_CALLS(X)
#undef X
} fake_interface;

static fake_interface faked;
static const rt_provider *const verbs = &rt_provider_verbs;

enum { BUFFER_SIZE = 8192, DATA_QUEUE = 0, SERVICE_QUEUE = 1 };

/* Both ends of a link, with one registered buffer each: a writes to and reads from b's. */
typedef struct pair {
    rt_pdevice *a, *b;
    rt_plink *link_a, *link_b;
    rt_pmemory *memory_a, *memory_b;
    rt_premote *remote; /* b's buffer as a reaches it */
    uint8_t address_a[RT_LINK_ADDRESS_SIZE_MAX], address_b[RT_LINK_ADDRESS_SIZE_MAX];
    size_t address_a_size, address_b_size;
    uint8_t *bytes_a, *bytes_b;
    rt_detail detail;
} pair;

static pair both;

static inline const char *fake_path(void)
{
    static char path[4096];
    const char *named = getenv("RT_FAKE_IBVERBS");
    if (named != NULL && named[0] != '\0')
        return named;
    char self[3800] = "";
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0)
        return "libfakeibverbs.so";
    char *folder = dirname(self);
    snprintf(path, sizeof path, "%s/../../libfakeibverbs.so", folder);
    return path;
}

/* Loads the fake once and gives it back its first configuration. Every test begins with this. */
static inline void begin(void)
{
    if (faked.fake_reset == NULL) {
        setenv("RDMATENSOR_LIBIBVERBS", fake_path(), 1);
        void *handle = dlopen(fake_path(), RTLD_NOW | RTLD_LOCAL);
        if (handle == NULL) {
            printf("cannot load the fake: %s\n", dlerror());
            exit(1);
        }
#define X(name)                                                                                                                  \
    faked.name = (__typeof__(faked.name))dlsym(handle, #name);                                                                   \
    if (faked.name == NULL)                                                                                                      \
        exit(1);
        FAKE_CALLS(X)
#undef X
    }
    faked.fake_reset();
}

/* Every test ends with this: nothing is alive, and no rule of libibverbs was broken. */
static inline void end(void)
{
    CHECK_INT(faked.fake_live(), 0);
    CHECK_INT(faked.fake_violations(), 0);
}

static inline int device_open(const char *name, const char *arguments, rt_pdevice **out, rt_detail *detail)
{
    rt_open_options options = {.name = name, .arguments = arguments, .data_queues = 1};
    return verbs->open(&options, out, detail);
}

static inline int memory_open(rt_pdevice *device, uint8_t *bytes, uint32_t access, rt_pmemory **out, rt_detail *detail)
{
    rt_memory memory = {.address = bytes, .size = BUFFER_SIZE, .descriptor = -1, .access = access};
    return verbs->memory_register(device, &memory, out, detail);
}

/* Closes the objects of the pair in reverse order; members that are NULL were never opened. */
static inline void pair_close(void)
{
    if (both.remote != NULL)
        verbs->remote_detach(both.link_a, both.remote);
    if (both.link_b != NULL)
        verbs->link_destroy(both.link_b);
    if (both.link_a != NULL)
        verbs->link_destroy(both.link_a);
    if (both.memory_b != NULL)
        verbs->memory_release(both.b, both.memory_b);
    if (both.memory_a != NULL)
        verbs->memory_release(both.a, both.memory_a);
    if (both.b != NULL)
        verbs->close(both.b);
    if (both.a != NULL)
        verbs->close(both.a);
    free(both.bytes_a);
    free(both.bytes_b);
    memset(&both, 0, sizeof both);
}

static inline int remote_open(uint32_t access)
{
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    size_t size;
    int status = verbs->memory_key(both.b, both.memory_b, NULL, 0, key, &size, &both.detail);
    if (status == RT_OK)
        status = verbs->remote_attach(both.link_a, key, size, BUFFER_SIZE, access, &both.remote, &both.detail);
    return status;
}

/* Opens both ends up to where the links exist but are not joined. Stops at the first failure, with its detail. */
static inline int pair_create(const char *arguments_a, const char *arguments_b, uint32_t access_b)
{
    memset(&both, 0, sizeof both);
    both.bytes_a = calloc(1, BUFFER_SIZE);
    both.bytes_b = calloc(1, BUFFER_SIZE);
    int status = device_open("fake0", arguments_a, &both.a, &both.detail);
    if (status == RT_OK)
        status = device_open("fake1", arguments_b, &both.b, &both.detail);
    if (status == RT_OK)
        status = memory_open(both.a, both.bytes_a, RT_ACCESS_LOCAL_WRITE, &both.memory_a, &both.detail);
    if (status == RT_OK)
        status = memory_open(both.b, both.bytes_b, access_b, &both.memory_b, &both.detail);
    if (status == RT_OK)
        status = verbs->link_create(both.a, DATA_QUEUE, SERVICE_QUEUE, &both.link_a, both.address_a, &both.address_a_size,
                                    &both.detail);
    if (status == RT_OK)
        status = verbs->link_create(both.b, DATA_QUEUE, SERVICE_QUEUE, &both.link_b, both.address_b, &both.address_b_size,
                                    &both.detail);
    return status;
}

enum { ALL_RIGHTS = RT_ACCESS_LOCAL_WRITE | RT_ACCESS_REMOTE_WRITE | RT_ACCESS_REMOTE_READ };

static inline int pair_join(uint32_t access_b)
{
    int status = verbs->link_connect(both.link_a, both.address_b, both.address_b_size, &both.detail);
    if (status == RT_OK)
        status = verbs->link_connect(both.link_b, both.address_a, both.address_a_size, &both.detail);
    if (status == RT_OK)
        status = remote_open(access_b & (RT_ACCESS_REMOTE_WRITE | RT_ACCESS_REMOTE_READ));
    return status;
}

/* The usual pair: everything is there and joined. */
static inline void pair_open_with(const char *arguments, uint32_t access_b)
{
    int status = pair_create(arguments, arguments, access_b);
    if (status == RT_OK)
        status = pair_join(access_b);
    if (status != RT_OK)
        printf("%s\n", both.detail.text);
    CHECK_INT(status, RT_OK);
}

static inline void pair_open(void)
{
    pair_open_with("", ALL_RIGHTS);
}

/* Gives up or takes back the right to lock any amount of memory. False: this process may not have it. */
static inline bool lock_right_set(bool on)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) != 0 || (data[0].permitted & 1u << CAP_IPC_LOCK) == 0)
        return false;
    data[0].effective = on ? data[0].effective | 1u << CAP_IPC_LOCK : data[0].effective & ~(1u << CAP_IPC_LOCK);
    return syscall(SYS_capset, &header, data) == 0;
}

static inline rt_segment segment_of(uint64_t offset, uint64_t size)
{
    return (rt_segment){.memory = both.memory_a, .address = both.bytes_a + offset, .size = size};
}

/* A work item of a: its segment is the caller's to keep until post returns. */
static inline rt_work work_of(uint8_t opcode, const rt_segment *segment, uint64_t remote_offset, uint64_t token)
{
    return (rt_work){.opcode = opcode,
                     .flags = RT_WORK_SIGNALED,
                     .segment_count = 1,
                     .segments = segment,
                     .remote = opcode == RT_WORK_SEND ? NULL : both.remote,
                     .remote_offset = remote_offset,
                     .token = token};
}

/* Polls until `count` completions are there; gives up, failing the test, when nothing comes any more. */
static inline void take(rt_pdevice *device, uint32_t queue, rt_completion *completions_out, uint32_t count)
{
    uint32_t taken = 0;
    for (int idle = 0; taken < count && idle < 1000;) {
        int got = verbs->poll(device, queue, completions_out + taken, count - taken);
        CHECK(got >= 0);
        taken += (uint32_t)got;
        idle = got == 0 ? idle + 1 : 0;
    }
    CHECK_INT(taken, count);
}

static inline void nothing_left(rt_pdevice *device, uint32_t queue)
{
    rt_completion completion;
    CHECK_INT(verbs->poll(device, queue, &completion, 1), 0);
}

/* Posts one item of a and checks that it was taken. */
static inline void post_one(const rt_work *item)
{
    rt_posted posted;
    CHECK_INT(verbs->post(both.link_a, item, 1, &posted), RT_OK);
    CHECK_INT(posted.accepted, 1);
}

/* Posts a RECV of b into its buffer. */
static inline void receive_one(uint64_t offset, uint64_t size, uint64_t token)
{
    rt_segment segment = {.memory = both.memory_b, .address = both.bytes_b + offset, .size = size};
    rt_work item = {.opcode = RT_WORK_RECV, .segment_count = 1, .segments = &segment, .token = token};
    rt_posted posted;
    CHECK_INT(verbs->post(both.link_b, &item, 1, &posted), RT_OK);
    CHECK_INT(posted.accepted, 1);
}

#endif
