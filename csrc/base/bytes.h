/* bytes.h: bounded little-endian reading and writing. A cursor that ran out of room stays failed: check once, at the end. */
#ifndef RT_BASE_BYTES_H
#define RT_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct rt_writer {
    uint8_t *bytes;
    size_t size, capacity;
    bool failed;
} rt_writer;

typedef struct rt_reader {
    const uint8_t *bytes;
    size_t offset, size;
    bool failed;
} rt_reader;

static inline rt_writer rt_writer_of(void *bytes, size_t capacity)
{
    return (rt_writer){.bytes = bytes, .size = 0, .capacity = capacity, .failed = false};
}

static inline rt_reader rt_reader_of(const void *bytes, size_t size)
{
    return (rt_reader){.bytes = bytes, .offset = 0, .size = size, .failed = false};
}

static inline void rt_write_bytes(rt_writer *writer, const void *bytes, size_t size)
{
    if (writer->failed || size > writer->capacity - writer->size) {
        writer->failed = true;
        return;
    }
    if (size != 0)
        memcpy(writer->bytes + writer->size, bytes, size);
    writer->size += size;
}

/* Writes the low `width` bytes of the value, least significant first. */
static inline void rt_write_uint(rt_writer *writer, uint64_t value, size_t width)
{
    uint8_t bytes[8];
    for (size_t index = 0; index < width; index++)
        bytes[index] = (uint8_t)(value >> (8 * index));
    rt_write_bytes(writer, bytes, width);
}

/* Returns a pointer into the read bytes, or NULL when fewer than `size` are left. */
static inline const uint8_t *rt_read_bytes(rt_reader *reader, size_t size)
{
    if (reader->failed || size > reader->size - reader->offset) {
        reader->failed = true;
        return NULL;
    }
    const uint8_t *bytes = reader->bytes + reader->offset;
    reader->offset += size;
    return bytes;
}

/* Reads an unsigned number of `width` bytes; 0 when the reader failed. */
static inline uint64_t rt_read_uint(rt_reader *reader, size_t width)
{
    const uint8_t *bytes = rt_read_bytes(reader, width);
    uint64_t value = 0;
    for (size_t index = 0; bytes != NULL && index < width; index++)
        value |= (uint64_t)bytes[index] << (8 * index);
    return value;
}

/* True when everything was read and nothing was missing: trailing bytes are an error too. */
static inline bool rt_reader_done(const rt_reader *reader)
{
    return !reader->failed && reader->offset == reader->size;
}

#endif
