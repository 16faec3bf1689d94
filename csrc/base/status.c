/* status.c: names of status codes and of the system's errors, and the writing of error details. Codes and layout are in
 * status.h. The names of errors are a table of our own: strerrorname_np is in glibc alone, from 2.32 on. */
#include "base/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *rt_status_name(int status)
{
    switch ((enum rt_status)status) {
    case RT_OK: return "ok";
    case RT_E_INVALID: return "invalid";
    case RT_E_AGAIN: return "again";
    case RT_E_DEADLINE: return "deadline";
    case RT_E_INTERRUPTED: return "interrupted";
    case RT_E_NO_MEMORY: return "no-memory";
    case RT_E_MEMLOCK: return "memlock";
    case RT_E_BUSY: return "busy";
    case RT_E_CLOSED: return "closed";
    case RT_E_FORKED: return "forked";
    case RT_E_BOUNDS: return "bounds";
    case RT_E_ACCESS: return "access";
    case RT_E_UNSUPPORTED: return "unsupported";
    case RT_E_NOT_FOUND: return "not-found";
    case RT_E_EXISTS: return "exists";
    case RT_E_UNAVAILABLE: return "unavailable";
    case RT_E_REFUSED: return "refused";
    case RT_E_AUTH: return "auth";
    case RT_E_PROTOCOL: return "protocol";
    case RT_E_VERSION: return "version";
    case RT_E_REMOTE_ACCESS: return "remote-access";
    case RT_E_LOCAL_ACCESS: return "local-access";
    case RT_E_FLUSHED: return "flushed";
    case RT_E_PEER_LOST: return "peer-lost";
    case RT_E_PEER_CLOSED: return "peer-closed";
    case RT_E_DEVICE_LOST: return "device-lost";
    case RT_E_SYSTEM: return "system";
    case RT_E_OVERLAP: return "overlap";
    case RT_E_CORRUPT: return "corrupt";
    case RT_E_OVERRUN: return "overrun";
    }
    return "unknown";
}

/* clang-format off */
#define ERRORS(X) \
    X(EPERM) X(ENOENT) X(ESRCH) X(EINTR) X(EIO) X(ENXIO) X(E2BIG) X(ENOEXEC) X(EBADF) X(ECHILD)            \
    X(EAGAIN) X(ENOMEM) X(EACCES) X(EFAULT) X(ENOTBLK) X(EBUSY) X(EEXIST) X(EXDEV) X(ENODEV) X(ENOTDIR)    \
    X(EISDIR) X(EINVAL) X(ENFILE) X(EMFILE) X(ENOTTY) X(ETXTBSY) X(EFBIG) X(ENOSPC) X(ESPIPE) X(EROFS)     \
    X(EMLINK) X(EPIPE) X(EDOM) X(ERANGE) X(EDEADLK) X(ENAMETOOLONG) X(ENOLCK) X(ENOSYS) X(ENOTEMPTY)       \
    X(ELOOP) X(ENOMSG) X(EIDRM) X(ECHRNG) X(EL2NSYNC) X(EL3HLT) X(EL3RST) X(ELNRNG) X(EUNATCH) X(ENOCSI)   \
    X(EL2HLT) X(EBADE) X(EBADR) X(EXFULL) X(ENOANO) X(EBADRQC) X(EBADSLT) X(EBFONT) X(ENOSTR) X(ENODATA)   \
    X(ETIME) X(ENOSR) X(ENONET) X(ENOPKG) X(EREMOTE) X(ENOLINK) X(EADV) X(ESRMNT) X(ECOMM) X(EPROTO)       \
    X(EMULTIHOP) X(EDOTDOT) X(EBADMSG) X(EOVERFLOW) X(ENOTUNIQ) X(EBADFD) X(EREMCHG) X(ELIBACC)            \
    X(ELIBBAD) X(ELIBSCN) X(ELIBMAX) X(ELIBEXEC) X(EILSEQ) X(ERESTART) X(ESTRPIPE) X(EUSERS) X(ENOTSOCK)   \
    X(EDESTADDRREQ) X(EMSGSIZE) X(EPROTOTYPE) X(ENOPROTOOPT) X(EPROTONOSUPPORT) X(ESOCKTNOSUPPORT)         \
    X(EOPNOTSUPP) X(EPFNOSUPPORT) X(EAFNOSUPPORT) X(EADDRINUSE) X(EADDRNOTAVAIL) X(ENETDOWN)               \
    X(ENETUNREACH) X(ENETRESET) X(ECONNABORTED) X(ECONNRESET) X(ENOBUFS) X(EISCONN) X(ENOTCONN)            \
    X(ESHUTDOWN) X(ETOOMANYREFS) X(ETIMEDOUT) X(ECONNREFUSED) X(EHOSTDOWN) X(EHOSTUNREACH) X(EALREADY)     \
    X(EINPROGRESS) X(ESTALE) X(EUCLEAN) X(ENOTNAM) X(ENAVAIL) X(EISNAM) X(EREMOTEIO) X(EDQUOT)             \
    X(ENOMEDIUM) X(EMEDIUMTYPE) X(ECANCELED) X(ENOKEY) X(EKEYEXPIRED) X(EKEYREVOKED) X(EKEYREJECTED)       \
    X(EOWNERDEAD) X(ENOTRECOVERABLE) X(ERFKILL) X(EHWPOISON)
/* clang-format on */

const char *rt_errno_name(int error_number)
{
    switch (error_number) {
#define X(name)                                                                                                                  \
    case name: return #name;
        ERRORS(X)
#undef X
    }
    return NULL;
}

void rt_detail_clear(rt_detail *detail)
{
    if (detail == NULL)
        return;
    detail->status = RT_OK;
    detail->error_number = 0;
    detail->text[0] = '\0';
}

int rt_fail(rt_detail *detail, int status, int error_number, const char *format, ...)
{
    if (detail == NULL)
        return status;
    detail->status = status;
    detail->error_number = error_number;
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(detail->text, sizeof detail->text, format, arguments);
    va_end(arguments);
    if (error_number != 0 && used >= 0 && (size_t)used < sizeof detail->text) {
        const char *name = rt_errno_name(error_number);
        char *end = detail->text + used;
        size_t room = sizeof detail->text - (size_t)used;
        if (name != NULL)
            snprintf(end, room, ": %s (%s)", name, strerror(error_number)); /* a constant for a known error: any thread */
        else
            snprintf(end, room, ": errno %d", error_number);
    }
    return status;
}

int rt_detail_pass(rt_detail *to, const rt_detail *from)
{
    if (from == NULL)
        return RT_OK;
    if (to != NULL && to != from)
        memcpy(to, from, sizeof *to);
    return from->status;
}
