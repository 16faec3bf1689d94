/* rpc_message.c: the messages of address distribution (PROTOCOL.md section 4).
 *
 * There is one encoding of each message: bytes that decode are encoded to the same bytes again. A
 * decoder fails on bytes left over as it does on missing ones.
 *
 * The bytes come from a peer, and lengths are compared before anything is copied. The handle in a
 * FOUND is opaque here: it is decoded by the call that attaches it. rpc/answer.c matches replies to
 * requests, and bounds how many may be under way. */
#include "proto/rpc_message.h"

#include "base/bytes.h"

_Static_assert(4 + 4 + 1 + RT_NAME_MAX <= RT_RPC_MESSAGE_MAX, "the largest LOOKUP fits");
_Static_assert(4 + 1 + RT_HANDLE_SIZE_MAX <= RT_RPC_MESSAGE_MAX, "the largest FOUND fits");
_Static_assert(RT_NAME_MAX <= UINT8_MAX && RT_HANDLE_SIZE_MAX <= UINT8_MAX, "lengths are one byte");

static bool character_is_control(char character)
{
    return (unsigned char)character < 0x20 || character == 0x7f;
}

static bool name_fits(const char *name, size_t size)
{
    for (size_t index = 0; index < size; index++) {
        if (character_is_control(name[index]))
            return false;
    }
    return size > 0 && size <= RT_NAME_MAX;
}

int rt_rpc_check_name(const char *name, rt_detail *detail)
{
    size_t size = strlen(name);
    if (size == 0)
        return rt_fail(detail, RT_E_INVALID, 0, "a published name is empty: it needs 1 to %d bytes", RT_NAME_MAX);
    if (size > RT_NAME_MAX)
        return rt_fail(detail, RT_E_INVALID, 0, "a published name has %zu bytes: at most %d fit, choose a shorter one", size,
                       RT_NAME_MAX);
    for (size_t index = 0; index < size; index++) {
        if (character_is_control(name[index]))
            return rt_fail(detail, RT_E_INVALID, 0,
                           "a published name has the control character 0x%02x at byte %zu: choose one without",
                           (unsigned)(unsigned char)name[index], index);
    }
    return RT_OK;
}

int64_t rt_rpc_encode(const rt_rpc_message *message, uint8_t *bytes_out, size_t capacity)
{
    rt_writer writer = rt_writer_of(bytes_out, capacity);
    rt_write_uint(&writer, message->kind, 1);
    rt_write_uint(&writer, 0, 1);
    rt_write_uint(&writer, message->request, 2);
    switch (message->kind) {
    case RT_RPC_LOOKUP:
        if (!name_fits(message->name, message->name_size))
            return RT_E_INVALID;
        rt_write_uint(&writer, message->wait_ms, 4);
        rt_write_uint(&writer, message->name_size, 1);
        rt_write_bytes(&writer, message->name, message->name_size);
        break;
    case RT_RPC_FOUND:
        if (message->handle_size == 0 || message->handle_size > RT_HANDLE_SIZE_MAX)
            return RT_E_INVALID;
        rt_write_uint(&writer, message->handle_size, 1);
        rt_write_bytes(&writer, message->handle, message->handle_size);
        break;
    case RT_RPC_MISSING: rt_write_uint(&writer, message->published_count, 4); break;
    default: return RT_E_INVALID; /* `kind` is a byte, not the enum */
    }
    return writer.failed ? RT_E_INVALID : (int64_t)writer.size;
}

static int lookup_decode(rt_reader *reader, rt_rpc_message *message, rt_detail *detail)
{
    message->wait_ms = (uint32_t)rt_read_uint(reader, 4);
    message->name_size = (uint8_t)rt_read_uint(reader, 1);
    const uint8_t *name = rt_read_bytes(reader, message->name_size);
    if (name == NULL)
        return RT_OK; /* the reader failed: the caller reports it */
    if (!name_fits((const char *)name, message->name_size))
        return rt_fail(detail, RT_E_PROTOCOL, 0,
                       "the peer's LOOKUP %u has a name of %u bytes that is empty, longer than %d or has control characters",
                       (unsigned)message->request, (unsigned)message->name_size, RT_NAME_MAX);
    memcpy(message->name, name, message->name_size);
    return RT_OK;
}

static int found_decode(rt_reader *reader, rt_rpc_message *message, rt_detail *detail)
{
    message->handle_size = (uint8_t)rt_read_uint(reader, 1);
    const uint8_t *handle = rt_read_bytes(reader, message->handle_size);
    if (handle == NULL)
        return RT_OK; /* as above */
    if (message->handle_size == 0 || message->handle_size > RT_HANDLE_SIZE_MAX)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's FOUND %u has a handle of %u bytes, 1 to %d are allowed",
                       (unsigned)message->request, (unsigned)message->handle_size, RT_HANDLE_SIZE_MAX);
    memcpy(message->handle, handle, message->handle_size);
    return RT_OK;
}

int rt_rpc_decode(const uint8_t *bytes, size_t size, rt_rpc_message *message_out, rt_detail *detail)
{
    rt_rpc_message message = {.kind = 0};
    rt_reader reader = rt_reader_of(bytes, size);
    message.kind = (uint8_t)rt_read_uint(&reader, 1);
    unsigned zero = (unsigned)rt_read_uint(&reader, 1);
    message.request = (uint16_t)rt_read_uint(&reader, 2);
    if (reader.failed)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's RPC message has %zu bytes, too few for a header", size);
    if (zero != 0)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's RPC message has 0x%02x where zero belongs", zero);
    int status = RT_OK;
    switch (message.kind) {
    case RT_RPC_LOOKUP: status = lookup_decode(&reader, &message, detail); break;
    case RT_RPC_FOUND: status = found_decode(&reader, &message, detail); break;
    case RT_RPC_MISSING: message.published_count = (uint32_t)rt_read_uint(&reader, 4); break;
    default: return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's RPC message is of the unknown kind %u", (unsigned)message.kind);
    }
    if (status != RT_OK)
        return status;
    if (!rt_reader_done(&reader))
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's RPC message %u of kind %u has %zu bytes: %s",
                       (unsigned)message.request, (unsigned)message.kind, size,
                       reader.failed ? "it is cut short" : "bytes follow its end");
    *message_out = message;
    return RT_OK;
}
