/* edge_keys.c: numbers for registrations: new ones, and ones that are free again (EDGES.md section
 * 7).
 *
 * A number may change its meaning for this reason: the sender reassigns it when the credit says
 * that every tensor whose record named it is released, so the receiver has read those records. A
 * record that names it anew is sent after KEY_ADDED, so both ends mean the same registration.
 *
 * `newest` holds the last tensor that used each number. It serves both questions: whether the
 * receiver may still need the number, and which number was used longest ago. */
#include "proto/edge_keys.h"

#include <assert.h>

void rt_edge_keys_begin(rt_edge_keys *keys, uint32_t capacity)
{
    assert(capacity > 0 && capacity <= RT_EDGE_KEYS_MAX);
    *keys = (rt_edge_keys){.count = 1, .capacity = capacity};
}

int rt_edge_keys_choose(const rt_edge_keys *keys, const rt_edge_sender *tx, uint64_t idle, uint32_t *key_out)
{
    uint32_t oldest = 0;
    for (uint32_t key = 1; key < keys->count; key++) {
        if (rt_edge_sender_keeps(tx, keys->newest[key]))
            continue;
        if ((idle & 1ull << key) != 0) {
            *key_out = key;
            return RT_OK;
        }
        if (oldest == 0 || keys->newest[key] < keys->newest[oldest])
            oldest = key;
    }
    if (keys->count == keys->capacity && oldest == 0)
        return RT_E_AGAIN;
    *key_out = keys->count < keys->capacity ? keys->count : oldest;
    return RT_OK;
}

void rt_edge_keys_used(rt_edge_keys *keys, uint32_t key, uint64_t sequence)
{
    assert(key < keys->count && sequence > keys->newest[key]);
    keys->newest[key] = sequence;
}

bool rt_edge_keys_may_add(const rt_edge_keys *keys, uint32_t key, bool held)
{
    if (key == keys->count)
        return key < keys->capacity;
    return key != 0 && key < keys->count && !held;
}

void rt_edge_keys_added(rt_edge_keys *keys, uint32_t key, uint64_t sequence)
{
    assert(key != 0 && key <= keys->count && key < keys->capacity);
    keys->count += key == keys->count;
    keys->newest[key] = sequence;
}
