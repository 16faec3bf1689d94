/* status.c: translates libibverbs' errors: the errno of set-up calls, and the status of
 * completions.
 *
 * Both translations of a number are here: to an rt_status for programs, to a name or a hint for
 * people. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <inttypes.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* KiB of memory that this process has pinned (mlock and registrations), from the kernel. */
static uint64_t pinned_kib(void)
{
    FILE *file = fopen("/proc/self/status", "re");
    if (file == NULL)
        return 0;
    char line[128];
    uint64_t total = 0, value;
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "VmLck: %" SCNu64, &value) == 1 || sscanf(line, "VmPin: %" SCNu64, &value) == 1)
            total += value;
    fclose(file);
    return total;
}

/* Whether the kernel does not hold this process to the limit: it has CAP_IPC_LOCK, and in the first user namespace, whose
 * map is the whole range of users. */
static bool memlock_is_ignored(void)
{
    char line[128];
    uint64_t capabilities = 0, first = 1, outside = 1, count = 0;
    FILE *file = fopen("/proc/self/status", "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "CapEff: %" SCNx64, &capabilities) == 1)
            break;
    if (file != NULL)
        fclose(file);
    file = fopen("/proc/self/uid_map", "re");
    bool read = file != NULL && fscanf(file, "%" SCNu64 " %" SCNu64 " %" SCNu64, &first, &outside, &count) == 3;
    if (file != NULL)
        fclose(file);
    return (capabilities >> CAP_IPC_LOCK & 1) != 0 && read && first == 0 && outside == 0 && count == UINT32_MAX;
}

bool verbs_memlock_exceeded(uint64_t size, char *text_out, size_t capacity)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY || memlock_is_ignored())
        return false;
    uint64_t pinned = pinned_kib() << 10;
    if (pinned < limit.rlim_cur && size <= limit.rlim_cur - pinned)
        return false;
    snprintf(text_out, capacity,
             "%" PRIu64 " KiB more do not fit the limit of locked memory (RLIMIT_MEMLOCK), which is %" PRIu64 " KiB with %" PRIu64
             " KiB in use: raise it with `ulimit -l unlimited`, LimitMEMLOCK=infinity (systemd) or --ulimit memlock=-1 (docker)",
             size >> 10, (uint64_t)limit.rlim_cur >> 10, pinned >> 10);
    return true;
}

int verbs_errno_status(int error)
{
    switch (error) {
    case ENOMEM: return RT_E_NO_MEMORY;
    case ENODEV:
    case ENXIO:
    case EIO: return RT_E_DEVICE_LOST;
    case EINVAL: return RT_E_INVALID;
    case EOPNOTSUPP:
    case ENOSYS: return RT_E_UNSUPPORTED;
    default: return RT_E_SYSTEM;
    }
}

static const char *hint_of_errno(int error)
{
    switch (error) {
    case ENOMEM: return " (out of memory, or the device has no room for more such objects: `rdma resource show` counts them)";
    case EACCES:
    case EPERM: return " (no permission: look at the owner and mode of /dev/infiniband/uverbs*)";
    case EAGAIN:
        return " (a limit of RDMA objects is reached: `rdma.max` of this process's cgroup, which container managers set)";
    case EREMOTEIO:
        return " (the device's firmware refused it: it has no room for more such objects, or is too old; the kernel's log says more)";
    case ENOSPC: return " (the device's own memory for such objects is full: ask for fewer or smaller queues, links or regions)";
    case ENOENT: return " (no /dev/infiniband/uverbs*: in a container pass it with --device /dev/infiniband)";
    default: return "";
    }
}

int verbs_fail(rt_detail *detail, int error, const char *format, ...)
{
    char what[256], memlock[320];
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    assert(used >= 0);
    if (error == ENOMEM && verbs_memlock_exceeded(64 << 10, memlock, sizeof memlock)) /* about as much as queues pin */
        return rt_fail(detail, RT_E_MEMLOCK, 0, "cannot %s: %s", what, memlock);
    return rt_fail(detail, verbs_errno_status(error), error, "cannot %s%s", what, hint_of_errno(error));
}

int32_t verbs_completion_status(uint32_t wc_status)
{
    switch ((enum ibv_wc_status)wc_status) {
    case IBV_WC_SUCCESS: return RT_OK;
    case IBV_WC_WR_FLUSH_ERR: return RT_E_FLUSHED;
    case IBV_WC_LOC_LEN_ERR:
    case IBV_WC_LOC_QP_OP_ERR:
    case IBV_WC_LOC_EEC_OP_ERR:
    case IBV_WC_LOC_PROT_ERR:
    case IBV_WC_LOC_ACCESS_ERR:
    case IBV_WC_LOC_RDD_VIOL_ERR:
    case IBV_WC_MW_BIND_ERR: return RT_E_LOCAL_ACCESS;
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_REM_ACCESS_ERR:
    case IBV_WC_REM_OP_ERR:
    case IBV_WC_REM_INV_RD_REQ_ERR: return RT_E_REMOTE_ACCESS;
    case IBV_WC_RETRY_EXC_ERR:
    case IBV_WC_RNR_RETRY_EXC_ERR:
    case IBV_WC_RESP_TIMEOUT_ERR:
    case IBV_WC_REM_ABORT_ERR: return RT_E_PEER_LOST;
    case IBV_WC_BAD_RESP_ERR: return RT_E_PROTOCOL;
    case IBV_WC_FATAL_ERR: return RT_E_DEVICE_LOST;
    case IBV_WC_INV_EECN_ERR:
    case IBV_WC_INV_EEC_STATE_ERR:
    case IBV_WC_GENERAL_ERR:
    case IBV_WC_TM_ERR:
    case IBV_WC_TM_RNDV_INCOMPLETE: return RT_E_SYSTEM;
    }
    return RT_E_SYSTEM;
}

const char *verbs_completion_name(uint32_t wc_status)
{
    if (wc_status == VERBS_NEVER_REACHED)
        return "IBV_WC_RETRY_EXC_ERR, and the peer was never reached: if it lives, compare the GIDs of both ends, their VLANs or "
               "partition keys, and the MTU on the way (`rdmatensor devices`); RoCE needs UDP port 4791 open";
#define NAME(name)                                                                                                               \
    case name: return #name;
    switch ((enum ibv_wc_status)wc_status) {
        NAME(IBV_WC_SUCCESS)
        NAME(IBV_WC_LOC_LEN_ERR)
        NAME(IBV_WC_LOC_QP_OP_ERR)
        NAME(IBV_WC_LOC_EEC_OP_ERR)
        NAME(IBV_WC_LOC_PROT_ERR)
        NAME(IBV_WC_WR_FLUSH_ERR)
        NAME(IBV_WC_MW_BIND_ERR)
        NAME(IBV_WC_BAD_RESP_ERR)
        NAME(IBV_WC_LOC_ACCESS_ERR)
        NAME(IBV_WC_REM_INV_REQ_ERR)
        NAME(IBV_WC_REM_ACCESS_ERR)
        NAME(IBV_WC_REM_OP_ERR)
        NAME(IBV_WC_RETRY_EXC_ERR)
        NAME(IBV_WC_RNR_RETRY_EXC_ERR)
        NAME(IBV_WC_LOC_RDD_VIOL_ERR)
        NAME(IBV_WC_REM_INV_RD_REQ_ERR)
        NAME(IBV_WC_REM_ABORT_ERR)
        NAME(IBV_WC_INV_EECN_ERR)
        NAME(IBV_WC_INV_EEC_STATE_ERR)
        NAME(IBV_WC_FATAL_ERR)
        NAME(IBV_WC_RESP_TIMEOUT_ERR)
        NAME(IBV_WC_GENERAL_ERR)
        NAME(IBV_WC_TM_ERR)
        NAME(IBV_WC_TM_RNDV_INCOMPLETE)
    }
#undef NAME
    return "unknown ibv_wc_status";
}

#endif
