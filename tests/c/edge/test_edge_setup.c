/* test_edge_setup.c: what can be asked when an edge is made or opened, and how long an open waits. How the lies of a peer end:
 * test_edge_lies.c.
 *
 * Needs the whole library. */
#include <stddef.h>

#include "edge_ends.h"
#include "proto/dtype.h"

enum { SIZE = 64 };
static const uint64_t dims[RT_EDGE_RANK_MAX] = {SIZE, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
static const edge_place sim_place = {"sim", "sim", NULL, 0, RT_EDGE_CHAINED};
static const edge_place shm_place = {"shm", "shm", NULL, 0, RT_EDGE_CHAINED};
static const edge_place unordered_place = {"sim, unordered", "sim", "&orders_writes=0&receive_depth=4096", 0, RT_EDGE_IMMEDIATE};

static rt_edge_options static_edge(const char *name)
{
    rt_edge_options options = edge_options(name);
    options.dtype = RT_DTYPE_UINT8;
    options.rank = 1;
    options.dims = dims;
    return options;
}

static rt_edge_options dynamic_edge(const char *name)
{
    rt_edge_options options = edge_options(name);
    options.kind = RT_EDGE_DYNAMIC;
    options.rank = RT_EDGE_RANK_ANY;
    return options;
}

/* ---- what can be asked ---- */

/* One option of an otherwise usual edge. */
typedef struct option_case {
    bool dynamic;
    size_t offset, width;
    uint64_t value;
    const char *words; /* of the refusal of a receiver; NULL: it is made */
} option_case;

#define OPTION(member) offsetof(rt_edge_options, member), sizeof(((rt_edge_options *)NULL)->member)

static const option_case option_cases[] = {
    {false, OPTION(kind), 0, "of kind 0: 1 is static, 2 dynamic"},
    {false, OPTION(kind), 3, "of kind 3"},
    {false, OPTION(flow), 0, "with flow 0"},
    {false, OPTION(flow), 2, NULL},
    {false, OPTION(flow), 3, "with flow 3"},
    {true, OPTION(flow), 2, "with flow 2"},
    {false, OPTION(stripes), 8, NULL},
    {false, OPTION(stripes), 9, "9 stripes: at most 8 share a tensor"},
    {false, OPTION(slots), 0, "0 slots: 1 to 128 are possible"},
    {false, OPTION(slots), 1, NULL},
    {false, OPTION(slots), 128, NULL},
    {false, OPTION(slots), 129, "129 slots"},
    {true, OPTION(eager_size), 65536, NULL},
    {true, OPTION(eager_size), 65537, "65537 eager bytes: at most 65536"},
    {false, OPTION(alignment), 1, NULL},
    {false, OPTION(alignment), 64, NULL},
    {false, OPTION(alignment), 128, NULL},
    {false, OPTION(alignment), 2u << 20, NULL},
    {false, OPTION(alignment), 4u << 20, "aligned to 4194304: the alignment must be a power of two up to 2 MiB"},
    {false, OPTION(alignment), 96, "aligned to 96"},
    {false, OPTION(rank), 0, NULL},
    {false, OPTION(rank), 16, NULL},
    {false, OPTION(rank), 17, "17 dimensions: the codes of dtypes go up to"},
    {false, OPTION(rank), 255, "255 dimensions"},
    {true, OPTION(rank), 16, NULL},
    {true, OPTION(rank), 17, "17 dimensions"},
    {false, OPTION(dtype), RT_DTYPE_COUNT - 1, NULL},
    {false, OPTION(dtype), RT_DTYPE_COUNT, "dtype code 22"},
    {false, OPTION(dtype), RT_DTYPE_ANY, "dtype code 0"},
    {true, OPTION(dtype), RT_DTYPE_COUNT - 1, NULL},
    {true, OPTION(dtype), RT_DTYPE_COUNT, "dtype code 22"},
    {false, OPTION(ordering), 3, NULL},
    {false, OPTION(ordering), 4, ""},
};

static void an_edge_is_made_with_every_option_up_to_its_bounds(void)
{
    edge_ends ends;
    edge_begin(&ends, &shm_place, 1);
    for (size_t index = 0; index < sizeof option_cases / sizeof option_cases[0]; index++) {
        const option_case *each = &option_cases[index];
        rt_edge_options options = each->dynamic ? dynamic_edge("x") : static_edge("x");
        memcpy((uint8_t *)&options + each->offset, &each->value, each->width); /* little end first */
        rt_edge *edge = NULL;
        int status = rt_edge_create(ends.core.far, &options, NULL, &edge, &ends.detail);
        if ((status == RT_OK) != (each->words == NULL))
            printf("case %zu\n", index);
        CHECK_INT(status == RT_OK, each->words == NULL);
        CHECK_INT(edge != NULL, each->words == NULL);
        if (edge == NULL) {
            CHECK_INT(status, RT_E_INVALID);
            CHECK_HAS(ends.detail.text, each->words);
            continue;
        }
        rt_edge_info info;
        rt_edge_get_info(edge, &info);
        CHECK_INT(info.slots_address, 0); /* nobody has opened it */
        CHECK_INT(1ull << edge->terms.alignment_log, options.alignment > 64 ? options.alignment : 64);
        CHECK_INT(info.slots, options.slots);
        rt_edge *again = NULL;
        CHECK_INT(rt_edge_create(ends.core.far, &options, NULL, &again, &ends.detail), RT_E_EXISTS);
        CHECK_HAS(ends.detail.text, "has an edge \"x\" already");
        rt_edge_drop(edge); /* and its name is free again */
    }
    rt_edge_options nameless = static_edge(NULL), empty = static_edge("");
    CHECK_INT(rt_edge_create(ends.core.far, &nameless, NULL, &ends.receiver, &ends.detail), RT_E_INVALID);
    CHECK_HAS(ends.detail.text, "needs a name");
    CHECK_INT(rt_edge_create(ends.core.far, &empty, NULL, &ends.receiver, &ends.detail), RT_E_INVALID);
    CHECK(ends.receiver == NULL);
    edge_end(&ends);
}

static void slots_lie_in_the_region_that_was_given(void)
{
    edge_ends ends;
    edge_begin(&ends, &shm_place, 1);
    rt_edge_options options = static_edge("region");
    options.alignment = 4096;
    options.slots = 3;
    rt_region *region = core_region(ends.core.far, 1 << 16, RT_RIGHT_REMOTE_WRITE);
    rt_region *other = core_region(ends.core.near, 1 << 16, RT_RIGHT_REMOTE_WRITE);
    rt_region *read = core_region(ends.core.far, 1 << 16, RT_RIGHT_REMOTE_READ);
    rt_region *small = core_region(ends.core.far, 4096, RT_RIGHT_REMOTE_WRITE);
    CHECK_INT(rt_edge_create(ends.core.far, &options, other, &ends.receiver, &ends.detail), RT_E_INVALID);
    CHECK_HAS(ends.detail.text, "the slots of edge \"region\" belongs to another device");
    rt_edge_options nameless = options;
    nameless.name = NULL;
    CHECK_INT(rt_edge_create(ends.core.far, &nameless, other, &ends.receiver, &ends.detail), RT_E_INVALID);
    CHECK_HAS(ends.detail.text, "the slots of edge \"\" belongs to another device");
    CHECK_INT(rt_edge_create(ends.core.far, &nameless, read, &ends.receiver, &ends.detail), RT_E_ACCESS);
    CHECK_HAS(ends.detail.text, "the slots of edge \"\" must be one that peers may write to");
    CHECK_INT(rt_edge_create(ends.core.far, &options, read, &ends.receiver, &ends.detail), RT_E_ACCESS);
    CHECK_HAS(ends.detail.text, "the slots of edge \"region\" must be one that peers may write to");
    CHECK(rt_edge_create(ends.core.far, &options, small, &ends.receiver, &ends.detail) != RT_OK);
    CHECK_INT(rt_region_close(read, &ends.detail), RT_OK);
    CHECK_INT(rt_region_close(small, &ends.detail), RT_OK); /* nothing of it was kept */
    CHECK_INT(rt_edge_create(ends.core.far, &options, read, &ends.receiver, &ends.detail), RT_E_CLOSED);
    CHECK_HAS(ends.detail.text, "the slots of edge \"region\" was closed");
    edge_join(&ends, &shm_place, &options); /* without one: of the channel's own memory */
    rt_edge_info info;
    rt_edge_get_info(ends.receiver, &info);
    uint64_t start = rt_region_address(region);
    CHECK(info.slots_address < start || info.slots_address >= start + (1 << 16));
    rt_edge_drop(ends.sender);
    rt_edge_drop(ends.receiver);
    CHECK_INT(rt_edge_create(ends.core.far, &options, region, &ends.receiver, &ends.detail), RT_OK);
    CHECK(ends.receiver->slots.region == region);
    CHECK(rt_edge_slots_region(ends.receiver) == NULL); /* before it is open */
    CHECK_INT(rt_edge_open(ends.core.channel, &options, RT_NS_PER_S, &ends.sender, &ends.detail), RT_OK);
    CHECK_INT(edge_wait_open(&ends), RT_OK);
    rt_edge_get_info(ends.receiver, &info);
    CHECK_INT(info.slots_address % 4096, 0);
    CHECK(info.slots_address >= start && info.slots_address + 3 * 4096ull <= start + (1 << 16));
    CHECK_INT(rt_region_close(region, &ends.detail), RT_E_BUSY);
    rt_region *slots = rt_edge_slots_region(ends.receiver);
    CHECK(slots == region);
    rt_region_drop(slots);
    rt_edge_drop(ends.sender);
    rt_edge_drop(ends.receiver);
    ends.sender = ends.receiver = NULL;
    int64_t end_ns = rt_clock_now_ns() + CORE_PATIENCE_NS;
    while (atomic_load(&region->bound) != 0 && rt_clock_now_ns() < end_ns) { /* until its channel has let go of it */
        rt_device_progress(ends.core.far);
        rt_device_progress(ends.core.near);
    }
    CHECK_INT(rt_region_close(region, &ends.detail), RT_OK);
    for (uint32_t index = 0; index < 4; index++)
        rt_region_drop((rt_region *[]){region, other, read, small}[index]);
    edge_end(&ends);
}

/* ---- which QPs ---- */

static int try_open(edge_ends *ends, const rt_edge_options *options, uint32_t receiver_ordering)
{
    rt_edge_options given = *options;
    given.ordering = receiver_ordering;
    CHECK_INT(rt_edge_create(ends->core.far, &given, NULL, &ends->receiver, &ends->detail), RT_OK);
    int status = rt_edge_open(ends->core.channel, options, 0, &ends->sender, &ends->detail);
    return status == RT_OK ? edge_wait_open(ends) : status;
}

static void drop_both(edge_ends *ends)
{
    if (ends->sender != NULL)
        rt_edge_drop(ends->sender);
    if (ends->receiver != NULL)
        rt_edge_drop(ends->receiver);
    ends->sender = ends->receiver = NULL;
}

static void an_edge_runs_on_the_qp_that_was_asked_for(void)
{
    edge_ends ends;
    edge_begin(&ends, &shm_place, 3);
    for (int32_t qp = 0; qp < 3; qp++) {
        rt_edge_options options = static_edge("qp");
        options.qp = qp;
        options.stripes = 2;
        CHECK_INT(try_open(&ends, &options, 0), RT_OK);
        CHECK(ends.sender->links[0] == &ends.core.channel->links[qp]);
        CHECK(ends.sender->links[1] == &ends.core.channel->links[(qp + 1) % 3]);
        drop_both(&ends);
    }
    rt_edge_options options = static_edge("qp");
    options.qp = 3;
    CHECK_INT(try_open(&ends, &options, 0), RT_E_INVALID);
    CHECK_HAS(ends.detail.text, "there is no qp 3: the channel has qps 0 to 2");
    drop_both(&ends);
    options.qp = -1;
    options.stripes = 8;
    CHECK_INT(try_open(&ends, &options, 0), RT_OK);
    rt_edge_info info;
    rt_edge_get_info(ends.sender, &info);
    CHECK_INT(info.stripes, 3); /* no more than there are qps */
    for (uint32_t stripe = 0; stripe < 3; stripe++) {
        CHECK_INT(ends.sender->links[stripe] - ends.core.channel->links, (info.number + stripe) % 3);
        CHECK_INT(ends.receiver->links[stripe] - ends.core.accepted->links, (info.number + stripe) % 3);
    }
    edge_end(&ends);
}

/* The receiver must know by which QPs immediates come: so they come by the edge's number, and not by a QP of the sender's choice. */
static void immediates_do_not_come_by_a_qp_of_ones_choice(void)
{
    edge_ends ends;
    edge_begin(&ends, &sim_place, 3);
    for (int32_t qp = -1; qp < 3; qp++) {
        rt_edge_options options = static_edge("immediate");
        options.qp = qp;
        options.ordering = RT_EDGE_IMMEDIATE;
        CHECK_INT(try_open(&ends, &options, RT_EDGE_IMMEDIATE), qp < 0 ? RT_OK : RT_E_UNSUPPORTED);
        if (qp >= 0)
            CHECK_HAS(ends.detail.text, "on a qp of your choice and with ordering=\"immediate\"");
        drop_both(&ends);
        options.ordering = 0;
        CHECK_INT(try_open(&ends, &options, RT_EDGE_IMMEDIATE), qp < 0 ? RT_OK : RT_E_UNSUPPORTED);
        drop_both(&ends);
        CHECK_INT(try_open(&ends, &options, 0), RT_OK);
        CHECK_INT(ends.sender->wiring.mode, RT_EDGE_CHAINED);
        CHECK_INT(ends.sender->wiring.mode, ends.receiver->wiring.mode);
        drop_both(&ends);
    }
    edge_end(&ends);
    edge_begin(&ends, &unordered_place, 2);
    rt_edge_options options = static_edge("unordered");
    options.qp = 0;
    CHECK_INT(try_open(&ends, &options, 0), RT_E_UNSUPPORTED);
    drop_both(&ends);
    options.qp = -1;
    CHECK_INT(try_open(&ends, &options, 0), RT_OK);
    edge_end(&ends);
}

static void an_edge_takes_only_the_memory_that_it_needs(void)
{
    static const edge_place tail_place = {"sim, tail", "sim", "&orders_bytes=1", RT_EDGE_TAIL, RT_EDGE_TAIL};
    for (uint32_t loop = 0; loop < 2; loop++) {
        for (uint32_t tail = 0; tail < 2; tail++) {
            edge_ends ends;
            rt_edge_options options = static_edge("needs");
            options.flow = loop ? RT_EDGE_FLOW_LOOP : RT_EDGE_FLOW_CREDIT;
            edge_begin(&ends, tail ? &tail_place : &sim_place, 1);
            edge_join(&ends, tail ? &tail_place : &sim_place, &options);
            CHECK_INT(ends.receiver->credit_line.region == NULL, loop);
            CHECK_INT(ends.receiver->credit_remote == NULL, loop);
            CHECK_INT(ends.sender->credit_line.region == NULL, loop);
            CHECK_INT(ends.receiver->lines.region == NULL, tail);
            CHECK_INT(ends.sender->lines_remote == NULL, tail);
            edge_end(&ends);
        }
    }
}

/* ---- what the service looks at ---- */

static int64_t next_look(rt_channel *channel)
{
    return rt_edges_next_deadline(channel) - rt_device_time(channel->device);
}

/* Takes the edge from what is due; whether it was there, and alone. */
static bool is_due(rt_channel *channel, rt_edge *edge, bool all)
{
    rt_list due;
    (void)rt_edges_gather(channel, all, &due);
    bool found = rt_edge_next_due(&due) == edge;
    return found && rt_edge_next_due(&due) == NULL;
}

static void an_edge_that_owes_is_looked_at_again_and_no_other(void)
{
    edge_ends ends;
    rt_edge_options options = static_edge("looks");
    edge_begin(&ends, &sim_place, 1);
    edge_join(&ends, &sim_place, &options);
    rt_edge *edge = ends.receiver;
    rt_channel *channel = ends.core.accepted;
    (pthread_mutex_lock)(&ends.core.far->lock);
    rt_edge_settle(edge);
    CHECK_INT(rt_edges_next_deadline(channel), INT64_MAX);
    for (uint32_t which = 0; which < 3; which++) {
        edge->credit_owed = which == 0;
        edge->stage_owed = which == 1;
        edge->record_owed = which == 2;
        rt_edge_settle(edge);
        CHECK_INT(next_look(channel), RT_NS_PER_MS);
        CHECK(is_due(channel, edge, false));
        CHECK_INT(rt_edges_next_deadline(channel), INT64_MAX);
    }
    edge->record_owed = false;
    rt_edge_request *request = &rt_edges_of(channel)->requests[3];
    *request = (rt_edge_request){.active = true, .message.kind = RT_EDGE_OPEN_EDGE, .deadline_ns = 77};
    CHECK_INT(rt_edges_next_deadline(channel), 77);
    request->answered = true; /* the answer waits for room */
    CHECK_INT(next_look(channel), RT_NS_PER_MS);
    request->answered = false;
    request->message.kind = RT_EDGE_CLOSE_EDGE;
    CHECK_INT(next_look(channel), RT_NS_PER_MS);
    request->active = false;
    CHECK_INT(rt_edges_next_deadline(channel), INT64_MAX);
    (pthread_mutex_unlock)(&ends.core.far->lock);
    edge_end(&ends);
}

static void an_edge_that_closes_is_looked_at_less_and_less_often(void)
{
    static const int64_t naps_ms[] = {1, 2, 4, 8, 16, 32, 50, 50};
    edge_ends ends;
    rt_edge_options options = static_edge("closes");
    edge_begin(&ends, &sim_place, 1);
    edge_join(&ends, &sim_place, &options);
    rt_edge *edge = ends.receiver;
    rt_channel *channel = ends.core.accepted;
    (pthread_mutex_lock)(&ends.core.far->lock);
    edge->close_wanted = true;
    edge->ask.state = RT_ASK_SENT; /* its answer will come */
    rt_edge_settle(edge);
    CHECK_INT(rt_edges_next_deadline(channel), INT64_MAX);
    edge->ask.state = RT_ASK_NONE;
    for (size_t index = 0; index < sizeof naps_ms / sizeof naps_ms[0]; index++) {
        rt_edge_settle(edge);
        CHECK_INT(next_look(channel), naps_ms[index] * RT_NS_PER_MS);
        CHECK(!is_due(channel, edge, false)); /* not yet */
        CHECK(is_due(channel, edge, true));
    }
    edge->close_wanted = edge->lingers = false;
    (pthread_mutex_unlock)(&ends.core.far->lock);
    edge_end(&ends);
}

/* ---- numbers ---- */

static void an_edge_gets_a_number_that_no_other_has(void)
{
    edge_ends ends;
    edge_begin(&ends, &sim_place, 1);
    rt_edge_options first = static_edge("first"), second = static_edge("second");
    CHECK_INT(try_open(&ends, &first, 0), RT_OK);
    rt_edge *sender = ends.sender, *receiver = ends.receiver;
    uint16_t *next = &rt_edges_of(ends.core.accepted)->next_number, taken = receiver->number;
    *next = (uint16_t)(taken - 1); /* it has come round */
    CHECK_INT(try_open(&ends, &second, 0), RT_OK);
    CHECK_INT(ends.receiver->number, taken + 1);
    CHECK_INT(ends.sender->number, taken + 1);
    drop_both(&ends);
    *next = UINT16_MAX;
    CHECK_INT(try_open(&ends, &second, 0), RT_OK);
    CHECK(ends.receiver->number != 0 && ends.receiver->number != taken);
    drop_both(&ends);
    rt_edge_drop(sender);
    rt_edge_drop(receiver);
    edge_end(&ends);
}

/* ---- waiting for the other end ---- */

static void an_open_waits_in_whole_milliseconds_and_never_less_than_it_was_told(void)
{
    static const struct {
        int64_t wait_ns;
        uint32_t wait_ms;
    } cases[] = {{-5, 0},
                 {0, 0},
                 {1, 1},
                 {RT_NS_PER_MS - 1, 1},
                 {RT_NS_PER_MS, 1},
                 {RT_NS_PER_MS + 1, 2},
                 {RT_NS_PER_S, 1000},
                 {INT64_MAX, UINT32_MAX},
                 {RT_NS_PER_MS * (UINT32_MAX - 1ll), UINT32_MAX - 1},
                 {RT_NS_PER_MS * (UINT32_MAX + 1ll), UINT32_MAX}};
    for (size_t index = 0; index < sizeof cases / sizeof cases[0]; index++) {
        edge_ends ends;
        rt_edge_options options = static_edge("waits");
        edge_begin(&ends, &sim_place, 1);
        CHECK_INT(rt_edge_open(ends.core.channel, &options, cases[index].wait_ns, &ends.sender, &ends.detail), RT_OK);
        CHECK_INT(ends.sender->ask.message.wait_ms, cases[index].wait_ms);
        edge_end(&ends);
    }
}

static void an_open_ends_when_its_wait_does_or_its_channel_or_it_is_closed(void)
{
    edge_ends ends;
    rt_edge_options options = static_edge("nobody"), other = static_edge("other");
    edge_begin(&ends, &sim_place, 1);
    CHECK_INT(rt_edge_create(ends.core.far, &other, NULL, &ends.receiver, &ends.detail), RT_OK);
    int64_t begun = rt_device_now_ns(ends.core.near);
    CHECK_INT(rt_edge_open(ends.core.channel, &options, 300 * RT_NS_PER_MS, &ends.sender, &ends.detail), RT_OK);
    CHECK_INT(rt_edge_wait_open(ends.sender, 0, &ends.detail), RT_E_AGAIN);
    CHECK_HAS(ends.detail.text, "the other end of edge \"nobody\" has not been opened yet");
    CHECK_INT(edge_wait_open(&ends), RT_E_NOT_FOUND);
    CHECK_HAS(ends.detail.text, "no edge of that name was made here within 0.3 s; there are 1 others");
    CHECK(rt_device_now_ns(ends.core.near) - begun >= 300 * RT_NS_PER_MS);
    CHECK_INT(rt_edge_failure(ends.sender, &ends.detail), RT_E_NOT_FOUND);
    CHECK_INT(edge_wait_open(&ends), RT_E_NOT_FOUND); /* it stays so */
    rt_edge_drop(ends.sender);
    CHECK_INT(rt_edge_open(ends.core.channel, &options, RT_NS_PER_S, &ends.sender, &ends.detail), RT_OK);
    rt_edge_close(ends.sender);
    CHECK_INT(rt_edge_wait_open(ends.sender, RT_SLICE_NS, &ends.detail), RT_E_CLOSED);
    CHECK_HAS(ends.detail.text, "\"nobody\" was closed on this side");
    rt_edge_drop(ends.sender);
    CHECK_INT(rt_edge_open(ends.core.channel, &options, 20 * RT_NS_PER_S, &ends.sender, &ends.detail), RT_OK);
    CHECK_INT(rt_edge_wait_open(ends.sender, 1000, &ends.detail), RT_E_AGAIN);
    rt_channel_close(ends.core.accepted);
    CHECK_INT(edge_wait_open(&ends), RT_E_PEER_CLOSED);
    rt_edge_drop(ends.sender);
    CHECK_INT(rt_edge_open(ends.core.channel, &options, 0, &ends.sender, &ends.detail), RT_E_PEER_CLOSED);
    ends.sender = NULL;
    edge_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(an_edge_is_made_with_every_option_up_to_its_bounds),
    CHECK_TEST(slots_lie_in_the_region_that_was_given),
    CHECK_TEST(an_edge_runs_on_the_qp_that_was_asked_for),
    CHECK_TEST(immediates_do_not_come_by_a_qp_of_ones_choice),
    CHECK_TEST(an_edge_takes_only_the_memory_that_it_needs),
    CHECK_TEST(an_edge_that_owes_is_looked_at_again_and_no_other),
    CHECK_TEST(an_edge_that_closes_is_looked_at_less_and_less_often),
    CHECK_TEST(an_edge_gets_a_number_that_no_other_has),
    CHECK_TEST(an_open_waits_in_whole_milliseconds_and_never_less_than_it_was_told),
    CHECK_TEST(an_open_ends_when_its_wait_does_or_its_channel_or_it_is_closed),
};

CHECK_MAIN(tests)
