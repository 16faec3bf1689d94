/* test_verbs_cluster.c: what a first run on a cluster meets, over the fake libibverbs: partitions, tables of addresses,
 * subnets, addresses that change, drivers that promise what they lack.
 *
 * Needs: csrc/base/, csrc/provider/absent.c, csrc/provider/verbs/ and libfakeibverbs.so (tests/c/fake_verbs*.c). */
#include "check.h"
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <poll.h>
#include <sys/wait.h>

#include "verbs_pair.h"

/* ---- partitions ---- */

static void pkeys_set(int number, uint16_t first, uint16_t second, uint16_t third)
{
    fake_device *device = faked.fake_device_at(number);
    device->pkeys[0] = first;
    device->pkeys[1] = second;
    device->pkeys[2] = third;
}

static void infiniband_begin(void)
{
    begin();
    faked.fake_make_infiniband(0);
    faked.fake_make_infiniband(1);
}

static void a_full_member_of_a_partition_is_chosen_first(void)
{
    static const struct {
        uint16_t keys[3];
        const char *arguments;
        uint16_t index, key;
    } cases[] = {
        {{0x7fff, 0x8005, 0x8006}, "", 1, 0x8005},
        {{0x7fff, 0x0005, 0}, "", 0, 0x7fff},
        {{0, 0, 0x8009}, "", 2, 0x8009},
        {{0xffff, 0x8005, 0}, "pkey=0x8005", 1, 0x8005},
        {{0xffff, 0x8005, 0}, "pkey=0x0005", 1, 0x8005},
        {{0xffff, 0x0005, 0x8005}, "pkey=5", 2, 0x8005},
        {{0xffff, 0x0005, 0x8007}, "pkey=0x8005", 1, 0x0005},
        {{0xffff, 0x80aB, 0}, "pkey=0x80Ab", 1, 0x80ab},
    };
    infiniband_begin();
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        rt_detail detail;
        rt_pdevice *device;
        pkeys_set(0, cases[which].keys[0], cases[which].keys[1], cases[which].keys[2]);
        CHECK_INT(device_open("fake0", cases[which].arguments, &device, &detail), RT_OK);
        CHECK_INT(verbs_device_of(device)->port.pkey_index, cases[which].index);
        CHECK_INT(verbs_device_of(device)->port.pkey, cases[which].key);
        verbs->close(device);
    }
    end();
}

static void a_partition_that_is_not_there_names_those_that_are(void)
{
    rt_detail detail;
    rt_pdevice *device;
    infiniband_begin();
    pkeys_set(0, 0x7fff, 0x8005, 0);
    CHECK_INT(device_open("fake0", "pkey=0x8006", &device, &detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, "pkey=0x8006");
    CHECK_HAS(detail.text, "0x7fff, 0x8005");
    pkeys_set(0, 0, 0x8000, 0);
    CHECK_INT(device_open("fake0", "", &device, &detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, "in no partition");
    CHECK_INT(device_open("fake0", "pkey=0x", &device, &detail), RT_E_INVALID);
    CHECK_INT(device_open("fake0", "pkey=0", &device, &detail), RT_E_INVALID);
    CHECK_INT(device_open("fake0", "pkey=0x10000", &device, &detail), RT_E_INVALID);
    end();
    begin();
    CHECK_INT(device_open("fake0", "pkey=0x8005", &device, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "on Ethernet");
    end();
}

static void bytes_pass_through_a_partition_that_is_not_the_first(void)
{
    infiniband_begin();
    pkeys_set(0, 0x7fff, 0x8005, 0); /* limited in the first, at both ends: no packet would pass there */
    pkeys_set(1, 0x7fff, 0x0006, 0x8005);
    pair_open();
    struct ibv_qp_attr attr;
    CHECK_INT(faked.fake_qp_attributes(verbs_link_of(both.link_b)->qpn, &attr), 0);
    CHECK_INT(attr.pkey_index, 2);
    rt_segment segment = segment_of(0, 8);
    rt_completion completion;
    rt_work item = work_of(RT_WORK_WRITE, &segment, 0, 1);
    rt_posted posted;
    CHECK_INT(verbs->post(both.link_a, &item, 1, &posted), RT_OK);
    take(both.a, DATA_QUEUE, &completion, 1);
    CHECK_INT(completion.status, RT_OK);
    pair_close();
    end();
}

static void ends_in_different_partitions_are_refused_in_words(void)
{
    infiniband_begin();
    pkeys_set(0, 0x8005, 0, 0);
    pkeys_set(1, 0x8006, 0, 0);
    CHECK_INT(pair_create("", "", ALL_RIGHTS), RT_OK);
    CHECK_INT(pair_join(ALL_RIGHTS), RT_E_REFUSED);
    CHECK_HAS(both.detail.text, "partition 0x8005 and the peer in 0x8006");
    CHECK_HAS(both.detail.text, "pkey=");
    pair_close();
    pkeys_set(0, 0x0005, 0, 0);
    pkeys_set(1, 0x0005, 0, 0);
    CHECK_INT(pair_create("", "", ALL_RIGHTS), RT_OK);
    CHECK_INT(pair_join(ALL_RIGHTS), RT_E_REFUSED);
    CHECK_HAS(both.detail.text, "both limited members of partition 0x0005");
    pair_close();
    end();
}

/* ---- addresses ---- */

static void another_subnet_of_infiniband_is_refused_in_words(void)
{
    static const uint8_t elsewhere[16] = {0xfe, 0xc0, [7] = 9, [15] = 2};
    infiniband_begin();
    faked.fake_set_gid(1, 1, 0, IBV_GID_TYPE_IB, elsewhere);
    CHECK_INT(pair_create("", "", ALL_RIGHTS), RT_OK);
    CHECK_INT(pair_join(ALL_RIGHTS), RT_E_REFUSED);
    CHECK_HAS(both.detail.text, "different InfiniBand subnets");
    pair_close();
    end();
}

static void a_gid_is_found_by_address_and_by_network(void)
{
    static const uint8_t mapped[16] = {[10] = 0xff, [11] = 0xff, 10, 7, 1, 9}, global[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = 5};
    static const struct {
        const char *arguments;
        uint32_t index;
        int status;
    } cases[] = {
        {"", 3, RT_OK},
        {"gid=10.7.1.9", 5, RT_OK},
        {"gid=10.7.0.0/16", 5, RT_OK},
        {"gid=10.6.0.0/15", 5, RT_OK},
        {"gid=10.0.0.0/8", 3, RT_OK}, /* both: the lower index */
        {"gid=10.4.0.0/15", 0, RT_E_UNAVAILABLE},
        {"gid=2001:db8::/32", 6, RT_OK},
        {"gid=2001:db8::5", 6, RT_OK},
        {"gid=10.7.0.0/33", 0, RT_E_INVALID},
        {"gid=10.7.0.0/0", 0, RT_E_INVALID},
        {"gid=10.7.0", 0, RT_E_INVALID},
        {"gid=fe80::/10", 1, RT_OK},
    };
    begin();
    faked.fake_set_gid(0, 1, 5, IBV_GID_TYPE_ROCE_V2, mapped);
    faked.fake_set_gid(0, 1, 6, IBV_GID_TYPE_ROCE_V2, global);
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        rt_detail detail;
        rt_pdevice *device;
        CHECK_INT(device_open("fake0", cases[which].arguments, &device, &detail), cases[which].status);
        if (cases[which].status != RT_OK)
            continue;
        CHECK_INT(verbs_device_of(device)->port.gid.index, cases[which].index);
        verbs->close(device);
    }
    end();
}

static void an_address_of_this_namespace_comes_before_others(void)
{
    static const uint8_t loopback[16] = {[10] = 0xff, [11] = 0xff, 127, 0, 0, 1};
    rt_detail detail;
    rt_pdevice *device;
    begin();
    faked.fake_set_gid(0, 1, 6, IBV_GID_TYPE_ROCE_V2, loopback); /* behind 10.0.0.1, which is another's */
    CHECK_INT(device_open("fake0", "", &device, &detail), RT_OK);
    CHECK_INT(verbs_device_of(device)->port.gid.index, 6);
    CHECK(verbs_device_of(device)->port.gid.local);
    verbs->close(device);
    verbs_gid gids[2] = {{.kind = VERBS_GID_V2_IPV4}, {.kind = VERBS_GID_V2_LINK_LOCAL, .local = true}};
    CHECK(verbs_gid_choose(gids, 2) == &gids[1]);
    gids[0].local = true;
    CHECK(verbs_gid_choose(gids, 2) == &gids[0]);
    end();
}

static void an_address_that_changed_is_told_to_the_next_peer(void)
{
    rt_event event;
    rt_plink *link;
    static const uint8_t renewed[16] = {[10] = 0xff, [11] = 0xff, 10, 0, 0, 99}, none[16];
    begin();
    pair_open();
    faked.fake_set_gid(0, 1, 3, IBV_GID_TYPE_ROCE_V2, none);
    faked.fake_set_gid(0, 1, 5, IBV_GID_TYPE_ROCE_V2, renewed);
    CHECK_INT(faked.fake_raise(0, IBV_EVENT_GID_CHANGE, 1, 0), 1);
    verbs->service(both.a, &event);
    CHECK_INT(event.kind, RT_EVENT_NOTICE);
    CHECK_INT(verbs->link_create(both.a, DATA_QUEUE, SERVICE_QUEUE, &link, both.address_a, &both.address_a_size, &both.detail),
              RT_OK);
    CHECK_BYTES(both.address_a + 16, renewed, 16);
    CHECK_INT(verbs_link_of(link)->own_gid, 5);
    verbs->link_destroy(link);
    faked.fake_set_gid(0, 1, 5, IBV_GID_TYPE_ROCE_V2, none);
    faked.fake_device_at(0)->ports[0].state = IBV_PORT_DOWN;
    CHECK_INT(faked.fake_raise(0, IBV_EVENT_PORT_ERR, 1, 0), 1);
    verbs->service(both.a, &event);
    CHECK_INT(verbs->link_create(both.a, DATA_QUEUE, SERVICE_QUEUE, &link, both.address_a, &both.address_a_size, &both.detail),
              RT_E_UNAVAILABLE);
    CHECK_HAS(both.detail.text, "not active");
    faked.fake_device_at(0)->ports[0].state = IBV_PORT_ACTIVE; /* without a further event: it is looked at again */
    CHECK_INT(verbs->link_create(both.a, DATA_QUEUE, SERVICE_QUEUE, &link, both.address_a, &both.address_a_size, &both.detail),
              RT_OK);
    verbs->link_destroy(link);
    pair_close();
    end();
}

/* ---- a device that the kernel lets go of ---- */

static int awake(int descriptor)
{
    struct pollfd fd = {.fd = descriptor, .events = POLLIN};
    return poll(&fd, 1, 0);
}

static int descriptors_awake(void)
{
    return awake(verbs->service_fd(both.a)) + awake(verbs->event_fd(both.a, DATA_QUEUE)) +
           awake(verbs->event_fd(both.a, SERVICE_QUEUE));
}

/* With and without a library that was told to free the objects of such a device without a word. */
static void a_device_that_was_taken_away_wakes_nobody_and_ends_its_work(void)
{
    for (int frees = 0; frees < 2; frees++) {
        rt_event event;
        rt_completion completion;
        rt_posted posted;
        begin();
        pair_open();
        faked.fake_set_engine(FAKE_ENGINE_MANUAL);
        rt_segment segment = segment_of(0, 8);
        rt_work item = work_of(RT_WORK_WRITE, &segment, 0, 31), receive = {.opcode = RT_WORK_RECV, .token = 55};
        CHECK_INT(verbs->post(both.link_a, &item, 1, &posted), RT_OK);
        CHECK_INT(verbs->post(both.link_a, &receive, 1, &posted), RT_OK);
        setenv("RDMAV_ALLOW_DISASSOC_DESTROY", frees ? "1" : "0", 1);
        faked.fake_sever(0);
        CHECK_INT(descriptors_awake(), 3);
        verbs->service(both.a, &event);
        CHECK_INT(event.kind, RT_EVENT_DEVICE_LOST);
        CHECK_INT(descriptors_awake(), 0);
        CHECK_HAS(event.detail.text, "the kernel has let go of it");
        verbs->service(both.a, &event);
        CHECK_INT(event.kind, RT_EVENT_NONE);
        verbs->link_shut(both.link_a);
        take(both.a, DATA_QUEUE, &completion, 1);
        CHECK(completion.token == 31 && completion.status == RT_E_FLUSHED);
        take(both.a, SERVICE_QUEUE, &completion, 1);
        CHECK(completion.token == 55 && completion.status == RT_E_FLUSHED);
        pair_close();
        end();
        setenv("RDMAV_ALLOW_DISASSOC_DESTROY", "1", 1);
    }
}

static void a_device_that_failed_before_it_was_taken_away_is_lost_once(void)
{
    rt_event event;
    begin();
    pair_open();
    CHECK_INT(faked.fake_raise(0, IBV_EVENT_DEVICE_FATAL, 0, 0), 1);
    verbs->service(both.a, &event);
    CHECK_INT(event.kind, RT_EVENT_DEVICE_LOST);
    faked.fake_sever(0);
    CHECK_INT(descriptors_awake(), 3);
    verbs->service(both.a, &event);
    CHECK_INT(event.kind, RT_EVENT_NONE);
    CHECK_INT(descriptors_awake(), 0);
    verbs->link_shut(both.link_a);
    pair_close();
    end();
}

/* ---- hardware and its limits ---- */

static void timeouts_fit_the_kind_of_device(void)
{
    static const struct {
        uint32_t vendor;
        const char *arguments;
        uint8_t timeout, retries;
    } cases[] = {
        {0x2c9, "", 18, 7}, {0xffffff, "", 14, 6}, {0, "", 14, 6}, {0x2c9, "ack_timeout=20", 20, 7}, {0, "retry_count=3", 14, 3},
    };
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        struct ibv_qp_attr attr;
        begin();
        faked.fake_device_at(0)->attr.vendor_id = cases[which].vendor;
        pair_open_with(cases[which].arguments, ALL_RIGHTS);
        CHECK_INT(faked.fake_qp_attributes(verbs_link_of(both.link_a)->qpn, &attr), 0);
        CHECK_INT(attr.timeout, cases[which].timeout);
        CHECK_INT(attr.retry_cnt, cases[which].retries);
        pair_close();
        end();
    }
}

static int vector_of_first_queue(const char *arguments)
{
    rt_detail detail;
    rt_pdevice *device = NULL;
    begin();
    if (device_open("fake0", arguments, &device, &detail) != RT_OK)
        return -1;
    int vector = ((fake_cq *)(void *)verbs_device_of(device)->queues[0].cq)->vector;
    verbs->close(device);
    return vector;
}

/* Of two processes with numbers that follow each other, each has another vector for its first queue. */
static void processes_of_a_host_are_woken_by_different_vectors(void)
{
    bool differs = false;
    int own = vector_of_first_queue("");
    for (int tries = 0; tries < 16 && !differs; tries++) { /* another process may have taken the number in between */
        int status = 0;
        pid_t child = fork();
        if (child == 0)
            _exit(vector_of_first_queue("") == own ? 0 : 1);
        CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status));
        differs = WEXITSTATUS(status) == 1;
    }
    CHECK(differs);
    end();
}

static void devices_that_cannot_be_used_are_named_with_their_reasons(void)
{
    rt_detail detail;
    rt_pdevice *device;
    begin();
    faked.fake_device_at(0)->ports[0].state = IBV_PORT_DOWN;
    faked.fake_device_at(1)->base.transport_type = IBV_TRANSPORT_IWARP;
    CHECK_INT(device_open("", "", &device, &detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, "none of 2 RDMA ports");
    CHECK_HAS(detail.text, "port 1 of fake0 is not active");
    CHECK_HAS(detail.text, "fake1 cannot be used: iWARP");
    CHECK_INT(device_open("fake0", "", &device, &detail), RT_E_UNAVAILABLE);
    CHECK(strncmp(detail.text, "port 1 of fake0", 15) == 0);
    end();
}

static void windows_that_cannot_be_made_are_not_promised(void)
{
    rt_detail detail;
    rt_pdevice *device;
    begin();
    CHECK_INT(device_open("fake0", "", &device, &detail), RT_OK);
    CHECK(device->limits.keys_per_peer);
    verbs->close(device);
    faked.fake_device_at(0)->windows_refused = true;
    CHECK_INT(device_open("fake0", "", &device, &detail), RT_OK);
    CHECK(!device->limits.keys_per_peer);
    CHECK_INT(verbs_device_of(device)->request.binds, 0);
    CHECK_INT(device->limits.work_depth, 128);
    verbs->close(device);
    end();
}

static void a_first_request_without_an_answer_says_what_to_compare(void)
{
    rt_completion completion;
    rt_posted posted;
    rt_segment segment;
    for (uint32_t before = 0; before < 2; before++) {
        begin();
        pair_open();
        segment = segment_of(0, 8);
        rt_work item = work_of(RT_WORK_WRITE, &segment, 0, 1);
        for (uint32_t each = 0; each < before; each++) {
            CHECK_INT(verbs->post(both.link_a, &item, 1, &posted), RT_OK);
            take(both.a, DATA_QUEUE, &completion, 1);
        }
        faked.fake_complete(1, IBV_WC_RETRY_EXC_ERR, 0x81);
        CHECK_INT(verbs->post(both.link_a, &item, 1, &posted), RT_OK);
        take(both.a, DATA_QUEUE, &completion, 1);
        CHECK_INT(completion.status, RT_E_PEER_LOST);
        const char *name = verbs->completion_name(completion.foreign_status);
        CHECK_HAS(name, "IBV_WC_RETRY_EXC_ERR");
        CHECK((strstr(name, "never reached") != NULL && strstr(name, "4791") != NULL) == (before == 0));
        pair_close();
        end();
    }
}

#else

#include "without_verbs.h"

#endif

static const check_test tests[] = {
    CHECK_TEST(a_full_member_of_a_partition_is_chosen_first),
    CHECK_TEST(a_partition_that_is_not_there_names_those_that_are),
    CHECK_TEST(bytes_pass_through_a_partition_that_is_not_the_first),
    CHECK_TEST(ends_in_different_partitions_are_refused_in_words),
    CHECK_TEST(another_subnet_of_infiniband_is_refused_in_words),
    CHECK_TEST(a_gid_is_found_by_address_and_by_network),
    CHECK_TEST(an_address_of_this_namespace_comes_before_others),
    CHECK_TEST(an_address_that_changed_is_told_to_the_next_peer),
    CHECK_TEST(a_device_that_was_taken_away_wakes_nobody_and_ends_its_work),
    CHECK_TEST(a_device_that_failed_before_it_was_taken_away_is_lost_once),
    CHECK_TEST(timeouts_fit_the_kind_of_device),
    CHECK_TEST(processes_of_a_host_are_woken_by_different_vectors),
    CHECK_TEST(devices_that_cannot_be_used_are_named_with_their_reasons),
    CHECK_TEST(windows_that_cannot_be_made_are_not_promised),
    CHECK_TEST(a_first_request_without_an_answer_says_what_to_compare),
};
CHECK_MAIN(tests)
