/* test_edge_loan.c: the open loan of an edge: who may send it or give it back, what waits for it meanwhile, and the ends of edges that
 * have one (EDGES.md section 13).
 *
 * Needs the whole library. */
#include "lend_ends.h"
#include "proto/dtype.h"

/* ---- the ticket ---- */

static void only_the_open_loan_is_sent_or_given_back(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        uint8_t *written, *bytes;
        edge_begin(&ends, place, 1);
        rt_edge_options options = static_edge("ticket", lend_dims);
        edge_join(&ends, place, &options);
        bytes = ends.core.here;
        core_fill(bytes, LEND_SIZE, 3);
        for (uint64_t none = 0; none < 3; none++) { /* nothing was ever lent */
            rt_edge_give_back(ends.sender, none);
            CHECK_INT(rt_edge_send_lent(ends.sender, none, 0), RT_E_INVALID);
            CHECK_INT(rt_edge_send_lent_at_once(ends.sender, none), RT_E_AGAIN);
        }
        int64_t first = lend(&ends, NULL, &written);
        CHECK(first > 0);
        rt_edge_give_back(ends.sender, (uint64_t)first);
        rt_edge_give_back(ends.sender, (uint64_t)first);
        int64_t ticket = lend(&ends, NULL, &written);
        CHECK(ticket > first);
        memcpy(written, bytes, LEND_SIZE);
        for (int64_t wrong = ticket - 2; wrong <= ticket + 1; wrong += wrong == ticket - 1 ? 2 : 1) {
            rt_edge_give_back(ends.sender, (uint64_t)wrong);
            CHECK_INT(rt_edge_send_lent(ends.sender, (uint64_t)wrong, 0), RT_E_INVALID);
            CHECK_INT(rt_edge_send_lent_at_once(ends.sender, (uint64_t)wrong), RT_E_AGAIN);
        }
        CHECK_INT(send_lent(&ends, ticket), RT_OK);
        check_taken(&ends, 1, bytes, LEND_SIZE);
        for (uint64_t over = 0; over <= (uint64_t)ticket; over++) {
            rt_edge_give_back(ends.sender, over);
            CHECK_INT(rt_edge_send_lent(ends.sender, over, 0), RT_E_INVALID);
        }
        CHECK_INT(stats_of(ends.sender).lent, 1);
        edge_end(&ends);
    }
}

/* Meanwhile nothing else is sent or lent; a loan that is given back costs no sequence and no credit. */
static void one_loan_is_open_at_a_time(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        uint8_t *written, *bytes;
        uint64_t address;
        edge_begin(&ends, place, 1);
        rt_edge_options options = static_edge("one", lend_dims);
        options.slots = 1;
        edge_join(&ends, place, &options);
        bytes = ends.core.here;
        core_fill(bytes, LEND_SIZE, 3);
        rt_edge_tensor tensor = edge_bytes(bytes, LEND_SIZE);
        for (uint32_t round = 0; round < 3; round++) {
            int64_t ticket = lend(&ends, NULL, &written);
            CHECK_INT(rt_edge_lend(ends.sender, NULL, 1000, &address), RT_E_AGAIN);
            CHECK_INT(rt_edge_lend_at_once(ends.sender, NULL, &address), RT_E_AGAIN);
            CHECK_INT(rt_edge_send_tensor(ends.sender, &tensor, 1000), RT_E_AGAIN);
            CHECK_INT(rt_edge_send(ends.sender, tensor.address, LEND_SIZE, 1000), RT_E_AGAIN);
            CHECK_INT(rt_edge_send_at_once(ends.sender, tensor.address, LEND_SIZE), RT_E_AGAIN);
            CHECK_INT(rt_edge_explain(ends.sender, RT_E_AGAIN, &ends.detail), RT_E_AGAIN);
            CHECK_HAS(ends.detail.text, "a loan of the edge is open");
            CHECK_INT(stats_of(ends.sender).waits, 3 * round + 3);
            rt_edge_give_back(ends.sender, (uint64_t)ticket);
        }
        CHECK_INT(edge_send(&ends, &tensor, true), RT_OK);
        CHECK_INT(rt_edge_lend(ends.sender, NULL, 1000, &address), RT_E_AGAIN); /* the slot is not released */
        CHECK_INT(rt_edge_lend_at_once(ends.sender, NULL, &address), RT_E_AGAIN);
        CHECK_INT(rt_edge_explain(ends.sender, RT_E_AGAIN, &ends.detail), RT_E_AGAIN);
        CHECK_HAS(ends.detail.text, "no credit");
        check_taken(&ends, 1, bytes, LEND_SIZE);
        int64_t ticket = lend(&ends, NULL, &written);
        memcpy(written, bytes, LEND_SIZE);
        CHECK_INT(send_lent(&ends, ticket), RT_OK);
        check_taken(&ends, 2, bytes, LEND_SIZE);
        CHECK_INT(stats_of(ends.sender).sequence, 2);
        edge_end(&ends);
    }
}

/* The end of a loan wakes the threads that wait for it, and later ends do not. */
static void the_end_of_a_loan_wakes_those_who_wait_for_it(void)
{
    edge_ends ends;
    uint8_t *written;
    uint64_t address;
    edge_begin(&ends, here, 1);
    const rt_provider *provider = ends.core.near->provider;
    rt_pdevice *device = ends.core.near->pdevice;
    rt_edge_options options = static_edge("woken", lend_dims);
    edge_join(&ends, here, &options);
    for (uint32_t way = 0; way < 3; way++) {
        int64_t ticket = lend(&ends, NULL, &written);
        CHECK(!ends.sender->loan->awaited);
        CHECK_INT(rt_edge_lend(ends.sender, NULL, 0, &address), RT_E_AGAIN);
        uint32_t epoch = provider->memory_epoch(device);
        if (way == 0)
            rt_edge_give_back(ends.sender, (uint64_t)ticket);
        else if (way == 1)
            CHECK_INT(rt_edge_send_lent(ends.sender, (uint64_t)ticket, 0), 0);
        else
            CHECK_INT(send_lent_again(&ends, ticket), 0);
        CHECK_INT(provider->memory_sleep(device, epoch, 0), RT_OK);
        CHECK(!ends.sender->loan->awaited);
    }
    edge_end(&ends);
}

/* ---- calls that are refused ---- */

static void a_loan_of_another_kind_or_end_is_refused(void)
{
    edge_ends ends;
    uint8_t *written;
    uint64_t address = 77;
    edge_begin(&ends, here, 1);
    rt_edge_options options = static_edge("static", lend_dims);
    rt_edge_tensor tensor = edge_bytes(NULL, LEND_SIZE);
    edge_join(&ends, here, &options);
    CHECK_INT(rt_edge_lend(ends.sender, &tensor, 0, &address), RT_E_INVALID);
    CHECK_INT(rt_edge_lend(ends.receiver, NULL, 0, &address), RT_E_INVALID);
    CHECK_INT(rt_edge_send_lent(ends.receiver, 1, 0), RT_E_INVALID);
    CHECK_INT(rt_edge_send_lent_at_once(ends.receiver, 1), RT_E_AGAIN);
    rt_edge_give_back(ends.receiver, 1);
    CHECK(rt_edge_lent_from(ends.receiver) == NULL);
    CHECK(rt_edge_loan_region(ends.receiver) == NULL);
    CHECK(rt_edge_loan_region(ends.sender) == NULL);
    CHECK_INT(rt_edge_lend_at_once(ends.sender, NULL, &address), RT_E_AGAIN); /* the first one makes what loans need */
    CHECK_INT(address, 77);
    int64_t ticket = rt_edge_lend(ends.sender, NULL, 0, &address);
    CHECK_INT(ticket, 1);
    rt_edge_give_back(ends.sender, 1);
    CHECK_INT(rt_edge_lend_at_once(ends.sender, &tensor, &address), RT_E_AGAIN);
    CHECK_INT(rt_edge_lend_at_once(ends.receiver, NULL, &address), RT_E_AGAIN);
    CHECK_INT(lend_again(&ends, NULL, &written), 2);
    drop_ends(&ends);

    options = dynamic_edge("dynamic");
    options.dtype = RT_DTYPE_UINT8;
    edge_join(&ends, here, &options);
    rt_edge_tensor wrong = tensor;
    wrong.dtype = RT_DTYPE_INT8;
    CHECK_INT(rt_edge_lend(ends.sender, &wrong, 0, &address), RT_E_INVALID);
    CHECK_INT(rt_edge_lend(ends.sender, NULL, 0, &address), RT_E_INVALID);
    tensor.dims[0] = LEND_EAGER;
    CHECK_INT(rt_edge_lend_at_once(ends.sender, &tensor, &address), RT_E_AGAIN);
    CHECK_INT(rt_edge_lend(ends.sender, &tensor, 0, &address), 1);
    rt_edge_give_back(ends.sender, 1);
    CHECK_INT(rt_edge_lend_at_once(ends.sender, NULL, &address), RT_E_AGAIN);
    CHECK_INT(rt_edge_lend_at_once(ends.sender, &wrong, &address), RT_E_AGAIN);
    CHECK_INT(lend_again(&ends, &tensor, &written), 2);
    CHECK_INT(send_lent_again(&ends, 2), 1);
    tensor.dims[0] = LEND_EAGER + 1; /* no memory for it is known to the receiver yet */
    CHECK_INT(rt_edge_lend_at_once(ends.sender, &tensor, &address), RT_E_AGAIN);
    edge_end(&ends);
}

/* No turn is waited for at once, and what is unusual is left to the calls that wait: the loan stays open. */
static void what_cannot_be_done_at_once_leaves_the_loan_open(void)
{
    edge_ends ends;
    uint8_t *written;
    uint64_t address;
    edge_begin(&ends, here, 1);
    for (uint32_t kind = 0; kind < 2; kind++) {
        rt_edge_options options = kind == 0 ? static_edge("static", lend_dims) : dynamic_edge("dynamic");
        rt_edge_tensor tensor = edge_bytes(NULL, LEND_EAGER);
        const rt_edge_tensor *given = kind == 0 ? NULL : &tensor;
        edge_join(&ends, here, &options);
        rt_edge_give_back(ends.sender, (uint64_t)lend(&ends, given, &written));
        rt_turn_take(&ends.sender->turn);
        CHECK_INT(rt_edge_lend_at_once(ends.sender, given, &address), RT_E_AGAIN);
        rt_turn_leave(&ends.sender->turn);
        uint64_t ticket = (uint64_t)lend_again(&ends, given, &written);
        CHECK_INT(ticket, 2);
        rt_turn *const turns[] = {&ends.sender->turn, &ends.sender->links[0]->turn};
        for (uint32_t index = 0; index < 2; index++) {
            rt_turn_take(turns[index]);
            CHECK_INT(rt_edge_send_lent_at_once(ends.sender, ticket), RT_E_AGAIN);
            rt_turn_leave(turns[index]);
        }
        CHECK_INT(rt_edge_lend(ends.sender, given, 0, &address), RT_E_AGAIN);
        CHECK_INT(stats_of(ends.sender).transfers, 0);
        CHECK_INT(send_lent_again(&ends, (int64_t)ticket), kind == 0 ? 0 : 1);
        drop_ends(&ends);
    }
    for (uint32_t kind = 0; kind < 4; kind++) { /* whose flag is not one WRITE, or whose tensor is not in its slot */
        static const uint64_t none = 0;
        rt_edge_options options = static_edge("unusual", kind == 3 ? &none : lend_dims);
        options.verify = kind == 0;
        options.ordering = kind == 1 ? RT_EDGE_IMMEDIATE : 0;
        options.staging = kind == 2;
        edge_place place = *here;
        place.ordering = options.ordering;
        edge_join(&ends, &place, &options);
        int64_t ticket = lend(&ends, NULL, &written);
        CHECK_INT(rt_edge_send_lent_at_once(ends.sender, (uint64_t)ticket), RT_E_AGAIN);
        CHECK_INT(send_lent(&ends, ticket), RT_OK);
        rt_edge_arrival arrival;
        CHECK_INT(edge_receive(&ends, &arrival), RT_OK);
        drop_ends(&ends);
    }
    edge_end(&ends);
}

/* Only calls that wait ask for WRITEs of the slot's last tensor, those of every stripe. */
static void a_slot_whose_last_tensor_is_under_way_is_not_lent_at_once(void)
{
    static const uint64_t size = 200001;
    edge_ends ends;
    uint8_t *written;
    edge_begin(&ends, here, 3);
    rt_edge_options options = static_edge("under way", &size);
    options.stripes = 3;
    edge_join(&ends, here, &options);
    CHECK_INT(ends.sender->wiring.layout.stripes, 3);
    rt_edge_give_back(ends.sender, (uint64_t)lend(&ends, NULL, &written));
    for (uint32_t stripe = 0; stripe < 3; stripe++) {
        int64_t *mine = &ends.sender->sent[1].ops[stripe], *other = &ends.sender->sent[0].ops[stripe];
        *mine = 77;
        CHECK_INT(lend_at_once(&ends, NULL, &written), RT_E_AGAIN);
        *mine = 0;
        *other = 77;
        int64_t ticket = lend_again(&ends, NULL, &written);
        *other = 0;
        CHECK(ticket > 0);
        rt_edge_give_back(ends.sender, (uint64_t)ticket);
    }
    edge_end(&ends);
}

/* The channel's end may take the mapping away while a loan begins: the place is memory of the sender's then. */
static void a_slot_that_is_not_mapped_any_more_is_not_lent(void)
{
    edge_ends ends;
    uint8_t *written;
    edge_begin(&ends, here, 1);
    rt_edge_options options = static_edge("unmapped", lend_dims);
    edge_join(&ends, here, &options);
    rt_premote *mapped = ends.sender->slots_remote->premote;
    ends.sender->slots_remote->premote = NULL;
    int64_t ticket = lend(&ends, NULL, &written);
    ends.sender->slots_remote->premote = mapped;
    CHECK(ticket > 0 && written == ends.sender->sent[1].staging.address);
    CHECK(rt_edge_quiet(ends.sender));
    core_fill(written, LEND_SIZE, 3);
    CHECK_INT(send_lent(&ends, ticket), RT_OK);
    check_taken(&ends, 1, written, LEND_SIZE);
    CHECK_INT(stats_of(ends.sender).lent_in_place, 0);
    edge_end(&ends);
}

/* ---- the region of a loan, whose number the receiver gave to another one meanwhile ---- */

static void a_region_whose_number_was_taken_is_announced_again(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        uint8_t *written, *bytes;
        edge_begin(&ends, place, 1);
        rt_edge_options options = dynamic_edge("renamed");
        edge_join(&ends, place, &options);
        bytes = ends.core.here;
        core_fill(bytes, LEND_SIZE, 5);
        rt_edge_tensor tensor = edge_bytes(NULL, LEND_SIZE);
        int64_t ticket = lend(&ends, &tensor, &written);
        memcpy(written, bytes, LEND_SIZE);
        rt_turn_take(&ends.sender->turn); /* as a thread that announces a region, and found every other number in use */
        rt_region *before = ends.sender->keys[ends.sender->loan->key];
        ends.sender->keys[ends.sender->loan->key] = NULL;
        rt_turn_leave(&ends.sender->turn);
        CHECK(before == ends.sender->loan->room.region);
        rt_region_drop(before);
        if (is_shm(place))
            CHECK_INT(rt_edge_send_lent_at_once(ends.sender, (uint64_t)ticket), RT_E_AGAIN);
        CHECK_INT(send_lent(&ends, ticket), RT_OK);
        check_taken(&ends, 1, bytes, LEND_SIZE);
        CHECK_INT(stats_of(ends.sender).transfers, 1);
        edge_end(&ends);
    }
}

/* ---- the end of the edge ---- */

/* A caller that writes in a slot is a WRITE under way: the end is not quiet. */
static void an_end_is_quiet_once_nobody_writes_in_a_slot(void)
{
    for (uint32_t staging = 0; staging < 2; staging++) {
        edge_ends ends;
        uint8_t *written;
        edge_begin(&ends, here, 1);
        rt_edge_options options = static_edge("quiet", lend_dims);
        options.staging = staging;
        edge_join(&ends, here, &options);
        CHECK(rt_edge_quiet(ends.sender));
        int64_t ticket = lend(&ends, NULL, &written);
        CHECK_INT(rt_edge_quiet(ends.sender), staging);
        rt_edge_give_back(ends.sender, (uint64_t)ticket);
        CHECK(rt_edge_quiet(ends.sender));
        ticket = lend(&ends, NULL, &written);
        CHECK_INT(send_lent(&ends, ticket), RT_OK);
        CHECK(rt_edge_quiet(ends.sender));
        edge_end(&ends);
    }
}

static void a_loan_of_an_edge_that_is_closed_is_not_sent(void)
{
    EDGE_EACH_PLACE(place)
    {
        edge_ends ends;
        uint8_t *written;
        uint64_t address;
        edge_begin(&ends, place, 1);
        rt_edge_options options = static_edge("closed", lend_dims);
        edge_join(&ends, place, &options);
        int64_t ticket = lend(&ends, NULL, &written);
        rt_edge_close(ends.sender);
        CHECK_INT(send_lent(&ends, ticket), RT_E_CLOSED);
        CHECK_INT(rt_edge_send_lent_at_once(ends.sender, (uint64_t)ticket), RT_E_AGAIN);
        memset(written, 7, LEND_SIZE); /* the place is the caller's until it is given back */
        rt_edge_give_back(ends.sender, (uint64_t)ticket);
        CHECK_INT(rt_edge_lend(ends.sender, NULL, 0, &address), RT_E_CLOSED);
        rt_edge_arrival arrival;
        CHECK_INT(edge_receive(&ends, &arrival), RT_E_PEER_CLOSED);
        CHECK_INT(stats_of(ends.sender).lent, 0);
        edge_end(&ends);
    }
}

static void a_receiver_that_closes_waits_for_whoever_writes_in_its_slot(void)
{
    edge_ends ends;
    uint8_t *written;
    int tries = 0;
    edge_begin(&ends, here, 1);
    rt_edge_options options = static_edge("receiver", lend_dims);
    edge_join(&ends, here, &options);
    int64_t ticket = lend(&ends, NULL, &written);
    rt_edge_close(ends.receiver);
    while (rt_edge_failure(ends.sender, &ends.detail) == RT_OK && ++tries < 100000)
        rt_device_progress(ends.core.near);
    CHECK_INT(rt_edge_failure(ends.sender, &ends.detail), RT_E_PEER_CLOSED);
    CHECK_INT(send_lent(&ends, ticket), RT_E_PEER_CLOSED);
    pthread_mutex_lock(&ends.core.far->lock);
    CHECK(!ends.receiver->peer_knows);
    pthread_mutex_unlock(&ends.core.far->lock);
    memset(written, 7, LEND_SIZE);
    rt_edge_give_back(ends.sender, (uint64_t)ticket);
    bool known = false;
    while (!known && ++tries < 10000000) {
        rt_device_progress(ends.core.near);
        pthread_mutex_lock(&ends.core.far->lock);
        known = ends.receiver->peer_knows;
        pthread_mutex_unlock(&ends.core.far->lock);
    }
    CHECK(known);
    edge_end(&ends);
}

/* A caller with a view of the place keeps the mapping, or the memory, by a reference of its own. */
static void the_memory_of_a_loan_outlives_its_edge_for_who_refers_to_it(void)
{
    edge_ends ends;
    uint8_t *written;
    edge_begin(&ends, here, 1);
    rt_edge_options options = static_edge("mapped", lend_dims);
    edge_join(&ends, here, &options);
    CHECK(lend(&ends, NULL, &written) > 0);
    rt_remote *remote = rt_edge_lent_from(ends.sender);
    CHECK(remote != NULL);
    CHECK_INT(rt_edge_slot_offset(&ends.sender->wiring.layout, 1) + rt_remote_address(remote), (uint64_t)(uintptr_t)written);
    drop_ends(&ends);
    memset(written, 7, LEND_SIZE);
    rt_remote_drop(remote);

    options = dynamic_edge("registered");
    edge_join(&ends, here, &options);
    rt_edge_tensor tensor = edge_bytes(NULL, LEND_OWN);
    CHECK(lend(&ends, &tensor, &written) > 0);
    rt_region *region = rt_edge_loan_region(ends.sender);
    CHECK(region != NULL);
    drop_ends(&ends);
    memset(written, 7, LEND_OWN);
    int tries = 0;
    while (atomic_load(&region->references) > 1 && ++tries < 10000000) /* the edge has let go of it when it has ended */
        rt_device_progress(ends.core.near);
    CHECK_INT(atomic_load(&region->references), 1);
    rt_region_drop(region);
    edge_end(&ends);
}

static const check_test tests[] = {
    CHECK_TEST(only_the_open_loan_is_sent_or_given_back),
    CHECK_TEST(one_loan_is_open_at_a_time),
    CHECK_TEST(the_end_of_a_loan_wakes_those_who_wait_for_it),
    CHECK_TEST(a_loan_of_another_kind_or_end_is_refused),
    CHECK_TEST(what_cannot_be_done_at_once_leaves_the_loan_open),
    CHECK_TEST(a_slot_whose_last_tensor_is_under_way_is_not_lent_at_once),
    CHECK_TEST(a_slot_that_is_not_mapped_any_more_is_not_lent),
    CHECK_TEST(a_region_whose_number_was_taken_is_announced_again),
    CHECK_TEST(an_end_is_quiet_once_nobody_writes_in_a_slot),
    CHECK_TEST(a_loan_of_an_edge_that_is_closed_is_not_sent),
    CHECK_TEST(a_receiver_that_closes_waits_for_whoever_writes_in_its_slot),
    CHECK_TEST(the_memory_of_a_loan_outlives_its_edge_for_who_refers_to_it),
};

CHECK_MAIN(tests)
