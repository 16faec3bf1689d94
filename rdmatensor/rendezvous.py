"""How a peer learns where to connect: "host:port" as text, and tickets, which carry a secret as well.

A ticket is what `Listener.ticket` gives: bytes for a means of transport of the caller's own that others cannot read
(a job scheduler, a store, an SSH pipe). Whoever has one can connect.
"""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass, field

from rdmatensor.config import SECRET_SIZE_MAX
from rdmatensor.errors import InvalidArgument

__all__ = ["Ticket", "host_and_port", "new_secret", "reachable"]

_MAGIC = b"rdmatensor-ticket-1:"
_ADDRESS_SIZE_MAX = 255
_WILDCARDS = ("0.0.0.0", "::", "")


def new_secret() -> bytes:
    """A secret that nobody can guess, for `Device.listen(secret=...)`."""
    return secrets.token_bytes(32)


def host_and_port(address: str) -> tuple[str, int]:
    """Takes "host:port" apart; an IPv6 host stands in brackets: "[::1]:4791"."""
    if not isinstance(address, str):
        raise TypeError(f"an address is text, as in '127.0.0.1:4791', not {type(address).__name__}")
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InvalidArgument("read an address", repr(address), "an IPv6 host stands in brackets: '[::1]:4791'")
    if (
        not colon
        or not (port.isascii() and port.isdigit())
        or int(port[:6]) > 65535
        or not host.isprintable()
        or " " in host
    ):
        raise InvalidArgument("read an address", repr(address), "write it as 'host:port', with a port from 0 to 65535")
    return host, int(port)


def reachable(address: str) -> str:
    """The address for others: where it stands for all interfaces, the one that packets leave by."""
    host, port = host_and_port(address)
    if host not in _WILDCARDS:
        return address
    family, outside = (socket.AF_INET6, "2001:db8::1") if host == "::" else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((outside, 9))  # of a datagram socket: looks up the route, sends nothing
            found = str(probe.getsockname()[0])
        except OSError:
            found = socket.gethostname()
    return f"[{found}]:{port}" if ":" in found else f"{found}:{port}"


@dataclass(frozen=True, slots=True)
class Ticket:
    """Where to connect and with which secret. Its text form does not show the secret."""

    address: str
    secret: bytes = field(default=b"", repr=False)

    def __bytes__(self) -> bytes:
        address = self.address.encode()
        return _MAGIC + bytes([len(address)]) + address + self.secret

    @classmethod
    def parse(cls, data: bytes) -> Ticket:
        """Reads a ticket; InvalidArgument when the bytes are none."""
        where = f"{len(data)} bytes"
        if not data.startswith(_MAGIC):
            raise InvalidArgument("read a ticket", where, "they do not begin as a ticket of Listener.ticket does")
        body = data[len(_MAGIC) :]
        if (
            not body
            or not 0 < body[0] <= _ADDRESS_SIZE_MAX
            or len(body) < 1 + body[0]
            or len(body) - 1 - body[0] > SECRET_SIZE_MAX
        ):
            raise InvalidArgument("read a ticket", where, "it is cut off or was changed on the way")
        try:
            address = body[1 : 1 + body[0]].decode()
            host_and_port(address)
        except (UnicodeDecodeError, InvalidArgument):
            raise InvalidArgument("read a ticket", where, "its address is none: it was changed on the way") from None
        return cls(address, body[1 + body[0] :])
