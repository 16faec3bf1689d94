/* crc32c.h: the Castagnoli CRC of iSCSI (RFC 3720) over the bytes of tensors. Pure. Not a signature: it finds accidents. */
#ifndef RT_PROTO_CRC32C_H
#define RT_PROTO_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of what came before, continued with these bytes; 0 to begin with. Any thread. Uses the processor's instruction
 * where it has one (SSE4.2, ARMv8 CRC), tables elsewhere; both give the same number. */
uint32_t rt_crc32c(uint32_t crc, const void *bytes, size_t size);

/* The same by tables, on every processor: for tests, and to compare speeds. */
uint32_t rt_crc32c_by_table(uint32_t crc, const void *bytes, size_t size);

#endif
