"""The facts that members of a process group find out about each other before they are connected."""

from __future__ import annotations

import errno
import socket

import pytest

import rdmatensor as rt
from rdmatensor.settings.rendezvous import Ticket, host_and_port
from rdmatensor.team import fabric


def test_a_listener_is_asked_for_without_importing_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user may not be able to read the interpreter's files by then."""

    with socket.create_server(("127.0.0.1", 0)) as server:
        ticket = bytes(Ticket(f"127.0.0.1:{server.getsockname()[1]}", bytes(32))).hex()
        probe = fabric._Probe(ticket)
        monkeypatch.setattr(probe, "_due", 0.0)
        looked_up: list[object] = []
        resolve = socket.getaddrinfo

        def resolved(host: bytes | str | None, *arguments: object, **named: object) -> object:
            looked_up.append(host)
            return resolve(host, *arguments, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        assert not probe.gone()
        assert looked_up == [b"127.0.0.1"]  # text would be encoded with a codec that lies in a file


def test_a_group_listens_at_the_first_port_that_is_free() -> None:
    with rt.Device("shm://") as device:
        taken = fabric.listen(device, "127.0.0.1", b"secret")
        host, port = host_and_port(taken.address)
        first = port if port < 65000 else port - 100
        second = fabric.listen(device, f"{host}:{first}-{first + 100}", b"secret")
        assert host_and_port(second.address)[0] == host
        assert first <= host_and_port(second.address)[1] <= first + 100
        with pytest.raises(rt.AddressError, match=r"RDMATENSOR_TORCH_LISTEN is .* all of its 1 ports") as told:
            fabric.listen(device, f"{host}:{port}-{port}", b"secret")
        assert told.value.errno == errno.EADDRINUSE
        with pytest.raises(rt.AddressError, match="no interface"):
            fabric.listen(device, "203.0.113.9", b"secret")


def test_the_environment_says_where_a_group_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDMATENSOR_TORCH_LISTEN", "127.0.0.1")
    made = fabric.Fabric("shm://", local=False, members=2)
    assert host_and_port(made.listener.address)[0] == "127.0.0.1"
    made.device.close()
