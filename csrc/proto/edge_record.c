/* edge_record.c: the metadata record of a dynamic edge (EDGES.md section 7).
 *
 * There is one encoding of each record: bytes that decode are encoded to the same bytes again, and
 * padding is zero. On an edge that verifies, the record's own CRC is checked first, so that damage
 * is told apart from a peer that breaks a rule.
 *
 * Then every field is compared with the edge's terms (rt_edge_expected): a record is hostile until
 * all comparisons hold. edge_flow makes sure that a slot holds one record and is not overwritten
 * before its release. */
#include "proto/edge_record.h"

#include <assert.h>
#include <inttypes.h>

#include "base/bytes.h"
#include "proto/crc32c.h"
#include "proto/dtype.h"

enum { FLAG_EAGER = 1, FLAG_VERIFIED = 2, FLAGS_KNOWN = 3, FLAGS_AT = 4, CRC_AT = 40, FIELDS_SIZE = 64 };

_Static_assert(FIELDS_SIZE + 8 * RT_EDGE_RANK_MAX == RT_EDGE_RECORD_SIZE, "fields and dimensions fill the record");
_Static_assert(RT_EDGE_EAGER_MAX % RT_EDGE_LINE_SIZE == 0, "the eager area is whole lines");

uint32_t rt_edge_crc(uint32_t crc, uint64_t sequence)
{
    uint8_t bytes[8];
    rt_writer writer = rt_writer_of(bytes, sizeof bytes);
    rt_write_uint(&writer, sequence, 8);
    return rt_crc32c(crc, bytes, sizeof bytes);
}

/* The CRC covers all bytes but its own four. */
static uint32_t record_crc(const uint8_t bytes[RT_EDGE_RECORD_SIZE])
{
    uint32_t crc = rt_crc32c(0, bytes, CRC_AT);
    return rt_crc32c(crc, bytes + CRC_AT + 4, RT_EDGE_RECORD_SIZE - CRC_AT - 4);
}

/* Checks the rules that hold for every record, whichever end made it. */
static int record_check(const rt_edge_record *record, int failure, rt_detail *detail)
{
    uint64_t bytes;
    int status = rt_tensor_bytes(&record->shape, &bytes, detail);
    if (status != RT_OK) {
        if (detail != NULL)
            detail->status = failure;
        return failure;
    }
    for (size_t index = record->shape.rank; index < RT_EDGE_RANK_MAX; index++) {
        if (record->shape.dims[index] != 0)
            return rt_fail(detail, failure, 0, "a record of a tensor of %u dimensions has a dimension %zu of %" PRIu64,
                           (unsigned)record->shape.rank, index, record->shape.dims[index]);
    }
    if (record->size != bytes)
        return rt_fail(detail, failure, 0, "a record says %" PRIu64 " bytes, but its shape and dtype make %" PRIu64, record->size,
                       bytes);
    if (record->sequence == 0)
        return rt_fail(detail, failure, 0, "a record has the sequence 0, which no tensor has");
    if (record->key >= RT_EDGE_KEYS_MAX)
        return rt_fail(detail, failure, 0, "a record refers to the registration %" PRIu32 ": an edge has at most %d", record->key,
                       RT_EDGE_KEYS_MAX);
    if (record->eager && (record->offset != 0 || record->key != 0))
        return rt_fail(detail, failure, 0, "a record carries its tensor and says that it lies elsewhere as well");
    if (!record->eager && (record->size == 0 || record->offset > UINT64_MAX - record->size))
        return rt_fail(detail, failure, 0,
                       "a record says that %" PRIu64 " bytes lie at offset %" PRIu64 ", which is no range to READ", record->size,
                       record->offset);
    if (!record->verified && record->payload_crc != 0)
        return rt_fail(detail, failure, 0, "a record has a CRC although it says that it has none");
    return RT_OK;
}

int rt_edge_record_encode(const rt_edge_record *record, uint8_t bytes_out[RT_EDGE_RECORD_SIZE], rt_detail *detail)
{
    static const uint8_t zeros[FIELDS_SIZE - CRC_AT];
    int status = record_check(record, RT_E_INVALID, detail);
    if (status != RT_OK)
        return status;
    rt_writer writer = rt_writer_of(bytes_out, RT_EDGE_RECORD_SIZE);
    rt_write_uint(&writer, RT_EDGE_RECORD_VERSION, 2);
    rt_write_uint(&writer, record->shape.dtype, 1);
    rt_write_uint(&writer, record->shape.rank, 1);
    rt_write_uint(&writer, (record->eager ? FLAG_EAGER : 0u) | (record->verified ? FLAG_VERIFIED : 0u), 4);
    rt_write_uint(&writer, record->sequence, 8);
    rt_write_uint(&writer, record->size, 8);
    rt_write_uint(&writer, record->offset, 8);
    rt_write_uint(&writer, record->key, 4);
    rt_write_uint(&writer, record->payload_crc, 4);
    assert(writer.size == CRC_AT);
    rt_write_bytes(&writer, zeros, sizeof zeros);
    for (size_t index = 0; index < RT_EDGE_RANK_MAX; index++)
        rt_write_uint(&writer, record->shape.dims[index], 8);
    assert(!writer.failed && writer.size == RT_EDGE_RECORD_SIZE);
    if (record->verified) {
        writer = rt_writer_of(bytes_out + CRC_AT, 4);
        rt_write_uint(&writer, record_crc(bytes_out), 4);
    }
    return RT_OK;
}

static int record_check_expected(const rt_edge_record *record, const rt_edge_expected *expected, rt_detail *detail)
{
    if (record->sequence != expected->sequence)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "a record has the sequence %" PRIu64 " and its flag %" PRIu64, record->sequence,
                       expected->sequence);
    if (expected->dtype != RT_DTYPE_ANY && record->shape.dtype != expected->dtype)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer sent a tensor of dtype %s over an edge of %s",
                       rt_dtype_name(record->shape.dtype), rt_dtype_name(expected->dtype));
    if (expected->rank != RT_EDGE_RANK_ANY && record->shape.rank != expected->rank)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer sent a tensor of %u dimensions over an edge of %u",
                       (unsigned)record->shape.rank, (unsigned)expected->rank);
    if (record->eager && record->size > expected->eager_size)
        return rt_fail(detail, RT_E_PROTOCOL, 0,
                       "a record carries %" PRIu64 " bytes of tensor where the edge has room for %" PRIu64, record->size,
                       expected->eager_size);
    if (record->eager)
        return RT_OK;
    if (record->key >= expected->key_count)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "a record refers to the registration %" PRIu32 " and %" PRIu32 " were announced",
                       record->key, expected->key_count);
    uint64_t room = expected->key_sizes[record->key];
    if (record->size > room || record->offset > room - record->size)
        return rt_fail(detail, RT_E_PROTOCOL, 0,
                       "a record's tensor, %" PRIu64 " bytes at offset %" PRIu64 ", lies outside its registration of %" PRIu64
                       " bytes",
                       record->size, record->offset, room);
    return RT_OK;
}

static bool bytes_all_zero(const uint8_t *bytes, size_t size)
{
    uint8_t any = 0;
    for (size_t index = 0; index < size; index++)
        any |= bytes[index];
    return any == 0;
}

int rt_edge_record_decode(const uint8_t bytes[RT_EDGE_RECORD_SIZE], const rt_edge_expected *expected, rt_edge_record *record_out,
                          rt_detail *detail)
{
    rt_edge_record record = {.size = 0};
    rt_reader reader = rt_reader_of(bytes, RT_EDGE_RECORD_SIZE);
    unsigned version = (unsigned)rt_read_uint(&reader, 2);
    record.shape.dtype = (uint8_t)rt_read_uint(&reader, 1);
    record.shape.rank = (uint8_t)rt_read_uint(&reader, 1);
    uint32_t flags = (uint32_t)rt_read_uint(&reader, 4);
    record.sequence = rt_read_uint(&reader, 8);
    record.size = rt_read_uint(&reader, 8);
    record.offset = rt_read_uint(&reader, 8);
    record.key = (uint32_t)rt_read_uint(&reader, 4);
    record.payload_crc = (uint32_t)rt_read_uint(&reader, 4);
    uint32_t crc = (uint32_t)rt_read_uint(&reader, 4);
    const uint8_t *zeros = rt_read_bytes(&reader, FIELDS_SIZE - CRC_AT - 4);
    for (size_t index = 0; index < RT_EDGE_RANK_MAX; index++)
        record.shape.dims[index] = rt_read_uint(&reader, 8);
    assert(rt_reader_done(&reader));
    record.eager = (flags & FLAG_EAGER) != 0;
    record.verified = (flags & FLAG_VERIFIED) != 0;
    if (expected->verify && crc != record_crc(bytes))
        return rt_fail(detail, RT_E_CORRUPT, 0,
                       "the record of tensor %" PRIu64 " has the CRC 0x%08" PRIx32 ", which does not fit its bytes",
                       expected->sequence, crc);
    if (version != RT_EDGE_RECORD_VERSION)
        return rt_fail(detail, RT_E_VERSION, 0, "a record has version %u and this end reads version %d", version,
                       RT_EDGE_RECORD_VERSION);
    if ((flags & ~(uint32_t)FLAGS_KNOWN) != 0 || !bytes_all_zero(zeros, FIELDS_SIZE - CRC_AT - 4) ||
        (!record.verified && crc != 0))
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the record of tensor %" PRIu64 " has bits set where zero belongs",
                       expected->sequence);
    if (record.verified != expected->verify)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the record of tensor %" PRIu64 " comes %s a CRC on an edge that goes %s",
                       expected->sequence, record.verified ? "with" : "without", expected->verify ? "with" : "without");
    int status = record_check(&record, RT_E_PROTOCOL, detail);
    if (status == RT_OK)
        status = record_check_expected(&record, expected, detail);
    if (status == RT_OK)
        *record_out = record;
    return status;
}

/* ---- its place in the slot ---- */

uint64_t rt_edge_record_offset(uint64_t eager_size)
{
    assert(eager_size <= RT_EDGE_EAGER_MAX);
    return (eager_size + RT_EDGE_LINE_SIZE - 1) & ~(uint64_t)(RT_EDGE_LINE_SIZE - 1);
}

uint64_t rt_edge_eager_offset(uint64_t eager_size, uint64_t size)
{
    assert(size <= eager_size);
    return rt_edge_record_offset(eager_size) - rt_edge_record_offset(size);
}

uint64_t rt_edge_record_slot_size(uint64_t eager_size)
{
    return rt_edge_record_offset(eager_size) + RT_EDGE_RECORD_SIZE;
}

bool rt_edge_record_looks_eager(const uint8_t *record)
{
    return (record[FLAGS_AT] & FLAG_EAGER) != 0;
}
