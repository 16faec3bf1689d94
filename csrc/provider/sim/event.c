/* event.c: the event heap and the random generator of a world.
 *
 * The heap is binary, keyed by (time, sequence), and holds pointers to events that live in the
 * objects they concern: each event knows its place, so it can be moved or withdrawn. This file does
 * not know what an event means. */
#include <assert.h>
#include <stdlib.h>

#include "provider/sim/sim.h"

int rt_sim_heap_reserve(sim_heap *heap, uint32_t count)
{
    if (count > UINT32_MAX / 4 - heap->reserved)
        return RT_E_NO_MEMORY;
    uint32_t needed = heap->reserved + count;
    if (needed > heap->capacity) {
        uint32_t capacity = heap->capacity == 0 ? 64 : heap->capacity;
        while (capacity < needed)
            capacity *= 2;
        sim_event **events = realloc(heap->events, ((size_t)capacity + 1) * sizeof *events);
        if (events == NULL)
            return RT_E_NO_MEMORY;
        heap->events = events;
        heap->capacity = capacity;
    }
    heap->reserved = needed;
    return RT_OK;
}

void rt_sim_heap_unreserve(sim_heap *heap, uint32_t count)
{
    assert(count <= heap->reserved);
    heap->reserved -= count;
    assert(heap->count <= heap->reserved);
}

static bool event_earlier(const sim_event *one, const sim_event *other)
{
    return one->at_ns != other->at_ns ? one->at_ns < other->at_ns : one->sequence < other->sequence;
}

static void heap_put(sim_heap *heap, uint32_t place, sim_event *event)
{
    heap->events[place] = event;
    event->place = place;
}

static void heap_sift_up(sim_heap *heap, uint32_t place, sim_event *event)
{
    for (; place > 1 && event_earlier(event, heap->events[place / 2]); place /= 2)
        heap_put(heap, place, heap->events[place / 2]);
    heap_put(heap, place, event);
}

static void heap_sift_down(sim_heap *heap, uint32_t place, sim_event *event)
{
    while (place * 2 <= heap->count) {
        uint32_t child = place * 2;
        if (child < heap->count && event_earlier(heap->events[child + 1], heap->events[child]))
            child++;
        if (!event_earlier(heap->events[child], event))
            break;
        heap_put(heap, place, heap->events[child]);
        place = child;
    }
    heap_put(heap, place, event);
}

void rt_sim_cancel(sim_heap *heap, sim_event *event)
{
    uint32_t place = event->place;
    if (place == 0)
        return;
    assert(place <= heap->count && heap->events[place] == event);
    event->place = 0;
    sim_event *last = heap->events[heap->count--];
    if (last == event)
        return;
    if (place > 1 && event_earlier(last, heap->events[place / 2]))
        heap_sift_up(heap, place, last);
    else
        heap_sift_down(heap, place, last);
}

void rt_sim_schedule(sim_heap *heap, sim_event *event, int64_t at_ns)
{
    assert(event->fire != NULL);
    rt_sim_cancel(heap, event);
    assert(heap->count < heap->reserved);
    event->at_ns = at_ns < SIM_TIME_MAX ? at_ns : SIM_TIME_MAX;
    event->sequence = heap->sequence++;
    heap_sift_up(heap, ++heap->count, event);
}

sim_event *rt_sim_heap_first(const sim_heap *heap)
{
    return heap->count == 0 ? NULL : heap->events[1];
}

/* The finaliser of splitmix64: every bit of the value changes about half of the result. */
uint64_t rt_sim_mix(uint64_t value)
{
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

void rt_sim_random_seed(sim_random *random, uint64_t seed)
{
    for (int index = 0; index < 4; index++) {
        seed += UINT64_C(0x9e3779b97f4a7c15);
        random->state[index] = rt_sim_mix(seed);
    }
}

static uint64_t value_rotate(uint64_t value, int bits)
{
    return (value << bits) | (value >> (64 - bits));
}

/* xoshiro256**, by its published recurrence. */
uint64_t rt_sim_random(sim_random *random)
{
    uint64_t *state = random->state;
    uint64_t result = value_rotate(state[1] * 5, 7) * 9;
    uint64_t shifted = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = value_rotate(state[3], 45);
    return result;
}

uint64_t rt_sim_random_below(sim_random *random, uint64_t bound)
{
    if (bound <= 1)
        return 0;
    uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
    uint64_t value = rt_sim_random(random);
    while (value >= limit)
        value = rt_sim_random(random);
    return value % bound;
}
