/* edge_message.c: the messages that open and close an edge (EDGES.md section 9).
 *
 * Each layout is written down once: one walk over the fields both writes and reads, and one check
 * holds before writing and after reading. So the two directions cannot differ, and there is one
 * encoding of each message.
 *
 * A peer writes these bytes: lengths are compared with the bytes that are left before anything is
 * copied, and texts are printable ASCII or the message is refused. */
#include "proto/edge_message.h"

#include <assert.h>

#include "base/bytes.h"
#include "proto/dtype.h"
#include "proto/edge_flow.h"
#include "proto/edge_mode.h"

_Static_assert(20 + 8 * RT_EDGE_RANK_MAX + 1 + RT_NAME_MAX + 1 + RT_HANDLE_SIZE_MAX + 1 <= RT_EDGE_MESSAGE_MAX,
               "the largest OPEN_EDGE of a static edge fits");
_Static_assert(20 + 1 + RT_NAME_MAX + 2 * (1 + RT_HANDLE_SIZE_MAX) <= RT_EDGE_MESSAGE_MAX, "and that of a dynamic one");
_Static_assert(25 + 8 * RT_EDGE_RANK_MAX + 2 * (1 + RT_HANDLE_SIZE_MAX) <= RT_EDGE_MESSAGE_MAX, "the largest EDGE_OPENED fits");
_Static_assert(RT_RPC_MESSAGE_MAX <= RT_EDGE_MESSAGE_MAX, "a receive that takes these takes all");

int rt_edge_refusal_status(uint32_t refusal)
{
    switch (refusal) {
    case RT_EDGE_REFUSED_NAME: return RT_E_NOT_FOUND;
    case RT_EDGE_REFUSED_SENDER: return RT_E_EXISTS;
    case RT_EDGE_REFUSED_ORDERING: return RT_E_UNSUPPORTED;
    case RT_EDGE_REFUSED_FULL: return RT_E_BUSY;
    case RT_EDGE_REFUSED_MEMORY: return RT_E_NO_MEMORY;
    default: return RT_E_REFUSED;
    }
}

/* ---- one walk for both directions ---- */

typedef struct coder {
    rt_writer writer;
    rt_reader reader;
    bool reading;
} coder;

static uint64_t coder_number(coder *at, uint64_t value, size_t width)
{
    if (at->reading)
        return rt_read_uint(&at->reader, width);
    rt_write_uint(&at->writer, value, width);
    return value;
}

static void coder_u8(coder *at, uint8_t *value)
{
    *value = (uint8_t)coder_number(at, *value, 1);
}

static void coder_u16(coder *at, uint16_t *value)
{
    *value = (uint16_t)coder_number(at, *value, 2);
}

static void coder_u32(coder *at, uint32_t *value)
{
    *value = (uint32_t)coder_number(at, *value, 4);
}

static bool coder_fail(coder *at)
{
    at->reader.failed = at->writer.failed = true;
    return false;
}

/* 1 byte of size and that many bytes; `size_max` is the capacity of `bytes`. */
static void coder_sized(coder *at, uint8_t *size, void *bytes, size_t size_max)
{
    coder_u8(at, size);
    if (*size > size_max) {
        coder_fail(at);
        return;
    }
    if (!at->reading) {
        rt_write_bytes(&at->writer, bytes, *size);
        return;
    }
    const uint8_t *found = rt_read_bytes(&at->reader, *size);
    if (found != NULL && *size > 0)
        memcpy(bytes, found, *size);
}

static void coder_handle(coder *at, rt_edge_bytes *handle)
{
    coder_sized(at, &handle->size, handle->bytes, sizeof handle->bytes);
}

/* Dimensions only of a static edge. */
static void coder_shape(coder *at, rt_tensor_shape *shape, bool with_dims)
{
    coder_u8(at, &shape->dtype);
    coder_u8(at, &shape->rank);
    if (with_dims && shape->rank > RT_EDGE_RANK_MAX) {
        coder_fail(at);
        return;
    }
    for (size_t index = 0; with_dims && index < shape->rank; index++)
        shape->dims[index] = coder_number(at, shape->dims[index], 8);
}

static void coder_edge_open(coder *at, rt_edge_message *message)
{
    coder_u32(at, &message->wait_ms);
    coder_u8(at, &message->edge_kind);
    coder_u8(at, &message->flow);
    coder_u8(at, &message->verify);
    coder_u8(at, &message->modes);
    coder_u8(at, &message->stripes);
    coder_shape(at, &message->shape, message->edge_kind == RT_EDGE_STATIC);
    coder_sized(at, &message->name_size, message->name, RT_NAME_MAX);
    coder_handle(at, &message->credit);
    coder_handle(at, &message->tensors);
}

static void coder_edge_opened(coder *at, rt_edge_message *message)
{
    coder_u16(at, &message->number);
    coder_u8(at, &message->edge_kind);
    coder_u8(at, &message->verify);
    coder_u8(at, &message->loop_check);
    coder_u8(at, &message->lends);
    coder_u8(at, &message->modes);
    coder_u8(at, &message->stripes);
    coder_u8(at, &message->slots);
    coder_u8(at, &message->alignment_log);
    coder_u32(at, &message->eager_size);
    coder_shape(at, &message->shape, message->edge_kind == RT_EDGE_STATIC);
    coder_handle(at, &message->slots_handle);
    coder_handle(at, &message->flags_handle);
}

static void coder_message(coder *at, rt_edge_message *message)
{
    coder_u8(at, &message->kind);
    if (coder_number(at, 0, 1) != 0 && at->reading)
        coder_fail(at);
    coder_u16(at, &message->request);
    switch (message->kind) {
    case RT_EDGE_OPEN_EDGE: coder_edge_open(at, message); break;
    case RT_EDGE_EDGE_OPENED: coder_edge_opened(at, message); break;
    case RT_EDGE_EDGE_REFUSED:
        coder_u8(at, &message->refusal);
        coder_sized(at, &message->text_size, message->text, RT_REASON_MAX);
        break;
    case RT_EDGE_CLOSE_EDGE:
        coder_u16(at, &message->number);
        coder_u8(at, &message->by_sender);
        message->final = coder_number(at, message->final, 8);
        break;
    case RT_EDGE_ADD_KEY:
        coder_u16(at, &message->number);
        coder_u16(at, &message->key);
        coder_handle(at, &message->tensors);
        break;
    case RT_EDGE_EDGE_CLOSED:
    case RT_EDGE_KEY_ADDED: break;
    default: coder_fail(at); /* `kind` is a byte, not the enum */
    }
}

/* ---- rules for every message ---- */

static bool text_is_printable(const char *text, size_t size)
{
    for (size_t index = 0; index < size; index++) {
        if (text[index] < 0x20 || text[index] > 0x7e)
            return false;
    }
    return true;
}

static bool text_has_control(const char *text, size_t size)
{
    for (size_t index = 0; index < size; index++) {
        if ((unsigned char)text[index] < 0x20 || text[index] == 0x7f)
            return true;
    }
    return false;
}

static const char *shape_error(const rt_edge_message *message)
{
    const rt_tensor_shape *shape = &message->shape;
    uint64_t bytes = 0;
    if (message->edge_kind == RT_EDGE_STATIC)
        return rt_tensor_bytes(shape, &bytes, NULL) == RT_OK ? NULL : "a shape or dtype that no tensor has";
    if (message->edge_kind != RT_EDGE_DYNAMIC)
        return "an edge of unknown kind";
    if (shape->dtype >= RT_DTYPE_COUNT || (shape->rank > RT_EDGE_RANK_MAX && shape->rank != RT_EDGE_RANK_ANY))
        return "an unknown dtype or too many dimensions";
    return NULL;
}

static const char *opening_error(const rt_edge_message *message)
{
    bool credit = message->flow == RT_EDGE_FLOW_CREDIT, dynamic = message->edge_kind == RT_EDGE_DYNAMIC;
    if (!credit && (message->flow != RT_EDGE_FLOW_LOOP || dynamic))
        return "an unknown flow, or a dynamic edge without credit";
    if (message->verify > 1 || message->modes == 0 || message->modes >= 1u << RT_EDGE_MODE_COUNT || (message->modes & 1) != 0)
        return "unknown orderings, or none";
    if (message->stripes == 0 || message->stripes > RT_EDGE_STRIPES_MAX)
        return "a wrong number of stripes";
    if (message->name_size == 0 || text_has_control(message->name, message->name_size))
        return "a name that is empty or has control characters";
    if ((message->credit.size > 0) != credit || (message->tensors.size > 0) != dynamic)
        return "a handle too few or too many";
    return shape_error(message);
}

static const char *opened_error(const rt_edge_message *message)
{
    bool one_mode = message->modes == 1u << RT_EDGE_TAIL || message->modes == 1u << RT_EDGE_CHAINED ||
                    message->modes == 1u << RT_EDGE_IMMEDIATE;
    bool tail = message->modes == 1u << RT_EDGE_TAIL;
    if (message->number == 0 || message->verify > 1 || message->loop_check > 1 || message->lends > 1 || !one_mode)
        return "a number, option or ordering that is none";
    if (message->slots == 0 || message->slots > RT_EDGE_SLOTS_MAX || message->stripes == 0 ||
        message->stripes > (tail ? 1 : RT_EDGE_STRIPES_MAX))
        return "a wrong number of slots or stripes";
    if (message->alignment_log < 6 || message->alignment_log > 21 || message->eager_size > RT_EDGE_EAGER_MAX)
        return "an invalid alignment or eager area";
    if (message->edge_kind == RT_EDGE_STATIC && message->eager_size != 0)
        return "an eager area on a static edge";
    if (message->edge_kind == RT_EDGE_DYNAMIC && message->stripes != 1)
        return "records in stripes";
    if (message->slots_handle.size == 0 || (message->flags_handle.size == 0) != tail)
        return "a handle too few or too many";
    return shape_error(message);
}

/* The error in the fields of a message, or NULL. */
static const char *message_error(const rt_edge_message *message)
{
    switch (message->kind) {
    case RT_EDGE_OPEN_EDGE: return opening_error(message);
    case RT_EDGE_EDGE_OPENED: return opened_error(message);
    case RT_EDGE_EDGE_REFUSED:
        if (message->refusal == 0 || message->refusal >= RT_EDGE_REFUSALS ||
            !text_is_printable(message->text, message->text_size))
            return "an unknown reason, or one with control characters";
        return NULL;
    case RT_EDGE_CLOSE_EDGE:
        if (message->number == 0 || message->by_sender > 1 || (message->by_sender == 0 && message->final != 0))
            return "an invalid edge number or last tensor";
        return NULL;
    case RT_EDGE_ADD_KEY:
        if (message->number == 0 || message->key == 0 || message->key >= RT_EDGE_KEYS_MAX || message->tensors.size == 0)
            return "an invalid edge number or registration";
        return NULL;
    default: return NULL;
    }
}

int64_t rt_edge_message_encode(const rt_edge_message *message, uint8_t *bytes_out, size_t capacity)
{
    coder at = {.writer = rt_writer_of(bytes_out, capacity), .reading = false};
    rt_edge_message copy = *message;
    coder_message(&at, &copy);
    return at.writer.failed || message_error(message) != NULL ? RT_E_INVALID : (int64_t)at.writer.size;
}

int rt_edge_message_decode(const uint8_t *bytes, size_t size, rt_edge_message *message_out, rt_detail *detail)
{
    coder at = {.reader = rt_reader_of(bytes, size), .reading = true};
    rt_edge_message message = {.kind = 0};
    coder_message(&at, &message);
    if (!rt_reader_done(&at.reader))
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's edge message %u of kind %u has %zu bytes: %s",
                       (unsigned)message.request, (unsigned)message.kind, size,
                       at.reader.failed ? "it is cut short or has an invalid field" : "bytes follow its end");
    const char *what = message_error(&message);
    if (what != NULL)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's edge message %u of kind %u has %s", (unsigned)message.request,
                       (unsigned)message.kind, what);
    *message_out = message;
    return RT_OK;
}
