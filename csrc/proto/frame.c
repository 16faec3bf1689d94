/* frame.c: frames of the control connection with their tags (PROTOCOL.md section 2).
 *
 * A frame is trusted in two steps: its header is bounded before its payload is waited for, and its
 * tag is compared before any code sees its payload. payload.c reads and writes payloads;
 * handshake.c says when they may come. */
#include "proto/frame.h"
#include "proto/limits.h"

#include "base/bytes.h"

_Static_assert((int)RT_FRAME_TAG_SIZE <= (int)RT_SHA256_SIZE, "a tag is the beginning of a digest");

const char *rt_frame_kind_name(enum rt_frame_kind kind)
{
    switch (kind) {
    case RT_FRAME_OFFER: return "OFFER";
    case RT_FRAME_READY: return "READY";
    case RT_FRAME_BYE: return "BYE";
    case RT_FRAME_ERROR: return "ERROR";
    }
    return "unknown";
}

static bool kind_known(uint64_t kind)
{
    return kind >= RT_FRAME_OFFER && kind <= RT_FRAME_ERROR;
}

/* The tag of header and payload, which are contiguous. */
static void tag_make(const rt_frame_lane *lane, const uint8_t *bytes, size_t size, uint8_t digest_out[RT_SHA256_SIZE])
{
    uint8_t counter[8];
    rt_writer writer = rt_writer_of(counter, sizeof counter);
    rt_write_uint(&writer, lane->counter, sizeof counter);
    rt_hmac_state state;
    rt_hmac_begin(&state, lane->key, sizeof lane->key);
    rt_hmac_add(&state, counter, sizeof counter);
    rt_hmac_add(&state, bytes, size);
    rt_hmac_end(&state, digest_out);
}

int64_t rt_frame_seal(rt_frame_lane *lane, uint16_t kind, const uint8_t *payload, size_t payload_size, uint8_t *bytes_out,
                      size_t capacity)
{
    if (!kind_known(kind) || payload_size > RT_FRAME_PAYLOAD_MAX)
        return RT_E_INVALID;
    if (capacity < RT_FRAME_HEADER_SIZE + payload_size + RT_FRAME_TAG_SIZE)
        return RT_E_INVALID;
    uint8_t digest[RT_SHA256_SIZE];
    rt_writer writer = rt_writer_of(bytes_out, capacity);
    rt_write_uint(&writer, payload_size, 4);
    rt_write_uint(&writer, kind, 2);
    rt_write_uint(&writer, 0, 2);
    rt_write_bytes(&writer, payload, payload_size);
    tag_make(lane, bytes_out, writer.size, digest);
    rt_write_bytes(&writer, digest, RT_FRAME_TAG_SIZE);
    lane->counter++;
    return (int64_t)writer.size;
}

int rt_frame_open(rt_frame_lane *lane, const uint8_t *bytes, size_t size, uint16_t *kind_out, const uint8_t **payload_out,
                  size_t *payload_size_out, size_t *frame_size_out, rt_detail *detail)
{
    if (size < RT_FRAME_HEADER_SIZE)
        return RT_E_AGAIN;
    rt_reader reader = rt_reader_of(bytes, size);
    size_t payload_size = (size_t)rt_read_uint(&reader, 4);
    uint16_t kind = (uint16_t)rt_read_uint(&reader, 2);
    uint16_t zero = (uint16_t)rt_read_uint(&reader, 2);
    if (payload_size > RT_FRAME_PAYLOAD_MAX)
        return rt_fail(detail, RT_E_PROTOCOL, 0,
                       "frame %llu of the control connection announces %zu bytes, at most %d are allowed",
                       (unsigned long long)lane->counter, payload_size, RT_FRAME_PAYLOAD_MAX);
    if (!kind_known(kind))
        return rt_fail(detail, RT_E_PROTOCOL, 0, "frame %llu of the control connection is of the unknown kind %u",
                       (unsigned long long)lane->counter, (unsigned)kind);
    if (zero != 0)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "frame %llu (%s) of the control connection has 0x%04x where zero belongs",
                       (unsigned long long)lane->counter, rt_frame_kind_name(kind), (unsigned)zero);
    const uint8_t *payload = rt_read_bytes(&reader, payload_size);
    const uint8_t *tag = rt_read_bytes(&reader, RT_FRAME_TAG_SIZE);
    if (tag == NULL)
        return RT_E_AGAIN;
    uint8_t digest[RT_SHA256_SIZE];
    tag_make(lane, bytes, RT_FRAME_HEADER_SIZE + payload_size, digest);
    if (!rt_equal_constant_time(tag, digest, RT_FRAME_TAG_SIZE))
        return rt_fail(
            detail, RT_E_PROTOCOL, 0,
            "frame %llu (%s) of the control connection has a wrong tag: bytes were changed, repeated or put in between "
            "the two ends; connect again, and look at what lies between them if it happens again",
            (unsigned long long)lane->counter, rt_frame_kind_name(kind));
    lane->counter++;
    *kind_out = kind;
    *payload_out = payload;
    *payload_size_out = payload_size;
    *frame_size_out = reader.offset;
    return RT_OK;
}

void rt_text_clean(const uint8_t *bytes, size_t size, char *text_out, size_t capacity)
{
    if (capacity == 0)
        return;
    size_t taken = size < capacity - 1 ? size : capacity - 1;
    for (size_t index = 0; index < taken; index++)
        text_out[index] = bytes[index] >= 0x20 && bytes[index] <= 0x7e ? (char)bytes[index] : '?';
    text_out[taken] = '\0';
}
