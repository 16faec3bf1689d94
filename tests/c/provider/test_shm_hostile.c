/* test_shm_hostile.c: the shared memory provider against peers of the same user that break the protocol: on the socket, in the
 * descriptors they hand out, and in the rings they share. The peer's part is played with raw sockets and by hand. */
#include <errno.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/bytes.h"
#include "provider/shm/shm.h"
#include "shm_ends.h"

/* ---- a raw client ---- */

/* Connects to the device behind a link's address. */
static int raw_connect(const uint8_t *link_address)
{
    struct sockaddr_un address;
    socklen_t size = shm_socket_address(link_address + 1, &address);
    int client = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (client < 0 || connect(client, (struct sockaddr *)&address, size) != 0)
        abort();
    return client;
}

static void raw_ask(int client, enum shm_request_kind kind, const uint8_t *token)
{
    uint8_t bytes[SHM_REQUEST_SIZE] = {SHM_VERSION, (uint8_t)kind};
    memcpy(bytes + 8, token, SHM_TOKEN_SIZE);
    if (send(client, bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        abort();
}

/* Receives a reply; returns its size, and how many descriptors came. */
static ssize_t raw_receive(int client, uint8_t bytes_out[64], int *descriptors_out, size_t *count_out)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int) * 8)];
        struct cmsghdr align;
    } control;
    struct iovec part = {.iov_base = bytes_out, .iov_len = 64};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t size = recvmsg(client, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    *count_out = 0;
    struct cmsghdr *header = size < 0 ? NULL : CMSG_FIRSTHDR(&message);
    if (header != NULL) {
        *count_out = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(descriptors_out, CMSG_DATA(header), *count_out * sizeof(int));
    }
    return size;
}

static void close_all(const int *descriptors, size_t count)
{
    for (size_t index = 0; index < count; index++)
        close(descriptors[index]);
}

static void garbage_on_the_socket_ends_that_connection_only(void)
{
    end left, right;
    pair_open(&left, &right, 4096);
    uint8_t bytes[300] = {SHM_VERSION, SHM_REQUEST_LINK};
    int descriptors = descriptors_open();
    for (size_t size = 0; size < sizeof bytes; size += size < 40 ? 1 : 50) {
        for (int variant = 0; variant < 5; variant++) {
            int client = raw_connect(left.address);
            bytes[0] = variant == 1 ? SHM_VERSION + 1 : SHM_VERSION;
            bytes[1] = variant == 2 ? 0 : variant == 3 ? SHM_REFUSAL : SHM_REQUEST_LINK;
            bytes[2] = variant == 4;
            CHECK_INT(send(client, bytes, size, 0), size);
            serve(left.device);
            uint8_t reply[64];
            int received[8];
            size_t count;
            ssize_t got = raw_receive(client, reply, received, &count);
            CHECK_INT(count, 0);
            CHECK_INT(got, size == SHM_REQUEST_SIZE && variant == 0 ? SHM_REPLY_SIZE : 0); /* an unknown token, or the end */
            close(client);
        }
        serve(left.device);
    }
    CHECK_INT(descriptors_open(), descriptors);
    POST_DONE(&right, RT_WORK_WRITE, 0, 8, 0);
    pair_close(&left, &right);
}

static void memory_handed_out_for_reading_cannot_be_mapped_for_writing(void)
{
    end self;
    int received[8];
    size_t count;
    uint8_t reply[64];
    end_open(&self, 4096, RT_ACCESS_LOCAL_WRITE | RT_ACCESS_REMOTE_READ);
    self.bytes[5] = 77;
    int client = raw_connect(self.address);
    raw_ask(client, SHM_REQUEST_REGION, self.key + 1);
    serve(self.device);
    CHECK_INT(raw_receive(client, reply, received, &count), SHM_REPLY_SIZE);
    CHECK_INT(count, 1);
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, received[0], 0) == MAP_FAILED);
    CHECK_INT(errno, EACCES);
    CHECK_INT(pwrite(received[0], "x", 1, 0), -1);
    uint8_t *mapped = mmap(NULL, 4096, PROT_READ, MAP_SHARED, received[0], 0);
    CHECK(mapped != MAP_FAILED);
    CHECK_INT(mapped[5], 77);
    CHECK_INT(mprotect(mapped, 4096, PROT_READ | PROT_WRITE), -1);
    munmap(mapped, 4096);
    close_all(received, count);
    raw_ask(client, SHM_REQUEST_LINK, self.address + 1 + SHM_TOKEN_SIZE);
    serve(self.device);
    CHECK_INT(raw_receive(client, reply, received, &count), SHM_REPLY_SIZE);
    CHECK_INT(count, SHM_LINK_DESCRIPTORS);
    CHECK(mmap(NULL, sizeof(shm_board), PROT_READ | PROT_WRITE, MAP_SHARED, received[1], 0) == MAP_FAILED);
    close_all(received, count);
    close(client);
    end_close(&self);
}

static void bad_addresses_and_keys_are_refused(void)
{
    end left, right;
    rt_detail detail = {0};
    rt_premote *remote;
    uint8_t bytes[64];
    pair_open(&left, &right, 4096);
    end other;
    end_open_on(&other, left.device, 4096, RIGHTS_ALL);
    for (size_t size = 0; size <= sizeof bytes; size++) {
        memcpy(bytes, right.address, right.address_size);
        bytes[0] = size == right.address_size ? 9 : bytes[0];
        CHECK_INT(shm->link_connect(other.link, bytes, size, &detail), RT_E_PROTOCOL);
        memcpy(bytes, right.key, right.key_size);
        bytes[0] = size == right.key_size ? 9 : bytes[0];
        CHECK_INT(shm->remote_attach(left.link, bytes, size, 4096, RIGHTS_ALL, &remote, &detail), RT_E_PROTOCOL);
    }
    memcpy(bytes, right.key, right.key_size);
    bytes[5] ^= 1;
    CHECK_INT(attach(&left, bytes, right.key_size, 4096, RIGHTS_ALL, right.device, &remote, &detail), RT_E_REMOTE_ACCESS);
    CHECK_HAS(detail.text, "fits no region");
    memcpy(bytes, right.address, right.address_size);
    bytes[3] ^= 1; /* nobody listens there */
    CHECK_INT(shm->link_connect(other.link, bytes, right.address_size, &detail), RT_E_PEER_LOST);
    CHECK_HAS(detail.text, "ECONNREFUSED");
    POST_DONE(&left, RT_WORK_WRITE, 0, 8, 0);
    end_close_on(&other);
    pair_close(&left, &right);
}

/* ---- an impostor: a listener that answers what the test says ---- */

typedef struct impostor {
    int listener, connection;
    uint8_t address[SHM_ADDRESS_SIZE];
} impostor;

static void impostor_open(impostor *self)
{
    static uint8_t count;
    struct sockaddr_un address;
    memset(self->address, 0x40 + count++, sizeof self->address);
    memcpy(self->address + 2, &(pid_t){getpid()}, sizeof(pid_t));
    self->address[0] = SHM_VERSION;
    socklen_t size = shm_socket_address(self->address + 1, &address);
    self->connection = -1;
    self->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (bind(self->listener, (struct sockaddr *)&address, size) != 0 || listen(self->listener, 4) != 0)
        abort();
}

static void impostor_close(impostor *self)
{
    close(self->listener);
    close(self->connection);
}

/* Waits for a request and answers it; the descriptors are sent and closed here. */
static void impostor_answer(impostor *self, const shm_reply *reply, uint8_t version, size_t size, const int *descriptors,
                            size_t count)
{
    uint8_t bytes[64] = {0}, request[SHM_REQUEST_SIZE];
    if (self->connection < 0)
        self->connection = accept(self->listener, NULL, NULL);
    if (recv(self->connection, request, sizeof request, 0) != (ssize_t)sizeof request)
        abort();
    rt_writer writer = rt_writer_of(bytes, sizeof bytes);
    rt_write_uint(&writer, version, 1);
    rt_write_uint(&writer, reply->kind, 1);
    rt_write_uint(&writer, 0, 2);
    rt_write_bytes(&writer, request + 4, 4);
    if (reply->number != 0)
        bytes[4] ^= 1;
    rt_write_uint(&writer, (uint32_t)reply->status, 4);
    rt_write_uint(&writer, reply->value, 4);
    rt_write_uint(&writer, reply->index, 4);
    rt_write_uint(&writer, reply->generation, 4);
    rt_write_uint(&writer, reply->size, 8);
    union {
        char bytes[CMSG_SPACE(sizeof(int) * 16)];
        struct cmsghdr align;
    } control;
    memset(&control, 0, sizeof control);
    struct iovec part = {.iov_base = bytes, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (count != 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        *CMSG_FIRSTHDR(&message) =
            (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int) * count)};
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), descriptors, sizeof(int) * count);
    }
    if (sendmsg(self->connection, &message, 0) != (ssize_t)size)
        abort();
    close_all(descriptors, count);
}

enum { PLACE_RING, PLACE_BOARD, PLACE_DOORBELL, PLACE_MEMORY_BELL, PLACE_QUEUE_BELL };

/* The descriptors that a proper device would hand out for a link. */
static void proper_descriptors(int *descriptors_out)
{
    descriptors_out[PLACE_RING] = sealed_memfd(sizeof(shm_ring), F_SEAL_SHRINK);
    descriptors_out[PLACE_BOARD] = sealed_memfd(sizeof(shm_board), F_SEAL_SHRINK);
    descriptors_out[PLACE_DOORBELL] = sealed_memfd(sizeof(shm_doorbell), F_SEAL_SHRINK);
    descriptors_out[PLACE_MEMORY_BELL] = open("/dev/null", O_RDWR | O_CLOEXEC);
    descriptors_out[PLACE_QUEUE_BELL] = open("/dev/null", O_RDWR | O_CLOEXEC);
}

/* Lets a fresh device connect to an impostor that hands out these things; returns what link_connect came to. */
static int victim_connects(const shm_reply *reply, uint8_t version, size_t size, const int *descriptors, size_t count,
                           rt_detail *detail)
{
    end victim;
    impostor bad;
    end_open(&victim, 4096, RIGHTS_ALL);
    impostor_open(&bad);
    int status = shm->link_connect(victim.link, bad.address, sizeof bad.address, detail);
    if (status == RT_E_AGAIN) {
        impostor_answer(&bad, reply, version, size, descriptors, count);
        serve(victim.device);
        status = shm->link_connect(victim.link, bad.address, sizeof bad.address, detail);
    }
    end_close(&victim);
    impostor_close(&bad);
    return status;
}

static void a_link_answer_that_is_wrong_in_any_way_is_refused(void)
{
    rt_detail detail = {0};
    int given[16];
    const shm_reply good = {.kind = SHM_REQUEST_LINK};
    int descriptors = descriptors_open(), mappings = mappings_open();
    proper_descriptors(given);
    CHECK_INT(victim_connects(&good, SHM_VERSION, SHM_REPLY_SIZE, given, 5, &detail), RT_OK);
    for (int place = PLACE_RING; place <= PLACE_DOORBELL; place++) {
        for (int variant = 0; variant < 3; variant++) {
            proper_descriptors(given);
            close(given[place]);
            given[place] = variant == 0   ? sealed_memfd(1 << 20, 0)
                           : variant == 1 ? sealed_memfd(place == PLACE_DOORBELL ? 0 : 64, F_SEAL_SHRINK)
                                          : open("/dev/zero", O_RDWR | O_CLOEXEC);
            CHECK_INT(victim_connects(&good, SHM_VERSION, SHM_REPLY_SIZE, given, 5, &detail), RT_E_PROTOCOL);
            CHECK_HAS(detail.text, variant == 0 ? "not sealed" : variant == 1 ? "holds" : "not a memfd");
        }
    }
    static const size_t counts[] = {0, 1, 4, 6, 8};
    for (size_t index = 0; index < sizeof counts / sizeof counts[0]; index++) {
        for (size_t at = 0; at < counts[index]; at++)
            given[at] = open("/dev/null", O_RDWR | O_CLOEXEC);
        CHECK_INT(victim_connects(&good, SHM_VERSION, SHM_REPLY_SIZE, given, counts[index], &detail), RT_E_PROTOCOL);
    }
    for (size_t at = 0; at < 12; at++)
        given[at] = open("/dev/null", O_RDWR | O_CLOEXEC);
    CHECK_INT(victim_connects(&good, SHM_VERSION, SHM_REPLY_SIZE, given, 12, &detail), RT_E_PROTOCOL);
    for (int variant = 0; variant < 6; variant++) {
        shm_reply bad = good;
        bad.kind = variant == 0 ? SHM_REQUEST_REGION : bad.kind;
        bad.number = variant == 1; /* asks for a wrong one */
        bad.value = variant == 2 ? SHM_QUEUES_MAX : 0;
        size_t size = variant == 3 ? SHM_REPLY_SIZE - 1 : variant == 4 ? SHM_REPLY_SIZE + 1 : SHM_REPLY_SIZE;
        proper_descriptors(given);
        CHECK_INT(victim_connects(&bad, variant == 5 ? SHM_VERSION + 1 : SHM_VERSION, size, given, 5, &detail), RT_E_PROTOCOL);
    }
    static const struct {
        int32_t status;
        int wanted;
    } refusals[] = {{RT_E_REFUSED, RT_E_REFUSED}, {RT_E_SYSTEM, RT_E_REFUSED}, {1, RT_E_PROTOCOL}, {-9999, RT_E_PROTOCOL}};
    for (size_t index = 0; index < sizeof refusals / sizeof refusals[0]; index++) {
        shm_reply bad = {.kind = SHM_REQUEST_LINK, .status = refusals[index].status};
        CHECK_INT(victim_connects(&bad, SHM_VERSION, SHM_REPLY_SIZE, NULL, 0, &detail), refusals[index].wanted);
    }
    shm_reply refusal = {.kind = SHM_REFUSAL, .status = RT_E_AUTH, .value = 1234};
    CHECK_INT(victim_connects(&refusal, SHM_VERSION, SHM_REPLY_SIZE, NULL, 0, &detail), RT_E_AUTH);
    CHECK_HAS(detail.text, "belongs to user 1234");
    CHECK_INT(descriptors_open(), descriptors);
    CHECK_INT(mappings_open(), mappings);
}

/* Attaches a region through a link to an impostor that answers so. */
static int victim_attaches(end *victim, impostor *bad, const shm_reply *reply, int descriptor, uint8_t key_byte,
                           rt_detail *detail)
{
    uint8_t key[SHM_KEY_SIZE] = {SHM_VERSION, key_byte};
    rt_premote *remote = NULL;
    int status = shm->remote_attach(victim->link, key, sizeof key, 4096, RT_ACCESS_REMOTE_READ, &remote, detail);
    if (status == RT_E_AGAIN) {
        impostor_answer(bad, reply, SHM_VERSION, SHM_REPLY_SIZE, &descriptor, 1);
        serve(victim->device);
        status = shm->remote_attach(victim->link, key, sizeof key, 4096, RT_ACCESS_REMOTE_READ, &remote, detail);
    }
    if (remote != NULL)
        shm->remote_detach(victim->link, remote);
    return status;
}

static void a_region_that_could_raise_a_bus_error_is_refused(void)
{
    static const shm_reply good = {.kind = SHM_REQUEST_REGION, .value = RT_ACCESS_REMOTE_READ, .generation = 1, .size = 4096};
    rt_detail detail = {0};
    end victim;
    impostor bad;
    int given[5];
    end_open(&victim, 4096, RIGHTS_ALL);
    impostor_open(&bad);
    proper_descriptors(given);
    shm_board *board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, given[PLACE_BOARD], 0);
    board->exports[0] = 1;
    CHECK_INT(shm->link_connect(victim.link, bad.address, sizeof bad.address, &detail), RT_E_AGAIN);
    impostor_answer(&bad, &(shm_reply){.kind = SHM_REQUEST_LINK}, SHM_VERSION, SHM_REPLY_SIZE, given, 5);
    serve(victim.device);
    CHECK_INT(shm->link_connect(victim.link, bad.address, sizeof bad.address, &detail), RT_OK);
    uint8_t key = 1;
    CHECK_INT(victim_attaches(&victim, &bad, &good, sealed_memfd(4096, F_SEAL_SHRINK), key++, &detail), RT_OK);
    CHECK_INT(victim_attaches(&victim, &bad, &good, sealed_memfd(4096, 0), key++, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "not sealed");
    CHECK_INT(victim_attaches(&victim, &bad, &good, sealed_memfd(4095, F_SEAL_SHRINK), key++, &detail), RT_E_PROTOCOL);
    CHECK_HAS(detail.text, "4095");
    for (int variant = 0; variant < 7; variant++) {
        shm_reply wrong = good;
        wrong.size = variant == 0 ? 0 : variant == 1 ? UINT64_MAX : wrong.size;
        wrong.size = variant == 2 ? (uint64_t)1 << 62 : wrong.size;
        wrong.value = variant == 3 ? 0 : variant == 4 ? 0xff : wrong.value;
        wrong.index = variant == 5 ? SHM_EXPORTS_MAX : 0;
        wrong.generation = variant == 6 ? 0 : 1;
        CHECK_INT(victim_attaches(&victim, &bad, &wrong, sealed_memfd(4096, F_SEAL_SHRINK), key++, &detail), RT_E_PROTOCOL);
    }
    shm_reply released = good;
    released.index = 1;
    CHECK_INT(victim_attaches(&victim, &bad, &released, sealed_memfd(4096, F_SEAL_SHRINK), key++, &detail), RT_E_REMOTE_ACCESS);
    munmap(board, sizeof *board);
    end_close(&victim);
    impostor_close(&bad);
}

/* ---- the rings ---- */

static void impossible_ring_numbers_end_the_link_without_touching_memory(void)
{
    for (int variant = 0; variant < 7; variant++) {
        end left, right;
        pair_open(&left, &right, 4096);
        memset(right.bytes, 0xee, 4096);
        post_one(&right, RT_WORK_RECV, 0, 256, 0, 1);
        post_one(&right, RT_WORK_RECV, 256, 256, 0, 2);
        shm_ring *ring = shm_link_of(left.link)->out; /* as the peer may write it */
        ring->slots[0].kind = variant == 3 ? 0 : variant == 4 ? 99 : variant == 6 ? SHM_SLOT_IMMEDIATE : SHM_SLOT_SEND;
        ring->slots[0].size = variant == 5 ? SHM_SEND_SIZE_MAX + 1 : variant >= 6 ? UINT32_MAX : 16;
        ring->head = variant == 0 ? 33 : variant == 1 ? UINT32_MAX : variant == 2 ? 1u << 31 : 1;
        rt_completion completion = poll_one(&right, SERVICE_QUEUE);
        CHECK_INT(completion.status, RT_E_PROTOCOL);
        CHECK_INT(completion.token, 1);
        CHECK_INT(poll_one(&right, SERVICE_QUEUE).status, RT_E_FLUSHED);
        for (int at = 0; at < 4096; at++)
            CHECK_INT(right.bytes[at], 0xee);
        CHECK_INT(post_one(&left, RT_WORK_WRITE, 0, 8, 0, 0).completed, 0); /* the link is over at both ends */
        pair_close(&left, &right);
    }
}

static void an_impossible_tail_ends_the_senders_link(void)
{
    static const uint32_t tails[] = {1, UINT32_MAX - 31, 1u << 31};
    for (size_t index = 0; index < 3; index++) {
        end left, right;
        pair_open(&left, &right, 4096);
        shm_link_of(right.link)->in->tail = tails[index] == UINT32_MAX - 31 ? UINT32_MAX - 32 : tails[index];
        CHECK_INT(post_one(&left, RT_WORK_SEND, 0, 8, 0, 5).completed, 0);
        CHECK_INT(poll_one(&left, DATA_QUEUE).status, RT_E_PROTOCOL);
        pair_close(&left, &right);
    }
}

static void a_peer_that_scribbles_over_its_ring_for_long_stays_harmless(void)
{
    uint32_t seed = 12345;
    for (int round = 0; round < 300; round++) {
        end left, right;
        pair_open(&left, &right, 4096);
        uint8_t *ring = (uint8_t *)shm_link_of(left.link)->out;
        for (int step = 0; step < 20; step++) {
            post_one(&right, RT_WORK_RECV, 64, 100, 0, 1);
            for (int byte = 0; byte < 40; byte++) {
                seed = seed * 1664525u + 1013904223u;
                ring[byte % 2 ? (seed >> 8) % 200 : (seed >> 8) % sizeof(shm_ring)] =
                    (uint8_t)(seed >> 24) & (byte % 3 ? 3 : 255);
            }
            rt_completion completions[8];
            int taken = shm->poll(right.device, SERVICE_QUEUE, completions, 8);
            CHECK(taken >= 0);
            for (int at = 0; at < taken; at++)
                CHECK(completions[at].status != RT_OK || completions[at].has_immediate || completions[at].size <= 100);
        }
        pair_close(&left, &right);
    }
}

/* Lets this process have no free descriptor; returns the limit to restore. */
static struct rlimit exhaust_descriptors(void)
{
    struct rlimit limit, tight;
    getrlimit(RLIMIT_NOFILE, &limit);
    tight = limit;
    int next = dup(0);
    close(next);
    tight.rlim_cur = (rlim_t)next;
    setrlimit(RLIMIT_NOFILE, &tight);
    return limit;
}

static void a_peer_is_turned_away_when_descriptors_have_run_out(void)
{
    end left, right;
    uint8_t bytes[64];
    int received[8];
    size_t count;
    pair_open(&left, &right, 4096);
    int client = raw_connect(left.address);
    struct rlimit limit = exhaust_descriptors();
    rt_event event = serve(left.device);
    setrlimit(RLIMIT_NOFILE, &limit);
    CHECK_INT(event.kind, RT_EVENT_NOTICE);
    CHECK_HAS(event.detail.text, "ulimit -n");
    CHECK_INT(raw_receive(client, bytes, received, &count), 0);
    CHECK(!readable(shm->service_fd(left.device), 0));
    close(client);
    end third;
    rt_detail detail = {0};
    end_open(&third, 4096, RIGHTS_ALL);
    CHECK_INT(join(&third, right.address, right.address_size, right.device, &detail), RT_E_REFUSED);
    end_close(&third);
    pair_close(&left, &right);
}

static void an_answer_without_room_for_its_descriptors_fails_that_request_only(void)
{
    end left, right, more;
    rt_detail detail = {0};
    rt_premote *remote;
    pair_open(&left, &right, 4096);
    end_open_on(&more, right.device, 4096, RIGHTS_ALL);
    CHECK_INT(shm->remote_attach(left.link, more.key, more.key_size, 4096, RIGHTS_ALL, &remote, &detail), RT_E_AGAIN);
    serve(right.device);
    struct rlimit limit = exhaust_descriptors();
    serve(left.device);
    setrlimit(RLIMIT_NOFILE, &limit);
    CHECK_INT(shm->remote_attach(left.link, more.key, more.key_size, 4096, RIGHTS_ALL, &remote, &detail), RT_E_SYSTEM);
    CHECK_HAS(detail.text, "ulimit -n");
    CHECK_INT(attach(&left, more.key, more.key_size, 4096, RIGHTS_ALL, right.device, &remote, &detail), RT_OK);
    shm->remote_detach(left.link, remote);
    end_close_on(&more);
    pair_close(&left, &right);
}

static const check_test tests[] = {
    CHECK_TEST(garbage_on_the_socket_ends_that_connection_only),
    CHECK_TEST(memory_handed_out_for_reading_cannot_be_mapped_for_writing),
    CHECK_TEST(bad_addresses_and_keys_are_refused),
    CHECK_TEST(a_link_answer_that_is_wrong_in_any_way_is_refused),
    CHECK_TEST(a_region_that_could_raise_a_bus_error_is_refused),
    CHECK_TEST(impossible_ring_numbers_end_the_link_without_touching_memory),
    CHECK_TEST(an_impossible_tail_ends_the_senders_link),
    CHECK_TEST(a_peer_that_scribbles_over_its_ring_for_long_stays_harmless),
    CHECK_TEST(a_peer_is_turned_away_when_descriptors_have_run_out),
    CHECK_TEST(an_answer_without_room_for_its_descriptors_fails_that_request_only),
};

CHECK_MAIN(tests)
