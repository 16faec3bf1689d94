/* shm_help_ends.h: what the tests of large WRITEs that both ends copy share: threads that wait, and
 * offers made by hand. */
#ifndef RT_TESTS_SHM_HELP_ENDS_H
#define RT_TESTS_SHM_HELP_ENDS_H

#include <pthread.h>
#include <sched.h>

#include "base/clock.h"
#include "provider/shm/shm.h"
#include "shm_ends.h"

enum { SIZE = 1 << 20, HELPERS = 3 };

#define PATIENCE_NS (10 * PATIENCE_MS * RT_NS_PER_MS)

__attribute__((unused)) static void fill(uint8_t *bytes, uint64_t size, uint32_t seed)
{
    for (uint64_t at = 0; at < size; at++) {
        seed = seed * 1664525u + 1013904223u;
        bytes[at] = (uint8_t)(seed >> 24);
    }
}

__attribute__((unused)) static shm_offer *offer_to(const end *right)
{
    return &shm_link_of(right->link)->in->offer;
}

/* ---- threads that wait ---- */

typedef struct waiters {
    rt_pdevice *device;
    _Atomic bool over;
    _Atomic uint32_t helps;
    pthread_t threads[HELPERS];
} waiters;

__attribute__((unused)) static void *wait_and_help(void *object)
{
    waiters *self = object;
    while (!atomic_load(&self->over)) {
        if (shm->memory_help(self->device))
            atomic_fetch_add(&self->helps, 1);
        else
            sched_yield();
    }
    return NULL;
}

__attribute__((unused)) static void waiting_begin(waiters *self, rt_pdevice *device, uint32_t threads)
{
    *self = (waiters){.device = device};
    for (uint32_t index = 0; index < threads; index++) {
        if (pthread_create(&self->threads[index], NULL, wait_and_help, self) != 0)
            abort();
    }
}

__attribute__((unused)) static void waiting_end(waiters *self, uint32_t threads)
{
    atomic_store(&self->over, true);
    for (uint32_t index = 0; index < threads; index++)
        pthread_join(self->threads[index], NULL);
}

/* Lets the right end map the left one's region: makes an open offer by hand, meets it, serves. */
__attribute__((unused)) static shm_terms offer_by_hand(end *left, end *right)
{
    const shm_memory *source = (const shm_memory *)(const void *)left->memory;
    const shm_memory *target = (const shm_memory *)(const void *)right->memory;
    shm_terms terms = {.size = SIZE,
                       .piece = SHM_PIECE_MIN,
                       .target_index = target->index,
                       .target_generation = target->generation,
                       .source_index = source->index,
                       .source_generation = source->generation};
    memcpy(terms.target_token, target->token, SHM_TOKEN_SIZE);
    memcpy(terms.source_token, source->source_token, SHM_TOKEN_SIZE);
    shm_offer_open(offer_to(right), 1000, &terms);
    atomic_store(&shm_device_of(right->device)->doorbell->offer, shm_link_of(right->link)->index + 1);
    return terms;
}

__attribute__((unused)) static void map_source(end *left, end *right)
{
    offer_by_hand(left, right);
    CHECK(!shm->memory_help(right->device));
    serve(right->device);
    serve(left->device);
    serve(right->device);
    CHECK(shm->memory_help(right->device));
}

#endif
