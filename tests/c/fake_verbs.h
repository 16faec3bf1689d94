/* fake_verbs.h: a libibverbs without a device, for tests: what its files share, and the functions that tests call.
 *
 * Built as libfakeibverbs.so and loaded in place of the real one (RDMATENSOR_LIBIBVERBS). Devices "fake0" and "fake1" of one
 * process, with registered memory that is checked, RC queue pairs that match numbers and states, queues that overrun, and
 * events on real descriptors. A fault plan breaks what a test wants broken. Each device has number ranges of its own.
 *
 *   fake_verbs.c          the exported calls: devices, memory, completion queues
 *   fake_verbs_pairs.c    the exported calls: queue pairs
 *   fake_verbs_windows.c  memory windows of type 2
 *   fake_verbs_post.c     posting and polling
 *   fake_verbs_engine.c   what the device does: work requests, completions, the moving of bytes
 *   fake_verbs_control.c  the fault plan, the configuration, events
 *
 * The environment: FAKE_IBVERBS_DEVICES (0 to 4, 2 unless set); FAKE_IBVERBS_ENGINE, one of poll (work moves when any queue is polled
 * or armed; the default), thread (a thread moves it, as a device would), manual (only fake_step does); FAKE_IBVERBS_OVERTAKE, a
 * seed: all devices are of InfiniBand, and fake_overtake says the rest. */
#ifndef RT_TESTS_FAKE_VERBS_H
#define RT_TESTS_FAKE_VERBS_H

#include <infiniband/verbs.h>
#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova
#undef ibv_get_device_list

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define FAKE_API __attribute__((visibility("default")))

enum {
    FAKE_DEVICES_MAX = 4,
    FAKE_PORTS_MAX = 2,
    FAKE_GIDS = 8,
    FAKE_PKEYS = 4,
    FAKE_INLINE_MAX = 1024,
    FAKE_SEGMENTS = 32,
    FAKE_EVENTS = 64
};

typedef struct fake_gid {
    union ibv_gid gid;
    uint32_t type; /* enum ibv_gid_type */
} fake_gid;

typedef struct fake_device {
    struct ibv_device base;
    struct ibv_device_attr attr;
    struct ibv_port_attr ports[FAKE_PORTS_MAX];
    fake_gid gids[FAKE_PORTS_MAX][FAKE_GIDS];
    uint16_t pkeys[FAKE_PKEYS]; /* of all ports; packets pass between queue pairs of one partition only */
    bool windows_refused;       /* the attributes say that there are windows, and there are none */
    uint32_t inline_max;        /* create_qp refuses more */
    uint32_t inline_given;      /* what it gives at least, when it does not refuse */
    bool in_order;              /* the answer of ibv_query_qp_data_in_order */
    bool plain;                 /* the context has no extended operations: the exported ibv_query_port is called */
    uint32_t next_qpn, next_key;
    uint32_t overtakes; /* 0: WRITEs are placed in order; else the state of the draw that says how late each is placed */
} fake_device;

typedef struct fake_context {
    struct verbs_context extended; /* its last member is the ibv_context */
    fake_device *device;
    int event_write;
    struct ibv_async_event events[FAKE_EVENTS];
    uint32_t event_count;
    uint32_t children; /* protection domains, queues and channels */
    bool severed;      /* by fake_sever: destroying says EIO, unless the library was told not to */
    struct fake_context *next;
} fake_context;

typedef struct fake_pd {
    struct ibv_pd base;
    uint32_t children;
} fake_pd;

typedef struct fake_mr {
    struct ibv_mr base;
    uint64_t iova;
    unsigned access;
    struct fake_mr *next;
} fake_mr;

typedef struct fake_mw {
    struct ibv_mw base;
    fake_mr *mr;              /* NULL: free */
    const struct fake_qp *qp; /* that bound it: valid through no other */
    uint64_t address, length;
    unsigned access;
    uint32_t key;
    struct fake_mw *next;
} fake_mw;

typedef struct fake_channel {
    struct ibv_comp_channel base;
    int write_fd;
    uint32_t children;
} fake_channel;

struct fake_qp;

typedef struct fake_entry {
    struct ibv_wc wc;
    struct fake_qp *qp; /* whose send slots up to `position` are free once this is polled; NULL: a receive */
    uint32_t position;
} fake_entry;

typedef struct fake_cq {
    struct ibv_cq base;
    fake_entry *entries;
    uint32_t capacity, head, tail; /* free-running */
    uint32_t children, unacknowledged;
    int vector;
    bool armed, dead;
    struct fake_cq *next;
} fake_cq;

typedef struct fake_wr {
    struct ibv_send_wr wr; /* sg_list points at `sges` */
    struct ibv_sge sges[FAKE_SEGMENTS];
    uint8_t inlined[FAKE_INLINE_MAX];
    uint64_t size, moved;
    uint32_t delay;
    uint32_t late; /* steps until a WRITE of a device that overtakes is placed */
} fake_wr;

typedef struct fake_rr {
    uint64_t wr_id;
    struct ibv_sge sge;
    int sge_count;
} fake_rr;

typedef struct fake_qp {
    struct ibv_qp base;
    fake_device *device;
    struct ibv_qp_cap cap;
    struct ibv_qp_attr attr; /* all that modify_qp has set */
    fake_wr *sends;
    fake_rr *receives;
    uint32_t posted, executed, released; /* of sends; free-running */
    uint32_t receives_posted, receives_used;
    uint32_t send_psn, receive_psn;
    uint32_t rnr_tries, unacknowledged;
    struct fake_qp *next;
} fake_qp;

typedef enum fake_engine { FAKE_ENGINE_POLL, FAKE_ENGINE_THREAD, FAKE_ENGINE_MANUAL } fake_engine;

/* The fault plan; all zero: nothing is wrong. */
typedef struct fake_plan {
    char call[32]; /* fail the call_nth of these from now; "*" counts all set-up calls */
    uint32_t call_nth;
    int call_error;
    uint32_t complete_nth; /* the n-th executed send from now completes so */
    uint32_t complete_status, complete_vendor;
    uint32_t receive_nth; /* the n-th completed receive from now completes so */
    uint32_t receive_status;
    bool accept_limited; /* the next post takes only `accept` requests, then says `accept_error` */
    uint32_t accept;
    int accept_error;
    uint32_t delay;  /* steps before a request is begun */
    uint32_t chunk;  /* bytes of a WRITE placed in one step; 0: all */
    bool descending; /* from its end */
    int poll_error;  /* poll_cq returns -1 */
} fake_plan;

typedef struct fake_world {
    pthread_mutex_t lock; /* guards everything */
    pthread_cond_t work;
    pthread_cond_t pause; /* of the thread between two steps; never signalled */
    fake_device devices[FAKE_DEVICES_MAX];
    int device_count;
    int list_error; /* ibv_get_device_list fails with it */
    fake_engine engine;
    bool thread_runs, thread_stops;
    pthread_t thread;
    fake_plan plan;
    bool triggered;      /* a planned failure of a call has happened */
    uint32_t live;       /* objects that were acquired and not given back */
    uint32_t violations; /* of the rules of libibverbs, as destroying what is in use */
    uint32_t doorbells, acknowledged;
    int fork_error;
    enum ibv_fork_status fork_status;
    fake_context *contexts;
    fake_mr *mrs;
    fake_mw *mws;
    fake_cq *cqs;
    fake_qp *qps;
} fake_world;

extern fake_world fake __attribute__((visibility("hidden")));

/* ---- inside the fake ---- */

/* Every exported call begins and ends here. */
#define ENTER() pthread_mutex_lock(&fake.lock)
#define LEAVE(value)                                                                                                             \
    do {                                                                                                                         \
        __typeof__(value) leaving = (value); /* before the lock is left */                                                       \
        pthread_mutex_unlock(&fake.lock);                                                                                        \
        return leaving;                                                                                                          \
    } while (0)
#define LEAVE_NULL(error)                                                                                                        \
    do {                                                                                                                         \
        pthread_mutex_unlock(&fake.lock);                                                                                        \
        errno = (error);                                                                                                         \
        return NULL;                                                                                                             \
    } while (0)

/* The functions below are called with the lock held. */

/* Counts a call of this name; the errno with which it shall fail, or 0. */
int fake_fails(const char *call) __attribute__((visibility("hidden")));
void fake_acquired(void) __attribute__((visibility("hidden")));
void fake_released(void) __attribute__((visibility("hidden")));
void fake_violation(const char *what) __attribute__((visibility("hidden")));
void fake_event_raise(fake_context *context, const struct ibv_async_event *event) __attribute__((visibility("hidden")));
/* Takes back events of an object that is being destroyed. */
void fake_event_purge(fake_context *context, const void *object) __attribute__((visibility("hidden")));
fake_context *fake_context_of(struct ibv_context *context) __attribute__((visibility("hidden")));
/* EIO for an object of a severed context, where the library says so, else 0. */
int fake_severed(struct ibv_context *context) __attribute__((visibility("hidden")));
void fake_qp_forget(const fake_qp *qp) __attribute__((visibility("hidden")));

/* ---- memory windows: fake_verbs_windows.c ---- */
struct ibv_mw *fake_alloc_mw(struct ibv_pd *pd, enum ibv_mw_type type) __attribute__((visibility("hidden")));
int fake_dealloc_mw(struct ibv_mw *mw) __attribute__((visibility("hidden")));
/* The errno with which the driver refuses a bind request, or 0. */
int fake_bind_refused(const fake_qp *qp, const struct ibv_send_wr *wr) __attribute__((visibility("hidden")));
/* Executes one: an ibv_wc_status. */
int fake_bind(fake_qp *qp, const struct ibv_send_wr *wr) __attribute__((visibility("hidden")));
/* The memory that a window opens for what comes through a queue pair, or NULL. */
fake_mr *fake_window_reached(const fake_qp *qp, uint32_t key, uint64_t address, uint64_t size, unsigned right)
    __attribute__((visibility("hidden")));
bool fake_windows_use(const fake_mr *mr, const fake_qp *qp) __attribute__((visibility("hidden")));

/* Something was posted or polled: fake_verbs_engine.c. */
void fake_give_turn(bool polled) __attribute__((visibility("hidden")));

static inline fake_qp *qp_of(struct ibv_qp *qp)
{
    return (fake_qp *)(void *)qp;
}

static inline fake_cq *cq_of(struct ibv_cq *cq)
{
    return (fake_cq *)(void *)cq;
}

/* ---- the device's operations: fake_verbs_post.c ---- */
int fake_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad) __attribute__((visibility("hidden")));
int fake_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad) __attribute__((visibility("hidden")));
int fake_poll_cq(struct ibv_cq *cq, int count, struct ibv_wc *wc) __attribute__((visibility("hidden")));
int fake_req_notify_cq(struct ibv_cq *cq, int solicited_only) __attribute__((visibility("hidden")));

/* ---- for tests; found with dlsym or ctypes ---- */

/* Forgets plan and counts, and gives every device its first configuration. No object may be alive. */
FAKE_API void fake_reset(void);
FAKE_API fake_world *fake_state(void);
FAKE_API fake_device *fake_device_at(int index);
FAKE_API void fake_set_device_count(int count);
FAKE_API void fake_set_engine(int engine);
FAKE_API void fake_fail_call(const char *call, uint32_t nth, int error);
FAKE_API int fake_triggered(void);
FAKE_API uint32_t fake_live(void);
FAKE_API uint32_t fake_violations(void);
FAKE_API uint32_t fake_doorbells(void);
FAKE_API void fake_complete(uint32_t nth, uint32_t status, uint32_t vendor_error);
FAKE_API void fake_complete_receive(uint32_t nth, uint32_t status);
FAKE_API void fake_accept(uint32_t count, int error);
FAKE_API void fake_slow(uint32_t delay, uint32_t chunk, int descending);
FAKE_API void fake_fail_polls(int on);
/* Raises an asynchronous event of a device: about a port, or about the queue pair or (for CQ_ERR) any queue of it. */
/* The kernel lets go of a device: its descriptors end, polls find nothing, posts and destroying say EIO. */
FAKE_API void fake_sever(int device);
/* Later WRITEs of the device's queue pairs may be placed before earlier ones, as a seeded draw says; 0 ends that. */
FAKE_API void fake_overtake(int device, uint32_t seed);
/* Makes a device one of InfiniBand, with a LID and a GID of its own. */
FAKE_API void fake_make_infiniband(int device);
FAKE_API int fake_raise(int device, int event_type, int port, uint32_t qpn);
/* Moves work; returns how many requests ended. */
FAKE_API uint32_t fake_step(void);
/* The attributes that modify_qp has set so far. */
FAKE_API int fake_qp_attributes(uint32_t qpn, struct ibv_qp_attr *attr_out);
FAKE_API void fake_set_gid(int device, int port, int index, uint32_t type, const uint8_t bytes[16]);

#endif
