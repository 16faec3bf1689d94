/* device.c: opening and closing: the port, one protection domain, and the completion queues, each with its channel.
 *
 * The protection domain is the trust domain: keys of one device reach nothing of another (RDMA-RULES 14). */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* The library's descriptors are read when poll says so, and must never block a thread. */
static int make_nonblocking(int descriptor)
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
    int error = make_nonblocking(queue->channel->fd);
    if (error != 0) {
        status = verbs_fail(detail, error, "make a completion channel of %s non-blocking", name);
        goto destroy_channel;
    }
    int vectors = device->context->num_comp_vectors > 0 ? device->context->num_comp_vectors : 1;
    uint32_t depth = device->request.completion_depth;
    errno = 0;
    queue->cq = library->ibv_create_cq(device->context, (int)depth, queue, queue->channel, (int)(index % (uint32_t)vectors));
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

/* Every event was acknowledged when it was taken, so nothing here waits. */
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

/* What needs the context: on failure all of it is undone, but the context stays open. */
static int objects_open(verbs_device *device, rt_detail *detail)
{
    const char *name = device->base.name;
    int error = make_nonblocking(device->context->async_fd);
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

/* Fills a device whose port is open, all but what the device itself is asked for. */
static int device_prepare(verbs_device *device, const rt_open_options *options, rt_detail *detail)
{
    memcpy(device->base.name, device->port.name, sizeof device->base.name);
    device->context = device->port.context;
    device->queue_count = options->data_queues + 1;
    int status = verbs_limits_probe(device->library, &device->port, &device->options, options->data_queues, &device->base.limits,
                                    &device->request, detail);
    if (status != RT_OK)
        return status;
    if (device->queue_count > device->base.limits.completion_queue_max)
        return rt_fail(detail, RT_E_INVALID, 0, "%s has %u completion queues, %u data queues and one of service were asked for",
                       device->base.name, device->base.limits.completion_queue_max, options->data_queues);
    device->queues = calloc(device->queue_count, sizeof *device->queues);
    device->links = calloc(device->base.limits.link_count_max, sizeof *device->links);
    if (device->queues == NULL || device->links == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for the queues and links of %s", device->base.name);
    return RT_OK;
}

static void device_free(verbs_device *device)
{
    pthread_mutex_destroy(&device->windows_lock);
    free(device->links);
    free(device->queues);
    free(device);
}

int verbs_open(const rt_open_options *options, rt_pdevice **device_out, rt_detail *detail)
{
    if (options->data_queues == 0)
        return rt_fail(detail, RT_E_INVALID, 0, "a verbs device needs at least one data queue");
    const verbs_library *library = verbs_library_load(detail);
    if (library == NULL)
        return RT_E_UNAVAILABLE;
    verbs_device *device = calloc(1, sizeof *device);
    if (device == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory for a verbs device");
    device->library = library;
    pthread_mutex_init(&device->windows_lock, NULL);
    int status = verbs_options_parse(options->arguments, &device->options, detail);
    if (status == RT_OK)
        status = verbs_port_open(library, options->name != NULL ? options->name : "", &device->options, &device->port, detail);
    if (status != RT_OK)
        goto free_device;
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
