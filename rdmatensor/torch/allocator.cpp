/* allocator.cpp: serves torch's CPU allocations from a region's arena. Compiled against the installed torch on first use
 * (build.py); Python decides when (allocator.py, graph/sites.py). It knows the core by the addresses of its functions only.
 *
 * One allocator is installed for the process, and stays. Without a chosen region it passes every call on to the
 * allocator that was there before; that costs one load of the thread's state. A block that it serves lives until its
 * tensor is freed, in whatever thread, and references its pool, which references the region.
 *
 * A region serves all allocations of a thread or of the process (a choice), or those of chosen sites: an allocation of
 * a node, by its ordinal in that node (graph/GRAPH.md). */
#include "pools.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

namespace {

constexpr uint8_t kPriority = 100;

/* ---- sites ---- */

/* A site that is served; size 0 stands for any. The layout is that of _Expected in sites.py. */
struct Expected {
    uint32_t number, ordinal;
    uint64_t size;
};

/* The sites that are served. Made between steps, and not changed any more. */
struct Served {
    Pool *pool; /* with a reference */
    std::vector<Expected> expected;
    std::vector<uint32_t> first; /* of each node, and one more */
};

std::atomic<uint64_t> sites_made{0};
std::atomic<uint32_t> forks{0}; /* how often a parent of this process was forked */

/* The sites of one part. Referenced by Python, and by each thread that is in one of its nodes. */
struct Sites {
    const uint64_t id = sites_made.fetch_add(1) + 1; /* unlike an address, never used again */
    const uint32_t count;                            /* of nodes */
    const uint32_t born = forks.load(std::memory_order_relaxed);
    std::atomic<int64_t> references{1};
    std::atomic<bool> recording{false};
    std::atomic<const Served *> served{nullptr};
    std::atomic<uint64_t> born_there{0}, born_bytes{0}, mismatched{0}, fell_back{0}, fell_back_bytes{0};
    std::mutex lock; /* guards the rest */
    std::vector<Record> records;
    std::vector<const Served *> all_served; /* the older ones, which a thread may still read */

    explicit Sites(uint32_t nodes) : count(nodes)
    {
    }
};

void sites_drop(Sites *sites)
{
    if (sites == nullptr || sites->references.fetch_sub(1, std::memory_order_acq_rel) != 1)
        return;
    for (const Served *served : sites->all_served) {
        pool_drop(served->pool);
        delete served;
    }
    delete sites;
}

/* Counts allocations that differ from the trace; a step that is traced anew may. */
void sites_differ(Sites *sites, uint64_t count)
{
    if (!sites->recording.load(std::memory_order_relaxed))
        sites->mismatched.fetch_add(count, std::memory_order_relaxed);
}

/* ---- who chose what ---- */

/* The node that a thread runs. */
struct Visit {
    Sites *sites;               /* with a reference */
    Pool *pool;                 /* serves the sites from `next` to `end` */
    const Expected *next, *end; /* those that are still to come */
    uint32_t number, ordinal;
};

enum : uint32_t { kChose = 1, kVisits = 2 };

/* The state of a thread. Zero at first, so that reading it needs no initialisation. */
struct Thread {
    uint32_t busy; /* the bits above: whether anything here is set */
    bool armed;
    Pool *pool; /* its choice, with a reference */
    Visit visit;
};

thread_local constinit Thread mine{};

void visit_end(Thread &thread)
{
    if ((thread.busy & kVisits) == 0)
        return;
    Visit &visit = thread.visit;
    if (visit.next != visit.end) /* allocations that did not come */
        sites_differ(visit.sites, static_cast<uint64_t>(visit.end - visit.next));
    thread.busy &= ~kVisits;
    sites_drop(std::exchange(visit, Visit{}).sites);
}

/* Drops a thread's references when it ends. */
struct AtThreadEnd {
    ~AtThreadEnd()
    {
        visit_end(mine);
        mine.busy = 0;
        pool_drop(std::exchange(mine.pool, nullptr));
    }
};

void arm(Thread &thread)
{
    static thread_local AtThreadEnd end;
    thread.armed = true;
    static_cast<void>(end);
}

/* The choice of the process, for threads without one of their own. */
std::atomic<bool> chosen_for_all{false};
std::mutex for_all_lock;
Pool *for_all = nullptr;

/* The pool that this thread or the process chose, with a reference; or NULL. */
Pool *pool_take(const Thread &thread)
{
    Pool *pool = thread.pool;
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

/* ---- allocating ---- */

/* Allocates in a pool, whose reference the block takes over. Gives a status below 0 when there is no room, or the
 * region was closed; then the reference stays with the caller. */
int64_t serve(Pool *pool, size_t size, c10::DataPtr &data_out)
{
    int64_t number = core.allocate(pool->region, size, kAlignment);
    if (number < 0) {
        pool->fell_back.fetch_add(1, std::memory_order_relaxed);
        pool->fell_back_bytes.fetch_add(size, std::memory_order_relaxed);
        return number;
    }
    void *data = reinterpret_cast<void *>(pool->address +
                                          (static_cast<uint64_t>(number) >> core.block_index_bits << core.block_unit_bits));
    try {
        Blocks &all = blocks();
        std::lock_guard<std::mutex> held(all.lock);
        all.by_address[data] = Block{pool, number, size, 0, {}};
    } catch (...) {
        core.free(pool->region, number);
        pool_drop(pool);
        throw;
    }
    pool->served.fetch_add(1, std::memory_order_relaxed);
    pool->served_bytes.fetch_add(size, std::memory_order_relaxed);
    pool->alive.fetch_add(1, std::memory_order_relaxed);
    pool->alive_bytes.fetch_add(size, std::memory_order_relaxed);
    data_out = {data, data, &release, c10::Device(c10::DeviceType::CPU)};
    return number;
}

/* Allocates in the pool, or elsewhere where that is allowed and there is no room. */
c10::DataPtr serve_or_fall_back(Pool *pool, size_t size)
{
    const bool may = pool->may_fall_back;
    c10::DataPtr data;
    int64_t status = serve(pool, size, data);
    if (status >= 0)
        return data;
    pool_drop(pool);
    TORCH_CHECK_WITH(OutOfMemoryError, may, "rdmatensor: the region has no room for a tensor of ", std::to_string(size),
                     " bytes (status ", std::to_string(status),
                     "): make it larger, free tensors, or allow when_full=\"ordinary\"");
    return before->allocate(size);
}

/* As the thread or the process chose. */
c10::DataPtr allocate_by_choice(const Thread &thread, size_t size)
{
    Pool *pool = size == 0 ? nullptr : pool_take(thread);
    return pool == nullptr ? before->allocate(size) : serve_or_fall_back(pool, size);
}

/* Whether this allocation of the visited node is one that is served. */
bool is_expected(Visit &visit, uint32_t ordinal, size_t size)
{
    if (visit.next == visit.end || visit.next->ordinal != ordinal)
        return false;
    const uint64_t expected = (visit.next++)->size;
    if (size != 0 && (expected == 0 || expected == size))
        return true;
    sites_differ(visit.sites, 1);
    return false;
}

/* Records what a traced node allocated: for the trace, and by its address until it is freed. */
void record(Sites *sites, const Record &made, c10::DataPtr &data)
{
    {
        std::lock_guard<std::mutex> held(sites->lock);
        sites->records.push_back(made);
    }
    if (data.get() == nullptr)
        return;
    const c10::DeleterFnPtr theirs = before->raw_deleter();
    if (data.get_deleter() != &release && (theirs == nullptr || !data.compare_exchange_deleter(theirs, &release)))
        return; /* an allocator whose memory we cannot see freed: such a tensor counts as unseen */
    Blocks &all = blocks();
    std::lock_guard<std::mutex> held(all.lock);
    Block &block = all.by_address[data.get()];
    block.sites = sites->id;
    block.record = made;
}

/* In a node of a part. */
c10::DataPtr allocate_at_site(Thread &thread, size_t size)
{
    Visit &visit = thread.visit;
    Sites *sites = visit.sites;
    Record made{visit.number, visit.ordinal++, size, 0};
    c10::DataPtr data;
    if (!is_expected(visit, made.ordinal, size)) {
        data = allocate_by_choice(thread, size);
    } else {
        Pool *pool = visit.pool;
        pool_keep(pool);
        data = serve_or_fall_back(pool, size);
        const bool there = data.get_deleter() == &release;
        (there ? sites->born_there : sites->fell_back).fetch_add(1, std::memory_order_relaxed);
        (there ? sites->born_bytes : sites->fell_back_bytes).fetch_add(size, std::memory_order_relaxed);
    }
    if (sites->recording.load(std::memory_order_relaxed)) {
        made.address = reinterpret_cast<uint64_t>(data.get());
        record(sites, made, data);
    }
    return data;
}

class RegionAllocator final : public c10::Allocator {
  public:
    c10::DataPtr allocate(size_t size) override
    {
        Thread &thread = mine;
        if (thread.busy == 0 && !chosen_for_all.load(std::memory_order_acquire)) [[likely]]
            return before->allocate(size);
        if (thread.busy & kVisits)
            return allocate_at_site(thread, size);
        return allocate_by_choice(thread, size);
    }

    c10::DeleterFnPtr raw_deleter() const override
    {
        return before->raw_deleter() == nullptr ? nullptr : &release;
    }

    void copy_data(void *to, const void *from, std::size_t size) const override
    {
        default_copy_data(to, from, size);
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
            forks.fetch_add(1, std::memory_order_relaxed); /* sites of the parent serve no more: their region is the parent's */
            mine.busy &= ~kVisits;
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
    Thread &thread = mine;
    if (!thread.armed)
        arm(thread);
    thread.busy = pool == nullptr ? thread.busy & ~kChose : thread.busy | kChose;
    return std::exchange(thread.pool, pool);
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

/* ---- sites ---- */

/* The sites of a part of that many nodes, with one reference. */
__attribute__((visibility("default"))) Sites *rtt_sites_create(uint32_t nodes)
{
    return new Sites(nodes);
}

__attribute__((visibility("default"))) void rtt_sites_drop(Sites *sites)
{
    sites_drop(sites);
}

/* This thread runs a node of the part from here on. In a child made by fork it does nothing. */
__attribute__((visibility("default"))) void rtt_sites_enter(Sites *sites, uint32_t number)
{
    Thread &thread = mine;
    visit_end(thread);
    if (number >= sites->count || sites->born != forks.load(std::memory_order_relaxed))
        return;
    if (!thread.armed)
        arm(thread);
    sites->references.fetch_add(1, std::memory_order_relaxed);
    const Served *served = sites->served.load(std::memory_order_acquire);
    if (served == nullptr) {
        thread.visit = Visit{sites, nullptr, nullptr, nullptr, number, 0};
    } else {
        const Expected *expected = served->expected.data();
        thread.visit =
            Visit{sites, served->pool, expected + served->first[number], expected + served->first[number + 1], number, 0};
    }
    thread.busy |= kVisits;
}

/* This thread runs no node any more. */
__attribute__((visibility("default"))) void rtt_sites_leave()
{
    visit_end(mine);
}

/* Begins a trace, without the records of the last one; or ends it. */
__attribute__((visibility("default"))) void rtt_sites_record(Sites *sites, int on)
{
    std::lock_guard<std::mutex> held(sites->lock);
    if (on)
        sites->records.clear();
    sites->recording.store(on != 0, std::memory_order_relaxed);
}

/* How many records the last trace has; copies as many as there is room for. */
__attribute__((visibility("default"))) uint64_t rtt_sites_records(Sites *sites, Record *records_out, uint64_t room)
{
    std::lock_guard<std::mutex> held(sites->lock);
    const uint64_t count = std::min<uint64_t>(sites->records.size(), room);
    if (count != 0)
        std::memcpy(records_out, sites->records.data(), count * sizeof(Record));
    return sites->records.size();
}

/* 1, and the allocation at which the memory at an address was made, if a traced node of the part made it; else 0. */
__attribute__((visibility("default"))) int rtt_sites_find(Sites *sites, void *address, Record *record_out)
{
    Blocks &all = blocks();
    std::lock_guard<std::mutex> held(all.lock);
    auto found = all.by_address.find(address);
    if (found == all.by_address.end() || found->second.sites != sites->id)
        return 0;
    *record_out = found->second.record;
    return 1;
}

/* From the next node on, the pool serves these sites, sorted by node and ordinal, and no others. NULL: none. */
__attribute__((visibility("default"))) void rtt_sites_serve(Sites *sites, Pool *pool, const Expected *expected, uint32_t count)
{
    if (pool == nullptr)
        return sites->served.store(nullptr, std::memory_order_release);
    Served *served = new Served{pool, {expected, expected + count}, std::vector<uint32_t>(sites->count + 1)};
    for (const Expected &site : served->expected)
        served->first[site.number + 1]++;
    for (uint32_t number = 0; number < sites->count; number++)
        served->first[number + 1] += served->first[number];
    pool_keep(pool);
    std::lock_guard<std::mutex> held(sites->lock);
    sites->all_served.push_back(served);
    sites->served.store(served, std::memory_order_release);
}

/* Born at their sites, their bytes, mismatched, fell back, their bytes. */
__attribute__((visibility("default"))) void rtt_sites_stats(const Sites *sites, uint64_t stats_out[5])
{
    const std::atomic<uint64_t> *counters[] = {&sites->born_there, &sites->born_bytes, &sites->mismatched, &sites->fell_back,
                                               &sites->fell_back_bytes};
    for (int index = 0; index < 5; index++)
        stats_out[index] = counters[index]->load(std::memory_order_relaxed);
}
}
