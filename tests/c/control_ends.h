/* control_ends.h: two devices and what connects them, for the tests of the control plane. Every wait has a deadline in the
 * device's own time, so that the simulated provider passes minutes at once. */
#ifndef RT_TESTS_CONTROL_ENDS_H
#define RT_TESTS_CONTROL_ENDS_H

#include <stdio.h>

#include "base/clock.h"
#include "check.h"
#include "rdmatensor.h"

#define END_PATIENCE_NS (300 * RT_NS_PER_S)

/* The listening and the connecting end. */
typedef struct two_ends {
    rt_device *here, *there;
    rt_listener *listener;
    rt_channel *accepted, *connected;
    rt_detail detail;
} two_ends;

static inline rt_device *end_device(const char *provider, const char *name)
{
    static unsigned worlds;
    char arguments[64] = "";
    worlds += strcmp(name, "here") == 0;
    if (strcmp(provider, "sim") == 0)
        snprintf(arguments, sizeof arguments, "world=w%u&seed=7", worlds);
    rt_device_options options = {.provider = provider, .name = strcmp(provider, "sim") == 0 ? name : "", .arguments = arguments};
    rt_device *device = NULL;
    rt_detail detail;
    if (rt_device_open(&options, &device, &detail) != RT_OK)
        printf("cannot open %s: %s\n", provider, detail.text);
    CHECK(device != NULL);
    return device;
}

/* Two devices and a listener at `here`. */
static inline void ends_open(two_ends *ends, const char *provider, const char *secret)
{
    memset(ends, 0, sizeof *ends);
    ends->here = end_device(provider, "here");
    ends->there = end_device(provider, "there");
    CHECK_INT(rt_listener_open(ends->here, "127.0.0.1:0", (const uint8_t *)secret, strlen(secret), &ends->listener,
                               &ends->detail),
              RT_OK);
}

static inline void ends_close(two_ends *ends)
{
    if (ends->accepted != NULL)
        rt_channel_drop(ends->accepted);
    if (ends->connected != NULL)
        rt_channel_drop(ends->connected);
    if (ends->listener != NULL)
        rt_listener_close(ends->listener);
    rt_device_close(ends->there);
    rt_device_close(ends->here);
}

static inline int wait_ready(rt_device *device, rt_channel *channel, rt_detail *detail)
{
    int64_t end = rt_device_now_ns(device) + 2 * END_PATIENCE_NS;
    int status;
    do
        status = rt_channel_wait_ready(channel, RT_SLICE_NS, detail);
    while (status == RT_E_AGAIN && rt_device_now_ns(device) < end);
    return status;
}

static inline int wait_accept(two_ends *ends, rt_channel **channel_out)
{
    int64_t end = rt_device_now_ns(ends->here) + END_PATIENCE_NS;
    int status;
    do
        status = rt_listener_accept(ends->listener, RT_SLICE_NS, channel_out, &ends->detail);
    while (status == RT_E_AGAIN && rt_device_now_ns(ends->here) < end);
    return status;
}

/* The next refusal of the listener. */
static inline int wait_refusal(two_ends *ends, rt_detail *detail)
{
    int64_t end = rt_device_now_ns(ends->here) + END_PATIENCE_NS;
    int status;
    while ((status = rt_listener_refusal(ends->listener, detail)) == RT_E_AGAIN && rt_device_now_ns(ends->here) < end) {
        rt_channel *channel = NULL;
        CHECK_INT(rt_listener_accept(ends->listener, RT_NS_PER_MS, &channel, NULL), RT_E_AGAIN);
    }
    return status;
}

/* How a channel ended; says so when that is not what the test wants. */
static inline int wait_failure(rt_device *device, rt_channel *channel, int wanted, rt_detail *detail)
{
    int64_t end = rt_device_now_ns(device) + END_PATIENCE_NS;
    while (rt_channel_state(channel) == RT_CHANNEL_READY && rt_device_now_ns(device) < end) {
        /* a lookup waits as a user would: for an answer, or for the end of the channel */
        int64_t lookup = rt_lookup_start(channel, "what never comes", END_PATIENCE_NS, NULL);
        uint8_t handle[160];
        size_t size;
        while (lookup > 0 && rt_lookup_wait(channel, lookup, RT_SLICE_NS, handle, &size, NULL) == RT_E_AGAIN)
            CHECK(rt_device_now_ns(device) < end);
        rt_lookup_release(channel, lookup);
    }
    int status = rt_channel_failure(channel, detail);
    if (status != wanted)
        printf("the channel ended otherwise: %s\n", detail->text);
    return status;
}

static inline void ends_connect(two_ends *ends, const char *secret)
{
    CHECK_INT(rt_channel_connect(ends->there, rt_listener_address(ends->listener), (const uint8_t *)secret, strlen(secret),
                                 &ends->connected, &ends->detail),
              RT_OK);
    int status = wait_accept(ends, &ends->accepted);
    if (status != RT_OK)
        printf("not accepted: %s\n", ends->detail.text);
    CHECK_INT(status, RT_OK);
    status = wait_ready(ends->there, ends->connected, &ends->detail);
    if (status != RT_OK)
        printf("not ready: %s\n", ends->detail.text);
    CHECK_INT(status, RT_OK);
}

#endif
