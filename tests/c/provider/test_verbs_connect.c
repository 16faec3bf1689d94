/* test_verbs_connect.c: registering memory and joining links over the fake libibverbs: what each end takes from the other,
 * and that the bytes of a peer are checked.
 *
 * Needs: csrc/base/, csrc/provider/absent.c, csrc/provider/verbs/ and libfakeibverbs.so (tests/c/fake_verbs*.c). */
#include "check.h"
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <sys/resource.h>

#include "verbs_pair.h"

/* ---- registration ---- */

static void a_refused_registration_says_why(void)
{
    static const struct {
        int error, status;
        const char *words;
    } cases[] = {
        {EFAULT, RT_E_INVALID, "not all of the range is mapped"},
        {EINVAL, RT_E_INVALID, "RDMAV_HUGEPAGES_SAFE"},
        {EOPNOTSUPP, RT_E_UNSUPPORTED, "does not support the rights"},
        {EPERM, RT_E_SYSTEM, "uverbs*): EPERM"},
        {EIO, RT_E_DEVICE_LOST, "EIO"},
    };
    begin();
    pair_open();
    rt_pmemory *memory;
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        faked.fake_fail_call("ibv_reg_mr", 1, cases[which].error);
        CHECK_INT(memory_open(both.a, both.bytes_a, 0, &memory, &both.detail), cases[which].status);
        CHECK_HAS(both.detail.text, cases[which].words);
        CHECK_INT(both.detail.error_number, cases[which].error);
    }
    CHECK_INT(memory_open(both.a, NULL, 0, &memory, &both.detail), RT_E_INVALID);
    CHECK_INT(memory_open(both.a, both.bytes_a, RT_ACCESS_REMOTE_WRITE, &memory, &both.detail), RT_E_INVALID);
    rt_memory huge = {.address = both.bytes_a, .size = (1ull << 40) + 1, .descriptor = -1};
    CHECK_INT(verbs->memory_register(both.a, &huge, &memory, &both.detail), RT_E_INVALID);
    CHECK_HAS(both.detail.text, "1099511627776");
    pair_close();
    end();
}

static void too_little_lockable_memory_says_the_figures_and_the_fix(void)
{
    begin();
    pair_open();
    rt_pmemory *memory;
    struct rlimit before, small;
    CHECK_INT(getrlimit(RLIMIT_MEMLOCK, &before), 0);
    small = before;
    small.rlim_cur = 4096;
    CHECK_INT(setrlimit(RLIMIT_MEMLOCK, &small), 0);
    bool had_right = lock_right_set(false); /* with which the limit does not hold */
    faked.fake_fail_call("ibv_reg_mr", 1, ENOMEM);
    int status = memory_open(both.a, both.bytes_a, 0, &memory, &both.detail);
    rt_detail detail = both.detail;
    faked.fake_fail_call("ibv_create_qp", 1, ENOMEM);
    rt_plink *link;
    int queue_status =
        verbs->link_create(both.a, DATA_QUEUE, SERVICE_QUEUE, &link, both.address_a, &both.address_a_size, &both.detail);
    setrlimit(RLIMIT_MEMLOCK, &before);
    if (had_right)
        lock_right_set(true);
    CHECK_INT(status, RT_E_MEMLOCK);
    CHECK_HAS(detail.text, "8 KiB more do not fit");
    CHECK_HAS(detail.text, "which is 4 KiB");
    CHECK_HAS(detail.text, "ulimit -l");
    CHECK_HAS(detail.text, "LimitMEMLOCK");
    CHECK_INT(queue_status, RT_E_MEMLOCK);
    CHECK_HAS(both.detail.text, "create a queue pair on fake0");
    pair_close();
    end();
}

static void enough_lockable_memory_and_still_no_room_is_something_else(void)
{
    begin();
    pair_open();
    rt_pmemory *memory;
    struct rlimit limit;
    CHECK_INT(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
    if (limit.rlim_cur < (1 << 20))
        CHECK_SKIP("RLIMIT_MEMLOCK is below 1 MiB");
    faked.fake_fail_call("ibv_reg_mr", 1, ENOMEM);
    CHECK_INT(memory_open(both.a, both.bytes_a, 0, &memory, &both.detail), RT_E_NO_MEMORY);
    CHECK_HAS(both.detail.text, "1000 registrations");
    pair_close();
    end();
}

static void rights_are_those_asked_for_and_no_more(void)
{
    static const struct {
        uint32_t access;
        unsigned flags;
    } cases[] = {
        {0, 0},
        {RT_ACCESS_LOCAL_WRITE, IBV_ACCESS_LOCAL_WRITE},
        {RT_ACCESS_REMOTE_READ, IBV_ACCESS_REMOTE_READ},
        {RT_ACCESS_LOCAL_WRITE | RT_ACCESS_REMOTE_WRITE, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE},
        {RT_ACCESS_LOCAL_WRITE | RT_ACCESS_RELAXED_ORDER, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_RELAXED_ORDERING},
    };
    begin();
    pair_open();
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        rt_pmemory *memory;
        CHECK_INT(memory_open(both.a, both.bytes_a, cases[which].access, &memory, &both.detail), RT_OK);
        CHECK_INT(((fake_mr *)(void *)((verbs_memory *)(void *)memory)->mr)->access, cases[which].flags);
        CHECK_INT(memory->access, cases[which].access);
        verbs->memory_release(both.a, memory);
    }
    pair_close();
    end();
}

static void a_peers_key_is_checked_byte_by_byte(void)
{
    begin();
    pair_open();
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX + 1], bad[RT_MEMORY_KEY_SIZE_MAX + 1];
    size_t size;
    rt_premote *remote;
    const uint32_t rights = RT_ACCESS_REMOTE_WRITE | RT_ACCESS_REMOTE_READ;
    CHECK_INT(verbs->memory_key(both.b, both.memory_b, NULL, 0, key, &size, &both.detail), RT_OK);
    CHECK_INT(size, 25);
    for (size_t cut = 0; cut < size; cut++)
        CHECK_INT(verbs->remote_attach(both.link_a, key, cut, BUFFER_SIZE, rights, &remote, &both.detail), RT_E_PROTOCOL);
    memcpy(bad, key, size);
    bad[size] = 0;
    CHECK_INT(verbs->remote_attach(both.link_a, bad, size + 1, BUFFER_SIZE, rights, &remote, &both.detail), RT_E_PROTOCOL);
    CHECK_INT(verbs->remote_attach(both.link_a, key, size, BUFFER_SIZE - 1, rights, &remote, &both.detail), RT_E_PROTOCOL);
    CHECK_INT(verbs->remote_attach(both.link_a, key, size, BUFFER_SIZE, RT_ACCESS_REMOTE_READ, &remote, &both.detail),
              RT_E_PROTOCOL);
    bad[0] = 9;
    CHECK_INT(verbs->remote_attach(both.link_a, bad, size, BUFFER_SIZE, rights, &remote, &both.detail), RT_E_VERSION);
    memcpy(bad, key, size);
    memset(bad + 5, 0xff, 8); /* an address that the size would carry past the end */
    CHECK_INT(verbs->remote_attach(both.link_a, bad, size, BUFFER_SIZE, rights, &remote, &both.detail), RT_E_PROTOCOL);
    memcpy(bad, key, size);
    bad[21] |= 0x10; /* a right there is not */
    CHECK_INT(verbs->remote_attach(both.link_a, bad, size, BUFFER_SIZE, rights | 0x10, &remote, &both.detail), RT_E_PROTOCOL);
    CHECK_INT(verbs->remote_attach(both.link_a, key, size, BUFFER_SIZE, rights, &remote, &both.detail), RT_OK);
    CHECK_INT(remote->size, BUFFER_SIZE);
    CHECK_INT(remote->access, rights);
    CHECK(verbs->remote_map(remote) == NULL);
    verbs->remote_detach(both.link_a, remote);
    pair_close();
    end();
}

/* ---- joining ---- */

static void each_end_takes_the_others_numbers_and_the_smaller_limits(void)
{
    begin();
    CHECK_INT(pair_create("traffic_class=104&service_level=3&ack_timeout=17&retry_count=5&rnr_retry=4", "", ALL_RIGHTS), RT_OK);
    CHECK_INT(pair_join(ALL_RIGHTS), RT_OK);
    const verbs_link *a = verbs_link_of(both.link_a), *b = verbs_link_of(both.link_b);
    struct ibv_qp_attr at_a, at_b;
    CHECK_INT(faked.fake_qp_attributes(a->qpn, &at_a), 0);
    CHECK_INT(faked.fake_qp_attributes(b->qpn, &at_b), 0);
    CHECK(a->psn != b->psn && a->qpn != b->qpn && a->psn < (1 << 24));
    CHECK_INT(at_a.sq_psn, a->psn);
    CHECK_INT(at_a.rq_psn, b->psn);
    CHECK_INT(at_b.sq_psn, b->psn);
    CHECK_INT(at_b.rq_psn, a->psn);
    CHECK_INT(at_a.dest_qp_num, b->qpn);
    CHECK_INT(at_b.dest_qp_num, a->qpn);
    CHECK_INT(at_a.path_mtu, IBV_MTU_1024); /* fake0 has 4096 */
    CHECK_INT(at_b.path_mtu, IBV_MTU_1024);
    CHECK_INT(at_a.max_rd_atomic, 8);
    CHECK_INT(at_b.max_dest_rd_atomic, 8);
    CHECK_INT(at_b.max_rd_atomic, 8);
    CHECK_INT(at_a.max_dest_rd_atomic, 8); /* fake0 could serve 16, fake1 begins 8 */
    CHECK_INT(at_a.timeout, 17);
    CHECK_INT(at_a.retry_cnt, 5);
    CHECK_INT(at_a.rnr_retry, 4);
    CHECK_INT(at_b.timeout, 18);
    CHECK_INT(at_b.retry_cnt, 7);
    CHECK_INT(at_b.rnr_retry, 6);
    CHECK_INT(at_a.ah_attr.is_global, 1);
    CHECK_INT(at_a.ah_attr.sl, 3);
    CHECK_INT(at_a.ah_attr.grh.traffic_class, 104);
    CHECK_INT(at_a.ah_attr.grh.hop_limit, 64);
    CHECK_INT(at_a.ah_attr.grh.sgid_index, 3);
    CHECK_BYTES(at_a.ah_attr.grh.dgid.raw, verbs_device_of(both.b)->port.gid.bytes.raw, 16);
    pair_close();
    end();
}

static void the_mtu_argument_is_an_upper_bound(void)
{
    begin();
    CHECK_INT(pair_create("mtu=512", "mtu=2048", ALL_RIGHTS), RT_OK);
    CHECK_INT(pair_join(ALL_RIGHTS), RT_OK);
    struct ibv_qp_attr attr;
    CHECK_INT(faked.fake_qp_attributes(verbs_link_of(both.link_b)->qpn, &attr), 0);
    CHECK_INT(attr.path_mtu, IBV_MTU_512);
    pair_close();
    end();
}

static void infiniband_is_addressed_by_lid(void)
{
    begin();
    faked.fake_make_infiniband(0);
    faked.fake_make_infiniband(1);
    pair_open();
    struct ibv_qp_attr attr;
    CHECK_INT(faked.fake_qp_attributes(verbs_link_of(both.link_a)->qpn, &attr), 0);
    CHECK_INT(attr.ah_attr.dlid, 18);
    CHECK_INT(attr.ah_attr.is_global, 0);
    rt_segment segment = segment_of(0, 8);
    rt_completion completion;
    rt_work item = work_of(RT_WORK_WRITE, &segment, 0, 1);
    post_one(&item);
    take(both.a, DATA_QUEUE, &completion, 1);
    CHECK_INT(completion.status, RT_OK);
    pair_close();
    end();
}

static void the_order_of_writes_is_promised_only_where_it_holds(void)
{
    begin();
    rt_detail detail;
    rt_pdevice *device;
    rt_device_info infos[2];
    faked.fake_make_infiniband(1);
    static const struct {
        const char *name, *arguments, *reason;
        bool orders;
    } cases[] = {
        {"fake0", "", "placement=ordered: RoCE", true},
        {"fake1", "", "placement=any: InfiniBand, which may route adaptively", false},
        {"fake0", "placement=any", "placement=any: asked for by name", false},
        {"fake1", "placement=ordered", "placement=ordered: asked for by name", true},
        {"fake1", "placement=auto", "placement=any: InfiniBand", false},
    };
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        CHECK_INT(device_open(cases[which].name, cases[which].arguments, &device, &detail), RT_OK);
        CHECK_INT(device->limits.orders_writes, cases[which].orders);
        CHECK(device->limits.immediate_covers_earlier && device->limits.places_words_whole);
        CHECK_INT(device->limits.receive_depth, cases[which].orders ? 32 : 256);
        CHECK_HAS(device->order_reason, cases[which].reason);
        verbs->close(device);
    }
    CHECK_INT(verbs->list(infos, 2, &detail), 2);
    CHECK_HAS(infos[0].state, ", placement=ordered: RoCE");
    CHECK_HAS(infos[1].state, ", placement=any: InfiniBand");
    CHECK_INT(device_open("fake0", "placement=sorted", &device, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "one of auto, ordered, any");
    end();
}

static void ends_that_promise_different_orders_are_refused(void)
{
    begin();
    CHECK_INT(pair_create("placement=any", "", ALL_RIGHTS), RT_OK);
    CHECK_INT(pair_join(ALL_RIGHTS), RT_E_REFUSED);
    CHECK_HAS(both.detail.text, "fake0 has placement=any and the peer placement=ordered");
    CHECK_HAS(both.detail.text, "both ends the same placement=");
    pair_close();
    end();
}

static void ends_of_different_families_are_told_apart(void)
{
    begin();
    CHECK_INT(pair_create("", "gid=1", ALL_RIGHTS), RT_OK);
    CHECK_INT(pair_join(ALL_RIGHTS), RT_E_REFUSED);
    CHECK_HAS(both.detail.text, "fake0 has a RoCEv2 IPv4 address (gid 3)");
    CHECK_HAS(both.detail.text, "the peer a RoCEv2 IPv6 link-local one");
    CHECK_HAS(both.detail.text, "gid=INDEX");
    pair_close();
    faked.fake_device_at(1)->ports[0].link_layer = IBV_LINK_LAYER_INFINIBAND;
    faked.fake_device_at(1)->ports[0].lid = 5;
    uint8_t gid[16] = {0xfe, 0x80, [15] = 9};
    faked.fake_set_gid(1, 1, 0, IBV_GID_TYPE_IB, gid);
    CHECK_INT(pair_create("", "", ALL_RIGHTS), RT_OK);
    CHECK_INT(pair_join(ALL_RIGHTS), RT_E_REFUSED);
    CHECK_HAS(both.detail.text, "Ethernet and the peer's device on InfiniBand");
    pair_close();
    end();
}

static void a_peers_address_is_checked_byte_by_byte(void)
{
    static const struct {
        size_t offset, size;
        uint8_t value;
        int status;
    } cases[] = {
        {0, 1, 1, RT_E_VERSION},                                /* version */
        {1, 1, 7, RT_E_PROTOCOL},     {1, 1, 1, RT_E_PROTOCOL}, /* link layer */
        {2, 1, 0, RT_E_PROTOCOL},     {2, 1, 1, RT_E_PROTOCOL},     {2, 1, 4, RT_E_PROTOCOL},
        {2, 1, 99, RT_E_PROTOCOL},                                                              /* kind of GID */
        {2, 1, 2, RT_E_REFUSED},                                                                /* another family */
        {3, 1, 0, RT_E_PROTOCOL},     {3, 1, 6, RT_E_PROTOCOL},     {3, 1, 255, RT_E_PROTOCOL}, /* MTU */
        {4, 1, 0, RT_E_PROTOCOL},     {5, 1, 0, RT_E_PROTOCOL},                                 /* READs */
        {8, 4, 0, RT_E_PROTOCOL},     {8, 4, 0xff, RT_E_PROTOCOL},                              /* queue pair number */
        {12, 4, 0xff, RT_E_PROTOCOL},                                                           /* packet number */
        {16, 16, 0, RT_E_PROTOCOL},   {16, 1, 0xff, RT_E_PROTOCOL},                             /* GID: empty, multicast */
        {32, 1, 0, RT_E_PROTOCOL},    {32, 1, 3, RT_E_PROTOCOL},    {32, 1, 2, RT_E_REFUSED},   /* placement */
        {33, 1, 0, RT_E_REFUSED},                                                               /* partition */
    };
    begin();
    CHECK_INT(pair_create("", "", ALL_RIGHTS), RT_OK);
    uint8_t bad[RT_LINK_ADDRESS_SIZE_MAX + 1] = {0};
    CHECK_INT(both.address_b_size, 35);
    for (size_t cut = 0; cut < both.address_b_size; cut++)
        CHECK_INT(verbs->link_connect(both.link_a, both.address_b, cut, &both.detail), RT_E_PROTOCOL);
    memcpy(bad, both.address_b, both.address_b_size);
    CHECK_INT(verbs->link_connect(both.link_a, bad, both.address_b_size + 1, &both.detail), RT_E_PROTOCOL);
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        memcpy(bad, both.address_b, both.address_b_size);
        memset(bad + cases[which].offset, cases[which].value, cases[which].size);
        CHECK_INT(verbs->link_connect(both.link_a, bad, both.address_b_size, &both.detail), cases[which].status);
    }
    CHECK_INT(pair_join(ALL_RIGHTS), RT_OK); /* none of that has touched the queue pair */
    pair_close();
    end();
}

static void a_network_without_a_way_there_is_a_lost_peer(void)
{
    begin();
    CHECK_INT(pair_create("", "", ALL_RIGHTS), RT_OK);
    faked.fake_fail_call("ibv_modify_qp", 1, ETIMEDOUT);
    CHECK_INT(pair_join(ALL_RIGHTS), RT_E_PEER_LOST);
    CHECK_HAS(both.detail.text, "10.0.1.1");
    CHECK_HAS(both.detail.text, "from gid 3");
    CHECK_HAS(both.detail.text, "ETIMEDOUT");
    pair_close();
    end();
}

#else

#include "without_verbs.h"

#endif

static const check_test tests[] = {
    CHECK_TEST(a_refused_registration_says_why),
    CHECK_TEST(too_little_lockable_memory_says_the_figures_and_the_fix),
    CHECK_TEST(enough_lockable_memory_and_still_no_room_is_something_else),
    CHECK_TEST(rights_are_those_asked_for_and_no_more),
    CHECK_TEST(a_peers_key_is_checked_byte_by_byte),
    CHECK_TEST(each_end_takes_the_others_numbers_and_the_smaller_limits),
    CHECK_TEST(the_mtu_argument_is_an_upper_bound),
    CHECK_TEST(infiniband_is_addressed_by_lid),
    CHECK_TEST(the_order_of_writes_is_promised_only_where_it_holds),
    CHECK_TEST(ends_that_promise_different_orders_are_refused),
    CHECK_TEST(ends_of_different_families_are_told_apart),
    CHECK_TEST(a_peers_address_is_checked_byte_by_byte),
    CHECK_TEST(a_network_without_a_way_there_is_a_lost_peer),
};
CHECK_MAIN(tests)
