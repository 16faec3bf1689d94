/* handle.c: the bytes that name a range of registered memory to a peer (PROTOCOL.md section 5).
 *
 * They reach this end by address distribution or by the user's own means, so they are hostile until
 * decoded. There is one encoding of each handle: bytes that decode are encoded to the same bytes
 * again. The provider checks the key inside. */
#include "proto/handle.h"

#include <inttypes.h>

#include "base/bytes.h"

_Static_assert(2 + 1 + RT_PROVIDER_NAME_MAX + RT_DEVICE_ID_SIZE + 8 + 8 + 4 + 8 + 1 + RT_HANDLE_KEY_MAX <= RT_HANDLE_SIZE_MAX,
               "the largest handle fits");

static bool name_printable(const char *name, size_t size)
{
    for (size_t index = 0; index < size; index++) {
        if (name[index] < 0x21 || name[index] > 0x7e)
            return false;
    }
    return size > 0 && size <= RT_PROVIDER_NAME_MAX;
}

static bool range_inside(const rt_handle *handle)
{
    return handle->offset <= handle->registration_size && handle->size <= handle->registration_size - handle->offset;
}

int64_t rt_handle_encode(const rt_handle *handle, uint8_t *bytes_out, size_t capacity)
{
    size_t name_size = strnlen(handle->provider, sizeof handle->provider);
    if (!name_printable(handle->provider, name_size) || !range_inside(handle))
        return RT_E_INVALID;
    if ((handle->rights & ~(uint32_t)RT_HANDLE_RIGHTS) != 0 || handle->key_size > RT_HANDLE_KEY_MAX)
        return RT_E_INVALID;
    rt_writer writer = rt_writer_of(bytes_out, capacity);
    rt_write_uint(&writer, RT_HANDLE_VERSION, 2);
    rt_write_uint(&writer, name_size, 1);
    rt_write_bytes(&writer, handle->provider, name_size);
    rt_write_bytes(&writer, handle->device_id, sizeof handle->device_id);
    rt_write_uint(&writer, handle->offset, 8);
    rt_write_uint(&writer, handle->size, 8);
    rt_write_uint(&writer, handle->rights, 4);
    rt_write_uint(&writer, handle->registration_size, 8);
    rt_write_uint(&writer, handle->key_size, 1);
    rt_write_bytes(&writer, handle->key, handle->key_size);
    return writer.failed ? RT_E_INVALID : (int64_t)writer.size;
}

static void sized_bytes_read(rt_reader *reader, void *bytes_out, size_t size, size_t size_max)
{
    const uint8_t *bytes = size <= size_max ? rt_read_bytes(reader, size) : NULL;
    if (bytes == NULL)
        reader->failed = true;
    else if (size > 0)
        memcpy(bytes_out, bytes, size);
}

int rt_handle_decode(const uint8_t *bytes, size_t size, rt_handle *handle_out, rt_detail *detail)
{
    rt_handle handle = {.offset = 0};
    rt_reader reader = rt_reader_of(bytes, size);
    unsigned version = (unsigned)rt_read_uint(&reader, 2);
    if (!reader.failed && version != RT_HANDLE_VERSION)
        return rt_fail(detail, RT_E_VERSION, 0,
                       "the handle has version %u and this end reads version %d: use the same rdmatensor at both ends, and pass "
                       "handles on unchanged",
                       version, RT_HANDLE_VERSION);
    size_t name_size = (size_t)rt_read_uint(&reader, 1);
    sized_bytes_read(&reader, handle.provider, name_size, RT_PROVIDER_NAME_MAX);
    sized_bytes_read(&reader, handle.device_id, sizeof handle.device_id, sizeof handle.device_id);
    handle.offset = rt_read_uint(&reader, 8);
    handle.size = rt_read_uint(&reader, 8);
    handle.rights = (uint32_t)rt_read_uint(&reader, 4);
    handle.registration_size = rt_read_uint(&reader, 8);
    handle.key_size = (uint8_t)rt_read_uint(&reader, 1);
    sized_bytes_read(&reader, handle.key, handle.key_size, RT_HANDLE_KEY_MAX);
    if (!rt_reader_done(&reader))
        return rt_fail(detail, RT_E_PROTOCOL, 0,
                       "these %zu bytes are not a handle: %s; pass on exactly the bytes that the peer's region gave", size,
                       reader.failed ? "they are cut short or a length inside is wrong" : "bytes follow its end");
    if (!name_printable(handle.provider, name_size))
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the handle names no provider: its %zu bytes of name are empty or not printable",
                       name_size);
    if (!range_inside(&handle))
        return rt_fail(detail, RT_E_PROTOCOL, 0,
                       "the handle's range, %" PRIu64 " bytes at offset %" PRIu64 ", lies outside its region of %" PRIu64
                       " bytes",
                       handle.size, handle.offset, handle.registration_size);
    if ((handle.rights & ~(uint32_t)RT_HANDLE_RIGHTS) != 0)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the handle has unknown rights 0x%" PRIx32 ", known are 0x%x", handle.rights,
                       RT_HANDLE_RIGHTS);
    *handle_out = handle;
    return RT_OK;
}
