/* shm_ends.h: what the tests of the shared memory provider share: an end (device, link, region), joining two of them, and
 * posting one item. Everything goes through the provider's table; only tests of hostile peers look behind it. */
#ifndef RT_TESTS_SHM_ENDS_H
#define RT_TESTS_SHM_ENDS_H

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "provider/provider.h"

#define RIGHTS_ALL (RT_ACCESS_LOCAL_WRITE | RT_ACCESS_REMOTE_WRITE | RT_ACCESS_REMOTE_READ)
#define DATA_QUEUE 0u
#define SERVICE_QUEUE 1u
#define PATIENCE_MS 20000

static const rt_provider *const shm = &rt_provider_shm;

typedef struct end {
    rt_pdevice *device;
    rt_plink *link;
    uint8_t address[RT_LINK_ADDRESS_SIZE_MAX];
    size_t address_size;
    int descriptor;
    uint8_t *bytes;
    uint64_t size;
    rt_pmemory *memory;
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    size_t key_size;
    rt_premote *remote; /* the other end's region */
} end;

__attribute__((unused)) static int sealed_memfd(uint64_t size, int seals)
{
    int descriptor = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (descriptor < 0 || ftruncate(descriptor, (off_t)size) != 0 || fcntl(descriptor, F_ADD_SEALS, seals) != 0)
        abort();
    return descriptor;
}

__attribute__((unused)) static rt_pdevice *device_open(void)
{
    rt_detail detail = {0};
    rt_pdevice *device = NULL;
    rt_open_options options = {.name = "", .arguments = "", .data_queues = 1};
    if (shm->open(&options, &device, &detail) != RT_OK) {
        printf("open: %s\n", detail.text);
        abort();
    }
    return device;
}

/* An end with a region of `size` bytes with these rights. Aborts on failure, so that children can use it too. */
__attribute__((unused)) static void end_open_on(end *self, rt_pdevice *device, uint64_t size, uint32_t access)
{
    rt_detail detail = {0};
    *self = (end){.device = device, .size = size};
    self->descriptor = sealed_memfd(size, F_SEAL_SHRINK);
    self->bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, self->descriptor, 0);
    rt_memory memory = {.address = self->bytes, .size = size, .descriptor = self->descriptor, .access = access};
    if (self->bytes == MAP_FAILED || shm->memory_register(device, &memory, &self->memory, &detail) != RT_OK ||
        shm->memory_key(device, self->memory, NULL, 0, self->key, &self->key_size, &detail) != RT_OK ||
        shm->link_create(device, DATA_QUEUE, SERVICE_QUEUE, &self->link, self->address, &self->address_size, &detail) != RT_OK) {
        printf("end: %s\n", detail.text);
        abort();
    }
}

__attribute__((unused)) static void end_open(end *self, uint64_t size, uint32_t access)
{
    end_open_on(self, device_open(), size, access);
}

/* Everything but the device. */
__attribute__((unused)) static void end_close_on(end *self)
{
    rt_completion ignored[64];
    if (self->link != NULL) {
        shm->link_shut(self->link);
        while (shm->poll(self->device, SERVICE_QUEUE, ignored, 64) > 0 || shm->poll(self->device, DATA_QUEUE, ignored, 64) > 0)
            ;
        if (self->remote != NULL)
            shm->remote_detach(self->link, self->remote);
        shm->link_destroy(self->link);
    }
    if (self->memory != NULL)
        shm->memory_release(self->device, self->memory);
    munmap(self->bytes, self->size);
    close(self->descriptor);
}

__attribute__((unused)) static void end_close(end *self)
{
    end_close_on(self);
    shm->close(self->device);
}

/* Runs a device's service until nothing is left; returns the last event that says more than progress. */
__attribute__((unused)) static rt_event serve(rt_pdevice *device)
{
    rt_event event = {.kind = RT_EVENT_PROGRESS}, told = {.kind = RT_EVENT_NONE};
    for (int round = 0; event.kind != RT_EVENT_NONE; round++) {
        if (round > 100000)
            abort(); /* the service would never sleep */
        shm->service(device, &event);
        if (event.kind != RT_EVENT_PROGRESS && event.kind != RT_EVENT_NONE)
            told = event;
    }
    return told;
}

/* Serves this device and, if given, another of this process, sleeping only when the peer is another process. */
__attribute__((unused)) static void serve_both(rt_pdevice *device, rt_pdevice *other)
{
    struct pollfd ready = {.fd = shm->service_fd(device), .events = POLLIN};
    if (other == NULL)
        poll(&ready, 1, 100);
    serve(device);
    if (other != NULL)
        serve(other);
}

/* Connects to an address, serving meanwhile. */
__attribute__((unused)) static int join(end *self, const uint8_t *address, size_t size, rt_pdevice *other, rt_detail *detail)
{
    int status = shm->link_connect(self->link, address, size, detail);
    for (int round = 0; status == RT_E_AGAIN && round < 300; round++) {
        serve_both(self->device, other);
        status = shm->link_connect(self->link, address, size, detail);
    }
    return status;
}

__attribute__((unused)) static int attach(end *self, const uint8_t *key, size_t key_size, uint64_t size, uint32_t access,
                                          rt_pdevice *other, rt_premote **out, rt_detail *detail)
{
    int status = shm->remote_attach(self->link, key, key_size, size, access, out, detail);
    for (int round = 0; status == RT_E_AGAIN && round < 300; round++) {
        serve_both(self->device, other);
        status = shm->remote_attach(self->link, key, key_size, size, access, out, detail);
    }
    return status;
}

/* Joins two ends of this process, each with the other's region attached. */
__attribute__((unused)) static void ends_join(end *left, end *right)
{
    rt_detail detail = {0};
    if (join(left, right->address, right->address_size, right->device, &detail) != RT_OK ||
        join(right, left->address, left->address_size, left->device, &detail) != RT_OK ||
        attach(left, right->key, right->key_size, right->size, right->memory->access, right->device, &left->remote, &detail) !=
            RT_OK ||
        attach(right, left->key, left->key_size, left->size, left->memory->access, left->device, &right->remote, &detail) !=
            RT_OK) {
        printf("join: %s\n", detail.text);
        abort();
    }
}

__attribute__((unused)) static void pair_open(end *left, end *right, uint64_t size)
{
    end_open(left, size, RIGHTS_ALL);
    end_open(right, size, RIGHTS_ALL);
    ends_join(left, right);
}

__attribute__((unused)) static void pair_close(end *left, end *right)
{
    end_close(left);
    end_close(right);
}

/* Posts one item over one segment of the end's own region. */
__attribute__((unused)) static rt_posted post_one(end *self, uint8_t opcode, uint64_t offset, uint64_t size,
                                                  uint64_t remote_offset, uint64_t token)
{
    rt_segment segment = {.memory = self->memory, .address = self->bytes + offset, .size = size};
    rt_work item = {.opcode = opcode,
                    .segment_count = 1,
                    .immediate = (uint32_t)token,
                    .segments = &segment,
                    .remote = self->remote,
                    .remote_offset = remote_offset,
                    .token = token};
    rt_posted posted = {99, 99};
    if (shm->post(self->link, &item, 1, &posted) != RT_OK)
        abort();
    return posted;
}

/* Posts one item that must be finished at once. */
#define POST_DONE(self, opcode, offset, size, remote_offset)                                                                     \
    do {                                                                                                                         \
        rt_posted check_posted = post_one(self, opcode, offset, size, remote_offset, 7);                                         \
        CHECK_INT(check_posted.accepted, 1);                                                                                     \
        CHECK_INT(check_posted.completed, 1);                                                                                    \
    } while (0)

/* One completion, or status 1 when there is none. */
__attribute__((unused)) static rt_completion poll_one(end *self, uint32_t queue)
{
    rt_completion completion = {0};
    if (shm->poll(self->device, queue, &completion, 1) != 1)
        completion.status = 1;
    return completion;
}

__attribute__((unused)) static bool readable(int descriptor, int timeout_ms)
{
    struct pollfd ready = {.fd = descriptor, .events = POLLIN};
    return poll(&ready, 1, timeout_ms) == 1;
}

__attribute__((unused)) static int descriptors_open(void)
{
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

/* Mappings of memfds in this process. */
__attribute__((unused)) static int mappings_open(void)
{
    char line[512];
    int count = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps) != NULL)
        count += strstr(line, "/memfd:") != NULL;
    fclose(maps);
    return count;
}

#endif
