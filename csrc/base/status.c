/* status.c: names of status codes and the writing of error details. Codes and layout are in status.h. */
#include "base/status.h"

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
        const char *name = strerrorname_np(error_number);
        snprintf(detail->text + used, sizeof detail->text - (size_t)used, ": %s (%s)", name != NULL ? name : "errno",
                 strerrordesc_np(error_number) != NULL ? strerrordesc_np(error_number) : "unknown");
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
