/* open.c: the provider's table, its limits and promises, and the opening and closing of a device. */
#include "provider/shm/shm.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/lock_order.h"

#define SHM_DEVICE_NAME "shm0"

static const rt_limits shm_limits = {
    .message_size_max = SHM_MESSAGE_SIZE_MAX,
    .region_size_max = (uint64_t)1 << 46, /* the address space of a process is 47 bits or more */
    .region_count_max = SHM_EXPORTS_MAX,
    .link_count_max = SHM_LINKS_MAX,
    .completion_queue_max = SHM_QUEUES_MAX,
    .work_depth = SHM_WORK_DEPTH,
    .receive_depth = SHM_RECEIVE_DEPTH,
    .completion_depth = SHM_LINKS_MAX * (SHM_WORK_DEPTH + SHM_RECEIVE_DEPTH), /* completions are kept by the link */
    .read_depth = SHM_WORK_DEPTH,
    .segments_max = SHM_SEGMENTS_MAX,
    .inline_size_max = SHM_INLINE_SIZE_MAX,
    .send_size_max = SHM_SEND_SIZE_MAX,
    .links_per_peer_default = 1, /* a copy runs on its caller's core; more links only help threads that post at once */
    .queues_default = 1,         /* an item that succeeds makes no completion */
    .completes_in_post = true,
    .orders_writes = true,
    .orders_bytes_within_a_write = false, /* memcpy copies the tail of a short buffer first */
    .places_words_whole = true,
    .can_wake_receiver = true,
    .carries_immediate = true,
    .immediate_covers_earlier = true,
    .reaches_gpu_memory = false,
    .exposes_caller_memory = false,
    .wants_shared_memory = true,
    .pins_memory = false,
    .maps_remote = true,
    .local_anywhere = true, /* this process copies, so any memory that it can read and write will do */
    .virtual_time = false,
};

static int shm_viable(rt_detail *detail)
{
    int descriptor, reopened;
    rt_detail why;
    int status = shm_memfd_create("rdmatensor probe", 4096, &descriptor, &why);
    if (status == RT_OK) {
        status = shm_reopen_readonly(descriptor, &reopened, &why);
        if (status == RT_OK)
            close(reopened);
        close(descriptor);
    }
    if (status != RT_OK)
        return rt_fail(detail, RT_E_UNAVAILABLE, 0, "shm:// cannot be used: %s", why.text);
    return RT_OK;
}

static int shm_list(rt_device_info *infos_out, int capacity, rt_detail *detail)
{
    int status = shm_viable(detail);
    if (status != RT_OK)
        return status;
    if (capacity > 0) {
        memset(&infos_out[0], 0, sizeof infos_out[0]);
        infos_out[0].limits = shm_limits;
        snprintf(infos_out[0].name, sizeof infos_out[0].name, SHM_DEVICE_NAME);
        snprintf(infos_out[0].state, sizeof infos_out[0].state,
                 "ready: processes of user %u on this host, of others with a secret", (unsigned)geteuid());
    }
    return 1;
}

static int shm_options_check(const rt_open_options *options, rt_detail *detail)
{
    if (options->name != NULL && options->name[0] != '\0' && strcmp(options->name, SHM_DEVICE_NAME) != 0)
        return rt_fail(detail, RT_E_NOT_FOUND, 0,
                       "no shm device is called \"%.64s\": the only one is \"%s\", as in shm:// or shm://%s", options->name,
                       SHM_DEVICE_NAME, SHM_DEVICE_NAME);
    if (options->arguments != NULL && options->arguments[0] != '\0')
        return rt_fail(detail, RT_E_INVALID, 0, "unknown option \"%.*s\" of shm://: it has none of its own",
                       (int)strnlen(options->arguments, strcspn(options->arguments, "=&")), options->arguments);
    if (options->data_queues >= SHM_QUEUES_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "cannot open shm with %u queues: it takes 1 to %d", options->data_queues,
                       SHM_QUEUES_MAX - 1);
    return RT_OK;
}

/* Creates shared memory of this device and maps it. */
static int shared_make(const char *name, uint64_t size, void **address_out, int *descriptor_out, rt_detail *detail)
{
    int status = shm_memfd_create(name, size, descriptor_out, detail);
    if (status != RT_OK)
        return status;
    uint64_t mapped_size;
    status = shm_map(*descriptor_out, size, true, address_out, &mapped_size, detail);
    if (status != RT_OK)
        close(*descriptor_out);
    return status;
}

/* The board, which peers may read, and the doorbell, which they may write. */
static int shared_open(shm_device *device, rt_detail *detail)
{
    void *board, *doorbell;
    int writable;
    int status = shared_make("rdmatensor board", sizeof(shm_board), &board, &writable, detail);
    if (status != RT_OK)
        return status;
    status = shm_reopen_readonly(writable, &device->board_descriptor, detail);
    close(writable);
    if (status != RT_OK)
        goto unmap_board;
    status = shared_make("rdmatensor doorbell", sizeof(shm_doorbell), &doorbell, &device->doorbell_descriptor, detail);
    if (status != RT_OK)
        goto close_board;
    device->board = board;
    device->doorbell = doorbell;
    return RT_OK;

close_board:
    close(device->board_descriptor);
unmap_board:
    munmap(board, sizeof(shm_board));
    return status;
}

static void shared_close(shm_device *device)
{
    munmap(device->doorbell, sizeof(shm_doorbell));
    munmap(device->board, sizeof(shm_board));
    close(device->doorbell_descriptor);
    close(device->board_descriptor);
}

/* Bells of the queues and of memory. */
static int bells_open(shm_device *device, rt_detail *detail)
{
    int status = shm_bell_open(&device->memory_bell, detail);
    if (status != RT_OK)
        return status;
    for (uint32_t index = 0; index < device->queue_count; index++) {
        status = shm_bell_open(&device->queues[index].bell, detail);
        if (status == RT_OK)
            continue;
        while (index-- > 0)
            shm_bell_close(&device->queues[index].bell);
        shm_bell_close(&device->memory_bell);
        return status;
    }
    return RT_OK;
}

static void bells_close(shm_device *device)
{
    for (uint32_t index = 0; index < device->queue_count; index++)
        shm_bell_close(&device->queues[index].bell);
    shm_bell_close(&device->memory_bell);
}

static int shm_open_device(const rt_open_options *options, rt_pdevice **device_out, rt_detail *detail)
{
    int status = shm_options_check(options, detail);
    if (status != RT_OK)
        return status;
    shm_device *device = aligned_alloc(64, (sizeof *device + 63) / 64 * 64);
    if (device == NULL)
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory to open shm");
    memset(device, 0, sizeof *device);
    device->base.limits = shm_limits;
    snprintf(device->base.name, sizeof device->base.name, SHM_DEVICE_NAME);
    device->queue_count = (options->data_queues != 0 ? options->data_queues : shm_limits.queues_default) + 1;
    device->user = geteuid();
    rt_list_init(&device->guests);
    rt_list_init(&device->peers);
    rt_list_init(&device->exports);
    device->exported = calloc(SHM_EXPORTS_MAX, sizeof *device->exported); /* pages that are not used stay untouched */
    if (device->exported == NULL) {
        free(device);
        return rt_fail(detail, RT_E_NO_MEMORY, 0, "no memory to open shm");
    }
    rt_mutex_begin(&device->exports_lock, NULL, RT_RANK_PROVIDER);
    status = shared_open(device, detail);
    if (status != RT_OK)
        goto free_device;
    status = bells_open(device, detail);
    if (status != RT_OK)
        goto close_shared;
    status = shm_exchange_open(device, detail);
    if (status != RT_OK)
        goto close_bells;
    *device_out = &device->base;
    return RT_OK;

close_bells:
    bells_close(device);
close_shared:
    shared_close(device);
free_device:
    rt_mutex_end(&device->exports_lock);
    free(device->exported);
    free(device);
    return status;
}

static void shm_close_device(rt_pdevice *pdevice)
{
    shm_device *device = shm_device_of(pdevice);
    assert(rt_list_empty(&device->exports));
    assert(rt_list_empty(&device->peers));
    shm_exchange_close(device);
    bells_close(device);
    shared_close(device);
    rt_mutex_end(&device->exports_lock);
    free(device->exported);
    free(device);
}

const rt_provider rt_provider_shm = {
    "shm",
    shm_viable,
    shm_list,
    shm_open_device,
    shm_close_device,
    shm_memory_register,
    shm_memory_release,
    shm_memory_key,
    shm_link_create,
    shm_link_connect,
    shm_link_shut,
    shm_link_destroy,
    shm_remote_attach,
    shm_remote_detach,
    shm_remote_map,
    shm_post,
    shm_poll,
    shm_arm,
    shm_event_fd,
    shm_event_clear,
    shm_service_fd,
    shm_service,
    shm_memory_epoch,
    shm_memory_sleep,
    shm_memory_wake,
    shm_memory_event_fd,
    shm_memory_arm,
    shm_memory_help,
    shm_completion_name,
    shm_link_describe,
    rt_absent_command,
    NULL,
    NULL,
};
