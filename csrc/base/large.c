/* large.c: copies of half a mebibyte and more, each made the way that was fastest for its size so far. HOT like post.c.
 *
 * Which way is fastest depends on the processor, on what glibc assumes about its caches, on whether
 * the source is in one of them, and on what the peer does meanwhile; no threshold fits two
 * machines. GB/s, copies between two processes' memory:
 *                               EPYC 7003 under KVM (32 MiB L3)    newer EPYC (32 MiB L3, AVX-512)
 *                                 4 MiB   16 MiB   256 MiB           4 MiB   16 MiB   256 MiB
 *     memcpy (glibc 2.36)          28.7      7.7      11.0            22.8     19.7      19.2
 *     rep movsb                              7.9       9.0            29.5     23.2      27.4
 *     non-temporal, one page       19.2     17.1      10.4            29.5     24.5      25.7
 *     non-temporal, four pages                        11.2            19.8     18.5      18.4
 * So each way is tried and timed a few times for each power of two. From then on the fastest is
 * used, and once in a while another, in case conditions have changed. Two clock reads cost 50 ns, a
 * copy of the least size 10 µs. */
#include "base/large.h"

#include "base/clock.h"

#include <string.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

enum {
    TRIES = 3,            /* of each way before one is chosen */
    TRY_AGAIN_EVERY = 64, /* copies */
    PART_MIN = 4096,      /* the other ways need a line, and gain nothing below a page */
    COST_KEPT = 4,        /* a new cost counts a fourth, and at most as twice the old one: copies are preempted */
};

typedef void (*copy_way)(uint8_t *to, const uint8_t *from, uint64_t size);

static void bytes_copy_plain(uint8_t *to, const uint8_t *from, uint64_t size)
{
    memcpy(to, from, size);
}

#if defined(__x86_64__)
enum { PAGE = 4096, LINE = 64, AHEAD = 512, PAGES = 4 };

static void bytes_copy_string(uint8_t *to, const uint8_t *from, uint64_t size)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

static inline void line_stream(uint8_t *to, const uint8_t *from)
{
    const __m128i *source = (const __m128i *)(const void *)from;
    __m128i *target = (__m128i *)(void *)to;
    __m128i first = _mm_loadu_si128(source), second = _mm_loadu_si128(source + 1);
    __m128i third = _mm_loadu_si128(source + 2), fourth = _mm_loadu_si128(source + 3);
    _mm_stream_si128(target, first);
    _mm_stream_si128(target + 1, second);
    _mm_stream_si128(target + 2, third);
    _mm_stream_si128(target + 3, fourth);
}

/* Copies past the cache, `pages` pages side by side: more pages keep more of the memory's banks
 * busy, where there are banks to spare. The fence makes the stores visible before any later one, as
 * ordinary stores are. */
static inline __attribute__((always_inline)) void bytes_stream(uint8_t *to, const uint8_t *from, uint64_t size, uint64_t pages)
{
    uint64_t at = (LINE - ((uintptr_t)to & (LINE - 1))) & (LINE - 1);
    memcpy(to, from, at);
    for (; size - at >= pages * PAGE; at += pages * PAGE) {
        for (uint64_t line = at; line < at + PAGE; line += LINE) {
            for (uint64_t page = 0; page < pages; page++)
                _mm_prefetch((const char *)from + line + page * PAGE + AHEAD, _MM_HINT_T0);
            for (uint64_t page = 0; page < pages; page++)
                line_stream(to + line + page * PAGE, from + line + page * PAGE);
        }
    }
    for (; size - at >= LINE; at += LINE)
        line_stream(to + at, from + at);
    _mm_sfence();
    memcpy(to + at, from + at, size - at);
}

static void bytes_copy_streaming(uint8_t *to, const uint8_t *from, uint64_t size)
{
    bytes_stream(to, from, size, 1);
}

static void bytes_copy_streaming_pages(uint8_t *to, const uint8_t *from, uint64_t size)
{
    bytes_stream(to, from, size, PAGES);
}

static const copy_way ways[] = {bytes_copy_plain, bytes_copy_string, bytes_copy_streaming, bytes_copy_streaming_pages};
#else
static const copy_way ways[] = {bytes_copy_plain};
#endif

enum { WAYS = sizeof ways / sizeof ways[0] };
_Static_assert((int)WAYS <= (int)RT_LARGE_WAYS, "room in rt_large_pace");

static uint32_t way_fastest(const rt_large_pace *pace)
{
    uint32_t best = 0, least = UINT32_MAX;
    for (uint32_t way = 0; way < WAYS; way++) {
        uint32_t cost = atomic_load_explicit(&pace->cost[way], memory_order_relaxed);
        if (cost < least) {
            least = cost;
            best = way;
        }
    }
    return best;
}

/* Records the cost of a copy, in ps per KiB. If two threads do so at once, one of the costs is
 * lost. */
static void cost_learn(_Atomic uint32_t *cost, int64_t elapsed_ns, uint64_t size, bool trying)
{
    int64_t before = atomic_load_explicit(cost, memory_order_relaxed);
    int64_t now = elapsed_ns * 1000 / (int64_t)(size >> 10);
    if (before != 0 && trying)
        now = now < before ? now : before; /* the first touch of a page is slow, whichever way the copy is made */
    else if (before != 0)
        now = before + ((now < 2 * before ? now : 2 * before) - before) / COST_KEPT;
    now = now < 1 ? 1 : now < UINT32_MAX ? now : UINT32_MAX - 1;
    atomic_store_explicit(cost, (uint32_t)now, memory_order_relaxed);
}

void rt_large_begin(rt_large_run *run_out, rt_large_pace *paces, uint64_t size)
{
    uint32_t class = (uint32_t)(63 - __builtin_clzll(size / RT_LARGE_SIZE_MIN));
    rt_large_pace *pace = &paces[class < RT_LARGE_PACES ? class : RT_LARGE_PACES - 1];
    uint32_t number = atomic_fetch_add_explicit(&pace->copies, 1, memory_order_relaxed);
    bool trying = number < WAYS * TRIES;
    uint32_t way = trying ? number % WAYS : number % TRY_AGAIN_EVERY == 0 ? number / TRY_AGAIN_EVERY % WAYS : way_fastest(pace);
    *run_out = (rt_large_run){pace, way, trying, rt_clock_now_ns()};
}

void rt_large_part(const rt_large_run *run, uint8_t *to, const uint8_t *from, uint64_t size)
{
    if (size < PART_MIN)
        memcpy(to, from, size);
    else
        ways[run->way](to, from, size);
}

void rt_large_end(const rt_large_run *run, uint64_t size)
{
    cost_learn(&run->pace->cost[run->way], rt_clock_now_ns() - run->begin_ns, size, run->trying);
}

void rt_large_copy(rt_large_pace *paces, uint8_t *to, const uint8_t *from, uint64_t size)
{
    rt_large_run run;
    rt_large_begin(&run, paces, size);
    rt_large_part(&run, to, from, size);
    rt_large_end(&run, size);
}
