/* fake_cuda_nic.c: the fake CUDA driver as a NIC's driver sees it: dma-bufs, addresses, and writes that are posted.
 *
 * A dma-buf is a file with the address of the memory's bookkeeping in it, for this process alone. */
#include "fake_cuda_state.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct nic_export {
    fake_memory *memory;
    uint64_t offset, size;
} nic_export;

cuda_result cuMemGetHandleForAddressRange(void *share_out, cuda_address address, size_t size, int kind, unsigned long long flags)
{
    FAKE_ENTER(FAKE_CONTEXT);
    const fake_mapping *mapping = fake_find(address, size);
    if (kind != CUDA_RANGE_DMA_BUF || flags != 0 || address % FAKE_PAGE != 0 || size % FAKE_PAGE != 0 || mapping == NULL)
        return fake_leave(CUDA_E_INVALID_VALUE);
    if (!mapping->memory->direct || fake_cuda.attributes[mapping->memory->device][CUDA_A_DMA_BUF] == 0)
        return fake_leave(CUDA_E_NOT_SUPPORTED);
    const nic_export made = {mapping->memory, address - mapping->address, size};
    int descriptor = memfd_create("fakedmabuf", MFD_CLOEXEC);
    ssize_t written = pwrite(descriptor, &made, sizeof made, 0);
    assert(written == (ssize_t)sizeof made);
    *(int *)share_out = descriptor;
    return fake_leave(CUDA_OK);
}

/* Under the lock. */
static void *memory_hold(fake_memory *memory, uint64_t offset, uint64_t size, int *error_out)
{
    *error_out = size > fake_cuda.bar1[memory->device] ? ENOMEM : 0;
    if (*error_out != 0)
        return NULL;
    memory->holds++;
    fake_cuda.bar1[memory->device] -= size;
    return memory->bytes + offset;
}

void *fake_cuda_nic_hold(int descriptor, uint64_t offset, uint64_t size, int *error_out)
{
    nic_export found;
    *error_out = EBADF;
    if (pread(descriptor, &found, sizeof found, 0) != (ssize_t)sizeof found)
        return NULL;
    *error_out = EINVAL;
    if (offset > found.size || size > found.size - offset)
        return NULL;
    pthread_mutex_lock(&fake_cuda.lock);
    void *bytes = memory_hold(found.memory, found.offset + offset, size, error_out);
    pthread_mutex_unlock(&fake_cuda.lock);
    return bytes;
}

void *fake_cuda_nic_hold_address(uint64_t address, uint64_t size, int *error_out)
{
    pthread_mutex_lock(&fake_cuda.lock);
    const fake_mapping *mapping = fake_find(address, size);
    void *bytes = NULL;
    *error_out = EFAULT;
    if (mapping != NULL && mapping->memory->direct)
        bytes = memory_hold(mapping->memory, address - mapping->address, size, error_out);
    pthread_mutex_unlock(&fake_cuda.lock);
    return bytes;
}

static fake_memory *memory_of(const uint8_t *bytes)
{
    for (fake_memory *at = fake_cuda.memories; at != NULL; at = at->next)
        if (bytes >= at->bytes && bytes < at->bytes + at->size)
            return at;
    return NULL;
}

void fake_cuda_nic_drop(void *bytes, uint64_t size)
{
    pthread_mutex_lock(&fake_cuda.lock);
    fake_memory *memory = memory_of(bytes);
    if (memory != NULL) {
        memory->holds--;
        fake_cuda.bar1[memory->device] += size;
    }
    pthread_mutex_unlock(&fake_cuda.lock);
}

/* The GPU's work sees what NICs wrote so far. */
static void posted_settle(int device)
{
    for (fake_posted **at = &fake_cuda.posted; *at != NULL;) {
        fake_posted *posted = *at;
        if (posted->device != device) {
            at = &posted->next;
            continue;
        }
        memcpy(posted->to, posted->bytes, posted->size);
        *at = posted->next;
        if (fake_cuda.posted_tail == &posted->next)
            fake_cuda.posted_tail = at;
        free(posted);
    }
}

bool fake_cuda_nic_write(void *bytes, const void *from, uint64_t size)
{
    pthread_mutex_lock(&fake_cuda.lock);
    const fake_memory *memory = memory_of(bytes);
    if (memory != NULL) {
        fake_posted *made = malloc(sizeof *made + size);
        assert(made != NULL);
        *made = (fake_posted){.to = bytes, .size = size, .device = memory->device};
        memcpy(made->bytes, from, size);
        *fake_cuda.posted_tail = made;
        fake_cuda.posted_tail = &made->next;
        if (fake_cuda.attributes[memory->device][CUDA_A_WRITES_ORDERING] >= CUDA_ORDERING_OWNER)
            posted_settle(memory->device);
    }
    pthread_mutex_unlock(&fake_cuda.lock);
    return memory != NULL;
}

cuda_result cuFlushGPUDirectRDMAWrites(int target, int scope)
{
    FAKE_ENTER(FAKE_CONTEXT);
    int device = fake_current()->device;
    if (target != CUDA_FLUSH_TARGET || scope != CUDA_FLUSH_TO_OWNER)
        return fake_leave(CUDA_E_INVALID_VALUE);
    if ((fake_cuda.attributes[device][CUDA_A_FLUSH_OPTIONS] & CUDA_FLUSH_OPTION_HOST) == 0)
        return fake_leave(CUDA_E_NOT_SUPPORTED);
    fake_cuda.flushes++;
    posted_settle(device);
    return fake_leave(CUDA_OK);
}
