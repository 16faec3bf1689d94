/* test_verbs_choice.c: which port a name means, and which of several is taken, over four devices of the fake libibverbs and
 * folders that say what the kernel would say of them.
 *
 * Needs: csrc/base/, csrc/provider/absent.c, csrc/provider/verbs/ and libfakeibverbs.so (tests/c/fake_verbs*.c). */
#include "check.h"
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <ftw.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "verbs_pair.h"

enum { DEVICES = 4 };

static char folder[64]; /* where the kernel's files are made */

/* Makes a file below the folder, and the folders that it lies in. */
static void file_make(const char *text, const char *format, ...)
{
    char path[256];
    size_t used = (size_t)snprintf(path, sizeof path, "%s/", folder);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(path + used, sizeof path - used, format, arguments);
    va_end(arguments);
    for (char *at = strchr(path + used, '/'); at != NULL; at = strchr(at + 1, '/')) {
        *at = '\0';
        mkdir(path, 0700);
        *at = '/';
    }
    FILE *file = fopen(path, "w");
    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

static int entry_remove(const char *path, const struct stat *about, int kind, struct FTW *place)
{
    (void)about;
    (void)kind;
    (void)place;
    return remove(path);
}

static void folder_end(void)
{
    nftw(folder, entry_remove, 8, FTW_DEPTH | FTW_PHYS);
}

/* Four devices alike, each with a folder of its own. */
static void begin_four(void)
{
    begin();
    snprintf(folder, sizeof folder, "/tmp/verbs-choice-XXXXXX");
    CHECK(mkdtemp(folder) != NULL);
    faked.fake_set_device_count(DEVICES);
    for (int number = 0; number < DEVICES; number++) {
        fake_device *device = faked.fake_device_at(number);
        snprintf(device->base.ibdev_path, sizeof device->base.ibdev_path, "%s/fake%d", folder, number);
        file_make("100 Gb/sec (4X EDR)\n", "fake%d/ports/1/rate", number);
    }
}

static void end_four(void)
{
    folder_end();
    end();
}

static int opened(const char *name, const char *arguments, char *name_out, rt_detail *detail)
{
    rt_pdevice *device;
    int status = device_open(name, arguments, &device, detail);
    name_out[0] = '\0';
    if (status != RT_OK)
        return status;
    snprintf(name_out, RT_DEVICE_NAME_SIZE, "%s", device->name);
    verbs->close(device);
    return RT_OK;
}

#define CHECK_OPENS(name, arguments, expected)                                                                                   \
    do {                                                                                                                         \
        char opened_name[RT_DEVICE_NAME_SIZE];                                                                                   \
        rt_detail opened_detail;                                                                                                 \
        CHECK_INT(opened(name, arguments, opened_name, &opened_detail), RT_OK);                                                  \
        CHECK_STR(opened_name, expected);                                                                                        \
    } while (0)

#define CHECK_REFUSES(name, arguments, status, words)                                                                            \
    do {                                                                                                                         \
        char refused_name[RT_DEVICE_NAME_SIZE];                                                                                  \
        rt_detail refused_detail;                                                                                                \
        CHECK_INT(opened(name, arguments, refused_name, &refused_detail), status);                                               \
        CHECK_HAS(refused_detail.text, words);                                                                                   \
    } while (0)

/* ---- the order ---- */

static void an_address_comes_before_speed_and_speed_before_the_rest(void)
{
    const verbs_rank best = {true, 100, true, 10};
    const verbs_rank lesser[] = {{false, 400, true, 10}, {true, 50, true, 10}, {true, 100, false, 10}, {true, 100, true, 21}};
    static const char *const words[] = {"no IP address", "slower", "Ethernet", "NUMA"};
    for (size_t index = 0; index < 4; index++) {
        char why[120];
        const verbs_rank two[] = {lesser[index], best};
        CHECK_INT(verbs_ranks_choose(two, 2, 7), 1);
        verbs_rank_explain(two, 2, 0, why, sizeof why);
        CHECK_HAS(why, words[index]);
        CHECK_HAS(why, "not taken");
        for (size_t later = index + 1; later < 4; later++) {
            const verbs_rank both_lesser[] = {lesser[index], lesser[later]};
            CHECK_INT(verbs_ranks_choose(both_lesser, 2, 0), 1); /* what is lacking first counts more */
        }
    }
}

static void processes_of_a_host_share_ports_that_are_alike(void)
{
    const verbs_rank good = {true, 100, true, 10}, bad = {true, 10, true, 10};
    const verbs_rank ranks[] = {bad, good, bad, good, good};
    static const size_t expected[] = {1, 3, 4, 1, 3, 4, 1};
    char why[120];
    for (uint32_t local_rank = 0; local_rank < 7; local_rank++)
        CHECK_INT(verbs_ranks_choose(ranks, 5, local_rank), expected[local_rank]);
    verbs_rank_explain(ranks, 5, 3, why, sizeof why);
    CHECK_STR(why, "taken by verbs:// with local_rank=1 of 3 alike");
    verbs_rank_explain(ranks, 1, 0, why, sizeof why);
    CHECK_STR(why, "taken by verbs://");
}

static void the_distance_is_that_of_the_nearest_node_of_the_process(void)
{
    char nodes[96];
    cpu_set_t cpus;
    begin_four();
    snprintf(nodes, sizeof nodes, "%s/node", folder);
    file_make("0,2-3\n", "node/online"); /* there is no node 1 */
    file_make("0-1,8\n", "node/node0/cpulist");
    file_make("2-3\n", "node/node2/cpulist");
    file_make("\n", "node/node3/cpulist"); /* memory without processors */
    file_make("10 21 31\n", "node/node0/distance");
    file_make("21 10 17\n", "node/node2/distance");
    file_make("31 17 10\n", "node/node3/distance");
    static const struct {
        size_t cpu;
        int node, distance;
    } cases[] = {{8, 0, 10},
                 {8, 2, 21},
                 {8, 3, 31},
                 {3, 3, 17},
                 {2, 0, 21},
                 {9, 0, VERBS_DISTANCE_UNKNOWN},
                 {0, 1, VERBS_DISTANCE_UNKNOWN},
                 {0, -1, VERBS_DISTANCE_UNKNOWN}};
    for (size_t which = 0; which < sizeof cases / sizeof cases[0]; which++) {
        CPU_ZERO(&cpus);
        CPU_SET(cases[which].cpu, &cpus);
        CHECK_INT(verbs_node_distance(nodes, &cpus, cases[which].node), cases[which].distance);
    }
    CPU_SET(3, &cpus); /* of node 0 and of node 2 */
    CHECK_INT(verbs_node_distance(nodes, &cpus, 3), 17);
    CHECK_INT(verbs_node_distance("/no/such/folder", &cpus, 0), VERBS_DISTANCE_UNKNOWN);
    end_four();
}

/* ---- names ---- */

static void without_a_name_the_best_port_is_taken(void)
{
    begin_four();
    CHECK_OPENS("", "", "fake0");
    CHECK_OPENS("", "local_rank=3", "fake3");
    CHECK_OPENS("", "local_rank=6", "fake2");
    file_make("400 Gb/sec (4X NDR)\n", "fake1/ports/1/rate");
    file_make("800 Gb/sec (4X XDR)\n", "fake2/ports/1/rate"); /* a number that no header has */
    CHECK_OPENS("", "", "fake2");
    CHECK_OPENS("", "local_rank=1", "fake2");
    faked.fake_device_at(2)->ports[0].state = IBV_PORT_DOWN;
    CHECK_OPENS("", "local_rank=1", "fake1");
    file_make("400 Gb/sec (4X NDR)\n", "fake3/ports/1/rate");
    faked.fake_make_infiniband(3);
    CHECK_OPENS("", "local_rank=1", "fake3");
    end_four();
}

static void a_list_leaves_the_choice_among_its_names(void)
{
    begin_four();
    faked.fake_device_at(3)->attr.phys_port_cnt = 2;
    CHECK_OPENS("fake1", "local_rank=1", "fake1");
    CHECK_OPENS("fake1,fake2", "", "fake1");
    CHECK_OPENS("fake2,fake1", "local_rank=1", "fake2");
    CHECK_OPENS("fake1,absent", "local_rank=1", "fake1");
    CHECK_OPENS("fake3:2,fake2", "local_rank=1", "fake3:2");
    CHECK_OPENS("^fake0", "", "fake1");
    CHECK_OPENS("^fake0,fake1,fake3:1", "local_rank=1", "fake3:2");
    CHECK_OPENS("^absent", "", "fake0");
    faked.fake_device_at(1)->ports[0].state = IBV_PORT_DOWN;
    CHECK_OPENS("fake1,fake2", "", "fake2");
    CHECK_OPENS("fake3", "local_rank=1", "fake3:1"); /* one name: its first port */
    end_four();
}

static void a_name_that_fits_nothing_is_refused_in_words(void)
{
    char long_name[300];
    begin_four();
    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    CHECK_REFUSES("absent,fake", "", RT_E_NOT_FOUND, "there is fake0, fake1, fake2, fake3");
    CHECK_REFUSES("^fake0,fake1,fake2,fake3", "", RT_E_NOT_FOUND, "excludes every RDMA device");
    CHECK_REFUSES("netdev:ens1f0", "", RT_E_NOT_FOUND, "no RDMA device has the network interface 'ens1f0'");
    CHECK_REFUSES("fake0,", "", RT_E_INVALID, "is empty");
    CHECK_REFUSES("^", "", RT_E_INVALID, "is empty");
    CHECK_REFUSES("netdev:", "", RT_E_INVALID, "is empty");
    CHECK_REFUSES("fake0,:1", "", RT_E_INVALID, "is empty");
    CHECK_REFUSES("fake0,fake1:x", "", RT_E_INVALID, "after the colon comes a port");
    CHECK_REFUSES("fake0:1,fake1:2", "port=1", RT_E_INVALID, "says port 2");
    CHECK_REFUSES("", "port=2", RT_E_NOT_FOUND, "has a port 2");
    CHECK_REFUSES("fake0,fake1:2", "port=2", RT_E_NOT_FOUND, "only 1 to 1");
    CHECK_REFUSES(long_name, "", RT_E_INVALID, "longer than 255 bytes");
    end_four();
}

static void a_network_interface_names_its_port_and_its_gid(void)
{
    static const uint8_t tagged[16] = {[10] = 0xff, [11] = 0xff, 10, 9, 0, 1};
    rt_detail detail;
    rt_pdevice *device;
    begin_four();
    file_make("ens2\n", "fake2/ports/1/gid_attrs/ndevs/3");
    file_make("ens2.100\n", "fake2/ports/1/gid_attrs/ndevs/6");
    faked.fake_set_gid(2, 1, 6, IBV_GID_TYPE_ROCE_V2, tagged);
    file_make("0\n", "fake3/device/net/ib3/dev_port");
    CHECK_OPENS("netdev:ens2", "", "fake2");
    CHECK_OPENS("netdev:ib3", "", "fake3");
    CHECK_OPENS("netdev:ens2,ib3", "local_rank=1", "fake3");
    CHECK_OPENS("^netdev:ens2", "local_rank=2", "fake3");
    static const struct {
        const char *name;
        uint32_t gid;
    } cases[] = {{"netdev:ens2", 3}, {"netdev:ens2.100", 6}, {"fake2", 3}};
    for (size_t which = 0; which < 3; which++) {
        CHECK_INT(device_open(cases[which].name, "", &device, &detail), RT_OK);
        CHECK_INT(verbs_device_of(device)->port.gid.index, cases[which].gid);
        CHECK_INT(verbs_port_refresh(verbs_device_of(device), &detail), RT_OK);
        CHECK_INT(verbs_device_of(device)->port.gid.index, cases[which].gid);
        verbs->close(device);
    }
    end_four();
}

/* ---- the list ---- */

static void the_list_says_which_port_is_taken_and_why(void)
{
    rt_detail detail;
    rt_device_info infos[DEVICES];
    begin_four();
    file_make("1\n", "fake0/device/numa_node");
    file_make("800 Gb/sec (4X XDR)\n", "fake0/ports/1/rate");
    file_make("800 Gb/sec (4X XDR)\n", "fake2/ports/1/rate");
    file_make("1\n", "fake2/device/numa_node");
    faked.fake_device_at(3)->ports[0].state = IBV_PORT_DOWN;
    CHECK_INT(verbs->list(infos, DEVICES, &detail), DEVICES);
    CHECK_HAS(infos[0].state, "800 Gb/s");
    CHECK_HAS(infos[0].state, "NUMA node 1");
    CHECK_HAS(infos[0].state, "; taken by verbs:// with local_rank=0 of 2 alike");
    CHECK_HAS(infos[1].state, "NUMA node unknown");
    CHECK_HAS(infos[1].state, "; not taken by verbs://: slower");
    CHECK_HAS(infos[1].state, "mtu 1024 (4096 needs an interface MTU of 4200)");
    CHECK_HAS(infos[2].state, "; taken by verbs:// with local_rank=1 of 2 alike");
    CHECK(strstr(infos[3].state, "taken") == NULL);
    end_four();
}

static void a_driver_without_locks_is_refused(void)
{
    begin_four();
    setenv("MLX5_SINGLE_THREADED", "1", 1);
    CHECK_OPENS("fake0", "", "fake0");
    file_make("DRIVER=mlx5_core\nPCI_CLASS=20000\n", "fake0/device/uevent");
    CHECK_REFUSES("fake0", "", RT_E_UNAVAILABLE, "MLX5_SINGLE_THREADED=1 turns off locks");
    CHECK_OPENS("", "", "fake1");
    setenv("MLX5_SINGLE_THREADED", "0", 1);
    CHECK_OPENS("fake0", "", "fake0");
    unsetenv("MLX5_SINGLE_THREADED");
    CHECK_OPENS("fake0", "", "fake0");
    end_four();
}

#else

#include "without_verbs.h"

#endif

static const check_test tests[] = {
    CHECK_TEST(an_address_comes_before_speed_and_speed_before_the_rest),
    CHECK_TEST(processes_of_a_host_share_ports_that_are_alike),
    CHECK_TEST(the_distance_is_that_of_the_nearest_node_of_the_process),
    CHECK_TEST(without_a_name_the_best_port_is_taken),
    CHECK_TEST(a_list_leaves_the_choice_among_its_names),
    CHECK_TEST(a_name_that_fits_nothing_is_refused_in_words),
    CHECK_TEST(a_network_interface_names_its_port_and_its_gid),
    CHECK_TEST(the_list_says_which_port_is_taken_and_why),
    CHECK_TEST(a_driver_without_locks_is_refused),
};
CHECK_MAIN(tests)
