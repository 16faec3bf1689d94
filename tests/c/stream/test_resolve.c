/* test_resolve.c: names that a name server does not answer for: the call comes back after a slice, and goes on when called again.
 * This executable's getaddrinfo stands in for the resolver: a name ends when the test lets it. */
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>

#include "base/futex.h"
#include "check.h"
#include "rdmatensor.h"
#include "stream/stream.h"

enum { SLICES_MAX = 400 };

static _Atomic bool answers;
static _Atomic uint32_t asked, answered;

/* Addresses go to the real one. A name waits for `answers`; "gone.test" is then not known, "mute.test" has no name server
 * that answers, others are 127.0.0.1. */
int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **out)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    *(void **)(&real) = dlsym(RTLD_NEXT, "getaddrinfo");
    if ((hints->ai_flags & AI_NUMERICHOST) != 0)
        return real(host, port, hints, out);
    atomic_fetch_add(&asked, 1);
    while (!atomic_load(&answers))
        rt_futex_sleep(&answered, 0, RT_NS_PER_MS, false);
    int result = strcmp(host, "gone.test") == 0   ? EAI_NONAME
                 : strcmp(host, "mute.test") == 0 ? EAI_AGAIN
                                                  : real("127.0.0.1", port, hints, out);
    atomic_fetch_add(&answered, 1);
    return result;
}

static void begin(void)
{
    atomic_store(&answers, false);
    atomic_store(&asked, 0);
    atomic_store(&answered, 0);
}

/* Calls again until there is an answer. */
static int resolve(const char *text, struct addrinfo **out, rt_detail *detail)
{
    int status = RT_E_AGAIN;
    for (int slice = 0; slice < SLICES_MAX && (status == RT_E_AGAIN || status == RT_E_INTERRUPTED); slice++)
        status = rt_address_resolve(text, false, out, detail);
    return status;
}

static void an_address_asks_nobody(void)
{
    begin();
    struct addrinfo *found = NULL;
    rt_detail detail;
    CHECK_INT(rt_address_resolve("127.0.0.1:4711", false, &found, &detail), RT_OK);
    freeaddrinfo(found);
    CHECK_INT(rt_address_resolve("[::1]:4711", false, &found, &detail), RT_OK);
    freeaddrinfo(found);
    CHECK_INT(atomic_load(&asked), 0);
}

static void a_name_that_is_not_answered_gives_the_call_back_and_is_asked_for_once(void)
{
    begin();
    struct addrinfo *found = NULL;
    rt_detail detail;
    for (int slice = 0; slice < 3; slice++)
        CHECK_INT(rt_address_resolve("slow.test:4711", false, &found, &detail), RT_E_AGAIN);
    CHECK(strstr(detail.text, "slow.test") != NULL);
    atomic_store(&answers, true);
    CHECK_INT(resolve("slow.test:4711", &found, &detail), RT_OK);
    CHECK_INT(atomic_load(&asked), 1);
    CHECK(rt_address_loopback(found->ai_addr));
    freeaddrinfo(found);
    CHECK_INT(resolve("slow.test:4711", &found, &detail), RT_OK); /* what was taken is gone: asked for anew */
    CHECK_INT(atomic_load(&asked), 2);
    freeaddrinfo(found);
}

static void a_name_that_nobody_knows_says_so(void)
{
    begin();
    atomic_store(&answers, true);
    struct addrinfo *found = NULL;
    rt_detail detail;
    CHECK_INT(resolve("gone.test:4711", &found, &detail), RT_E_NOT_FOUND);
    CHECK(strstr(detail.text, "gone.test") != NULL);
    CHECK_INT(detail.error_number, 0);
    CHECK_INT(resolve("mute.test:4711", &found, &detail), RT_E_NOT_FOUND);
    CHECK_INT(detail.error_number, EAGAIN); /* what may heal has a number */
}

static void a_connect_to_such_a_name_comes_back_too(void)
{
    begin();
    rt_detail detail;
    rt_device_options options = {.provider = "shm", .name = "", .arguments = ""};
    rt_device *device = NULL;
    rt_channel *channel = NULL;
    rt_listener *listener = NULL;
    CHECK_INT(rt_device_open(&options, &device, &detail), RT_OK);
    CHECK_INT(rt_channel_connect(device, "slow.test:1", (const uint8_t *)"", 0, &channel, &detail), RT_E_AGAIN);
    CHECK_INT(rt_listener_open(device, "here.test:0", (const uint8_t *)"", 0, &listener, &detail), RT_E_AGAIN);
    atomic_store(&answers, true);
    int status = RT_E_AGAIN;
    for (int slice = 0; slice < SLICES_MAX && status == RT_E_AGAIN; slice++)
        status = rt_listener_open(device, "here.test:0", (const uint8_t *)"", 0, &listener, &detail);
    CHECK_INT(status, RT_OK);
    rt_listener_close(listener);
    rt_device_close(device); /* the other name is not asked for any more: its result is dropped some time */
}

static const check_test tests[] = {
    CHECK_TEST(an_address_asks_nobody),
    CHECK_TEST(a_name_that_is_not_answered_gives_the_call_back_and_is_asked_for_once),
    CHECK_TEST(a_name_that_nobody_knows_says_so),
    CHECK_TEST(a_connect_to_such_a_name_comes_back_too),
};
CHECK_MAIN(tests)
