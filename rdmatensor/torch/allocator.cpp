/* allocator.cpp: serves torch's CPU allocations from a region's arena. Compiled against the installed torch on first use
 * (build.py); Python decides when (allocator.py). It knows the core by the addresses of its functions only.
 *
 * One allocator is installed for the process, and stays. Where nobody chose a region it passes every call on to the allocator
 * that was there before. What it serves lives until its tensor is gone, whichever thread ends it, and keeps its pool, which
 * keeps the region. */
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace {

constexpr uint64_t kAlignment = 64; /* of torch's own allocator */
constexpr uint8_t kPriority = 100;

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

/* ---- what was served ---- */

struct Block {
    Pool *pool;
    int64_t number;
    uint64_t size;
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

/* ---- who chose what ---- */

/* The choice of a thread, with a reference that goes with the thread. */
struct Choice {
    Pool *pool = nullptr;
    ~Choice()
    {
        pool_drop(std::exchange(pool, nullptr));
    }
};

thread_local Choice chosen;

/* The choice of the process, for threads without one of their own. */
std::atomic<bool> chosen_for_all{false};
std::mutex for_all_lock;
Pool *for_all = nullptr;

/* The pool that serves this thread, with a reference; or NULL. */
Pool *pool_take()
{
    Pool *pool = chosen.pool;
    if (pool != nullptr) {
        pool_keep(pool);
        return pool;
    }
    if (!chosen_for_all.load(std::memory_order_acquire))
        return nullptr;
    std::lock_guard<std::mutex> held(for_all_lock);
    if (for_all != nullptr)
        pool_keep(for_all);
    return for_all;
}

class RegionAllocator final : public c10::Allocator {
  public:
    c10::DataPtr allocate(size_t size) override
    {
        Pool *pool = size == 0 ? nullptr : pool_take();
        if (pool == nullptr)
            return before->allocate(size);
        int64_t number = core.allocate(pool->region, size, kAlignment);
        if (number < 0)
            return refused(pool, size, number);
        void *data = reinterpret_cast<void *>(pool->address +
                                              (static_cast<uint64_t>(number) >> core.block_index_bits << core.block_unit_bits));
        try {
            Blocks &all = blocks();
            std::lock_guard<std::mutex> held(all.lock);
            all.by_address[data] = Block{pool, number, size};
        } catch (...) {
            core.free(pool->region, number);
            pool_drop(pool);
            throw;
        }
        pool->served.fetch_add(1, std::memory_order_relaxed);
        pool->served_bytes.fetch_add(size, std::memory_order_relaxed);
        pool->alive.fetch_add(1, std::memory_order_relaxed);
        pool->alive_bytes.fetch_add(size, std::memory_order_relaxed);
        return {data, data, &release, c10::Device(c10::DeviceType::CPU)}; /* the block keeps the reference */
    }

    c10::DeleterFnPtr raw_deleter() const override
    {
        return before->raw_deleter() == nullptr ? nullptr : &release;
    }

    void copy_data(void *to, const void *from, std::size_t size) const override
    {
        default_copy_data(to, from, size);
    }

  private:
    /* No room, or the region was closed. */
    static c10::DataPtr refused(Pool *pool, size_t size, int64_t status)
    {
        bool may = pool->may_fall_back;
        pool->fell_back.fetch_add(1, std::memory_order_relaxed);
        pool->fell_back_bytes.fetch_add(size, std::memory_order_relaxed);
        pool_drop(pool);
        TORCH_CHECK_WITH(OutOfMemoryError, may, "rdmatensor: the region has no room for a tensor of ", std::to_string(size),
                         " bytes (status ", std::to_string(status),
                         "): make it larger, free tensors, or allow when_full=\"ordinary\"");
        return before->allocate(size);
    }
};

RegionAllocator allocator;

} // namespace

extern "C" {

/* Installs the allocator for good. 0, or 1 when another one with a higher priority stays in force. */
__attribute__((visibility("default"))) int rtt_install(const Functions *functions)
{
    core = *functions;
    blocks();
    /* So that no lock is held in a child by a thread that is not there. */
    pthread_atfork(
        [] {
            for_all_lock.lock();
            blocks().lock.lock();
        },
        [] {
            blocks().lock.unlock();
            for_all_lock.unlock();
        },
        [] {
            blocks().lock.unlock();
            for_all_lock.unlock();
        });
    before = c10::GetCPUAllocator();
    c10::SetCPUAllocator(&allocator, kPriority);
    return c10::GetCPUAllocator() == &allocator ? 0 : 1;
}

/* A pool with one reference. Takes over the reference to `owner`. */
__attribute__((visibility("default"))) Pool *rtt_pool_create(void *region, uint64_t address, void *owner, int may_fall_back)
{
    Pool *pool = new Pool;
    pool->region = region;
    pool->address = address;
    pool->owner = owner;
    pool->may_fall_back = may_fall_back != 0;
    return pool;
}

__attribute__((visibility("default"))) void rtt_pool_drop(Pool *pool)
{
    pool_drop(pool);
}

/* Served, their bytes, fell back, their bytes, alive, their bytes. */
__attribute__((visibility("default"))) void rtt_pool_stats(const Pool *pool, uint64_t stats_out[6])
{
    const std::atomic<uint64_t> *counters[] = {&pool->served,          &pool->served_bytes, &pool->fell_back,
                                               &pool->fell_back_bytes, &pool->alive,        &pool->alive_bytes};
    for (int index = 0; index < 6; index++)
        stats_out[index] = counters[index]->load(std::memory_order_relaxed);
}

/* Chooses a pool (or NULL) for this thread; gives the choice before, whose reference goes to the caller as that of `pool`
 * comes from it. */
__attribute__((visibility("default"))) Pool *rtt_choose_for_thread(Pool *pool)
{
    return std::exchange(chosen.pool, pool);
}

/* As above, for all threads without a choice of their own. */
__attribute__((visibility("default"))) Pool *rtt_choose_for_all(Pool *pool)
{
    std::lock_guard<std::mutex> held(for_all_lock);
    chosen_for_all.store(pool != nullptr, std::memory_order_release);
    return std::exchange(for_all, pool);
}

/* One more reference. */
__attribute__((visibility("default"))) void rtt_pool_keep(Pool *pool)
{
    pool_keep(pool);
}
}
