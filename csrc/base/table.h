/* table.h: finds objects by the hash of their names or numbers, through a node in each. Two objects
 * may have the same hash, so the caller compares. The declaration of each table says what guards
 * it.
 *
 * A table has at least as many chains as objects and at most twice as many, or 16, and keeps them
 * when objects are removed: at most 16 bytes for each object of the most that it ever held, and 24
 * in the object. Without memory for more chains the table keeps those it has, and they grow
 * longer. */
#ifndef RT_BASE_TABLE_H
#define RT_BASE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct rt_table_node {
    struct rt_table_node *next;
    uint64_t hash;
    bool held; /* by the table */
} rt_table_node;

typedef struct rt_table {
    rt_table_node **chains; /* mask + 1 of them; NULL: none was needed yet */
    uint32_t mask, count;
} rt_table;

enum { RT_TABLE_FIRST = 16 };

#define RT_TABLE_ENTRY(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))
/* Every object with this hash. */
#define RT_TABLE_EACH(node, table, wanted)                                                                                       \
    for (rt_table_node *node = rt_table_find(table, wanted); node != NULL; node = rt_table_same(node->next, wanted))

/* Spreads the bits of a number. */
static inline uint64_t rt_hash_u64(uint64_t value)
{
    value = (value ^ (value >> 32)) * 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 29)) * 0xbf58476d1ce4e5b9u;
    return value ^ (value >> 32);
}

static inline uint64_t rt_hash_text(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *text != '\0'; text++)
        hash = (hash ^ (uint8_t)*text) * 0x100000001b3u;
    return rt_hash_u64(hash);
}

static inline rt_table_node *rt_table_same(rt_table_node *node, uint64_t hash)
{
    while (node != NULL && node->hash != hash)
        node = node->next;
    return node;
}

static inline rt_table_node *rt_table_find(const rt_table *table, uint64_t hash)
{
    return table->chains == NULL ? NULL : rt_table_same(table->chains[hash & table->mask], hash);
}

/* Doubles the number of chains, if there is memory. */
static inline void rt_table_grow(rt_table *table)
{
    uint32_t count = table->chains == NULL ? RT_TABLE_FIRST : 2 * (table->mask + 1);
    rt_table_node **chains = (rt_table_node **)calloc(count, sizeof(rt_table_node *));
    if (chains == NULL)
        return;
    for (uint32_t index = 0; table->chains != NULL && index <= table->mask; index++) {
        for (rt_table_node *node = table->chains[index], *next; node != NULL; node = next) {
            next = node->next;
            node->next = chains[node->hash & (count - 1)];
            chains[node->hash & (count - 1)] = node;
        }
    }
    free((void *)table->chains);
    table->chains = chains;
    table->mask = count - 1;
}

/* Makes the first chains ahead of time, so that no rt_table_add fails; false: there is no memory
 * for them. */
static inline bool rt_table_begin(rt_table *table)
{
    if (table->chains == NULL)
        rt_table_grow(table);
    return table->chains != NULL;
}

/* False: there is no memory for the first chains, and the object is not in the table. */
static inline bool rt_table_add(rt_table *table, rt_table_node *node, uint64_t hash)
{
    if (!rt_table_begin(table))
        return false;
    if (table->count > table->mask)
        rt_table_grow(table);
    rt_table_node **chain = &table->chains[hash & table->mask];
    *node = (rt_table_node){.next = *chain, .hash = hash, .held = true};
    *chain = node;
    table->count++;
    return true;
}

/* Removing twice is harmless. */
static inline void rt_table_remove(rt_table *table, rt_table_node *node)
{
    if (!node->held)
        return;
    rt_table_node **at = &table->chains[node->hash & table->mask];
    while (*at != node)
        at = &(*at)->next;
    *at = node->next;
    node->held = false;
    table->count--;
}

/* Takes out any object, beginning with the chain *chain; NULL: none is left from there on. */
static inline rt_table_node *rt_table_take(rt_table *table, uint32_t *chain)
{
    for (; table->chains != NULL && *chain <= table->mask; ++*chain) {
        rt_table_node *node = table->chains[*chain];
        if (node != NULL) {
            rt_table_remove(table, node);
            return node;
        }
    }
    return NULL;
}

/* Frees the chains; the objects belong to their owners. */
static inline void rt_table_end(rt_table *table)
{
    free((void *)table->chains);
    *table = (rt_table){.chains = NULL};
}

#endif
