/* payload.c: the payloads of the frames OFFER, BYE and ERROR (PROTOCOL.md section 2).
 *
 * The bytes come from a peer that has proved its identity, and are checked all the same: it may run
 * another implementation, or be broken. A reader takes all bytes of a payload or fails.
 *
 * Texts are cleaned on the way out and on the way in, so that none reaches a terminal with control
 * characters; a reason that is too long is cut. */
#include "proto/payload.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"

enum { OFFER_FIXED_MAX = 1 + RT_PROVIDER_NAME_MAX + RT_DEVICE_ID_SIZE + 1 + RT_PEER_TEXT_MAX + 4 + 2 };
_Static_assert(OFFER_FIXED_MAX + (int)RT_LINKS_PER_CHANNEL_MAX * (1 + (int)RT_HANDSHAKE_ADDRESS_MAX) <= (int)RT_FRAME_PAYLOAD_MAX,
               "the largest OFFER fits a frame");
_Static_assert(RT_REASON_MAX <= UINT8_MAX && RT_PEER_TEXT_MAX <= UINT8_MAX, "lengths of texts are one byte");

static void text_write(rt_writer *writer, const char *text, size_t size_max)
{
    char clean[UINT8_MAX + 1];
    size_t size = strnlen(text, size_max);
    assert(size < sizeof clean);
    rt_text_clean((const uint8_t *)text, size, clean, sizeof clean);
    rt_write_uint(writer, size, 1);
    rt_write_bytes(writer, clean, size);
}

/* A text that does not fit `text_out` fails the reader. */
static void text_read(rt_reader *reader, char *text_out, size_t capacity)
{
    size_t size = (size_t)rt_read_uint(reader, 1);
    const uint8_t *bytes = size < capacity ? rt_read_bytes(reader, size) : NULL;
    if (bytes == NULL)
        reader->failed = true;
    else
        rt_text_clean(bytes, size, text_out, capacity);
}

int64_t rt_offer_write(const rt_offer *offer, uint8_t *payload_out, size_t capacity)
{
    if (offer->provider[0] == '\0' || offer->link_count == 0 || offer->link_count > RT_LINKS_PER_CHANNEL_MAX)
        return RT_E_INVALID;
    rt_writer writer = rt_writer_of(payload_out, capacity);
    text_write(&writer, offer->provider, RT_PROVIDER_NAME_MAX);
    rt_write_bytes(&writer, offer->device_id, sizeof offer->device_id);
    text_write(&writer, offer->description, RT_PEER_TEXT_MAX);
    rt_write_uint(&writer, 0, 4);
    rt_write_uint(&writer, offer->link_count, 2);
    for (uint32_t index = 0; index < offer->link_count; index++) {
        if (offer->address_sizes[index] > RT_HANDSHAKE_ADDRESS_MAX)
            return RT_E_INVALID;
        rt_write_uint(&writer, offer->address_sizes[index], 1);
        rt_write_bytes(&writer, offer->addresses[index], offer->address_sizes[index]);
    }
    return writer.failed ? RT_E_INVALID : (int64_t)writer.size;
}

static void link_addresses_read(rt_reader *reader, rt_offer *offer)
{
    for (uint32_t index = 0; index < offer->link_count; index++) {
        uint8_t size = (uint8_t)rt_read_uint(reader, 1);
        const uint8_t *address = size <= RT_HANDSHAKE_ADDRESS_MAX ? rt_read_bytes(reader, size) : NULL;
        if (address == NULL) {
            reader->failed = true;
            return;
        }
        offer->address_sizes[index] = size;
        memcpy(offer->addresses[index], address, size);
    }
}

int rt_offer_read(const uint8_t *payload, size_t size, uint32_t link_count_max, rt_offer *offer_out, rt_detail *detail)
{
    assert(link_count_max <= RT_LINKS_PER_CHANNEL_MAX);
    memset(offer_out, 0, sizeof *offer_out);
    rt_reader reader = rt_reader_of(payload, size);
    text_read(&reader, offer_out->provider, sizeof offer_out->provider);
    const uint8_t *device_id = rt_read_bytes(&reader, sizeof offer_out->device_id);
    if (device_id != NULL)
        memcpy(offer_out->device_id, device_id, sizeof offer_out->device_id);
    text_read(&reader, offer_out->description, sizeof offer_out->description);
    uint32_t flags = (uint32_t)rt_read_uint(&reader, 4);
    offer_out->link_count = (uint32_t)rt_read_uint(&reader, 2);
    if (!reader.failed && flags != 0)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "an OFFER has the unknown flags 0x%08x", (unsigned)flags);
    if (!reader.failed && (offer_out->link_count == 0 || offer_out->link_count > link_count_max))
        return rt_fail(detail, RT_E_PROTOCOL, 0, "an OFFER has %u links where 1 to %u are allowed",
                       (unsigned)offer_out->link_count, (unsigned)link_count_max);
    if (!reader.failed)
        link_addresses_read(&reader, offer_out);
    if (!rt_reader_done(&reader))
        return rt_fail(detail, RT_E_PROTOCOL, 0, "an OFFER of %zu bytes %s", size,
                       reader.failed ? "is cut short, or a length inside is too large" : "has bytes after its end");
    if (offer_out->provider[0] == '\0')
        return rt_fail(detail, RT_E_PROTOCOL, 0, "an OFFER names no provider");
    return RT_OK;
}

int64_t rt_farewell_write(enum rt_frame_kind kind, int status, const char *reason, uint8_t *payload_out, size_t capacity)
{
    assert(kind == RT_FRAME_BYE || (kind == RT_FRAME_ERROR && status < 0));
    rt_writer writer = rt_writer_of(payload_out, capacity);
    if (kind == RT_FRAME_ERROR)
        rt_write_uint(&writer, (uint32_t)status, 4);
    text_write(&writer, reason, RT_REASON_MAX);
    return writer.failed ? RT_E_INVALID : (int64_t)writer.size;
}

int rt_farewell_read(enum rt_frame_kind kind, const uint8_t *payload, size_t size, rt_farewell *farewell_out, rt_detail *detail)
{
    rt_reader reader = rt_reader_of(payload, size);
    memset(farewell_out, 0, sizeof *farewell_out);
    if (kind == RT_FRAME_ERROR)
        farewell_out->status = (int32_t)(uint32_t)rt_read_uint(&reader, 4);
    text_read(&reader, farewell_out->reason, sizeof farewell_out->reason);
    if (!rt_reader_done(&reader))
        return rt_fail(detail, RT_E_PROTOCOL, 0, "%s of %zu bytes is cut short, or has bytes after its text",
                       kind == RT_FRAME_ERROR ? "an ERROR" : "a BYE", size);
    if (kind == RT_FRAME_ERROR && farewell_out->status >= 0)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "an ERROR has the status %d, which is no failure", (int)farewell_out->status);
    return RT_OK;
}
