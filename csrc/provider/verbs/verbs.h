/* verbs.h: the declarations that the files of the verbs provider share: the loaded library, the
 * device, its queues, links and memory.
 *
 * RC queue pairs over libibverbs, which is loaded at run time (library.c) and never linked: every
 * call goes through the table below, whose members have the types of the system header. The calls
 * of the data path are that header's inlines through context->ops. Set-up is in library, options,
 * port, choice, sysfs, list, gid, limits, device, memory, window, link and event.c; post.c and poll.c are the hot path.
 * Without the header at build time only the `viable` of table.c is left. */
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

/* These macros would bypass the table: the loaded library has the functions behind them. */
#undef ibv_get_device_list
#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>

#include "base/list.h"
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
    X(ibv_query_pkey)                                                                                                            \
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

/* Newer than the oldest library that is accepted; NULL where the loaded one lacks them. */
#define VERBS_CALLS_OPTIONAL(X)                                                                                                  \
    X(ibv_reg_mr_iova2)           /* else ibv_reg_mr, without relaxed ordering */                                                \
    X(_ibv_query_gid_ex)          /* else the GID's type comes from sysfs */                                                     \
    X(ibv_query_qp_data_in_order) /* else no link is said to place bytes in order */                                             \
    X(ibv_is_fork_initialized)    /* else only ibv_fork_init's result is known */

typedef struct verbs_library {
#define X(name) __typeof__(name) *name;
    VERBS_CALLS(X)
    VERBS_CALLS_OPTIONAL(X)
#undef X
    char path[256];         /* the loaded file, for messages */
    const char *fork_state; /* whether a child made by fork is safe from registered memory, in words */
} verbs_library;

/* Loads the library once for the process and readies it for fork (RDMA-RULES 27). NULL, with
 * RT_E_UNAVAILABLE in the detail, when it cannot be loaded; the next call tries again. Any
 * thread. */
const verbs_library *verbs_library_load(rt_detail *detail);

/* ---- status.c: libibverbs' numbers as ours ---- */

/* The errno of a call that failed with NULL or -1; never 0, also where a driver forgot to set it. */
static inline int verbs_errno(void)
{
    return errno != 0 ? errno : EIO;
}

/* Writes the detail of a failed set-up call: the action attempted, its errno, and the remedy where
 * one is known. */
int verbs_fail(rt_detail *detail, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The rt_status of an errno. */
int verbs_errno_status(int error);

/* Whether pinning `size` more bytes exceeds RLIMIT_MEMLOCK; if so, text_out gets the figures and
 * the fix. */
bool verbs_memlock_exceeded(uint64_t size, char *text_out, size_t capacity);

/* Beside the numbers of ibv_wc_status: IBV_WC_RETRY_EXC_ERR of a link's first work item, after which nothing came back. */
enum { VERBS_NEVER_REACHED = 0x100 | IBV_WC_RETRY_EXC_ERR };

/* The rt_status of an ibv_wc_status. */
int32_t verbs_completion_status(uint32_t wc_status);
const char *verbs_completion_name(uint32_t wc_status);

/* ---- options.c: the arguments of the URL ---- */

#define VERBS_UNSET UINT32_MAX
enum { VERBS_NAMES_SIZE = 256 }; /* of a list of devices */

/* Where the bytes of later WRITEs may land before those of earlier ones. Travels in link addresses. */
typedef enum verbs_placement {
    VERBS_PLACEMENT_AUTO = 0,    /* any on InfiniBand, ordered on Ethernet */
    VERBS_PLACEMENT_ORDERED = 1, /* nowhere: a later WRITE of a queue pair is placed after an earlier one */
    VERBS_PLACEMENT_ANY = 2,     /* everywhere: adaptive routing, out-of-order placement, a bus with relaxed ordering */
} verbs_placement;

/* Addresses among which a GID is chosen: those whose first `bits` bits are these. */
typedef struct verbs_network {
    union ibv_gid address; /* an IPv4 address as a GID has it */
    uint32_t bits;         /* 0: none was asked for */
} verbs_network;

typedef struct verbs_options {
    uint32_t placement; /* verbs_placement */
    uint32_t pkey;      /* partition key; VERBS_UNSET: by rule (port.c) */
    verbs_network network;
    uint32_t port;       /* VERBS_UNSET: by rule (choice.c) */
    uint32_t local_rank; /* of this process among those of the host: among ports that are alike each takes another */
    uint32_t gid;        /* index; VERBS_UNSET: by rule, among those of `network` if one was given (gid.c) */
    uint32_t traffic_class;
    uint32_t service_level;
    uint32_t ack_timeout;      /* 4.096 us << ack_timeout until a packet is sent again; VERBS_UNSET: by the kind of device … */
    uint32_t retry_count;      /* … as the number of repeats; 7 is never left on soft-RoCE */
    uint32_t rnr_retry;        /* 7 would repeat for ever, so 6 is the most */
    uint32_t mtu;              /* bytes; an upper bound on what the ports offer */
    uint32_t work_depth;       /* send-side items of one link */
    uint32_t completion_depth; /* entries of one completion queue, at least */
    uint32_t links;            /* that the completion queues have room for, at least */
    uint32_t message_size_max; /* bytes of one work item, where the device takes more */
    uint32_t keepalive;        /* seconds until a host whose control connection falls silent counts as dead */
    char interfaces[VERBS_NAMES_SIZE]; /* network interfaces that the URL's name asks for: their GIDs come first; "": any */
} verbs_options;

/* RT_E_INVALID for an unknown key (the detail names the known ones), a value out of bounds or a key
 * given twice. */
int verbs_options_parse(const char *arguments, verbs_options *options_out, rt_detail *detail);

/* ---- gid.c: the choice of a port's address (RDMA-RULES 19) ---- */

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
    bool asked; /* it is one of the interfaces that were asked for by name */
    bool local; /* an address of this network namespace has these bytes */
} verbs_gid;

/* The kind of a table entry from its type (enum ibv_gid_type) and bytes; NONE for an empty one. */
verbs_gid_kind verbs_gid_classify(uint32_t type, const union ibv_gid *bytes);

/* The entry that the rule prefers: one that was asked for, then a local one before others, then by kind, then by index; NULL
 * when all are empty. */
const verbs_gid *verbs_gid_choose(const verbs_gid *gids, size_t count);

/* Reads the port's table and chooses, or takes the index or the network that was asked for. */
int verbs_gid_query(const verbs_library *library, struct ibv_context *context, uint8_t port,
                    const struct ibv_port_attr *port_attr, const verbs_options *options, verbs_gid *gid_out, rt_detail *detail);

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
    uint16_t pkey, pkey_index;
    verbs_placement placement;      /* never auto */
    char name[RT_DEVICE_NAME_SIZE]; /* "mlx5_0", or "mlx5_0:2" on a device with several ports */
} verbs_port;

/* The placement that holds on a port of this link layer, and why, in words. */
verbs_placement verbs_placement_of(const verbs_options *values, uint8_t link_layer, char reason_out[RT_ORDER_REASON_SIZE]);
const char *verbs_placement_name(uint32_t placement);

/* The devices, at least one; the caller frees them with ibv_free_device_list. */
int verbs_devices_list(const verbs_library *library, struct ibv_device ***devices_out, int *count_out, rt_detail *detail);
/* Opens a device and reads its attributes. The context is the caller's to close. */
int verbs_port_device_open(const verbs_library *library, struct ibv_device *device, verbs_port *port_out, rt_detail *detail);
/* Reads a port of an opened device: RT_E_UNAVAILABLE when it cannot be used now. */
int verbs_port_read(const verbs_library *library, const verbs_options *options, uint8_t number, verbs_port *port,
                    rt_detail *detail);
/* The speed of the port, or 0 where neither the kernel nor the library says. */
double verbs_port_gigabits(const verbs_port *port);
/* Writes the reason why there is no device (RDMA-RULES 34): `error` is the errno of a failed
 * ibv_get_device_list, or 0. `kernel_class` is the directory where the kernel shows its devices.
 * Returns RT_E_UNAVAILABLE. */
int verbs_explain_absence(const char *kernel_class, int error, rt_detail *detail);

/* The bytes of an MTU enum, and the largest enum of at most `bytes`; 0 where there is none. */
uint32_t verbs_mtu_bytes(uint32_t mtu);
uint32_t verbs_mtu_of(uint32_t bytes);

/* ---- choice.c: one port among several ---- */

/* A port's merits, the most important first. */
typedef struct verbs_rank {
    bool addressed; /* InfiniBand, or RoCEv2 with an IP address that is not link-local */
    double gigabits;
    bool infiniband;
    int distance; /* of the device's NUMA node from those that this process may run on; VERBS_DISTANCE_UNKNOWN is the farthest */
} verbs_rank;

verbs_rank verbs_rank_of(const verbs_port *port);
/* The best of `count`, at least 1: among equals the local_rank-th, in a circle. */
size_t verbs_ranks_choose(const verbs_rank *ranks, size_t count, uint32_t local_rank);
/* Why one of them is taken, or is not, in words. */
void verbs_rank_explain(const verbs_rank *ranks, size_t count, size_t which, char *text_out, size_t capacity);

/* Opens the port that a URL's name asks for: "" (any), "mlx5_0", "mlx5_0:2", several with commas, all but some behind "^", the
 * network interfaces behind "netdev:", which are noted in the options. The context is the caller's to close. */
int verbs_port_open(const verbs_library *library, const char *name, verbs_options *options, verbs_port *port_out,
                    rt_detail *detail);
int verbs_viable(rt_detail *detail);

/* ---- list.c ---- */
int verbs_list(rt_device_info *infos_out, int capacity, rt_detail *detail);

/* ---- sysfs.c: what the kernel says of a port and libibverbs does not ---- */

enum { VERBS_DISTANCE_UNKNOWN = 255 };

/* The first line of a file in the device's folder; false where there is none. */
bool verbs_sysfs_read(const struct ibv_device *device, char *line_out, size_t capacity, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
double verbs_sysfs_gigabits(const struct ibv_device *device, uint32_t port); /* 0: not known */
int verbs_sysfs_node(const struct ibv_device *device);                       /* the NUMA node; -1: not known */
/* Whether the port is one of these network interfaces ("eth0,eth1"): itself, or as the carrier of a bond or VLAN. */
bool verbs_sysfs_has_interface(const struct ibv_device *device, uint32_t port, const char *interfaces);
bool verbs_sysfs_gid_is_of(const struct ibv_device *device, uint32_t port, uint32_t index, const char *interfaces);
/* The least distance of a NUMA node from those that have one of the processors, by the kernel's table in the folder `nodes`. */
int verbs_node_distance(const char *nodes, const cpu_set_t *cpus, int node);

/* ---- limits.c ---- */

enum {
    VERBS_POST_BATCH = 32, /* work requests of one doorbell: RT_POST_BATCH; the rest is a shorter prefix */
    VERBS_POLL_BATCH = 32,
    VERBS_SEGMENTS_MAX = 4,         /* more cost room in every work request of every link */
    VERBS_LINKS_MAX = 1 << 16,      /* link indexes have 16 bits in a wr_id */
    VERBS_MESSAGE_MAX = 1 << 30,    /* where the device takes larger ones: a length in an SGE has 32 bits */
    VERBS_WORK_DEPTH = 128,         /* by default; 64 KiB of send queue with the usual inline size */
    VERBS_RECEIVE_DEPTH = 32,       /* twice RT_RPC_RECEIVES: a power of two with room */
    VERBS_IMMEDIATES = 224,         /* more where immediates carry the flags of edges, one for each slot */
    VERBS_COMPLETION_DEPTH = 16384, /* by default; over 120 links of 128 items each, 1 MiB */
    VERBS_QUEUES = 4,               /* for data, by default */
    VERBS_BINDS = 4,                /* windows that one link binds at once; one more waits for the next call */
};

/* The capabilities that create_qp is asked for on every link of a port. */
typedef struct verbs_request {
    struct ibv_qp_cap cap; /* max_send_wr has room for the work items and the binds */
    uint32_t binds;        /* that may be outstanding on one link beside its work items; 0: no memory windows */
    uint32_t completion_depth;
    uint32_t service_depth; /* entries of the service queue, which takes all RECVs */
} verbs_request;

/* Fills limits from the device's attributes and from the capabilities that create_qp grants on a
 * trial (RDMA-RULES 21). */
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
    _Atomic bool told;       /* core was told that it is lost */
    _Atomic bool severed;    /* the kernel has let go of it: nothing of it reaches memory any more, and its events end */
    _Atomic bool stale;      /* the port's addresses or keys changed: read again before the next link is made */
    _Atomic uint32_t fallen; /* links whose state is VERBS_FALL_UNTOLD */
    rt_turn orphans_turn;    /* held by poll while it flushes orphans, and to take a link away */
} verbs_device;

/* Reads the attributes, addresses and keys of the device's port again: a set-up call (port.c). */
int verbs_port_refresh(verbs_device *device, rt_detail *detail);

/* One direction of a link's work: the items that were posted and have not completed, and their
 * tokens. Positions run freely. */
typedef struct verbs_ring {
    uint64_t *tokens; /* mask + 1 */
    uint32_t mask;
    uint32_t depth;           /* items that may be outstanding */
    _Atomic uint32_t posted;  /* advanced by the posting thread */
    _Atomic uint32_t retired; /* advanced by the polling thread */
} verbs_ring;

static inline uint32_t verbs_ring_outstanding(const verbs_ring *ring)
{
    return atomic_load_explicit(&ring->posted, memory_order_relaxed) - atomic_load_explicit(&ring->retired, memory_order_relaxed);
}

/* A queue pair may go to error without an event and without a failed send: rxe reports nothing to
 * an end whose memory a peer tried to access without a right. The end's RECVs are flushed, though,
 * and then `service` reports the failure. */
typedef enum verbs_fall { VERBS_FALL_NONE = 0, VERBS_FALL_UNTOLD, VERBS_FALL_TOLD } verbs_fall;

/* The way to this end of a link, as the other end is told: address.c. */
typedef struct verbs_address {
    verbs_gid gid;     /* its index is not sent */
    uint32_t qpn, psn; /* 24 bits each; the sender's own psn */
    uint16_t lid;
    uint8_t link_layer;
    uint8_t mtu;          /* enum ibv_mtu */
    uint8_t reads_begun;  /* READs that this end has in progress at most … */
    uint8_t reads_served; /* … and how many of the peer's it serves at once */
    uint8_t placement;    /* verbs_placement, never auto */
    uint16_t pkey;
} verbs_address;

struct verbs_link {
    rt_plink base;
    verbs_address own;           /* as the peer was told, … */
    uint32_t own_gid;            /* … and the index of its GID */
    struct ibv_qp *qp;           /* NULL once it is an orphan */
    uint64_t tag;                /* the upper half of its wr_ids: generation and index */
    rt_list windows;             /* of verbs_window.of_link */
    uint32_t binds_posted;       /* free-running; device->windows_lock */
    _Atomic uint32_t binds_done; /* likewise; advanced by the polling thread */
    verbs_ring send, receive;
    _Atomic int32_t post_error; /* errno of the post that failed: sticks */
    _Atomic uint32_t failure;   /* ibv_wc_status of the first failed completion; one that gives a reason replaces a flush */
    _Atomic bool send_failed;   /* a completion of the send side failed */
    _Atomic uint32_t fall;      /* verbs_fall */
    uint32_t psn;               /* of this end's first packet */
    uint32_t qpn;
    uint32_t peer_qpn;
    verbs_gid peer_gid;
    uint32_t mtu;      /* bytes, once connected */
    uint32_t reads;    /* outstanding READs that both ends agreed on */
    const char *state; /* for the dump */
    _Atomic bool shut;
    _Atomic bool orphaned; /* the QP is gone; poll flushes the outstanding items */
    bool in_order;         /* the device reports that it places the bytes of a WRITE in order */
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
    bool released;   /* it ends with its last window, whose bind was under way at its release */
} verbs_memory;

typedef struct verbs_remote {
    rt_premote base;
    uint64_t address;  /* where the registration starts, in the peer's address space */
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

/* Finds or makes a window of the memory for each link, and gives their keys. RT_E_AGAIN while a
 * bind is under way. */
int verbs_windows_bind(verbs_device *device, verbs_memory *memory, rt_plink *const *links, uint32_t link_count,
                       uint32_t *keys_out, rt_detail *detail);
/* Revokes all keys of a link: before its queue pair is destroyed, and once it is in error. */
void verbs_windows_end(verbs_device *device, verbs_link *link);
/* Revokes all keys of memory that is being released. False while a bind is under way: then the
 * registration, to which no peer has a key, ends when the bind is over. */
bool verbs_windows_release(verbs_device *device, verbs_memory *memory);

/* ---- link.c ---- */
int verbs_link_create(rt_pdevice *device, uint32_t send_queue, uint32_t receive_queue, rt_plink **link_out, uint8_t *address_out,
                      size_t *address_size_out, rt_detail *detail);
int verbs_link_connect(rt_plink *link, const uint8_t *peer_address, size_t size, rt_detail *detail);
void verbs_link_shut(rt_plink *link);
void verbs_link_destroy(rt_plink *link);
/* After the device was lost: destroys the QPs of links that were shut, whose flushes will not come,
 * and lets poll flush them. */
void verbs_links_orphan(verbs_device *device);
int verbs_link_describe(rt_plink *link, char *text_out, size_t capacity);

/* ---- address.c: the bytes by which a link is reached ---- */

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
