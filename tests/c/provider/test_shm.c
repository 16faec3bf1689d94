/* test_shm.c: the shared memory provider at the seam, with two devices in one process. Peers that break the protocol are in
 * test_shm_hostile.c, peers in other processes in test_shm_peers.c. */
#include "shm_ends.h"

static void fill(uint8_t *bytes, uint64_t size, uint32_t seed)
{
    for (uint64_t at = 0; at < size; at++) {
        seed = seed * 1664525u + 1013904223u;
        bytes[at] = (uint8_t)(seed >> 24);
    }
}

static void a_device_opens_by_its_name_only(void)
{
    rt_detail detail = {0};
    rt_pdevice *device = NULL;
    rt_open_options options = {.name = "shm0", .arguments = "", .data_queues = 1};
    CHECK_INT(shm->viable(&detail), RT_OK);
    CHECK_INT(shm->open(&options, &device, &detail), RT_OK);
    CHECK_STR(device->name, "shm0");
    shm->close(device);
    options.name = "mlx5_0";
    CHECK_INT(shm->open(&options, &device, &detail), RT_E_NOT_FOUND);
    CHECK_HAS(detail.text, "mlx5_0");
    options.name = "";
    options.arguments = "speed=9&x=1";
    CHECK_INT(shm->open(&options, &device, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "\"speed\"");
    options.arguments = "";
    options.data_queues = 65;
    CHECK_INT(shm->open(&options, &device, &detail), RT_E_INVALID);
    rt_device_info info;
    CHECK_INT(shm->list(&info, 1, &detail), 1);
    CHECK_STR(info.name, "shm0");
    CHECK(info.limits.completes_in_post && info.limits.can_wake_receiver && !info.limits.exposes_caller_memory);
}

static void a_write_is_there_when_post_returns_whatever_its_size_and_alignment(void)
{
    static const uint64_t sizes[] = {0, 1, 3, 7, 8, 9, 64, 255, 4096, 65537, 300001, 1 << 20, (8 << 20) + 77, 32 << 20};
    const size_t count = sizeof sizes / sizeof sizes[0];
    const uint64_t size_max = (uint64_t)33 << 20;
    end left, right;
    pair_open(&left, &right, size_max);
    fill(left.bytes, size_max, 1);
    for (size_t index = 0; index < 2 * count; index++) { /* each twice: large ones go up and down in turn */
        uint64_t size = sizes[index / 2], from = 5 * index, to = 3 * index + 1;
        memset(right.bytes, 0xee, to + size + 64);
        POST_DONE(&left, RT_WORK_WRITE, from, size, to);
        CHECK_BYTES(right.bytes + to, left.bytes + from, size);
        CHECK_INT(right.bytes[to - 1], 0xee);
        CHECK_INT(right.bytes[to + size], 0xee);
        CHECK_INT(poll_one(&left, DATA_QUEUE).status, 1);
    }
    pair_close(&left, &right);
}

static void a_read_brings_the_peers_bytes(void)
{
    static const uint64_t sizes[] = {1, 8, 13, 4096, (9 << 20) + 3};
    const uint64_t size_max = (uint64_t)10 << 20;
    end left, right;
    pair_open(&left, &right, size_max);
    fill(right.bytes, size_max, 2);
    for (size_t index = 0; index < sizeof sizes / sizeof sizes[0]; index++) {
        memset(left.bytes, 0xee, sizes[index] + 64);
        POST_DONE(&left, RT_WORK_READ, 1, sizes[index], 8 * index);
        CHECK_BYTES(left.bytes + 1, right.bytes + 8 * index, sizes[index]);
        CHECK_INT(left.bytes[0], 0xee);
        CHECK_INT(left.bytes[1 + sizes[index]], 0xee);
    }
    pair_close(&left, &right);
}

static void segments_are_gathered_and_scattered_in_order(void)
{
    end left, right;
    pair_open(&left, &right, 1 << 16);
    fill(left.bytes, 1 << 16, 3);
    rt_segment segments[32];
    uint8_t wanted[32 * 40];
    uint64_t total = 0;
    for (uint32_t index = 0; index < 32; index++) {
        uint64_t size = index == 5 ? 0 : index + 1;
        segments[index] = (rt_segment){.memory = left.memory, .address = left.bytes + 1000 * index, .size = size};
        memcpy(wanted + total, segments[index].address, size);
        total += size;
    }
    rt_work item = {.opcode = RT_WORK_WRITE,
                    .segment_count = 32,
                    .segments = segments,
                    .remote = left.remote,
                    .remote_offset = 11};
    rt_posted posted;
    CHECK_INT(shm->post(left.link, &item, 1, &posted), RT_OK);
    CHECK_INT(posted.completed, 1);
    CHECK_BYTES(right.bytes + 11, wanted, total);
    memset(left.bytes, 0, 1 << 16);
    item.opcode = RT_WORK_READ;
    CHECK_INT(shm->post(left.link, &item, 1, &posted), RT_OK);
    CHECK_INT(posted.completed, 1);
    for (uint32_t index = 0, at = 0; index < 32; at += (uint32_t)segments[index++].size)
        CHECK_BYTES(segments[index].address, wanted + at, segments[index].size);
    rt_segment halves[2] = {{.memory = left.memory, .address = wanted, .size = 3},
                            {.memory = left.memory, .address = wanted + 3, .size = 5}};
    item = (rt_work){.opcode = RT_WORK_WRITE, .segment_count = 2, .segments = halves, .remote = left.remote, .remote_offset = 64};
    CHECK_INT(shm->post(left.link, &item, 1, &posted), RT_OK);
    CHECK_BYTES(right.bytes + 64, wanted, 8);
    pair_close(&left, &right);
}

static void an_immediate_completes_a_receive_after_its_bytes(void)
{
    end left, right;
    pair_open(&left, &right, 4096);
    memset(left.bytes, 0x5a, 100);
    CHECK_INT(post_one(&right, RT_WORK_RECV, 0, 0, 0, 31).accepted, 1);
    CHECK_INT(poll_one(&right, SERVICE_QUEUE).status, 1);
    CHECK_INT(post_one(&left, RT_WORK_WRITE_IMM, 0, 100, 200, 0xabcd).completed, 1);
    rt_completion completion = poll_one(&right, SERVICE_QUEUE);
    CHECK_INT(completion.status, RT_OK);
    CHECK_INT(completion.token, 31);
    CHECK_INT(completion.opcode, RT_WORK_RECV);
    CHECK_INT(completion.has_immediate, 1);
    CHECK_INT(completion.immediate, 0xabcd);
    CHECK_INT(completion.size, 100);
    CHECK_BYTES(right.bytes + 200, left.bytes, 100);
    pair_close(&left, &right);
}

static void sends_arrive_in_order_and_a_full_ring_takes_a_prefix(void)
{
    end left, right;
    pair_open(&left, &right, 1 << 16);
    uint32_t sent = 0;
    for (; sent < 100; sent++) {
        memset(left.bytes, (int)sent, 256);
        rt_posted posted = post_one(&left, RT_WORK_SEND, 0, 256 - sent, 0, sent);
        if (posted.accepted == 0)
            break;
        CHECK_INT(posted.completed, 1);
    }
    CHECK_INT(sent, 32);
    for (uint32_t index = 0; index < 40; index++) {
        CHECK_INT(post_one(&right, RT_WORK_RECV, 256 * index, 256, 0, index).accepted, 1);
        rt_completion completion = poll_one(&right, SERVICE_QUEUE);
        if (index >= 32) {
            CHECK_INT(completion.status, 1);
            continue;
        }
        CHECK_INT(completion.token, index);
        CHECK_INT(completion.size, 256 - index);
        CHECK_INT(completion.has_immediate, 0);
        CHECK_INT(right.bytes[256 * index], index);
        CHECK_INT(right.bytes[256 * index + 255 - index], index);
    }
    CHECK_INT(post_one(&left, RT_WORK_SEND, 0, 1, 0, 0).completed, 1);
    CHECK_INT(poll_one(&right, SERVICE_QUEUE).token, 32);
    pair_close(&left, &right);
}

static void receives_beyond_the_depth_are_not_taken(void)
{
    end left, right;
    pair_open(&left, &right, 4096);
    uint32_t posted = 0;
    while (posted < 1000 && post_one(&right, RT_WORK_RECV, 0, 16, 0, posted).accepted == 1)
        posted++;
    CHECK_INT(posted, right.device->limits.receive_depth);
    CHECK_INT(post_one(&left, RT_WORK_SEND, 0, 16, 0, 0).completed, 1);
    CHECK_INT(poll_one(&right, SERVICE_QUEUE).token, 0);
    CHECK_INT(post_one(&right, RT_WORK_RECV, 0, 16, 0, 5).accepted, 1);
    CHECK_INT(post_one(&right, RT_WORK_RECV, 0, 16, 0, 6).accepted, 0);
    pair_close(&left, &right);
}

static void a_send_longer_than_its_receive_fails_that_link(void)
{
    end left, right;
    pair_open(&left, &right, 4096);
    memset(right.bytes, 0xee, 64);
    post_one(&right, RT_WORK_RECV, 0, 15, 0, 1);
    post_one(&right, RT_WORK_RECV, 32, 16, 0, 2);
    CHECK_INT(post_one(&left, RT_WORK_SEND, 0, 16, 0, 0).completed, 1);
    rt_completion completion = poll_one(&right, SERVICE_QUEUE);
    CHECK_INT(completion.status, RT_E_LOCAL_ACCESS);
    CHECK_HAS(shm->completion_name(completion.foreign_status), "RECV_TOO_SHORT");
    CHECK_INT(poll_one(&right, SERVICE_QUEUE).status, RT_E_FLUSHED);
    CHECK_INT(right.bytes[0], 0xee);
    CHECK_INT(post_one(&left, RT_WORK_SEND, 0, 257, 0, 9).completed, 0);
    pair_close(&left, &right);
}

static void a_write_beyond_the_region_fails_its_link_and_no_other(void)
{
    end left, right, left_other = {0}, right_other = {0};
    pair_open(&left, &right, 4096);
    end_open_on(&left_other, left.device, 4096, RIGHTS_ALL);
    end_open_on(&right_other, right.device, 4096, RIGHTS_ALL);
    ends_join(&left_other, &right_other);
    static const uint64_t offsets[] = {4096, 4089, UINT64_MAX, UINT64_MAX - 3};
    rt_segment segment = {.memory = left.memory, .address = left.bytes, .size = 8};
    rt_work items[3];
    for (uint32_t index = 0; index < 3; index++)
        items[index] =
            (rt_work){.opcode = RT_WORK_WRITE, .segment_count = 1, .segments = &segment, .remote = left.remote, .token = index};
    items[1].remote_offset = offsets[0];
    rt_posted posted;
    CHECK_INT(shm->post(left.link, items, 3, &posted), RT_OK);
    CHECK_INT(posted.accepted, 3);
    CHECK_INT(posted.completed, 1);
    rt_completion completions[4];
    CHECK_INT(shm->poll(left.device, DATA_QUEUE, completions, 4), 2);
    CHECK_INT(completions[0].token, 1);
    CHECK_INT(completions[0].status, RT_E_REMOTE_ACCESS);
    CHECK_HAS(shm->completion_name(completions[0].foreign_status), "BOUNDS");
    CHECK_INT(completions[1].token, 2);
    CHECK_INT(completions[1].status, RT_E_FLUSHED);
    POST_DONE(&left_other, RT_WORK_WRITE, 0, 8, 0);
    for (uint32_t index = 1; index < 4; index++) {
        end one, two;
        pair_open(&one, &two, 4096);
        CHECK_INT(post_one(&one, RT_WORK_WRITE, 0, 8, offsets[index], 1).completed, 0);
        CHECK_INT(poll_one(&one, DATA_QUEUE).status, RT_E_REMOTE_ACCESS);
        pair_close(&one, &two);
    }
    end_close_on(&left_other);
    end_close_on(&right_other);
    pair_close(&left, &right);
}

static void a_region_without_the_right_cannot_be_attached_for_it(void)
{
    end left, right;
    rt_detail detail = {0};
    end_open(&left, 4096, RIGHTS_ALL);
    end_open(&right, 4096, RT_ACCESS_LOCAL_WRITE | RT_ACCESS_REMOTE_READ);
    ends_join(&left, &right);
    rt_premote *remote = NULL;
    CHECK_INT(attach(&left, right.key, right.key_size, 4096, RIGHTS_ALL, right.device, &remote, &detail), RT_E_REMOTE_ACCESS);
    CHECK_HAS(detail.text, "writing");
    CHECK_INT(attach(&left, right.key, right.key_size, 4097, RT_ACCESS_REMOTE_READ, right.device, &remote, &detail),
              RT_E_REMOTE_ACCESS);
    CHECK_HAS(detail.text, "registered 4096");
    POST_DONE(&left, RT_WORK_READ, 0, 64, 0);
    memset(right.bytes, 0xee, 64);
    CHECK_INT(post_one(&left, RT_WORK_WRITE, 0, 64, 0, 3).completed, 0);
    rt_completion completion = poll_one(&left, DATA_QUEUE);
    CHECK_INT(completion.status, RT_E_REMOTE_ACCESS);
    CHECK_HAS(shm->completion_name(completion.foreign_status), "RIGHT");
    CHECK_INT(right.bytes[0], 0xee);
    pair_close(&left, &right);
}

static void a_released_region_refuses_the_peers_next_item(void)
{
    end left, right;
    rt_detail detail = {0};
    rt_premote *remote;
    pair_open(&left, &right, 4096);
    POST_DONE(&left, RT_WORK_WRITE, 0, 8, 0);
    shm->memory_release(right.device, right.memory);
    rt_memory again = {.address = right.bytes, .size = 4096, .descriptor = right.descriptor, .access = RIGHTS_ALL};
    CHECK_INT(shm->memory_register(right.device, &again, &right.memory, &detail), RT_OK); /* takes the same place */
    CHECK_INT(attach(&left, right.key, right.key_size, 4096, RIGHTS_ALL, right.device, &remote, &detail), RT_E_REMOTE_ACCESS);
    CHECK_INT(post_one(&left, RT_WORK_WRITE, 0, 8, 0, 4).completed, 0);
    rt_completion completion = poll_one(&left, DATA_QUEUE);
    CHECK_INT(completion.status, RT_E_REMOTE_ACCESS);
    CHECK_HAS(shm->completion_name(completion.foreign_status), "RELEASED");
    pair_close(&left, &right);
}

static void memory_that_cannot_be_shared_is_refused_with_the_reason(void)
{
    static uint8_t bytes[4096];
    rt_detail detail = {0};
    rt_pmemory *registered;
    rt_pdevice *device = device_open();
    rt_memory memory = {.address = bytes, .size = sizeof bytes, .descriptor = -1, .access = RIGHTS_ALL};
    CHECK_INT(shm->memory_register(device, &memory, &registered, &detail), RT_E_UNSUPPORTED);
    CHECK_HAS(detail.text, "device.region()");
    memory.access = RT_ACCESS_LOCAL_WRITE;
    CHECK_INT(shm->memory_register(device, &memory, &registered, &detail), RT_OK);
    uint8_t key[RT_MEMORY_KEY_SIZE_MAX];
    size_t size;
    CHECK_INT(shm->memory_key(device, registered, NULL, 0, key, &size, &detail), RT_E_ACCESS);
    shm->memory_release(device, registered);
    memory.access = RIGHTS_ALL;
    memory.descriptor = sealed_memfd(4096, 0);
    CHECK_INT(shm->memory_register(device, &memory, &registered, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "F_SEAL_SHRINK");
    close(memory.descriptor);
    memory.descriptor = sealed_memfd(4095, F_SEAL_SHRINK);
    CHECK_INT(shm->memory_register(device, &memory, &registered, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "4095");
    close(memory.descriptor);
    memory.descriptor = open("/dev/null", O_RDWR | O_CLOEXEC);
    CHECK_INT(shm->memory_register(device, &memory, &registered, &detail), RT_E_INVALID);
    CHECK_HAS(detail.text, "not a memfd");
    close(memory.descriptor);
    memory = (rt_memory){.address = bytes, .size = 0, .descriptor = -1, .access = 0};
    CHECK_INT(shm->memory_register(device, &memory, &registered, &detail), RT_E_INVALID);
    shm->close(device);
}

static void shutting_a_link_flushes_it_and_fails_the_peers_next_item(void)
{
    end left, right;
    pair_open(&left, &right, 4096);
    memset(right.bytes, 0xee, 64);
    post_one(&right, RT_WORK_RECV, 0, 16, 0, 1);
    post_one(&right, RT_WORK_RECV, 16, 16, 0, 2);
    CHECK_INT(post_one(&left, RT_WORK_SEND, 0, 16, 0, 0).completed, 1);
    CHECK_INT(shm->arm(right.device, SERVICE_QUEUE), RT_OK);
    shm->link_shut(right.link);
    CHECK(readable(shm->event_fd(right.device, SERVICE_QUEUE), 0));
    CHECK_INT(poll_one(&right, SERVICE_QUEUE).status, RT_E_FLUSHED);
    CHECK_INT(poll_one(&right, SERVICE_QUEUE).token, 2);
    CHECK_INT(poll_one(&right, SERVICE_QUEUE).status, 1);
    CHECK_INT(right.bytes[0], 0xee); /* the SEND was not delivered after the shut */
    CHECK_INT(post_one(&right, RT_WORK_RECV, 0, 16, 0, 3).accepted, 1);
    CHECK_INT(poll_one(&right, SERVICE_QUEUE).status, RT_E_FLUSHED);
    CHECK_INT(post_one(&right, RT_WORK_WRITE, 0, 16, 0, 4).completed, 0);
    CHECK_INT(poll_one(&right, DATA_QUEUE).status, RT_E_FLUSHED);
    CHECK_INT(post_one(&left, RT_WORK_WRITE, 0, 16, 0, 5).completed, 0);
    CHECK_INT(poll_one(&left, DATA_QUEUE).status, RT_E_PEER_LOST);
    CHECK_INT(post_one(&left, RT_WORK_WRITE, 0, 16, 0, 6).completed, 0);
    CHECK_INT(poll_one(&left, DATA_QUEUE).status, RT_E_FLUSHED);
    CHECK_INT(right.bytes[0], 0xee);
    pair_close(&left, &right);
}

static void unpolled_failures_are_bounded_by_the_work_depth(void)
{
    end left, right;
    pair_open(&left, &right, 4096);
    shm->link_shut(left.link);
    uint32_t posted = 0;
    while (posted < 10000 && post_one(&left, RT_WORK_WRITE, 0, 8, 0, posted).accepted == 1)
        posted++;
    CHECK_INT(posted, left.device->limits.work_depth);
    for (uint32_t index = 0; index < posted; index++)
        CHECK_INT(poll_one(&left, DATA_QUEUE).token, index);
    CHECK_INT(poll_one(&left, DATA_QUEUE).status, 1);
    pair_close(&left, &right);
}

static void a_queue_is_readable_after_arming_when_a_receive_completes(void)
{
    end left, right;
    pair_open(&left, &right, 4096);
    int descriptor = shm->event_fd(right.device, SERVICE_QUEUE);
    for (int round = 0; round < 100; round++) {
        post_one(&right, RT_WORK_RECV, 0, 16, 0, 1);
        shm->arm(right.device, SERVICE_QUEUE);
        CHECK_INT(poll_one(&right, SERVICE_QUEUE).status, 1);
        CHECK(!readable(descriptor, 0));
        CHECK_INT(post_one(&left, RT_WORK_SEND, 0, 16, 0, 0).completed, 1);
        CHECK(readable(descriptor, 0));
        shm->event_clear(right.device, SERVICE_QUEUE);
        CHECK(!readable(descriptor, 0));
        CHECK_INT(poll_one(&right, SERVICE_QUEUE).status, RT_OK);
        post_one(&right, RT_WORK_RECV, 0, 16, 0, 1);
        CHECK_INT(post_one(&left, RT_WORK_SEND, 0, 16, 0, 0).completed, 1);
        CHECK(!readable(descriptor, 0)); /* not armed: no system call was made for it */
        CHECK_INT(poll_one(&right, SERVICE_QUEUE).status, RT_OK);
    }
    pair_close(&left, &right);
}

static void the_memory_descriptor_is_readable_after_arming_when_the_peer_writes(void)
{
    end left, right;
    pair_open(&left, &right, 4096);
    int descriptor = shm->memory_event_fd(right.device);
    for (int round = 0; round < 100; round++) {
        POST_DONE(&left, RT_WORK_WRITE, 0, 8, 0);
        CHECK(!readable(descriptor, 0));
        shm->memory_arm(right.device);
        CHECK(!readable(descriptor, 0));
        POST_DONE(&left, RT_WORK_READ, 0, 8, 0);
        CHECK(!readable(descriptor, 0));
        POST_DONE(&left, RT_WORK_WRITE, 0, 8, 0);
        CHECK(readable(descriptor, 0));
        shm->memory_arm(right.device);
        POST_DONE(&left, RT_WORK_WRITE, 0, 8, 0);
        char byte;
        CHECK_INT(read(descriptor, &byte, 1), 1);
    }
    pair_close(&left, &right);
}

static void a_device_can_be_joined_to_itself(void)
{
    end left, right;
    rt_pdevice *device = device_open();
    end_open_on(&left, device, 4096, RIGHTS_ALL);
    end_open_on(&right, device, 4096, RIGHTS_ALL);
    ends_join(&left, &right);
    left.bytes[0] = 42;
    POST_DONE(&left, RT_WORK_WRITE, 0, 1, 9);
    CHECK_INT(right.bytes[9], 42);
    CHECK(memcmp(shm->remote_map(left.remote), right.bytes, 64) == 0);
    end_close_on(&left);
    end_close_on(&right);
    shm->close(device);
}

static void a_link_end_is_handed_out_once(void)
{
    end left, right, third;
    rt_detail detail = {0};
    pair_open(&left, &right, 4096);
    end_open(&third, 4096, RIGHTS_ALL);
    CHECK_INT(join(&third, left.address, left.address_size, left.device, &detail), RT_E_REFUSED);
    CHECK_HAS(detail.text, "no such link end");
    CHECK_INT(shm->link_connect(left.link, third.address, third.address_size, &detail), RT_E_INVALID);
    end_close(&third);
    pair_close(&left, &right);
}

static void many_handles_of_one_region_share_one_mapping(void)
{
    end left, right;
    rt_detail detail = {0};
    rt_premote *remotes[200];
    pair_open(&left, &right, 4096);
    int before = mappings_open();
    for (int index = 0; index < 200; index++)
        CHECK_INT(shm->remote_attach(left.link, right.key, right.key_size, 4096, RIGHTS_ALL, &remotes[index], &detail), RT_OK);
    CHECK_INT(mappings_open(), before);
    for (int index = 0; index < 200; index++)
        shm->remote_detach(left.link, remotes[index]);
    POST_DONE(&left, RT_WORK_WRITE, 0, 8, 0);
    pair_close(&left, &right);
}

static void nothing_stays_open_after_closing(void)
{
    int descriptors = descriptors_open(), mappings = mappings_open();
    for (int round = 0; round < 20; round++) {
        end left, right;
        pair_open(&left, &right, 4096);
        post_one(&right, RT_WORK_RECV, 0, 16, 0, 1);
        if (round % 2 == 0)
            post_one(&left, RT_WORK_WRITE, 0, 8, 1 << 20, 1);
        if (round % 3 == 0) { /* leave in the middle of asking */
            rt_detail detail = {0};
            rt_premote *remote;
            end late;
            end_open_on(&late, right.device, 4096, RIGHTS_ALL);
            CHECK_INT(shm->remote_attach(left.link, late.key, late.key_size, 4096, RIGHTS_ALL, &remote, &detail), RT_E_AGAIN);
            CHECK_INT(shm->link_connect(late.link, left.address, left.address_size, &detail), RT_E_AGAIN);
            if (round % 2 == 0)
                serve_both(right.device, left.device);
            end_close_on(&late);
        }
        char text[512];
        CHECK(shm->link_describe(left.link, text, sizeof text) > 0);
        pair_close(&left, &right);
    }
    CHECK_INT(descriptors_open(), descriptors);
    CHECK_INT(mappings_open(), mappings);
}

static const check_test tests[] = {
    CHECK_TEST(a_device_opens_by_its_name_only),
    CHECK_TEST(a_write_is_there_when_post_returns_whatever_its_size_and_alignment),
    CHECK_TEST(a_read_brings_the_peers_bytes),
    CHECK_TEST(segments_are_gathered_and_scattered_in_order),
    CHECK_TEST(an_immediate_completes_a_receive_after_its_bytes),
    CHECK_TEST(sends_arrive_in_order_and_a_full_ring_takes_a_prefix),
    CHECK_TEST(receives_beyond_the_depth_are_not_taken),
    CHECK_TEST(a_send_longer_than_its_receive_fails_that_link),
    CHECK_TEST(a_write_beyond_the_region_fails_its_link_and_no_other),
    CHECK_TEST(a_region_without_the_right_cannot_be_attached_for_it),
    CHECK_TEST(a_released_region_refuses_the_peers_next_item),
    CHECK_TEST(memory_that_cannot_be_shared_is_refused_with_the_reason),
    CHECK_TEST(shutting_a_link_flushes_it_and_fails_the_peers_next_item),
    CHECK_TEST(unpolled_failures_are_bounded_by_the_work_depth),
    CHECK_TEST(a_queue_is_readable_after_arming_when_a_receive_completes),
    CHECK_TEST(the_memory_descriptor_is_readable_after_arming_when_the_peer_writes),
    CHECK_TEST(a_device_can_be_joined_to_itself),
    CHECK_TEST(a_link_end_is_handed_out_once),
    CHECK_TEST(many_handles_of_one_region_share_one_mapping),
    CHECK_TEST(nothing_stays_open_after_closing),
};

CHECK_MAIN(tests)
