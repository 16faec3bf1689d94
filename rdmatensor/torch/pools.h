/* pools.h: regions that serve torch's allocations, and what is known of each block by its address. For allocator.cpp, of
 * which it is a part. */
#ifndef RDMATENSOR_POOLS_H
#define RDMATENSOR_POOLS_H

#include <c10/core/Allocator.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <unordered_map>

namespace {

constexpr uint64_t kAlignment = 64; /* of torch's own allocator */

/* The layout is that of _Functions in allocator.py. */
struct Functions {
    int64_t (*allocate)(void *region, uint64_t size, uint64_t alignment);
    int (*free)(void *region, int64_t block);
    int (*python_lives)();
    int (*python_take)();
    void (*python_leave)(int);
    void (*python_drop)(void *object);
    uint32_t block_index_bits, block_unit_bits;
};

Functions core;
c10::Allocator *before = nullptr; /* what was installed when we came */

/* A region that serves. Referenced by whoever chose it and by each tensor in it. */
struct Pool {
    void *region;
    uint64_t address;
    void *owner; /* a Python object with a reference: keeps the region */
    bool may_fall_back;
    std::atomic<int64_t> references{1};
    std::atomic<uint64_t> served{0}, served_bytes{0}, fell_back{0}, fell_back_bytes{0}, alive{0}, alive_bytes{0};
};

void pool_keep(Pool *pool)
{
    pool->references.fetch_add(1, std::memory_order_relaxed);
}

void pool_drop(Pool *pool)
{
    if (pool == nullptr || pool->references.fetch_sub(1, std::memory_order_acq_rel) != 1)
        return;
    if (core.python_lives()) { /* else the region goes with the process */
        int state = core.python_take();
        core.python_drop(pool->owner);
        core.python_leave(state);
    }
    delete pool;
}

/* ---- allocations that are known ---- */

/* An allocation of a node, in the order of the node's allocations. The layout is that of _Record in sites.py. */
struct Record {
    uint32_t number, ordinal;
    uint64_t size;
    uint64_t address;
};

/* `pool` is NULL for an allocation that was traced and not served. `sites` is 0 where no node made it. */
struct Block {
    Pool *pool;
    int64_t number;
    uint64_t size;
    uint64_t sites;
    Record record;
};

/* By address, beside the region and not in it: peers may write there. Never destroyed, since tensors outlive main(). */
struct Blocks {
    std::mutex lock;
    std::unordered_map<void *, Block> by_address;
};

Blocks &blocks()
{
    static Blocks *all = new Blocks;
    return *all;
}

/* Frees what this allocator gave: from a region, or from the allocator before. */
void release(void *data)
{
    if (data == nullptr)
        return;
    Block block{};
    {
        Blocks &all = blocks();
        std::lock_guard<std::mutex> held(all.lock);
        auto found = all.by_address.find(data);
        if (found != all.by_address.end()) {
            block = found->second;
            all.by_address.erase(found);
        }
    }
    if (block.pool == nullptr)
        return before->raw_deallocate(data);
    core.free(block.pool->region, block.number);
    block.pool->alive.fetch_sub(1, std::memory_order_relaxed);
    block.pool->alive_bytes.fetch_sub(block.size, std::memory_order_relaxed);
    pool_drop(block.pool);
}

} // namespace

#endif
