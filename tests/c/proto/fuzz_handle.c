/* fuzz_handle.c: any bytes as a handle. Needs all of csrc/proto, csrc/base/status.c.
 *
 * Held: what decodes encodes to the same bytes, has its range inside the registration and no unknown right; refused bytes get
 * a one-line reason. */
#undef NDEBUG
#include <assert.h>
#include <string.h>

#include "proto/handle.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void decode_and_encode(const uint8_t *bytes, size_t size)
{
    rt_handle handle;
    rt_detail detail;
    rt_detail_clear(&detail);
    int status = rt_handle_decode(bytes, size, &handle, &detail);
    if (status != RT_OK) {
        assert((status == RT_E_PROTOCOL || status == RT_E_VERSION) && detail.status == status && detail.text[0] != '\0');
        return;
    }
    uint64_t end = 0;
    assert(!__builtin_add_overflow(handle.offset, handle.size, &end) && end <= handle.registration_size);
    assert((handle.rights & ~(uint32_t)RT_HANDLE_RIGHTS) == 0 && handle.key_size <= RT_HANDLE_KEY_MAX);
    assert(handle.provider[0] != '\0' && strlen(handle.provider) <= RT_PROVIDER_NAME_MAX);
    uint8_t again[RT_HANDLE_SIZE_MAX];
    int64_t encoded = rt_handle_encode(&handle, again, sizeof again);
    assert(encoded == (int64_t)size && memcmp(again, bytes, size) == 0);
}

/* The bytes as the fields themselves: what encodes decodes to the same fields. */
static void encode_and_decode(const uint8_t *bytes, size_t size)
{
    rt_handle handle, decoded;
    if (size < sizeof handle)
        return;
    memcpy(&handle, bytes, sizeof handle);
    uint8_t encoded[RT_HANDLE_SIZE_MAX];
    int64_t encoded_size = rt_handle_encode(&handle, encoded, sizeof encoded);
    if (encoded_size < 0)
        return;
    assert(rt_handle_decode(encoded, (size_t)encoded_size, &decoded, NULL) == RT_OK);
    assert(decoded.offset == handle.offset && decoded.size == handle.size && decoded.rights == handle.rights);
    assert(decoded.registration_size == handle.registration_size && decoded.key_size == handle.key_size);
    assert(memcmp(decoded.key, handle.key, handle.key_size) == 0 && strcmp(decoded.provider, handle.provider) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    decode_and_encode(bytes, size);
    encode_and_decode(bytes, size);
    return 0;
}
