/* fuzz_rpc.c: any bytes as an RPC message. Needs all of csrc/proto, csrc/base/status.c.
 *
 * Held: what decodes encodes to the same bytes; refused bytes get a one-line reason; a name that decodes may be published. */
#undef NDEBUG
#include <assert.h>
#include <string.h>

#include "proto/rpc_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void decode_and_encode(const uint8_t *bytes, size_t size)
{
    rt_rpc_message message;
    rt_detail detail;
    rt_detail_clear(&detail);
    int status = rt_rpc_decode(bytes, size, &message, &detail);
    if (status != RT_OK) {
        assert(status == RT_E_PROTOCOL && detail.status == status && detail.text[0] != '\0');
        return;
    }
    uint8_t again[RT_RPC_MESSAGE_MAX];
    int64_t encoded = rt_rpc_encode(&message, again, sizeof again);
    assert(encoded == (int64_t)size && memcmp(again, bytes, size) == 0);
    assert(message.kind != RT_RPC_LOOKUP ||
           (strlen(message.name) == message.name_size && rt_rpc_check_name(message.name, &detail) == RT_OK));
}

/* The bytes as the fields themselves: what encodes decodes to the same fields. */
static void encode_and_decode(const uint8_t *bytes, size_t size)
{
    rt_rpc_message message, decoded;
    if (size < sizeof message)
        return;
    memcpy(&message, bytes, sizeof message);
    message.name[RT_NAME_MAX] = '\0';
    uint8_t encoded[RT_RPC_MESSAGE_MAX];
    int64_t encoded_size = rt_rpc_encode(&message, encoded, sizeof encoded);
    if (encoded_size < 0)
        return;
    assert(rt_rpc_decode(encoded, (size_t)encoded_size, &decoded, NULL) == RT_OK);
    assert(decoded.kind == message.kind && decoded.request == message.request);
    if (message.kind == RT_RPC_LOOKUP)
        assert(decoded.wait_ms == message.wait_ms && memcmp(decoded.name, message.name, message.name_size) == 0);
    if (message.kind == RT_RPC_FOUND)
        assert(decoded.handle_size == message.handle_size && memcmp(decoded.handle, message.handle, message.handle_size) == 0);
    if (message.kind == RT_RPC_MISSING)
        assert(decoded.published_count == message.published_count);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    decode_and_encode(bytes, size);
    encode_and_decode(bytes, size);
    return 0;
}
