/* service.h: the control plane's thread. It sleeps in epoll on streams, listeners, the service
 * queue and the provider's own descriptor. In virtual time there is no thread: the provider's
 * upcall runs rt_service_run. */
#ifndef RT_DEVICE_SERVICE_H
#define RT_DEVICE_SERVICE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/backoff.h"
#include "base/list.h"
#include "base/turn.h"
#include "device/device.h"

typedef struct rt_service rt_service;

/* Rounds in one rt_service_run; the next run finds any work left over. */
enum { RT_ROUNDS_MAX = 8 };

struct rt_service {
    rt_device *device;
    pthread_t thread;
    bool has_thread;
    rt_turn turn;              /* guards kick_fd against being closed while it is written */
    int epoll_fd, kick_fd;     /* -1 in virtual time and once stopped */
    int queue_fd, provider_fd; /* the provider's, or -1 */
    _Atomic bool stopping;
    _Atomic bool kicked;                   /* a round is owed */
    _Atomic int64_t due_ns;                /* when the next round must be at the latest */
    rt_backoff looks;                      /* at channels that are not quiet yet */
    _Atomic bool pools_wanted;             /* some thread waits for memory to be registered, … */
    rt_list pools_wanting;                 /* … of these rt_pools.wanting; device->lock */
    _Atomic(struct rt_pools *) pools_left; /* of channels that have ended; changed with device->lock, read without */
};

int rt_service_start(rt_device *device, rt_detail *detail);
/* Ends the thread. Kicks are harmless as long as the struct of the device lives. Without device->lock. */
void rt_service_stop(rt_device *device);
/* Makes the service look at everything soon. Any thread, any lock. */
void rt_service_kick(rt_device *device);
/* Looks at everything: provider events, listeners, streams, receives, links to shut, deadlines. Takes device->lock. */
void rt_service_run(rt_device *device);
/* Does the work that is due now in the control planes of all devices of the process that have
 * virtual time. */
void rt_devices_turn(void);
/* As rt_device_wait_change; in virtual time it also does the control plane's due work meanwhile.
 * Without device->lock. */
int rt_service_wait(rt_device *device, uint32_t seen, int64_t deadline_ns);
/* Watch a descriptor or change the events it is watched for, and stop watching it. Every round
 * looks at everything, whatever woke it. */
int rt_service_watch(rt_device *device, int descriptor, bool readable, bool writable, rt_detail *detail);
void rt_service_unwatch(rt_device *device, int descriptor);

#endif
