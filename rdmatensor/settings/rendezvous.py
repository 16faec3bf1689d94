"""The ways by which a peer learns where to connect: "host:port" as text, and tickets, which also
carry a secret.

This module also finds out whether two processes share a host, so that `shm` can join them. A ticket
is the value of `Listener.ticket`: bytes that the caller sends by a means that others cannot read (a
job scheduler, a store, an SSH pipe). Any process that has the ticket can connect.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rdmatensor.errors import InvalidArgument
from rdmatensor.settings.config import SECRET_SIZE_MAX

__all__ = ["Ticket", "addresses", "host_and_port", "host_identity", "new_secret", "reachable", "why_apart"]

_MAGIC = b"rdmatensor-ticket-1:"
_ADDRESS_SIZE_MAX = 255
_WILDCARDS = ("0.0.0.0", "::", "")


def new_secret() -> bytes:
    """A random secret for `Device.listen(secret=...)`."""
    return secrets.token_bytes(32)


def host_and_port(address: str) -> tuple[str, int]:
    """The host and port of "host:port"; an IPv6 host stands in brackets: "[::1]:4791"."""
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


def addresses(text: str) -> list[str]:
    """The addresses that "host", "host:port" or "host:first-last" stands for, in the order in which
    a listener tries them; without a port the system chooses one.
    """
    host, colon, ports = text.rpartition(":")
    if not colon or text.endswith("]"):
        return [_checked(f"{text}:0")]
    first, dash, last = ports.partition("-")
    start = host_and_port(f"{host}:{first}")[1]
    stop = host_and_port(f"{host}:{last}")[1] if dash else start
    if dash and not 0 < start <= stop:
        raise InvalidArgument(
            "read a range of ports", repr(text), "write it as 'host:first-last', the smaller port first"
        )
    return [f"{host}:{port}" for port in range(start, stop + 1)]


def _checked(address: str) -> str:
    host_and_port(address)
    return address


def reachable(address: str) -> str:
    """The address for peers on other hosts; a wildcard is replaced by the address of the outgoing
    interface.
    """
    host, port = host_and_port(address)
    if host not in _WILDCARDS:
        return address
    family, outside = (socket.AF_INET6, "2001:db8::1") if host == "::" else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((outside, 9))  # on a datagram socket this only looks up the route
            found = str(probe.getsockname()[0])
        except OSError:
            found = socket.gethostname()
    return f"[{found}]:{port}" if ":" in found else f"{found}:{port}"


@dataclass(frozen=True, slots=True)
class Ticket:
    """An address to connect to, with its secret. Its text form does not show the secret."""

    address: str
    secret: bytes = field(default=b"", repr=False)

    def __bytes__(self) -> bytes:
        address = self.address.encode()
        return _MAGIC + bytes([len(address)]) + address + self.secret

    @classmethod
    def parse(cls, data: bytes) -> Ticket:
        """Reads a ticket; InvalidArgument when the bytes are not a ticket."""
        where = f"{len(data)} bytes"
        if not data.startswith(_MAGIC):
            raise InvalidArgument(
                "read a ticket", where, "they do not begin like a ticket: pass on exactly the bytes of Listener.ticket"
            )
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
            raise InvalidArgument("read a ticket", where, "its address is invalid: it was changed on the way") from None
        return cls(address, body[1 + body[0] :])


# ---- one host or two ----


def host_identity(proc: str = "/proc", etc: str = "/etc") -> dict[str, str]:
    """The identity of the host of this process, for `why_apart`: values to compare and show, safe
    to put into a store.

    `kernel` is the same for processes of one boot of one kernel, and empty where it cannot be
    determined; `network` names the network namespace; `user` and `host` are the user's number and
    the host's name. Raises nothing.
    """
    try:
        network = os.readlink(f"{proc}/self/ns/net")
    except OSError:
        network = ""
    host = socket.gethostname()
    return {"kernel": _kernel(proc, etc, host), "network": network, "user": str(os.geteuid()), "host": host}


def _kernel(proc: str, etc: str, host: str) -> str:
    """An identifier of this boot of this kernel. Some containers hide the boot id; the time of the
    boot then replaces it.
    """
    if boot := _line(f"{proc}/sys/kernel/random/boot_id"):
        return f"boot {boot}"
    begun = next((line.split()[1] for line in _text(f"{proc}/stat").splitlines() if line.startswith("btime ")), "")
    machine = _line(f"{etc}/machine-id")
    return f"booted {begun} machine {machine} host {host}" if begun else ""


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _line(path: str) -> str:
    return _text(path).strip()


def why_apart(one: Mapping[str, str], other: Mapping[str, str], *, secret: bool = True) -> str | None:
    """The reason why `shm` cannot join two processes, with the remedy; None where it can. Takes two
    results of `host_identity`.

    Processes of two users can be joined when both know a `secret`, as those of a process group do.
    """
    names = f"{one['host']} and {other['host']}"
    if not one["kernel"] or not other["kernel"]:
        hidden = (one if not one["kernel"] else other)["host"]
        return (
            f"nothing on {hidden} tells whether they share a host: it shows neither "
            "/proc/sys/kernel/random/boot_id nor a boot time in /proc/stat; if they do, ask for shm:// by name"
        )
    if one["kernel"] != other["kernel"]:
        return f"{names} are different hosts, or one of them hides /proc/sys/kernel/random/boot_id"
    if one["network"] != other["network"]:
        return (
            f"they are in different network namespaces of one host ({_shown(one)} and {_shown(other)}), where the "
            "sockets by which shm hands its memory over do not reach; start them in one, as with --network=host "
            "or --network=container:NAME"
        )
    if one["user"] != other["user"] and not secret:
        return (
            f"they belong to users {one['user']} and {other['user']}, and shm joins processes of two users only when "
            "both know the same secret (secret= or RDMATENSOR_SECRET)"
        )
    return None


def _shown(identity: Mapping[str, str]) -> str:
    return identity["network"] or "one that /proc does not name"
