/* verbs.h: what the files of the verbs provider share: the loaded library, the device, its queues, links and memory.
 *
 * RC queue pairs over libibverbs, which is loaded at run time (library.c) and never linked: every call goes through the
 * table below, whose members have the types of the system header. The calls of the data path are that header's inlines
 * through context->ops. Set-up is in library, options, port, gid, limits, device, memory, window, link and event.c; post.c and
 * poll.c are the hot path. Without the header at build time only the `viable` of table.c is left. */
#ifndef RT_PROVIDER_VERBS_H
#define RT_PROVIDER_VERBS_H

#if !defined(RT_WITHOUT_VERBS) && defined(__has_include)
#if __has_include(<infiniband/verbs.h>)
#define RT_HAVE_VERBS 1
#endif
#endif
#ifndef RT_HAVE_VERBS
#define RT_HAVE_VERBS 0
#endif

#include "provider/provider.h"

#if RT_HAVE_VERBS

#include <infiniband/verbs.h>

/* Macros that would reach past the table: what is loaded are the functions behind them. */
#undef ibv_get_device_list
#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

#include <assert.h>
#include <errno.h>
#include <pthread.h>

#include "base/list.h"
#include "base/order.h"
#include "base/status.h"
#include "base/turn.h"

/* ---- library.c: libibverbs, or the file that RDMATENSOR_LIBIBVERBS names ---- */

#define VERBS_CALLS(X)                                                                                                           \
    X(ibv_get_device_list)                                                                                                       \
    X(ibv_free_device_list)                                                                                                      \
    X(ibv_get_device_name)                                                                                                       \
    X(ibv_open_device)                                                                                                           \
    X(ibv_close_device)                                                                                                          \
    X(ibv_query_device)                                                                                                          \
    X(ibv_query_port)                                                                                                            \
    X(ibv_query_gid)                                                                                                             \
    X(ibv_alloc_pd)                                                                                                              \
    X(ibv_dealloc_pd)                                                                                                            \
    X(ibv_reg_mr)                                                                                                                \
    X(ibv_dereg_mr)                                                                                                              \
    X(ibv_create_comp_channel)                                                                                                   \
    X(ibv_destroy_comp_channel)                                                                                                  \
    X(ibv_create_cq)                                                                                                             \
    X(ibv_destroy_cq)                                                                                                            \
    X(ibv_get_cq_event)                                                                                                          \
    X(ibv_ack_cq_events)                                                                                                         \
    X(ibv_create_qp)                                                                                                             \
    X(ibv_modify_qp)                                                                                                             \
    X(ibv_destroy_qp)                                                                                                            \
    X(ibv_get_async_event)                                                                                                       \
    X(ibv_ack_async_event)                                                                                                       \
    X(ibv_event_type_str)                                                                                                        \
    X(ibv_fork_init)

/* Newer than the oldest library that is good enough; NULL where the loaded one lacks them. */
#define VERBS_CALLS_OPTIONAL(X)                                                                                                  \
    X(ibv_reg_mr_iova2)           /* else ibv_reg_mr, without relaxed ordering */                                                \
    X(_ibv_query_gid_ex)          /* else the GID's type comes from sysfs */                                                     \
    X(ibv_query_qp_data_in_order) /* else no link is said to place bytes in order */                                             \
    X(ibv_is_fork_initialized)    /* else what ibv_fork_init returned is all that is known */

typedef struct verbs_library {
#define X(name) __typeof__(name) *name;
    VERBS_CALLS(X)
    VERBS_CALLS_OPTIONAL(X)
#undef X
    char path[256];         /* what was loaded, for messages */
    const char *fork_state; /* whether a child made by fork is safe from registered memory, in words */
} verbs_library;

/* Loads the library once for the process and readies it for fork (RDMA-RULES 27). NULL, with RT_E_UNAVAILABLE in the detail, when it
 * cannot be loaded; the next call tries again. Any thread. */
const verbs_library *verbs_library_load(rt_detail *detail);

/* ---- status.c: foreign numbers in our words ---- */

/* The errno of a call that failed with NULL or -1; never 0, also where a driver forgot to set it. */
static inline int verbs_errno(void)
{
    return errno != 0 ? errno : EIO;
}

/* Writes the detail of a failed set-up call: what was attempted, its errno, and what to do where that is known. */
int verbs_fail(rt_detail *detail, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The rt_status of an errno. */
int verbs_errno_status(int error);

/* Whether pinning `size` more bytes passes RLIMIT_MEMLOCK; then text_out says the figures and the fix. */
bool verbs_memlock_exceeded(uint64_t size, char *text_out, size_t capacity);

/* The rt_status of an ibv_wc_status. */
int32_t verbs_completion_status(uint32_t wc_status);
const char *verbs_completion_name(uint32_t wc_status);

/* ---- options.c: the arguments of the URL ---- */

#define VERBS_UNSET UINT32_MAX

typedef struct verbs_options {
    uint32_t port; /* VERBS_UNSET: the first active one */
    uint32_t gid;  /* index; VERBS_UNSET: by rule (gid.c) */
    uint32_t traffic_class;
    uint32_t service_level;
    uint32_t ack_timeout;      /* 4.096 us << ack_timeout until a packet is sent again */
    uint32_t retry_count;      /* so often; 7 is never left on soft-RoCE */
    uint32_t rnr_retry;        /* 7 would be for ever, so 6 is the most */
    uint32_t mtu;              /* bytes; an upper bound on what the ports offer */
    uint32_t work_depth;       /* send-side items of one link */
    uint32_t completion_depth; /* entries of one completion queue */
    uint32_t message_size_max; /* bytes of one work item, where the device takes more */
} verbs_options;

/* RT_E_INVALID for a key that is not known (naming those that are), a value out of bounds or a key given twice. */
int verbs_options_parse(const char *arguments, verbs_options *options_out, rt_detail *detail);

/* ---- gid.c: which address of a port is used (RDMA-RULES 19) ---- */

/* Travels in link addresses. On Ethernet a larger number is preferred. */
typedef enum verbs_gid_kind {
    VERBS_GID_NONE = 0,
    VERBS_GID_IB = 1,
    VERBS_GID_V1 = 2,
    VERBS_GID_V2_LINK_LOCAL = 3,
    VERBS_GID_V2_IPV6 = 4,
    VERBS_GID_V2_IPV4 = 5,
} verbs_gid_kind;

typedef struct verbs_gid {
    union ibv_gid bytes;
    uint32_t index;
    verbs_gid_kind kind;
} verbs_gid;

/* The kind of a table entry from its type (enum ibv_gid_type) and bytes; NONE for an empty one. */
verbs_gid_kind verbs_gid_classify(uint32_t type, const union ibv_gid *bytes);

/* The entry that the rule prefers, the lowest index among equals; NULL when all are empty. */
const verbs_gid *verbs_gid_choose(const verbs_gid *gids, size_t count);

/* Reads the port's table and chooses, or takes the index that was asked for. */
int verbs_gid_query(const verbs_library *library, struct ibv_context *context, uint8_t port,
                    const struct ibv_port_attr *port_attr, uint32_t wanted, verbs_gid *gid_out, rt_detail *detail);

const char *verbs_gid_kind_name(verbs_gid_kind kind);
/* Whether GIDs of these kinds can reach each other. */
bool verbs_gid_kinds_match(verbs_gid_kind left, verbs_gid_kind right);
/* The GID as people write it: an IPv4 or IPv6 address. */
void verbs_gid_text(const verbs_gid *gid, char *text_out, size_t capacity);

/* ---- port.c: devices and ports of this machine ---- */

typedef struct verbs_port {
    struct ibv_context *context;
    struct ibv_device_attr attributes;
    struct ibv_port_attr attr;
    verbs_gid gid;
    uint8_t number;
    char name[RT_DEVICE_NAME_SIZE]; /* "mlx5_0", or "mlx5_0:2" on a device with several ports */
} verbs_port;

int verbs_viable(rt_detail *detail);
int verbs_list(rt_device_info *infos_out, int capacity, rt_detail *detail);
/* Opens the device that `name` ("", "mlx5_0", "mlx5_0:2") and the options ask for. The context is the caller's to close. */
int verbs_port_open(const verbs_library *library, const char *name, const verbs_options *options, verbs_port *port_out,
                    rt_detail *detail);
/* Writes why there is no device (RDMA-RULES 34): `error` is the errno of a failed ibv_get_device_list, or 0. `kernel_class` is the
 * directory where the kernel shows its devices. Returns RT_E_UNAVAILABLE. */
int verbs_explain_absence(const char *kernel_class, int error, rt_detail *detail);

/* MTU in bytes of the enum, and the largest enum that is at most `bytes`; 0 where there is none. */
uint32_t verbs_mtu_bytes(uint32_t mtu);
uint32_t verbs_mtu_of(uint32_t bytes);

/* ---- limits.c ---- */

enum {
    VERBS_POST_BATCH = 32, /* work requests of one doorbell: RT_POST_BATCH; the rest is a shorter prefix */
    VERBS_POLL_BATCH = 32,
    VERBS_SEGMENTS_MAX = 4,         /* more cost room in every work request of every link */
    VERBS_LINKS_MAX = 1 << 16,      /* link indexes have 16 bits in a wr_id */
    VERBS_MESSAGE_MAX = 1 << 30,    /* where the device takes larger ones: a length in an SGE has 32 bits */
    VERBS_WORK_DEPTH = 128,         /* by default; 64 KiB of send queue with the usual inline size */
    VERBS_RECEIVE_DEPTH = 32,       /* twice RT_RPC_RECEIVES: a power of two with room */
    VERBS_COMPLETION_DEPTH = 16384, /* by default; over 120 links of 128 items each, 1 MiB */
    VERBS_BINDS = 4,                /* windows that one link binds at once; one more waits for the next call */
};

/* What create_qp is asked for on every link of a port. */
typedef struct verbs_request {
    struct ibv_qp_cap cap; /* max_send_wr has room for the work items and the binds */
    uint32_t binds;        /* that may be outstanding on one link beside its work items; 0: no memory windows */
    uint32_t completion_depth;
} verbs_request;

/* Fills limits from the device's attributes and from what create_qp gives on a trial (RDMA-RULES 21). */
int verbs_limits_probe(const verbs_library *library, const verbs_port *port, const verbs_options *options, uint32_t data_queues,
                       rt_limits *limits_out, verbs_request *request_out, rt_detail *detail);

/* ---- objects ---- */

typedef struct verbs_link verbs_link;

typedef struct verbs_queue {
    struct ibv_comp_channel *channel;
    struct ibv_cq *cq;
    uint32_t capacity;        /* entries that the CQ has */
    uint32_t reserved;        /* entries that its links may fill: set-up calls only, so a CQ never overruns */
    _Atomic uint32_t orphans; /* links whose QP is gone and whose items poll must flush */
} verbs_queue;

typedef struct verbs_device {
    rt_pdevice base;
    const verbs_library *library;
    struct ibv_context *context;
    struct ibv_pd *pd;
    verbs_options options;
    verbs_port port;
    verbs_request request;
    pthread_mutex_t windows_lock; /* guards the windows of all links and memories: never taken on the data path */
    verbs_queue *queues;          /* queue_count; the last is the service queue */
    uint32_t queue_count;
    verbs_link *_Atomic *links; /* limits.link_count_max; written by set-up calls, read by poll */
    uint32_t next_link;         /* where the search for a free index starts */
    uint16_t next_generation;
    _Atomic bool lost;       /* the device or one of its queues failed */
    _Atomic uint32_t fallen; /* links whose state is VERBS_FALL_UNTOLD */
    rt_turn orphans_turn;    /* held by poll while it flushes orphans, and to take a link away */
} verbs_device;

/* One direction of a link's work: what was posted and not yet completed, and the tokens of it. Positions run freely. */
typedef struct verbs_ring {
    uint64_t *tokens; /* mask + 1 */
    uint32_t mask;
    uint32_t depth;           /* items that may be outstanding */
    _Atomic uint32_t posted;  /* advanced by who posts */
    _Atomic uint32_t retired; /* advanced by who polls */
} verbs_ring;

static inline uint32_t verbs_ring_outstanding(const verbs_ring *ring)
{
    return atomic_load_explicit(&ring->posted, memory_order_relaxed) - atomic_load_explicit(&ring->retired, memory_order_relaxed);
}

/* A queue pair may go to error without an event and without a failed send: rxe says nothing to the end whose memory a peer
 * reached for without a right. Its RECVs are flushed, though, and then `service` tells. */
typedef enum verbs_fall { VERBS_FALL_NONE = 0, VERBS_FALL_UNTOLD, VERBS_FALL_TOLD } verbs_fall;

struct verbs_link {
    rt_plink base;
    struct ibv_qp *qp;           /* NULL once it is an orphan */
    uint64_t tag;                /* the upper half of its wr_ids: generation and index */
    rt_list windows;             /* of verbs_window.of_link */
    uint32_t binds_posted;       /* free-running; device->windows_lock */
    _Atomic uint32_t binds_done; /* likewise; advanced by who polls */
    verbs_ring send, receive;
    _Atomic int32_t post_error; /* errno of the post that failed: sticks */
    _Atomic uint32_t failure;   /* ibv_wc_status of the first failed completion; one that says why replaces a flush */
    _Atomic bool send_failed;   /* a completion of the send side said so */
    _Atomic uint32_t fall;      /* verbs_fall */
    uint32_t psn;               /* of what this end sends first */
    uint32_t qpn;
    uint32_t peer_qpn;
    uint32_t mtu;      /* bytes, once connected */
    uint32_t reads;    /* outstanding READs that both ends agreed on */
    const char *state; /* for the dump */
    _Atomic bool shut;
    _Atomic bool orphaned; /* the QP is gone; what is outstanding is flushed by poll */
    bool in_order;         /* the device says it places the bytes of a WRITE in order */
};

/* wr_id: receive 1 bit · bind 1 · generation 14 · link index 16 · position 32. The generation tells a late completion of a
 * destroyed link from one of its successor. Binds have positions of their own. */
#define VERBS_WR_RECEIVE (1ull << 63)
#define VERBS_WR_BIND (1ull << 62)
#define VERBS_GENERATION_MASK 0x3fffu
#define VERBS_WR_INDEX(wr_id) ((uint32_t)((wr_id) >> 32) & 0xffffu)
#define VERBS_WR_TAG(wr_id) (((wr_id) & ~(VERBS_WR_RECEIVE | VERBS_WR_BIND)) >> 32)

typedef struct verbs_memory {
    rt_pmemory base;
    struct ibv_mr *mr;
    rt_list windows; /* of verbs_window.of_memory */
    bool released;   /* it ends with its last window, whose bind was under way */
} verbs_memory;

typedef struct verbs_remote {
    rt_premote base;
    uint64_t address;  /* where the registration starts in the peer's words */
    uint32_t key_mask; /* 0: keys[0] is good through every link; else keys[index & key_mask] through that one alone */
    uint32_t keys[RT_MEMORY_KEY_LINKS_MAX];
} verbs_remote;

/* ---- device.c ---- */
int verbs_open(const rt_open_options *options, rt_pdevice **device_out, rt_detail *detail);
void verbs_close(rt_pdevice *device);

/* ---- memory.c ---- */
int verbs_memory_register(rt_pdevice *device, const rt_memory *memory, rt_pmemory **out, rt_detail *detail);
void verbs_memory_release(rt_pdevice *device, rt_pmemory *memory);
/* Ends a registration that has no window and frees the object. */
void verbs_memory_free(const verbs_device *device, verbs_memory *memory);
int verbs_memory_key(rt_pdevice *device, rt_pmemory *memory, rt_plink *const *links, uint32_t link_count, uint8_t *key_out,
                     size_t *size_out, rt_detail *detail);
int verbs_remote_attach(rt_plink *link, const uint8_t *key, size_t key_size, uint64_t size, uint32_t access, rt_premote **out,
                        rt_detail *detail);
void verbs_remote_detach(rt_plink *link, rt_premote *remote);

/* ---- window.c: keys for one peer ---- */

/* Finds or makes a window of the memory for each link, and gives their keys. RT_E_AGAIN while a bind is under way. */
int verbs_windows_bind(verbs_device *device, verbs_memory *memory, rt_plink *const *links, uint32_t link_count,
                       uint32_t *keys_out, rt_detail *detail);
/* Takes all keys of a link back: before its queue pair is destroyed, and once it is in error. */
void verbs_windows_end(verbs_device *device, verbs_link *link);
/* Takes all keys of memory that is being released back. False where a bind is under way: then the registration, which no peer
 * has a key of, ends when that is over. */
bool verbs_windows_release(verbs_device *device, verbs_memory *memory);

/* ---- link.c ---- */
int verbs_link_create(rt_pdevice *device, uint32_t send_queue, uint32_t receive_queue, rt_plink **link_out, uint8_t *address_out,
                      size_t *address_size_out, rt_detail *detail);
int verbs_link_connect(rt_plink *link, const uint8_t *peer_address, size_t size, rt_detail *detail);
void verbs_link_shut(rt_plink *link);
void verbs_link_destroy(rt_plink *link);
/* After the device was lost: destroys the QPs of links that were shut, whose flushes will not come, and has poll flush them. */
void verbs_links_orphan(verbs_device *device);
int verbs_link_describe(rt_plink *link, char *text_out, size_t capacity);

/* ---- address.c: how a link is reached, as bytes ---- */
typedef struct verbs_address {
    verbs_gid gid;     /* its index stays at home */
    uint32_t qpn, psn; /* 24 bits each; the sender's own psn */
    uint16_t lid;
    uint8_t link_layer;
    uint8_t mtu;          /* enum ibv_mtu */
    uint8_t reads_begun;  /* READs this end has in progress at most … */
    uint8_t reads_served; /* … and how many of the peer's it serves at once */
} verbs_address;

void verbs_address_of(const verbs_device *device, const verbs_link *link, verbs_address *address_out);
void verbs_address_write(const verbs_address *address, uint8_t *bytes_out, size_t *size_out);
/* Reads and checks a peer's bytes, also against this end's own port: RT_E_PROTOCOL, RT_E_VERSION, RT_E_REFUSED. */
int verbs_address_read(const verbs_device *device, const uint8_t *bytes, size_t size, verbs_address *address_out,
                       rt_detail *detail);

/* ---- post.c, poll.c: HOT ---- */
int verbs_post(rt_plink *link, const rt_work *items, uint32_t count, rt_posted *posted_out);
int verbs_poll(rt_pdevice *device, uint32_t queue, rt_completion *completions_out, uint32_t capacity);

/* ---- event.c ---- */
int verbs_arm(rt_pdevice *device, uint32_t queue);
int verbs_event_fd(rt_pdevice *device, uint32_t queue);
void verbs_event_clear(rt_pdevice *device, uint32_t queue);
int verbs_service_fd(rt_pdevice *device);
void verbs_service(rt_pdevice *device, rt_event *event_out);

static inline verbs_device *verbs_device_of(rt_pdevice *device)
{
    return (verbs_device *)(void *)device;
}

static inline verbs_link *verbs_link_of(rt_plink *link)
{
    return (verbs_link *)(void *)link;
}

#endif
#endif
