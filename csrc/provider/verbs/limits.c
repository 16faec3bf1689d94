/* limits.c: the limits of a port: from the device's attributes, and from the capabilities that
 * create_qp grants on a trial.
 *
 * Capability numbers are never constants (RDMA-RULES 21). The trial queue pair asks for the same
 * capabilities as every later link, so that limits hold for all of them. The inline size is tried
 * downwards, because no attribute reports it. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <string.h>

/* Inline sizes to ask for, best first: 220 keeps a work request of most cards in four 64-byte units. */
static const uint32_t inline_sizes[] = {220, 128, 64, 32, 16, 0};

static uint32_t least(uint64_t left, uint64_t right)
{
    uint64_t value = left < right ? left : right;
    return value < UINT32_MAX ? (uint32_t)value : UINT32_MAX;
}

/* An attribute as a count: drivers report "unlimited" as a negative or very large number. */
static uint32_t count_of(int attribute)
{
    return attribute >= 0 ? (uint32_t)attribute : UINT32_MAX;
}

/* Creates and destroys one queue pair with the capabilities; on success *cap holds those that were
 * granted. Returns 0 or an errno. */
static int pair_try(const verbs_library *library, struct ibv_pd *pd, struct ibv_cq *cq, struct ibv_qp_cap *cap)
{
    struct ibv_qp_init_attr attr = {.send_cq = cq, .recv_cq = cq, .cap = *cap, .qp_type = IBV_QPT_RC};
    errno = 0;
    struct ibv_qp *qp = library->ibv_create_qp(pd, &attr);
    if (qp == NULL)
        return verbs_errno();
    library->ibv_destroy_qp(qp);
    *cap = attr.cap;
    return 0;
}

/* Finds the largest inline size that a queue pair is created with. `asked` keeps the capabilities
 * asked for, `given` those that were granted. */
static int inline_sizes_try(const verbs_library *library, struct ibv_pd *pd, struct ibv_cq *cq, struct ibv_qp_cap *asked,
                            struct ibv_qp_cap *given)
{
    int error = 0;
    for (size_t index = 0; index < sizeof inline_sizes / sizeof inline_sizes[0]; index++) {
        asked->max_inline_data = inline_sizes[index];
        *given = *asked;
        error = pair_try(library, pd, cq, given);
        if (error != EINVAL && error != ENOMEM && error != EOPNOTSUPP)
            return error;
    }
    return error;
}

static int port_try(const verbs_library *library, const verbs_port *port, struct ibv_qp_cap *asked, struct ibv_qp_cap *given,
                    rt_detail *detail)
{
    int status = RT_OK;
    errno = 0;
    struct ibv_pd *pd = library->ibv_alloc_pd(port->context);
    if (pd == NULL)
        return verbs_fail(detail, verbs_errno(), "allocate a protection domain on %s", port->name);
    errno = 0;
    struct ibv_cq *cq = library->ibv_create_cq(port->context, 16, NULL, NULL, 0);
    if (cq == NULL) {
        status = verbs_fail(detail, verbs_errno(), "create a completion queue on %s", port->name);
        goto dealloc_pd;
    }
    int error = inline_sizes_try(library, pd, cq, asked, given);
    if (error != 0)
        status =
            verbs_fail(detail, error, "create a reliable queue pair of %u work requests on %s", asked->max_send_wr, port->name);
    library->ibv_destroy_cq(cq);
dealloc_pd:
    library->ibv_dealloc_pd(pd);
    return status;
}

/* Links that fit: as many as the device has queue pairs for, and the completion queues have room
 * for. */
static uint32_t link_count(const verbs_port *port, const verbs_request *request, uint32_t data_queues)
{
    uint32_t by_data = (uint32_t)((uint64_t)data_queues * (request->completion_depth / request->cap.max_send_wr));
    uint32_t by_service = request->service_depth / request->cap.max_recv_wr;
    uint32_t by_device = count_of(port->attributes.max_qp);
    return least(least(by_data, by_service), least(by_device, VERBS_LINKS_MAX));
}

/* Entries of each data queue: as many as were asked for, and enough for the links that were asked for. A fourth more, since
 * links that come and go leave the queues unequally full. */
static uint32_t completion_depth_of(const verbs_port *port, const verbs_options *options, uint32_t work_requests,
                                    uint32_t data_queues)
{
    uint64_t links = ((uint64_t)options->links + data_queues - 1) / data_queues;
    uint64_t wanted = (links + links / 4) * work_requests;
    return least(wanted > options->completion_depth ? wanted : options->completion_depth, count_of(port->attributes.max_cqe));
}

/* Whether the device has memory windows of type 2, which are bound by a work request and valid
 * through one queue pair (RDMA-RULES 14). */
static bool device_has_windows(const struct ibv_device_attr *attributes)
{
    return (attributes->device_cap_flags & (IBV_DEVICE_MEM_WINDOW_TYPE_2A | IBV_DEVICE_MEM_WINDOW_TYPE_2B)) != 0 &&
           attributes->max_mw > 0;
}

/* Some drivers report windows that their library cannot make. */
static bool window_try(const verbs_library *library, const verbs_port *port)
{
    struct ibv_pd *pd = library->ibv_alloc_pd(port->context);
    if (pd == NULL)
        return false; /* the probe of queue pairs says why */
    struct ibv_mw *mw = ibv_alloc_mw(pd, IBV_MW_TYPE_2);
    if (mw != NULL)
        ibv_dealloc_mw(mw);
    library->ibv_dealloc_pd(pd);
    return mw != NULL;
}

int verbs_limits_probe(const verbs_library *library, const verbs_port *port, const verbs_options *options, uint32_t data_queues,
                       rt_limits *limits_out, verbs_request *request_out, rt_detail *detail)
{
    const struct ibv_device_attr *attributes = &port->attributes;
    struct ibv_qp_cap given;
    verbs_request request = {.binds = 0};
    bool windows = device_has_windows(attributes) && window_try(library, port);
    request.binds = windows ? VERBS_BINDS : 0;
    request.cap.max_send_wr = least((uint64_t)options->work_depth + request.binds, count_of(attributes->max_qp_wr));
    request.completion_depth = completion_depth_of(port, options, request.cap.max_send_wr, data_queues);
    bool ordered = port->placement == VERBS_PLACEMENT_ORDERED;
    uint32_t receive_depth = (uint32_t)VERBS_RECEIVE_DEPTH + (ordered ? 0 : VERBS_IMMEDIATES);
    request.cap.max_recv_wr = least(receive_depth, count_of(attributes->max_qp_wr));
    request.service_depth = /* for as many links as with the usual depth */
        least((uint64_t)request.completion_depth * receive_depth / VERBS_RECEIVE_DEPTH, count_of(attributes->max_cqe));
    request.cap.max_send_sge = least(VERBS_SEGMENTS_MAX, count_of(attributes->max_sge));
    request.cap.max_recv_sge = 1;
    if (port->attr.max_msg_sz == 0)
        return rt_fail(detail, RT_E_UNAVAILABLE, 0, "%s reports a largest message of 0 bytes: its driver is broken", port->name);
    if (request.cap.max_send_wr <= request.binds || request.completion_depth < request.cap.max_send_wr)
        return rt_fail(detail, RT_E_INVALID, 0,
                       "%s: a completion queue of %u entries has no room for a link of %u items: lower "
                       "work_depth, or raise completion_depth (at most %u here)",
                       port->name, request.completion_depth, request.cap.max_send_wr, count_of(attributes->max_cqe));
    int status = port_try(library, port, &request.cap, &given, detail);
    if (status != RT_OK)
        return status;
    uint32_t receives = request.cap.max_recv_wr;
    uint32_t segments = least(given.max_send_sge, VERBS_SEGMENTS_MAX);
    *limits_out = (rt_limits){
        .message_size_max = least(port->attr.max_msg_sz, options->message_size_max),
        .region_size_max = attributes->max_mr_size,
        .region_count_max = count_of(attributes->max_mr),
        .link_count_max = link_count(port, &request, data_queues),
        .completion_queue_max = count_of(attributes->max_cq),
        .work_depth = request.cap.max_send_wr - request.binds,
        .receive_depth = receives,
        .completion_depth = request.completion_depth,
        .read_depth = least(count_of(attributes->max_qp_init_rd_atom), 255),
        .segments_max = segments,
        .inline_size_max = given.max_inline_data,
        .send_size_max = least(port->attr.max_msg_sz, VERBS_MESSAGE_MAX),
        .links_per_peer_default = 4,
        .queues_default = VERBS_QUEUES,
        .orders_writes = ordered,
        .places_words_whole = true,
        .carries_immediate = true,
        .immediate_covers_earlier = true, /* RC: a RECV completes once all earlier requests of its queue pair are done */
        .exposes_caller_memory = true,
        .pins_memory = true,
        .keys_per_peer = windows,
    };
    *request_out = request;
    if (options->links > limits_out->link_count_max)
        return rt_fail(
            detail, RT_E_UNAVAILABLE, 0,
            "%s has room for %u links, and links=%u were asked for: it has %u queue pairs, and completion queues of at "
            "most %u entries, of which a link takes %u; more queues= or a smaller work_depth= make room",
            port->name, limits_out->link_count_max, options->links, count_of(attributes->max_qp), count_of(attributes->max_cqe),
            request.cap.max_send_wr);
    return RT_OK;
}

#endif
