/* test_verbs.c: the verbs provider's set-up over the fake libibverbs: what is missing and how that is said, names, arguments,
 * addresses, limits, and that no failing acquisition leaves anything behind.
 *
 * Needs: csrc/base/, csrc/provider/absent.c, csrc/provider/verbs/ and libfakeibverbs.so (tests/c/fake_verbs*.c). */
#include "check.h"
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <sys/stat.h>
#include <sys/wait.h>

#include "verbs_pair.h"

/* Asks `viable` in a process of its own, because a loaded library stays. An empty path is the system's own. */
static int viable_in_child(const char *path, rt_detail *detail)
{
    int ends[2];
    CHECK_INT(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        setenv("RDMATENSOR_LIBIBVERBS", path, 1);
        memset(detail, 0, sizeof *detail);
        if (verbs->viable(detail) == RT_OK)
            detail->status = RT_OK;
        _exit(write(ends[1], detail, sizeof *detail) == (ssize_t)sizeof *detail ? 0 : 1);
    }
    close(ends[1]);
    CHECK_INT(read(ends[0], detail, sizeof *detail), sizeof *detail);
    close(ends[0]);
    waitpid(child, NULL, 0);
    return detail->status;
}

/* ---- these three run before anything has loaded the fake ---- */

static void a_library_that_is_not_there_is_named(void)
{
    rt_detail detail;
    CHECK_INT(viable_in_child("/nonexistent/libibverbs.so", &detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, "/nonexistent/libibverbs.so");
    CHECK_HAS(detail.text, "RDMATENSOR_LIBIBVERBS");
}

static void a_file_that_is_not_libibverbs_is_told_by_what_it_lacks(void)
{
    rt_detail detail;
    CHECK_INT(viable_in_child("libm.so.6", &detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, "libm.so.6 has no ibv_");
}

static void the_systems_library_says_why_there_is_no_device(void)
{
    rt_detail detail;
    void *handle = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
    if (handle != NULL && access("/sys/class/infiniband", F_OK) == 0)
        CHECK_SKIP("this machine has RDMA devices, or their class");
    CHECK_INT(viable_in_child("", &detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text,
              handle == NULL ? "apt install libibverbs1 ibverbs-providers" : "no RDMA device: /sys/class/infiniband is empty");
}

/* ---- no device ---- */

static void an_empty_list_says_that_there_is_no_device(void)
{
    begin();
    rt_detail detail;
    rt_pdevice *device;
    rt_device_info info;
    if (access("/sys/class/infiniband", F_OK) == 0)
        CHECK_SKIP("this machine has RDMA devices, or their class");
    faked.fake_set_device_count(0);
    CHECK_INT(verbs->viable(&detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, "no RDMA device");
    CHECK_HAS(detail.text, "rdma_rxe");
    CHECK_INT(device_open("", "", &device, &detail), RT_E_UNAVAILABLE);
    CHECK_INT(verbs->list(&info, 1, &detail), RT_E_UNAVAILABLE);
    faked.fake_state()->list_error = ENOSYS;
    CHECK_INT(verbs->viable(&detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, "no RDMA device");
    faked.fake_state()->list_error = EPERM;
    CHECK_INT(verbs->viable(&detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, "EPERM");
    end();
}

static void a_kernel_device_without_a_driver_names_the_provider_package(void)
{
    char folder[] = "/tmp/verbs-class-XXXXXX", device[64];
    rt_detail detail;
    CHECK(mkdtemp(folder) != NULL);
    snprintf(device, sizeof device, "%s/mlx5_7", folder);
    CHECK_INT(mkdir(device, 0700), 0);
    CHECK_INT(verbs_explain_absence(folder, 0, &detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, "mlx5_7");
    CHECK_HAS(detail.text, "ibverbs-providers");
    if (access("/sys/class/infiniband_verbs", F_OK) != 0) {
        CHECK_INT(verbs_explain_absence(folder, ENOSYS, &detail), RT_E_UNAVAILABLE);
        CHECK_HAS(detail.text, "modprobe ib_uverbs");
    }
    rmdir(device);
    rmdir(folder);
}

static void a_device_that_cannot_be_used_says_why(void)
{
    begin();
    rt_detail detail;
    rt_pdevice *device;
    faked.fake_set_device_count(1);
    faked.fake_device_at(0)->ports[0].state = IBV_PORT_DOWN;
    CHECK_INT(verbs->viable(&detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, "port 1 of fake0 is not active");
    CHECK_INT(device_open("fake0", "", &device, &detail), RT_E_UNAVAILABLE);
    faked.fake_device_at(0)->base.transport_type = IBV_TRANSPORT_IWARP;
    CHECK_INT(verbs->viable(&detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, "rdma_cm");
    faked.fake_device_at(0)->base.transport_type = IBV_TRANSPORT_UNSPECIFIED;
    CHECK_INT(verbs->viable(&detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, "reliable connections");
    faked.fake_set_device_count(2);
    CHECK_INT(verbs->viable(&detail), RT_OK); /* the other one */
    CHECK_INT(device_open("", "", &device, &detail), RT_OK);
    CHECK_STR(device->name, "fake1");
    verbs->close(device);
    end();
}

static void a_missing_character_device_says_what_a_container_needs(void)
{
    begin();
    rt_detail detail;
    rt_pdevice *device;
    faked.fake_fail_call("ibv_open_device", 1, ENOENT);
    CHECK_INT(device_open("fake0", "", &device, &detail), RT_E_SYSTEM);
    CHECK_HAS(detail.text, "--device /dev/infiniband");
    faked.fake_fail_call("ibv_open_device", 1, EACCES);
    CHECK_INT(device_open("fake0", "", &device, &detail), RT_E_SYSTEM);
    CHECK_HAS(detail.text, "no permission");
    end();
}

/* ---- names and arguments ---- */

static void an_unknown_device_lists_the_known(void)
{
    begin();
    rt_detail detail;
    rt_pdevice *device;
    CHECK_INT(device_open("mlx5_0", "", &device, &detail), RT_E_NOT_FOUND);
    CHECK_HAS(detail.text, "'mlx5_0'");
    CHECK_HAS(detail.text, "fake0, fake1");
    CHECK_INT(device_open("fake", "", &device, &detail), RT_E_NOT_FOUND);
    CHECK_INT(device_open("fake0:2", "", &device, &detail), RT_E_NOT_FOUND);
    CHECK_INT(device_open("fake0", "port=2", &device, &detail), RT_E_NOT_FOUND);
    CHECK_INT(device_open("fake0:", "", &device, &detail), RT_E_INVALID);
    CHECK_INT(device_open("fake0:0", "", &device, &detail), RT_E_INVALID);
    CHECK_INT(device_open("fake0:1x", "", &device, &detail), RT_E_INVALID);
    CHECK_INT(device_open("fake0:1", "port=2", &device, &detail), RT_E_INVALID);
    end();
}

static void a_port_of_several_is_chosen_by_name_or_argument(void)
{
    static const struct {
        const char *name, *arguments, *opened;
    } cases[] = {
        {"fake0", "", "fake0:2"}, /* the first is down */
        {"fake0:2", "", "fake0:2"}, {"fake0", "port=2", "fake0:2"}, {"fake1", "port=1", "fake1"}, {"fake1:1", "port=1", "fake1"},
    };
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        begin();
        rt_detail detail;
        rt_pdevice *device;
        faked.fake_device_at(0)->attr.phys_port_cnt = 2;
        faked.fake_device_at(0)->ports[0].state = IBV_PORT_DOWN;
        CHECK_INT(device_open(cases[which].name, cases[which].arguments, &device, &detail), RT_OK);
        CHECK_STR(device->name, cases[which].opened);
        verbs->close(device);
        CHECK_INT(device_open("fake0:1", "", &device, &detail), RT_E_UNAVAILABLE);
        end();
    }
}

static void wrong_arguments_are_named(void)
{
    static const struct {
        const char *arguments, *words;
    } cases[] = {
        {"colour=red", "'colour'"},
        {"colour=red",
         "port, local_rank, gid, traffic_class, service_level, ack_timeout, retry_count, rnr_retry, mtu, work_depth, completion_depth, links, message_size_max"},
        {"ports=1", "'ports'"},
        {"=1", "''"},
        {"gid=1&gid=1", "twice"},
        {"gid", "must be a number from 0 to 255"},
        {"gid=", "'gid' is ''"},
        {"gid=256", "'256'"},
        {"gid=-1", "'-1'"},
        {"gid=0x1", "'0x1'"},
        {"gid= 1", "' 1'"},
        {"gid=99999999999999999999", "from 0 to 255"},
        {"port=0", "from 1 to 255"},
        {"ack_timeout=0", "from 1 to 31"},
        {"ack_timeout=32", "from 1 to 31"},
        {"retry_count=8", "from 0 to 7"},
        {"rnr_retry=7", "from 0 to 6"},
        {"service_level=16", "from 0 to 15"},
        {"traffic_class=256", "from 0 to 255"},
        {"mtu=1000", "256, 512, 1024, 2048 or 4096"},
        {"work_depth=7", "from 8 to 4096"},
        {"completion_depth=63", "from 64 to"},
        {"message_size_max=255", "from 256 to 1073741824"},
        {"message_size_max=4294967296", "'4294967296'"},
        {"gid=3&nonsense", "'nonsense'"},
    };
    begin();
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        rt_detail detail;
        rt_pdevice *device;
        CHECK_INT(device_open("fake0", cases[which].arguments, &device, &detail), RT_E_INVALID);
        CHECK_HAS(detail.text, cases[which].words);
    }
    end();
}

/* ---- GIDs ---- */

static void the_gid_rule_prefers_routable_addresses(void)
{
    static const struct {
        verbs_gid_kind kinds[5];
        uint32_t chosen;
    } cases[] = {
        {{VERBS_GID_V1, VERBS_GID_V2_LINK_LOCAL, VERBS_GID_V1, VERBS_GID_V2_IPV4, VERBS_GID_V2_IPV6}, 3},
        {{VERBS_GID_V1, VERBS_GID_V2_LINK_LOCAL, VERBS_GID_V2_IPV6, VERBS_GID_V2_IPV6, VERBS_GID_NONE}, 2},
        {{VERBS_GID_V1, VERBS_GID_V2_LINK_LOCAL, VERBS_GID_NONE, VERBS_GID_V1, VERBS_GID_V2_LINK_LOCAL}, 1},
        {{VERBS_GID_NONE, VERBS_GID_V1, VERBS_GID_V1, VERBS_GID_NONE, VERBS_GID_NONE}, 1},
        {{VERBS_GID_V2_IPV4, VERBS_GID_V2_IPV4, VERBS_GID_V2_IPV6, VERBS_GID_V1, VERBS_GID_NONE}, 0},
        {{VERBS_GID_NONE, VERBS_GID_NONE, VERBS_GID_NONE, VERBS_GID_NONE, VERBS_GID_NONE}, UINT32_MAX},
    };
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        verbs_gid gids[5];
        memset(gids, 0, sizeof gids);
        for (uint32_t index = 0; index < 5; index++) {
            gids[index].kind = cases[which].kinds[index];
            gids[index].index = index;
        }
        const verbs_gid *chosen = verbs_gid_choose(gids, 5);
        CHECK_INT(chosen != NULL ? chosen->index : UINT32_MAX, cases[which].chosen);
    }
}

static void gids_are_told_apart_by_type_and_bytes(void)
{
    static const union ibv_gid none, mapped = {.raw = {[10] = 0xff, [11] = 0xff, 10, 0, 0, 1}};
    static const union ibv_gid local = {.raw = {0xfe, 0x80, [15] = 1}}, global = {.raw = {0x20, 0x01, [15] = 1}};
    CHECK_INT(verbs_gid_classify(IBV_GID_TYPE_ROCE_V2, &none), VERBS_GID_NONE);
    CHECK_INT(verbs_gid_classify(IBV_GID_TYPE_ROCE_V2, &mapped), VERBS_GID_V2_IPV4);
    CHECK_INT(verbs_gid_classify(IBV_GID_TYPE_ROCE_V2, &local), VERBS_GID_V2_LINK_LOCAL);
    CHECK_INT(verbs_gid_classify(IBV_GID_TYPE_ROCE_V2, &global), VERBS_GID_V2_IPV6);
    CHECK_INT(verbs_gid_classify(IBV_GID_TYPE_ROCE_V1, &mapped), VERBS_GID_V1);
    CHECK_INT(verbs_gid_classify(IBV_GID_TYPE_IB, &local), VERBS_GID_IB);
    CHECK_INT(verbs_gid_classify(77, &local), VERBS_GID_NONE);
    CHECK(verbs_gid_kinds_match(VERBS_GID_V2_IPV6, VERBS_GID_V2_LINK_LOCAL));
    CHECK(!verbs_gid_kinds_match(VERBS_GID_V2_IPV6, VERBS_GID_V2_IPV4));
    CHECK(!verbs_gid_kinds_match(VERBS_GID_V1, VERBS_GID_V2_IPV4));
}

static void a_gid_that_is_asked_for_is_taken_or_refused(void)
{
    begin();
    rt_detail detail;
    rt_pdevice *device;
    static const uint8_t empty[16];
    CHECK_INT(device_open("fake0", "", &device, &detail), RT_OK);
    CHECK_INT(verbs_device_of(device)->port.gid.index, 3);
    verbs->close(device);
    CHECK_INT(device_open("fake0", "gid=1", &device, &detail), RT_OK);
    CHECK_INT(verbs_device_of(device)->port.gid.index, 1);
    CHECK_INT(verbs_device_of(device)->port.gid.kind, VERBS_GID_V2_LINK_LOCAL);
    verbs->close(device);
    CHECK_INT(device_open("fake0", "gid=7", &device, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "empty");
    CHECK_INT(device_open("fake0", "gid=8", &device, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "has 8 GIDs");
    for (int index = 0; index < 4; index++)
        faked.fake_set_gid(0, 1, index, IBV_GID_TYPE_ROCE_V2, empty);
    CHECK_INT(device_open("fake0", "", &device, &detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, "has no GID");
    end();
}

/* An old library: what it lacks is done without, and a GID's type comes from the kernel's files. */
static void an_old_library_is_good_enough(void)
{
    begin();
    char root[] = "/tmp/verbs-sysfs-XXXXXX", path[192];
    verbs_library *library = (verbs_library *)(uintptr_t)verbs_library_load(NULL), all = *library;
    CHECK(mkdtemp(root) != NULL);
    snprintf(path, sizeof path, "mkdir -p %s/ports/1/gid_attrs/types && echo 'RoCE v2' > %s/ports/1/gid_attrs/types/1", root,
             root);
    CHECK_INT(system(path), 0);
    library->ibv_reg_mr_iova2 = NULL;
    library->_ibv_query_gid_ex = NULL;
    library->ibv_query_qp_data_in_order = NULL;
    library->ibv_is_fork_initialized = NULL;
    for (int number = 0; number < 2; number++)
        snprintf(faked.fake_device_at(number)->base.ibdev_path, IBV_SYSFS_PATH_MAX, "%s", root);
    pair_open_with("", ALL_RIGHTS | RT_ACCESS_RELAXED_ORDER);
    CHECK_INT(verbs_device_of(both.a)->port.gid.index, 1); /* all others are v1, as far as it can tell */
    CHECK_INT(((fake_mr *)(void *)((verbs_memory *)(void *)both.memory_b)->mr)->access,
              IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ);
    pair_close();
    *library = all;
    snprintf(path, sizeof path, "rm -r %s", root);
    CHECK_INT(system(path), 0);
    end();
}

/* ---- limits and the list ---- */

static void limits_come_from_the_device(void)
{
    begin();
    rt_detail detail;
    rt_pdevice *device;
    fake_device *here = faked.fake_device_at(0);
    here->inline_max = 100;
    here->inline_given = 72;
    here->attr.max_qp_wr = 50;
    here->attr.max_cqe = 300;
    here->attr.max_mr = 77;
    here->attr.max_sge = 2;
    here->ports[0].max_msg_sz = 1 << 20;
    CHECK_INT(device_open("fake0", "", &device, &detail), RT_OK);
    CHECK_INT(device->limits.inline_size_max, 72); /* 220 and 128 were refused, 64 was given generously */
    CHECK_INT(device->limits.work_depth, 50 - VERBS_BINDS);
    CHECK_INT(device->limits.receive_depth, 32);
    CHECK_INT(device->limits.completion_depth, 300);
    CHECK_INT(device->limits.link_count_max, 6); /* 300 / 50 on the data queue */
    CHECK_INT(device->limits.region_count_max, 77);
    CHECK_INT(device->limits.segments_max, 2);
    CHECK_INT(device->limits.message_size_max, 1 << 20);
    CHECK_INT(device->limits.read_depth, 8);
    CHECK(device->limits.orders_writes && device->limits.places_words_whole && device->limits.carries_immediate);
    CHECK(device->limits.pins_memory && device->limits.exposes_caller_memory && !device->limits.can_wake_receiver);
    CHECK(!device->limits.orders_bytes_within_a_write && !device->limits.completes_in_post &&
          !device->limits.wants_shared_memory);
    verbs->close(device);
    CHECK_INT(device_open("fake0", "completion_depth=64&work_depth=100&message_size_max=4096", &device, &detail), RT_OK);
    CHECK_INT(device->limits.message_size_max, 4096);
    verbs->close(device);
    here->attr.max_cqe = 20;
    CHECK_INT(device_open("fake0", "", &device, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "lower work_depth");
    end();
}

static void the_list_shows_every_port_with_its_state(void)
{
    begin();
    rt_detail detail;
    rt_device_info infos[4];
    faked.fake_device_at(0)->attr.phys_port_cnt = 2;
    faked.fake_device_at(0)->ports[1].state = IBV_PORT_DOWN;
    CHECK_INT(verbs->list(infos, 4, &detail), 3);
    CHECK_STR(infos[0].name, "fake0:1");
    CHECK_STR(infos[0].state,
              "active, Ethernet, 100 Gb/s, gid 3 RoCEv2 IPv4 10.0.0.1, mtu 4096, traffic class 0, NUMA node unknown, "
              "fork-safe (children lack registered pages), placement=ordered: RoCE, whose switches keep to one "
              "path unless told; taken by verbs:// with local_rank=0 of 2 alike");
    CHECK_INT(infos[0].limits.work_depth, 128);
    CHECK_INT(infos[0].limits.inline_size_max, 220);
    CHECK_STR(infos[1].name, "fake0:2");
    CHECK_HAS(infos[1].state, "down, Ethernet: port 2 of fake0 is not active");
    CHECK_STR(infos[2].name, "fake1");
    CHECK_HAS(infos[2].state, "mtu 1024");
    memset(infos, 0, sizeof infos);
    CHECK_INT(verbs->list(infos, 1, &detail), 3);
    CHECK_STR(infos[1].name, "");
    CHECK_INT(verbs->list(NULL, 0, &detail), 3);
    faked.fake_fail_call("ibv_open_device", 1, EACCES);
    CHECK_INT(verbs->list(infos, 4, &detail), 2);
    CHECK_HAS(infos[0].state, "no permission");
    end();
}

/* ---- nothing is left behind ---- */

static void every_failing_acquisition_leaves_nothing(void)
{
    static const int errors[] = {ENOMEM, EIO, EINVAL, EOPNOTSUPP, EAGAIN};
    for (size_t which = 0; which < sizeof errors / sizeof errors[0]; which++) {
        uint32_t failures = 0;
        for (uint32_t nth = 1; nth < 500; nth++) {
            begin();
            faked.fake_fail_call("*", nth, errors[which]);
            int status = pair_create("", "", ALL_RIGHTS);
            if (status == RT_OK)
                status = pair_join(ALL_RIGHTS);
            bool triggered = faked.fake_triggered();
            if (status != RT_OK) {
                CHECK(triggered);
                CHECK_INT(both.detail.status, status);
                CHECK(both.detail.text[0] != '\0');
                failures++;
            }
            pair_close();
            end();
            if (!triggered)
                break;
            CHECK(nth < 499);
        }
        CHECK(failures > 20); /* two devices, six queues, pairs, keys, and three transitions of each end */
    }
}

#else

#include "without_verbs.h"

static void a_build_without_the_header_says_what_to_install(void)
{
    rt_detail detail;
    rt_pdevice *device;
    rt_open_options options = {.name = "", .arguments = "", .data_queues = 1};
    CHECK_INT(rt_provider_verbs.viable(&detail), RT_E_UNAVAILABLE);
    CHECK_HAS(detail.text, "built without verbs");
    CHECK_HAS(detail.text, "libibverbs-dev");
    CHECK_INT(rt_provider_verbs.open(&options, &device, &detail), RT_E_UNAVAILABLE);
    CHECK_INT(rt_provider_verbs.list(NULL, 0, &detail), RT_E_UNAVAILABLE);
}

#endif

static const check_test tests[] = {
#if !RT_HAVE_VERBS
    {"a_build_without_the_header_says_what_to_install", a_build_without_the_header_says_what_to_install},
#endif
    CHECK_TEST(a_library_that_is_not_there_is_named),
    CHECK_TEST(a_file_that_is_not_libibverbs_is_told_by_what_it_lacks),
    CHECK_TEST(the_systems_library_says_why_there_is_no_device),
    CHECK_TEST(an_empty_list_says_that_there_is_no_device),
    CHECK_TEST(a_kernel_device_without_a_driver_names_the_provider_package),
    CHECK_TEST(a_device_that_cannot_be_used_says_why),
    CHECK_TEST(a_missing_character_device_says_what_a_container_needs),
    CHECK_TEST(an_unknown_device_lists_the_known),
    CHECK_TEST(a_port_of_several_is_chosen_by_name_or_argument),
    CHECK_TEST(wrong_arguments_are_named),
    CHECK_TEST(the_gid_rule_prefers_routable_addresses),
    CHECK_TEST(gids_are_told_apart_by_type_and_bytes),
    CHECK_TEST(a_gid_that_is_asked_for_is_taken_or_refused),
    CHECK_TEST(an_old_library_is_good_enough),
    CHECK_TEST(limits_come_from_the_device),
    CHECK_TEST(the_list_shows_every_port_with_its_state),
    CHECK_TEST(every_failing_acquisition_leaves_nothing),
};
CHECK_MAIN(tests)
