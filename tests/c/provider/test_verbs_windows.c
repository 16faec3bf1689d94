/* test_verbs_windows.c: keys for one peer over the verbs provider and the fake: windows are bound beside the work of a link, reach what they
 * should and nothing else, and are gone when their link is shut or their memory released. */
#include "check.h"
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include "verbs_pair.h"

enum { PEER_KEYS = ALL_RIGHTS | RT_ACCESS_PER_PEER_KEYS };

/* A pair that is joined and whose b has memory with a key for each peer; nothing is attached yet. */
static void windows_open(uint32_t access)
{
    int status = pair_create("", "", access);
    if (status == RT_OK)
        status = verbs->link_connect(both.link_a, both.address_b, both.address_b_size, &both.detail);
    if (status == RT_OK)
        status = verbs->link_connect(both.link_b, both.address_a, both.address_a_size, &both.detail);
    if (status != RT_OK)
        printf("%s\n", both.detail.text);
    CHECK_INT(status, RT_OK);
}

/* Another pair of links between the two devices, joined. */
static void links_open(rt_plink **a, rt_plink **b)
{
    uint8_t address_a[RT_LINK_ADDRESS_SIZE_MAX], address_b[RT_LINK_ADDRESS_SIZE_MAX];
    size_t size_a, size_b;
    CHECK_INT(verbs->link_create(both.a, DATA_QUEUE, SERVICE_QUEUE, a, address_a, &size_a, &both.detail), RT_OK);
    CHECK_INT(verbs->link_create(both.b, DATA_QUEUE, SERVICE_QUEUE, b, address_b, &size_b, &both.detail), RT_OK);
    CHECK_INT(verbs->link_connect(*a, address_b, size_b, &both.detail), RT_OK);
    CHECK_INT(verbs->link_connect(*b, address_a, size_a, &both.detail), RT_OK);
}

static int key_ask(rt_plink *const *links, uint32_t count, uint8_t *key_out, size_t *size_out)
{
    return verbs->memory_key(both.b, both.memory_b, links, count, key_out, size_out, &both.detail);
}

/* Asks for a key until its windows are bound; b's data queue says nothing of it. */
static size_t key_take(rt_plink *const *links, uint32_t count, uint8_t *key_out)
{
    size_t size = 0;
    int status = key_ask(links, count, key_out, &size);
    for (int tries = 0; status == RT_E_AGAIN && tries < 10; tries++) {
        nothing_left(both.b, DATA_QUEUE);
        status = key_ask(links, count, key_out, &size);
    }
    CHECK_INT(status, RT_OK);
    return size;
}

static rt_premote *attach(rt_plink *link, const uint8_t *key, size_t size, uint32_t access)
{
    rt_premote *remote = NULL;
    uint32_t rights = access & (RT_ACCESS_REMOTE_WRITE | RT_ACCESS_REMOTE_READ);
    CHECK_INT(verbs->remote_attach(link, key, size, BUFFER_SIZE, rights, &remote, &both.detail), RT_OK);
    return remote;
}

/* The status with which one item from a to a remote completes. */
static int32_t run_one(rt_plink *link, rt_premote *remote, uint8_t opcode)
{
    rt_segment segment = segment_of(0, 64);
    rt_work item = work_of(opcode, &segment, 128, 7);
    rt_completion completion = {.status = 1};
    rt_posted posted;
    item.remote = remote;
    CHECK_INT(verbs->post(link, &item, 1, &posted), RT_OK);
    CHECK_INT(posted.accepted, 1);
    take(both.a, DATA_QUEUE, &completion, 1);
    CHECK_INT(completion.token, 7);
    return completion.status;
}

static void both_close(rt_plink *a, rt_plink *b)
{
    verbs->link_destroy(b);
    verbs->link_destroy(a);
}

static void a_key_for_a_peer_reaches_the_memory_through_its_link(void)
{
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    begin();
    windows_open(PEER_KEYS);
    CHECK(both.b->limits.keys_per_peer);
    both.remote = attach(both.link_a, key, key_take(&both.link_b, 1, key), PEER_KEYS);
    memset(both.bytes_a, 0x5a, 64);
    CHECK_INT(run_one(both.link_a, both.remote, RT_WORK_WRITE), RT_OK);
    CHECK_BYTES(both.bytes_b + 128, both.bytes_a, 64);
    CHECK_INT(run_one(both.link_a, both.remote, RT_WORK_READ), RT_OK);
    pair_close();
    end();
}

static void a_key_for_a_peer_is_refused_through_another_link(void)
{
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    rt_plink *other_a, *other_b;
    begin();
    windows_open(PEER_KEYS);
    links_open(&other_a, &other_b);
    size_t size = key_take(&both.link_b, 1, key);
    rt_premote *stolen = attach(other_a, key, size, PEER_KEYS);
    both.remote = attach(both.link_a, key, size, PEER_KEYS);
    memset(both.bytes_a, 0x5a, 64);
    CHECK_INT(run_one(other_a, stolen, RT_WORK_WRITE), RT_E_REMOTE_ACCESS);
    CHECK_INT(both.bytes_b[128], 0);
    CHECK_INT(run_one(both.link_a, both.remote, RT_WORK_WRITE), RT_OK); /* and the link it is for goes on */
    verbs->remote_detach(other_a, stolen);
    both_close(other_a, other_b);
    pair_close();
    end();
}

static void a_key_is_dead_when_its_link_is_shut(void)
{
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    rt_plink *other_a, *other_b;
    begin();
    windows_open(PEER_KEYS);
    links_open(&other_a, &other_b);
    uint32_t before = faked.fake_live();
    size_t size = key_take(&other_b, 1, key);
    CHECK_INT(faked.fake_live(), before + 1);
    verbs->link_shut(other_b);
    CHECK_INT(faked.fake_live(), before); /* at once, not when the link is destroyed */
    CHECK_INT(key_ask(&other_b, 1, key, &size), RT_E_CLOSED);
    both.remote = attach(both.link_a, key, size, PEER_KEYS);
    CHECK_INT(run_one(both.link_a, both.remote, RT_WORK_WRITE), RT_E_REMOTE_ACCESS);
    both_close(other_a, other_b);
    pair_close();
    end();
}

static void every_link_of_a_channel_has_a_key_of_its_own(void)
{
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    rt_plink *links_a[RT_MEMORY_KEY_LINKS_MAX], *links_b[RT_MEMORY_KEY_LINKS_MAX];
    begin();
    windows_open(PEER_KEYS);
    for (uint32_t index = 0; index < RT_MEMORY_KEY_LINKS_MAX; index++) {
        links_open(&links_a[index], &links_b[index]);
        links_a[index]->index = links_b[index]->index = index;
    }
    size_t size = key_take(links_b, RT_MEMORY_KEY_LINKS_MAX, key);
    rt_premote *remote = attach(links_a[0], key, size, PEER_KEYS);
    for (uint32_t index = 0; index < RT_MEMORY_KEY_LINKS_MAX; index++)
        CHECK_INT(run_one(links_a[index], remote, RT_WORK_WRITE), RT_OK);
    links_a[3]->index = 4; /* it takes the key of its neighbour */
    CHECK_INT(run_one(links_a[3], remote, RT_WORK_WRITE), RT_E_REMOTE_ACCESS);
    verbs->remote_detach(links_a[0], remote);
    for (uint32_t index = 0; index < RT_MEMORY_KEY_LINKS_MAX; index++)
        both_close(links_a[index], links_b[index]);
    pair_close();
    end();
}

static void a_peer_that_gives_fewer_keys_than_links_is_refused_by_its_own_device(void)
{
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    rt_plink *links_a[2], *links_b[2];
    begin();
    windows_open(PEER_KEYS);
    for (uint32_t index = 0; index < 2; index++)
        links_open(&links_a[index], &links_b[index]);
    size_t size = key_take(links_b, 2, key);
    rt_premote *remote = attach(links_a[0], key, size, PEER_KEYS);
    both.link_a->index = 63; /* as large as an index gets */
    CHECK_INT(run_one(both.link_a, remote, RT_WORK_WRITE), RT_E_REMOTE_ACCESS);
    for (size_t bad = 0; bad <= sizeof key; bad++) {
        rt_premote *wrong = NULL;
        bool good = bad >= 25 && (bad - 25) % 4 == 0 && (bad - 25) / 4 < RT_MEMORY_KEY_LINKS_MAX;
        int status = verbs->remote_attach(links_a[0], key, bad, BUFFER_SIZE, ALL_RIGHTS & ~1u, &wrong, &both.detail);
        CHECK_INT(status, good ? RT_OK : RT_E_PROTOCOL);
        if (wrong != NULL)
            verbs->remote_detach(links_a[0], wrong);
    }
    verbs->remote_detach(links_a[0], remote);
    for (uint32_t index = 0; index < 2; index++)
        both_close(links_a[index], links_b[index]);
    pair_close();
    end();
}

static void a_window_gives_the_rights_of_its_memory_and_no_others(void)
{
    static const uint8_t opcodes[] = {RT_WORK_WRITE, RT_WORK_READ};
    static const uint32_t rights[] = {RT_ACCESS_REMOTE_READ, RT_ACCESS_REMOTE_WRITE};
    for (uint32_t index = 0; index < 2; index++) {
        uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
        begin();
        windows_open(RT_ACCESS_LOCAL_WRITE | rights[index] | RT_ACCESS_PER_PEER_KEYS);
        both.remote = attach(both.link_a, key, key_take(&both.link_b, 1, key), rights[index]);
        CHECK_INT(run_one(both.link_a, both.remote, opcodes[1 - index]), RT_OK);
        CHECK_INT(run_one(both.link_a, both.remote, opcodes[index]), RT_E_REMOTE_ACCESS);
        pair_close();
        end();
    }
}

static void the_registrations_own_key_reaches_nothing_and_is_not_given(void)
{
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    size_t size = 0;
    begin();
    windows_open(PEER_KEYS);
    CHECK_INT(key_ask(NULL, 0, key, &size), RT_E_ACCESS);
    size = key_take(&both.link_b, 1, key);
    uint32_t rkey = ((const verbs_memory *)(const void *)both.memory_b)->mr->rkey;
    for (uint32_t index = 0; index < 4; index++)
        key[1 + index] = (uint8_t)(rkey >> 8 * index); /* a peer that guesses it */
    both.remote = attach(both.link_a, key, size, PEER_KEYS);
    CHECK_INT(((const verbs_remote *)(const void *)both.remote)->keys[0], rkey);
    CHECK_INT(run_one(both.link_a, both.remote, RT_WORK_WRITE), RT_E_REMOTE_ACCESS);
    pair_close();
    end();
}

static void a_key_that_is_asked_for_again_is_the_same(void)
{
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX], again[RT_MEMORY_KEY_SIZE_MAX];
    begin();
    windows_open(PEER_KEYS);
    size_t size = key_take(&both.link_b, 1, key);
    uint32_t live = faked.fake_live(), doorbells = faked.fake_doorbells();
    CHECK_INT(key_take(&both.link_b, 1, again), (int64_t)size);
    CHECK_BYTES(again, key, size);
    CHECK_INT(faked.fake_live(), live);
    CHECK_INT(faked.fake_doorbells(), doorbells);
    pair_close();
    end();
}

static void binding_has_room_beside_a_full_send_queue_and_disturbs_no_completion(void)
{
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    size_t size = 0;
    rt_completion completions[VERBS_WORK_DEPTH];
    rt_segment segment = {.size = 8};
    rt_premote *back = NULL;
    begin();
    windows_open(PEER_KEYS);
    rt_pmemory *target = NULL;
    CHECK_INT(memory_open(both.a, both.bytes_a, ALL_RIGHTS, &target, &both.detail), RT_OK);
    CHECK_INT(verbs->memory_key(both.a, target, NULL, 0, key, &size, &both.detail), RT_OK);
    CHECK_INT(verbs->remote_attach(both.link_b, key, size, BUFFER_SIZE, ALL_RIGHTS & ~1u, &back, &both.detail), RT_OK);
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
    segment.memory = both.memory_b;
    segment.address = both.bytes_b;
    uint32_t depth = both.b->limits.work_depth;
    CHECK_INT(depth, VERBS_WORK_DEPTH);
    for (uint32_t index = 0; index < depth; index++) {
        rt_work item = work_of(RT_WORK_WRITE, &segment, 0, index);
        rt_posted posted;
        item.remote = back;
        CHECK_INT(verbs->post(both.link_b, &item, 1, &posted), RT_OK);
        CHECK_INT(posted.accepted, 1);
    }
    CHECK_INT(key_ask(&both.link_b, 1, key, &size), RT_E_AGAIN);
    faked.fake_step();
    take(both.b, DATA_QUEUE, completions, depth);
    for (uint32_t index = 0; index < depth; index++)
        CHECK(completions[index].token == index && completions[index].status == RT_OK);
    nothing_left(both.b, DATA_QUEUE);
    CHECK_INT(key_ask(&both.link_b, 1, key, &size), RT_OK);
    verbs->remote_detach(both.link_b, back);
    verbs->memory_release(both.a, target);
    pair_close();
    end();
}

static void more_windows_than_are_bound_at_once_come_in_turn(void)
{
    enum { MEMORIES = 3 * VERBS_BINDS };
    rt_pmemory *memories[MEMORIES];
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    size_t size;
    begin();
    windows_open(PEER_KEYS);
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
    for (uint32_t index = 0; index < MEMORIES; index++)
        CHECK_INT(memory_open(both.b, both.bytes_b, PEER_KEYS, &memories[index], &both.detail), RT_OK);
    uint32_t before = faked.fake_live(), bound = 0;
    for (uint32_t round = 0; bound < MEMORIES && round < 10; round++) {
        bound = 0;
        for (uint32_t index = 0; index < MEMORIES; index++)
            bound += verbs->memory_key(both.b, memories[index], &both.link_b, 1, key, &size, &both.detail) == RT_OK;
        CHECK(faked.fake_live() - before <= bound + VERBS_BINDS);
        faked.fake_step();
        nothing_left(both.b, DATA_QUEUE);
    }
    CHECK_INT(bound, MEMORIES);
    for (uint32_t index = 0; index < MEMORIES; index++)
        verbs->memory_release(both.b, memories[index]);
    CHECK_INT(faked.fake_live(), before - MEMORIES);
    pair_close();
    end();
}

static void memory_that_is_released_takes_its_keys_along(void)
{
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    begin();
    windows_open(PEER_KEYS);
    both.remote = attach(both.link_a, key, key_take(&both.link_b, 1, key), PEER_KEYS);
    verbs->memory_release(both.b, both.memory_b);
    both.memory_b = NULL;
    CHECK_INT(run_one(both.link_a, both.remote, RT_WORK_WRITE), RT_E_REMOTE_ACCESS);
    pair_close();
    end();
}

static void memory_released_while_its_window_is_bound_hurts_no_link(void)
{
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    size_t size;
    begin();
    windows_open(PEER_KEYS);
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
    uint32_t before = faked.fake_live();
    CHECK_INT(key_ask(&both.link_b, 1, key, &size), RT_E_AGAIN);
    verbs->memory_release(both.b, both.memory_b);
    CHECK_INT(faked.fake_live(), before + 1); /* both live on: the bind is under way */
    faked.fake_step();
    nothing_left(both.b, DATA_QUEUE);
    CHECK_INT(memory_open(both.b, both.bytes_b, PEER_KEYS, &both.memory_b, &both.detail), RT_OK);
    faked.fake_set_engine(FAKE_ENGINE_POLL);
    size = key_take(&both.link_b, 1, key); /* the next use of the link ends them */
    CHECK_INT(faked.fake_live(), before + 1);
    both.remote = attach(both.link_a, key, size, PEER_KEYS);
    CHECK_INT(run_one(both.link_a, both.remote, RT_WORK_WRITE), RT_OK);
    pair_close();
    end();
}

static void memory_released_while_its_window_is_bound_ends_with_the_link(void)
{
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    size_t size;
    begin();
    windows_open(PEER_KEYS);
    faked.fake_set_engine(FAKE_ENGINE_MANUAL);
    CHECK_INT(key_ask(&both.link_b, 1, key, &size), RT_E_AGAIN);
    verbs->memory_release(both.b, both.memory_b);
    both.memory_b = NULL;
    uint32_t before = faked.fake_live();
    verbs->link_shut(both.link_b);
    CHECK_INT(faked.fake_live(), before - 2);
    pair_close();
    end();
}

static void a_bind_that_fails_is_told_and_gives_no_key(void)
{
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    size_t size = 0;
    begin();
    windows_open(PEER_KEYS);
    faked.fake_complete(1, IBV_WC_MW_BIND_ERR, 0);
    CHECK_INT(key_ask(&both.link_b, 1, key, &size), RT_E_AGAIN);
    nothing_left(both.b, DATA_QUEUE);
    CHECK(key_ask(&both.link_b, 1, key, &size) < 0 && key_ask(&both.link_b, 1, key, &size) != RT_E_AGAIN);
    CHECK_HAS(both.detail.text, "IBV_WC_MW_BIND_ERR");
    pair_close();
    end();
}

static void a_window_that_cannot_be_had_is_told_and_leaves_nothing(void)
{
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    size_t size = 0;
    begin();
    windows_open(PEER_KEYS);
    uint32_t before = faked.fake_live();
    faked.fake_fail_call("ibv_alloc_mw", 1, ENOMEM);
    CHECK(key_ask(&both.link_b, 1, key, &size) != RT_E_AGAIN);
    CHECK_HAS(both.detail.text, "memory window of fake1, which has at most 1000");
    CHECK(faked.fake_triggered());
    faked.fake_accept(0, EINVAL); /* the driver takes no request */
    CHECK(key_ask(&both.link_b, 1, key, &size) != RT_E_AGAIN);
    CHECK_INT(faked.fake_live(), before);
    key_take(&both.link_b, 1, key);
    pair_close();
    end();
}

static void windows_of_a_lost_device_end_before_its_queue_pairs(void)
{
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    begin();
    windows_open(PEER_KEYS);
    key_take(&both.link_b, 1, key);
    faked.fake_fail_call("modify_to_err", 1, EIO);
    verbs->link_shut(both.link_b);
    CHECK(verbs_link_of(both.link_b)->qp == NULL);
    pair_close();
    end();
}

static void a_device_without_windows_promises_none_and_keeps_no_room(void)
{
    begin();
    faked.fake_device_at(1)->attr.device_cap_flags = IBV_DEVICE_MEM_WINDOW; /* of type 1: of no use */
    windows_open(ALL_RIGHTS);
    CHECK(both.a->limits.keys_per_peer && !both.b->limits.keys_per_peer);
    CHECK_INT(verbs_device_of(both.a)->request.cap.max_send_wr, VERBS_WORK_DEPTH + VERBS_BINDS);
    CHECK_INT(verbs_device_of(both.b)->request.cap.max_send_wr, VERBS_WORK_DEPTH);
    pair_close();
    end();
}

#else

#include "without_verbs.h"

#endif

static const check_test tests[] = {
    CHECK_TEST(a_key_for_a_peer_reaches_the_memory_through_its_link),
    CHECK_TEST(a_key_for_a_peer_is_refused_through_another_link),
    CHECK_TEST(a_key_is_dead_when_its_link_is_shut),
    CHECK_TEST(every_link_of_a_channel_has_a_key_of_its_own),
    CHECK_TEST(a_peer_that_gives_fewer_keys_than_links_is_refused_by_its_own_device),
    CHECK_TEST(a_window_gives_the_rights_of_its_memory_and_no_others),
    CHECK_TEST(the_registrations_own_key_reaches_nothing_and_is_not_given),
    CHECK_TEST(a_key_that_is_asked_for_again_is_the_same),
    CHECK_TEST(binding_has_room_beside_a_full_send_queue_and_disturbs_no_completion),
    CHECK_TEST(more_windows_than_are_bound_at_once_come_in_turn),
    CHECK_TEST(memory_that_is_released_takes_its_keys_along),
    CHECK_TEST(memory_released_while_its_window_is_bound_hurts_no_link),
    CHECK_TEST(memory_released_while_its_window_is_bound_ends_with_the_link),
    CHECK_TEST(a_bind_that_fails_is_told_and_gives_no_key),
    CHECK_TEST(a_window_that_cannot_be_had_is_told_and_leaves_nothing),
    CHECK_TEST(windows_of_a_lost_device_end_before_its_queue_pairs),
    CHECK_TEST(a_device_without_windows_promises_none_and_keeps_no_room),
};
CHECK_MAIN(tests)
