/* device.c: opening and closing: the port, one protection domain, and the completion queues, each with its channel.
 *
 * The protection domain is the trust domain: keys of one device reach nothing of another (RDMA-RULES 14). */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The library's descriptors are read when poll reports them readable, and must never block a
 * thread. */
static int descriptor_make_nonblocking(int descriptor)
{
    int flags = fcntl(descriptor, F_GETFL);
    if (flags < 0 || fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) < 0)
        return verbs_errno();
    return 0;
}

static int queue_open(verbs_device *device, uint32_t index, rt_detail *detail)
{
    const verbs_library *library = device->library;
    verbs_queue *queue = &device->queues[index];
    const char *name = device->base.name;
    int status;
    errno = 0;
    queue->channel = library->ibv_create_comp_channel(device->context);
    if (queue->channel == NULL)
        return verbs_fail(detail, verbs_errno(), "create a completion channel on %s", name);
    int error = descriptor_make_nonblocking(queue->channel->fd);
    if (error != 0) {
        status = verbs_fail(detail, error, "make a completion channel of %s non-blocking", name);
        goto destroy_channel;
    }
    uint32_t vectors = device->context->num_comp_vectors > 0 ? (uint32_t)device->context->num_comp_vectors : 1;
    uint32_t vector = ((uint32_t)getpid() + index) % vectors; /* so that the processes of a host do not all wake one core */
    bool service = index + 1 == device->queue_count;
    uint32_t depth = service ? device->request.service_depth : device->request.completion_depth;
    errno = 0;
    queue->cq = library->ibv_create_cq(device->context, (int)depth, queue, queue->channel, (int)vector);
    if (queue->cq == NULL) {
        status =
            verbs_fail(detail, verbs_errno(), "create completion queue %u of %u entries on %s (completion_depth asks for fewer)",
                       index, depth, name);
        goto destroy_channel;
    }
    queue->capacity = depth;
    return RT_OK;
destroy_channel:
    library->ibv_destroy_comp_channel(queue->channel);
    queue->channel = NULL;
    return status;
}

/* Every event was acknowledged when it was taken, so this call does not wait. */
static void queue_close(const verbs_library *library, verbs_queue *queue)
{
    library->ibv_destroy_cq(queue->cq);
    library->ibv_destroy_comp_channel(queue->channel);
}

static int queues_open(verbs_device *device, rt_detail *detail)
{
    for (uint32_t index = 0; index < device->queue_count; index++) {
        int status = queue_open(device, index, detail);
        if (status == RT_OK)
            continue;
        while (index-- > 0)
            queue_close(device->library, &device->queues[index]);
        return status;
    }
    return RT_OK;
}

/* Opens the objects that need the context: on failure all of them are undone, but the context stays
 * open. */
static int objects_open(verbs_device *device, rt_detail *detail)
{
    const char *name = device->base.name;
    int error = descriptor_make_nonblocking(device->context->async_fd);
    if (error != 0)
        return verbs_fail(detail, error, "make the event descriptor of %s non-blocking", name);
    errno = 0;
    device->pd = device->library->ibv_alloc_pd(device->context);
    if (device->pd == NULL)
        return verbs_fail(detail, verbs_errno(), "allocate a protection domain on %s", name);
    int status = queues_open(device, detail);
    if (status != RT_OK)
        device->library->ibv_dealloc_pd(device->pd);
    return status;
}

/* Fills all members of a device whose port is open, except those that need calls to the device. */
static int device_prepare(verbs_device *device, const rt_open_options *options, rt_detail *detail)
{
    memcpy(device->base.name, device->port.name, sizeof device->base.name);
    verbs_placement_of(&device->options, device->port.attr.link_layer, device->base.order_reason);
    device->base.silence_s = device->options.keepalive;
    device->context = device->port.context;
    uint32_t most = device->port.attributes.max_cq > 2 ? (uint32_t)device->port.attributes.max_cq - 1 : 1;
    uint32_t queues_default = most < VERBS_QUEUES ? most : VERBS_QUEUES;
    uint32_t data_queues = options->data_queues != 0 ? options->data_queues : queues_default;
    device->queue_count = data_queues + 1;
    int status = verbs_limits_probe(device->library, &device->port, &device->options, data_queues, &device->base.limits,
                                    &device->request, detail);
    device->base.limits.queues_default = queues_default;
    if (status != RT_OK)
        return status;
    if (device->queue_count > device->base.limits.completion_queue_max)
        return rt_fail(detail, RT_E_INVALID, 0, "%s has %u completion queues, %u data queues and one of service were asked for",
                       device->base.name, device->base.limits.completion_queue_max, data_queues);
    device->queues = calloc(device->queue_count, sizeof *device->queues);
    device->links = calloc(device->base.limits.link_count_max, sizeof *device->links);
    if (device->queues == NULL || device->links == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for the queues and links of %s", device->base.name);
    return RT_OK;
}

static void device_free(verbs_device *device)
{
    rt_mutex_end(&device->windows_lock);
    free(device->links);
    free(device->queues);
    free(device);
}

/* A dead process is noticed by its control connection, so on hardware the network may be silent for 8 s, longer than a port
 * that goes down and up, a new route or a storm of pauses. Soft-RoCE, which has no vendor, repeats for ever with 7, and half a
 * second is enough for it. */
static void timeouts_choose(verbs_options *options, const struct ibv_device_attr *attributes)
{
    bool soft = attributes->vendor_id == 0 || attributes->vendor_id == 0xffffff;
    if (options->ack_timeout == VERBS_UNSET)
        options->ack_timeout = soft ? 14 : 18;
    if (options->retry_count == VERBS_UNSET)
        options->retry_count = soft ? 6 : 7;
}

int verbs_open(const rt_open_options *options, rt_pdevice **device_out, rt_detail *detail)
{
    const verbs_library *library = verbs_library_load(detail);
    if (library == NULL)
        return RT_E_UNAVAILABLE;
    verbs_device *device = calloc(1, sizeof *device);
    if (device == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a verbs device");
    device->library = library;
    rt_mutex_begin(&device->windows_lock, NULL, RT_RANK_PROVIDER);
    rt_turn_rank(&device->orphans_turn, RT_RANK_PROVIDER);
    int status = verbs_options_parse(options->arguments, &device->options, detail);
    if (status == RT_OK)
        status = verbs_port_open(library, options->name != NULL ? options->name : "", &device->options, &device->port, detail);
    if (status != RT_OK)
        goto free_device;
    timeouts_choose(&device->options, &device->port.attributes);
    status = device_prepare(device, options, detail);
    if (status == RT_OK)
        status = objects_open(device, detail);
    if (status != RT_OK)
        goto close_context;
    *device_out = &device->base;
    return RT_OK;
close_context:
    library->ibv_close_device(device->port.context);
free_device:
    device_free(device);
    return status;
}

void verbs_close(rt_pdevice *base)
{
    verbs_device *device = verbs_device_of(base);
    for (uint32_t index = 0; index < device->base.limits.link_count_max; index++)
        assert(atomic_load_explicit(&device->links[index], memory_order_relaxed) == NULL);
    for (uint32_t index = device->queue_count; index-- > 0;)
        queue_close(device->library, &device->queues[index]);
    device->library->ibv_dealloc_pd(device->pd);
    device->library->ibv_close_device(device->context);
    device_free(device);
}

#endif
