/* status.h: the status codes and the error detail that every layer passes upwards.
 *
 * The layer that finds an error writes the detail (what was attempted, on what, why, what to do);
 * the layers above pass it on unchanged. The marked slice below is part of the C interface that
 * Python sees. */
#ifndef RT_BASE_STATUS_H
#define RT_BASE_STATUS_H

#include <stdint.h>

/* <cffi> */
enum rt_status {
    RT_OK = 0,
    RT_E_INVALID = -1,        /* an argument is wrong */
    RT_E_AGAIN = -2,          /* not yet: call again */
    RT_E_DEADLINE = -3,       /* the deadline passed */
    RT_E_INTERRUPTED = -4,    /* a signal arrived while waiting */
    RT_E_NO_MEMORY = -5,      /* no memory, or no room in the region */
    RT_E_MEMLOCK = -6,        /* the limit of locked memory is too small */
    RT_E_BUSY = -7,           /* in use, or a fixed capacity is taken */
    RT_E_CLOSED = -8,         /* the object was closed on this side */
    RT_E_FORKED = -9,         /* called in a child made by fork */
    RT_E_BOUNDS = -10,        /* outside the region, found before anything was posted */
    RT_E_ACCESS = -11,        /* the region lacks the right, found before anything was posted */
    RT_E_UNSUPPORTED = -12,   /* the provider does not do this */
    RT_E_NOT_FOUND = -13,     /* no such name or device */
    RT_E_EXISTS = -14,        /* the name or address is taken */
    RT_E_UNAVAILABLE = -15,   /* the provider cannot be used on this machine */
    RT_E_REFUSED = -16,       /* nobody listens at that address, or the peer refused */
    RT_E_AUTH = -17,          /* one end could not prove who it is */
    RT_E_PROTOCOL = -18,      /* the peer's bytes are not this protocol */
    RT_E_VERSION = -19,       /* the peer speaks another version */
    RT_E_REMOTE_ACCESS = -20, /* the peer's device refused: key, bounds or right */
    RT_E_LOCAL_ACCESS = -21,  /* this device refused its own buffer */
    RT_E_FLUSHED = -22,       /* dropped unexecuted, because an earlier operation of the link failed */
    RT_E_PEER_LOST = -23,     /* the peer died or cannot be reached */
    RT_E_PEER_CLOSED = -24,   /* the peer closed the channel in good order */
    RT_E_DEVICE_LOST = -25,   /* the local device failed */
    RT_E_SYSTEM = -26,        /* a system call failed; its errno is in the detail */
    RT_E_OVERLAP = -27,       /* the two ends of a copy share bytes */
    RT_E_CORRUPT = -28,       /* a checksum does not fit: the bytes are not those that were sent */
    RT_E_OVERRUN = -29,       /* a sender that promised to keep a loop's order wrote into a slot that was not released */
};

typedef struct rt_detail {
    int32_t status;       /* an rt_status */
    int32_t error_number; /* errno, or 0 */
    char text[504];       /* one line, lower case, zero-terminated */
} rt_detail;

const char *rt_status_name(int status);
/* </cffi> */

/* The name of a system error ("ENOENT"), or NULL for a number that Linux has no name for. */
const char *rt_errno_name(int error_number);

/* Writes the detail and returns `status`, so that `return rt_fail(detail, RT_E_BOUNDS, 0, "...")` reads well.
 * `detail` may be NULL. With an error number the text ends in ": NAME (description)", or in ": errno N". */
int rt_fail(rt_detail *detail, int status, int error_number, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Empties the detail: status RT_OK and no text. */
void rt_detail_clear(rt_detail *detail);

/* Copies a detail onwards and returns its status. Either may be NULL. */
int rt_detail_pass(rt_detail *to, const rt_detail *from);

#endif
