/* fuzz_frame.c: any bytes as a frame, and sealed frames cut, changed and followed by anything. Needs all of csrc/proto,
 * csrc/base/status.c.
 *
 * Held: only what was sealed with this key and counter opens, and gives back what was sealed; everything else is refused or
 * waits for more; a payload handed out lies inside the given bytes; a lane moves on success only. */
#undef NDEBUG
#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "proto/frame.h"
#include "proto/payload.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static rt_frame_lane fresh_lane(void)
{
    rt_frame_lane lane = {.counter = 3};
    memset(lane.key, 0x4b, sizeof lane.key);
    return lane;
}

static int open_checked(const uint8_t *bytes, size_t size, uint16_t *kind_out, const uint8_t **payload_out, size_t *size_out)
{
    rt_frame_lane lane = fresh_lane();
    size_t frame_size = 0;
    rt_detail detail;
    rt_detail_clear(&detail);
    int status = rt_frame_open(&lane, bytes, size, kind_out, payload_out, size_out, &frame_size, &detail);
    if (status != RT_OK) {
        assert(status == RT_E_AGAIN || (status == RT_E_PROTOCOL && detail.text[0] != '\0'));
        assert(lane.counter == 3);
        return status;
    }
    assert(lane.counter == 4 && frame_size <= size && *size_out <= RT_FRAME_PAYLOAD_MAX);
    assert(*payload_out == bytes + RT_FRAME_HEADER_SIZE && frame_size == RT_FRAME_HEADER_SIZE + *size_out + RT_FRAME_TAG_SIZE);
    return RT_OK;
}

/* Reads the payload that an authentic peer may have put into a frame of this kind. */
static void read_payload(uint16_t kind, const uint8_t *payload, size_t size)
{
    rt_detail detail;
    rt_offer offer;
    rt_farewell farewell;
    switch ((enum rt_frame_kind)kind) {
    case RT_FRAME_OFFER:
        if (rt_offer_read(payload, size, RT_LINKS_PER_CHANNEL_MAX, &offer, &detail) == RT_OK) {
            uint8_t again[RT_FRAME_PAYLOAD_MAX];
            assert(rt_offer_write(&offer, again, sizeof again) == (int64_t)size);
        }
        break;
    case RT_FRAME_READY: break;
    case RT_FRAME_BYE:
    case RT_FRAME_ERROR:
        if (rt_farewell_read((enum rt_frame_kind)kind, payload, size, &farewell, &detail) == RT_OK) {
            for (const char *at = farewell.reason; *at != '\0'; at++)
                assert(*at >= 0x20 && *at <= 0x7e);
        }
        break;
    }
}

/* Input: kind, where to cut, where to change, by what, then the payload. */
static void seal_and_corrupt(const uint8_t *bytes, size_t size)
{
    static uint8_t frame[RT_FRAME_SIZE_MAX];
    if (size < 6)
        return;
    uint16_t kind = bytes[0], opened_kind = 0;
    size_t cut = bytes[1] | (size_t)bytes[2] << 8, change = bytes[3] | (size_t)bytes[4] << 8, opened_size = 0;
    const uint8_t *payload = bytes + 6, *opened = NULL;
    size_t payload_size = size - 6;
    rt_frame_lane lane = fresh_lane();
    int64_t sealed = rt_frame_seal(&lane, kind, payload, payload_size, frame, sizeof frame);
    bool fits = kind >= RT_FRAME_OFFER && kind <= RT_FRAME_ERROR && payload_size <= RT_FRAME_PAYLOAD_MAX;
    assert(fits ? sealed == (int64_t)(RT_FRAME_HEADER_SIZE + payload_size + RT_FRAME_TAG_SIZE) : sealed == RT_E_INVALID);
    if (!fits)
        return;
    size_t frame_size = (size_t)sealed;
    assert(open_checked(frame, frame_size, &opened_kind, &opened, &opened_size) == RT_OK);
    assert(opened_kind == kind && opened_size == payload_size && memcmp(opened, payload, payload_size) == 0);
    read_payload(opened_kind, opened, opened_size);
    assert(open_checked(frame, cut % frame_size, &opened_kind, &opened, &opened_size) == RT_E_AGAIN);
    if (bytes[5] != 0) {
        frame[change % frame_size] ^= bytes[5];
        assert(open_checked(frame, frame_size, &opened_kind, &opened, &opened_size) != RT_OK);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    uint16_t kind = 0;
    const uint8_t *payload = NULL;
    size_t payload_size = 0;
    assert(open_checked(bytes, size, &kind, &payload, &payload_size) != RT_OK);
    seal_and_corrupt(bytes, size);
    return 0;
}
