/* fork.h: the rules for a child made by fork. A process in which nothing of this library is open
 * may be forked, and the child uses the library as any process does. In a child that was made while
 * a device was open, or while a call was inside a provider, locks may be held by threads that the
 * child does not have: every entry point checks this before it takes a lock. */
#ifndef RT_DEVICE_FORK_H
#define RT_DEVICE_FORK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* Prepares this process so that its children are recognised. Called before anything is opened; any
 * thread. */
int rt_fork_watch(rt_detail *detail);

/* Between these two the process does not count as one in which nothing is open: the life of a device's
 * struct, and calls that may hold a lock of the process without a device. Any thread. */
void rt_fork_enter(void);
void rt_fork_leave(void);

/* Whether this process is a child made between the two: the entry point returns RT_E_FORKED and touches nothing. */
bool rt_forked(void);

/* Writes the reason and the remedy into the detail, for calls that make something. Returns
 * RT_E_FORKED. */
int rt_fork_refuse(rt_detail *detail);

/* Differs in every process that used the library, and is 0 in a child that has not yet: an object
 * made under another number belongs to that other process. Regions outlive their device, so they
 * compare this number. */
uint32_t rt_fork_number(void);

#endif
