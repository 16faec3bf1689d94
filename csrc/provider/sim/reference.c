/* reference.c: objects by number, and references to them as they travel in link addresses and memory keys. */
#include <assert.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "provider/sim/sim.h"

int rt_sim_table_add(sim_table *table, void *object, uint32_t *slot_out)
{
    if (table->free_count == 0 && table->count == table->capacity) {
        uint32_t capacity = table->capacity == 0 ? 64 : table->capacity * 2;
        void **entries = realloc(table->entries, capacity * sizeof *entries);
        if (entries == NULL)
            return RT_E_NO_MEMORY;
        table->entries = entries;
        uint32_t *free_slots = realloc(table->free_slots, capacity * sizeof *free_slots);
        if (free_slots == NULL)
            return RT_E_NO_MEMORY;
        table->free_slots = free_slots;
        table->capacity = capacity;
    }
    uint32_t slot = table->free_count != 0 ? table->free_slots[--table->free_count] : table->count++;
    table->entries[slot] = object;
    *slot_out = slot;
    return RT_OK;
}

void *rt_sim_table_get(const sim_table *table, uint32_t slot)
{
    return slot < table->count ? table->entries[slot] : NULL;
}

void rt_sim_table_remove(sim_table *table, uint32_t slot)
{
    assert(slot < table->count && table->entries[slot] != NULL);
    table->entries[slot] = NULL;
    table->free_slots[table->free_count++] = slot;
}

void rt_sim_reference_write(uint8_t *bytes_out, uint32_t magic, const sim_world *world, uint32_t device, sim_reference reference)
{
    rt_writer writer = rt_writer_of(bytes_out, SIM_REFERENCE_SIZE);
    rt_write_uint(&writer, magic, 4);
    rt_write_uint(&writer, world->name_hash, 4);
    rt_write_uint(&writer, device, 4);
    rt_write_uint(&writer, reference.slot, 4);
    rt_write_uint(&writer, reference.nonce, 8);
    assert(!writer.failed && writer.size == SIM_REFERENCE_SIZE);
}

bool rt_sim_reference_read(const uint8_t *bytes, size_t size, uint32_t magic, const sim_world *world, uint32_t *device_out,
                           sim_reference *reference_out)
{
    rt_reader reader = rt_reader_of(bytes, size);
    uint64_t magic_read = rt_read_uint(&reader, 4);
    uint64_t hash = rt_read_uint(&reader, 4);
    uint32_t device = (uint32_t)rt_read_uint(&reader, 4);
    uint32_t slot = (uint32_t)rt_read_uint(&reader, 4);
    uint64_t nonce = rt_read_uint(&reader, 8);
    if (!rt_reader_done(&reader) || magic_read != magic || hash != world->name_hash || nonce == 0)
        return false;
    *device_out = device;
    *reference_out = (sim_reference){.slot = slot, .nonce = nonce};
    return true;
}
