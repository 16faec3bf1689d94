/* edge_message.c: the messages that open and close an edge (EDGES.md section 9).
 *
 * Each layout is written down once: the same walk over the fields writes and reads, and the same check holds for what is written
 * and for what was read. So there is one encoding of each message. */
#include "proto/edge_message.h"

#include <assert.h>

#include "base/bytes.h"
#include "proto/edge_flow.h"
#include "proto/edge_mode.h"

_Static_assert(20 + 8 * RT_EDGE_RANK_MAX + 1 + RT_NAME_MAX + 1 + RT_HANDLE_SIZE_MAX + 1 <= RT_EDGE_MESSAGE_MAX,
               "the largest OPEN_EDGE of a static edge fits");
_Static_assert(20 + 1 + RT_NAME_MAX + 2 * (1 + RT_HANDLE_SIZE_MAX) <= RT_EDGE_MESSAGE_MAX, "and that of a dynamic one");
_Static_assert(24 + 8 * RT_EDGE_RANK_MAX + 2 * (1 + RT_HANDLE_SIZE_MAX) <= RT_EDGE_MESSAGE_MAX, "the largest EDGE_OPENED fits");
_Static_assert(RT_RPC_MESSAGE_MAX <= RT_EDGE_MESSAGE_MAX, "a receive that takes these takes all");

int rt_edge_refusal_status(uint32_t refusal)
{
    switch (refusal) {
    case RT_EDGE_REFUSED_NAME: return RT_E_NOT_FOUND;
    case RT_EDGE_REFUSED_SENDER: return RT_E_EXISTS;
    case RT_EDGE_REFUSED_ORDERING: return RT_E_UNSUPPORTED;
    case RT_EDGE_REFUSED_FULL: return RT_E_BUSY;
    default: return RT_E_REFUSED;
    }
}

/* ---- one walk for both directions ---- */

typedef struct coder {
    rt_writer writer;
    rt_reader reader;
    bool reading;
} coder;

static uint64_t code(coder *at, uint64_t value, size_t width)
{
    if (at->reading)
        return rt_read_uint(&at->reader, width);
    rt_write_uint(&at->writer, value, width);
    return value;
}

static void code_u8(coder *at, uint8_t *value)
{
    *value = (uint8_t)code(at, *value, 1);
}

static void code_u16(coder *at, uint16_t *value)
{
    *value = (uint16_t)code(at, *value, 2);
}

static void code_u32(coder *at, uint32_t *value)
{
    *value = (uint32_t)code(at, *value, 4);
}

static bool fail(coder *at)
{
    at->reader.failed = at->writer.failed = true;
    return false;
}

/* 1 byte of size and that many bytes; `size_max` is what `bytes` holds. */
static void code_sized(coder *at, uint8_t *size, void *bytes, size_t size_max)
{
    code_u8(at, size);
    if (*size > size_max) {
        fail(at);
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

static void code_handle(coder *at, rt_edge_bytes *handle)
{
    code_sized(at, &handle->size, handle->bytes, sizeof handle->bytes);
}

/* Dimensions only of a static edge. */
static void code_shape(coder *at, rt_tensor_shape *shape, bool with_dims)
{
    code_u8(at, &shape->dtype);
    code_u8(at, &shape->rank);
    if (with_dims && shape->rank > RT_EDGE_RANK_MAX) {
        fail(at);
        return;
    }
    for (size_t index = 0; with_dims && index < shape->rank; index++)
        shape->dims[index] = code(at, shape->dims[index], 8);
}

static void code_open(coder *at, rt_edge_message *message)
{
    code_u32(at, &message->wait_ms);
    code_u8(at, &message->edge_kind);
    code_u8(at, &message->flow);
    code_u8(at, &message->verify);
    code_u8(at, &message->modes);
    code_u8(at, &message->stripes);
    code_shape(at, &message->shape, message->edge_kind == RT_EDGE_STATIC);
    code_sized(at, &message->name_size, message->name, RT_NAME_MAX);
    code_handle(at, &message->credit);
    code_handle(at, &message->tensors);
}

static void code_opened(coder *at, rt_edge_message *message)
{
    code_u16(at, &message->number);
    code_u8(at, &message->edge_kind);
    code_u8(at, &message->verify);
    code_u8(at, &message->loop_check);
    code_u8(at, &message->modes);
    code_u8(at, &message->stripes);
    code_u8(at, &message->slots);
    code_u8(at, &message->alignment_log);
    code_u32(at, &message->eager_size);
    code_shape(at, &message->shape, message->edge_kind == RT_EDGE_STATIC);
    code_handle(at, &message->slots_handle);
    code_handle(at, &message->flags_handle);
}

static void code_message(coder *at, rt_edge_message *message)
{
    code_u8(at, &message->kind);
    if (code(at, 0, 1) != 0 && at->reading)
        fail(at);
    code_u16(at, &message->request);
    switch (message->kind) {
    case RT_EDGE_OPEN_EDGE: code_open(at, message); break;
    case RT_EDGE_EDGE_OPENED: code_opened(at, message); break;
    case RT_EDGE_EDGE_REFUSED:
        code_u8(at, &message->refusal);
        code_sized(at, &message->text_size, message->text, RT_REASON_MAX);
        break;
    case RT_EDGE_CLOSE_EDGE:
        code_u16(at, &message->number);
        code_u8(at, &message->by_sender);
        message->final = code(at, message->final, 8);
        break;
    case RT_EDGE_ADD_KEY:
        code_u16(at, &message->number);
        code_u16(at, &message->key);
        code_handle(at, &message->tensors);
        break;
    case RT_EDGE_EDGE_CLOSED:
    case RT_EDGE_KEY_ADDED: break;
    default: fail(at); /* `kind` is a byte, not the enum */
    }
}

/* ---- what holds for every message ---- */

static bool is_printable(const char *text, size_t size)
{
    for (size_t index = 0; index < size; index++) {
        if (text[index] < 0x20 || text[index] > 0x7e)
            return false;
    }
    return true;
}

static bool has_control(const char *text, size_t size)
{
    for (size_t index = 0; index < size; index++) {
        if ((unsigned char)text[index] < 0x20 || text[index] == 0x7f)
            return true;
    }
    return false;
}

static const char *wrong_shape(const rt_edge_message *message)
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

static const char *wrong_open(const rt_edge_message *message)
{
    bool credit = message->flow == RT_EDGE_FLOW_CREDIT, dynamic = message->edge_kind == RT_EDGE_DYNAMIC;
    if (!credit && (message->flow != RT_EDGE_FLOW_LOOP || dynamic))
        return "an unknown flow, or a dynamic edge without credit";
    if (message->verify > 1 || message->modes == 0 || message->modes >= 1u << RT_EDGE_MODE_COUNT || (message->modes & 1) != 0)
        return "unknown orderings, or none";
    if (message->stripes == 0 || message->stripes > RT_EDGE_STRIPES_MAX)
        return "a wrong number of stripes";
    if (message->name_size == 0 || has_control(message->name, message->name_size))
        return "a name that is empty or has control characters";
    if ((message->credit.size > 0) != credit || (message->tensors.size > 0) != dynamic)
        return "a handle too few or too many";
    return wrong_shape(message);
}

static const char *wrong_opened(const rt_edge_message *message)
{
    bool one_mode = message->modes == 1u << RT_EDGE_TAIL || message->modes == 1u << RT_EDGE_CHAINED ||
                    message->modes == 1u << RT_EDGE_IMMEDIATE;
    bool tail = message->modes == 1u << RT_EDGE_TAIL;
    if (message->number == 0 || message->verify > 1 || message->loop_check > 1 || !one_mode)
        return "a number, option or ordering that is none";
    if (message->slots == 0 || message->slots > RT_EDGE_SLOTS_MAX || message->stripes == 0 ||
        message->stripes > (tail ? 1 : RT_EDGE_STRIPES_MAX))
        return "a wrong number of slots or stripes";
    if (message->alignment_log < 6 || message->alignment_log > 21 || message->eager_size > RT_EDGE_EAGER_MAX)
        return "an alignment or eager area that is none";
    if (message->edge_kind == RT_EDGE_STATIC && message->eager_size != 0)
        return "an eager area on a static edge";
    if (message->edge_kind == RT_EDGE_DYNAMIC && message->stripes != 1)
        return "records in stripes";
    if (message->slots_handle.size == 0 || (message->flags_handle.size == 0) != tail)
        return "a handle too few or too many";
    return wrong_shape(message);
}

/* What is wrong with the fields of a message, or NULL. */
static const char *wrong(const rt_edge_message *message)
{
    switch (message->kind) {
    case RT_EDGE_OPEN_EDGE: return wrong_open(message);
    case RT_EDGE_EDGE_OPENED: return wrong_opened(message);
    case RT_EDGE_EDGE_REFUSED:
        if (message->refusal == 0 || message->refusal >= RT_EDGE_REFUSALS || !is_printable(message->text, message->text_size))
            return "an unknown reason, or one with control characters";
        return NULL;
    case RT_EDGE_CLOSE_EDGE:
        if (message->number == 0 || message->by_sender > 1 || (message->by_sender == 0 && message->final != 0))
            return "an edge or a last tensor that is none";
        return NULL;
    case RT_EDGE_ADD_KEY:
        if (message->number == 0 || message->key == 0 || message->key >= RT_EDGE_KEYS_MAX || message->tensors.size == 0)
            return "an edge or a registration that is none";
        return NULL;
    default: return NULL;
    }
}

int64_t rt_edge_message_encode(const rt_edge_message *message, uint8_t *bytes_out, size_t capacity)
{
    coder at = {.writer = rt_writer_of(bytes_out, capacity), .reading = false};
    rt_edge_message copy = *message;
    code_message(&at, &copy);
    return at.writer.failed || wrong(message) != NULL ? RT_E_INVALID : (int64_t)at.writer.size;
}

int rt_edge_message_decode(const uint8_t *bytes, size_t size, rt_edge_message *message_out, rt_detail *detail)
{
    coder at = {.reader = rt_reader_of(bytes, size), .reading = true};
    rt_edge_message message = {.kind = 0};
    code_message(&at, &message);
    if (!rt_reader_done(&at.reader))
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's edge message %u of kind %u has %zu bytes: %s",
                       (unsigned)message.request, (unsigned)message.kind, size,
                       at.reader.failed ? "it is cut short or has a field that is none" : "bytes follow its end");
    const char *what = wrong(&message);
    if (what != NULL)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's edge message %u of kind %u has %s", (unsigned)message.request,
                       (unsigned)message.kind, what);
    *message_out = message;
    return RT_OK;
}
