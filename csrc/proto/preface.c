/* preface.c: the 48 bytes with which both ends begin (PROTOCOL.md section 1).
 *
 * The other end has proved nothing yet, and may be anything that answers on a port: so the details
 * name the bytes that came, in terms that the user who chose the address understands.
 *
 * Checks run in the order of the note: magic, version, authentication, padding, nonce. The magic is
 * checked byte by byte as it arrives, so that a server of another protocol with a short greeting is
 * recognised at once and not at the deadline. */
#include "proto/preface.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"
#include "proto/frame.h"

static const uint8_t magic[8] = {'R', 'D', 'M', 'A', 'T', 'N', 'S', 'R'};
enum { AUTHENTICATION_SAME_USER = 0, AUTHENTICATION_SECRET = 1 };
enum { VERSION_AT = 8, AUTHENTICATION_AT = 10, ZERO_AT = 11, NONCE_AT = 16 };
_Static_assert(NONCE_AT + (int)RT_NONCE_SIZE == (int)RT_PREFACE_SIZE, "the preface has no gap");

void rt_preface_write(bool with_secret, const uint8_t nonce[RT_NONCE_SIZE], uint8_t preface_out[RT_PREFACE_SIZE])
{
    rt_writer writer = rt_writer_of(preface_out, RT_PREFACE_SIZE);
    rt_write_bytes(&writer, magic, sizeof magic);
    rt_write_uint(&writer, RT_PROTOCOL_VERSION, 2);
    rt_write_uint(&writer, with_secret ? AUTHENTICATION_SECRET : AUTHENTICATION_SAME_USER, 1);
    rt_write_uint(&writer, 0, NONCE_AT - ZERO_AT);
    rt_write_bytes(&writer, nonce, RT_NONCE_SIZE);
    assert(!writer.failed && writer.size == RT_PREFACE_SIZE);
}

int rt_preface_check_magic(const uint8_t *bytes, size_t size, rt_handshake_role role, rt_detail *detail)
{
    if (memcmp(bytes, magic, size < sizeof magic ? size : sizeof magic) == 0)
        return RT_OK;
    char hex[3 * 16 + 1] = "", text[16 + 1];
    size_t shown = size < 16 ? size : 16;
    for (size_t index = 0; index < shown; index++) {
        hex[3 * index] = ' ';
        hex[3 * index + 1] = "0123456789abcdef"[bytes[index] >> 4];
        hex[3 * index + 2] = "0123456789abcdef"[bytes[index] & 15];
    }
    rt_text_clean(bytes, shown, text, sizeof text);
    return rt_fail(detail, RT_E_PROTOCOL, 0,
                   "the peer's first bytes are%s (\"%s\") where \"RDMATNSR\" belongs: something else %s", hex, text,
                   role == RT_ROLE_CONNECTOR ? "answers there; check host and port" : "connected here and was turned away");
}

static int authentication_check(const uint8_t *peer, const uint8_t *own, rt_detail *detail)
{
    if (peer[AUTHENTICATION_AT] == own[AUTHENTICATION_AT])
        return RT_OK;
    if (peer[AUTHENTICATION_AT] == AUTHENTICATION_SECRET)
        return rt_fail(detail, RT_E_AUTH, 0,
                       "the peer wants a secret and none was given here: pass secret= with the peer's secret");
    if (peer[AUTHENTICATION_AT] == AUTHENTICATION_SAME_USER)
        return rt_fail(detail, RT_E_AUTH, 0,
                       "a secret was given here and the peer has none: pass the same secret= to the peer, or to neither end");
    return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's preface asks for authentication %u, where 0 and 1 are known",
                   (unsigned)peer[AUTHENTICATION_AT]);
}

int rt_preface_check(const uint8_t peer[RT_PREFACE_SIZE], const uint8_t own[RT_PREFACE_SIZE], rt_detail *detail)
{
    static const uint8_t zeros[NONCE_AT - ZERO_AT];
    unsigned version = peer[VERSION_AT] | (unsigned)peer[VERSION_AT + 1] << 8;
    if (version != RT_PROTOCOL_VERSION)
        return rt_fail(
            detail, RT_E_VERSION, 0,
            "the peer speaks version %u of the control protocol and this end version %d: install the same rdmatensor at "
            "both ends",
            version, RT_PROTOCOL_VERSION);
    int status = authentication_check(peer, own, detail);
    if (status != RT_OK)
        return status;
    if (memcmp(peer + ZERO_AT, zeros, sizeof zeros) != 0)
        return rt_fail(detail, RT_E_PROTOCOL, 0, "the peer's preface has other bytes where zeros belong");
    if (memcmp(peer + NONCE_AT, own + NONCE_AT, RT_NONCE_SIZE) == 0)
        return rt_fail(detail, RT_E_AUTH, 0,
                       "our own bytes came back as the peer's: an echo or an attacker is at the other end; "
                       "check host and port");
    return RT_OK;
}
