"""Both ends prove who they are before anything else is looked at; a peer that cannot is told why."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ends import Ends

import rdmatensor as rt
from rdmatensor import _core
from rdmatensor.settings.rendezvous import Ticket


def joined(ends: Ends, listener: rt.Listener, address: str | bytes, **options: object) -> str:
    """Connects this device to itself and gives the channel's state."""
    with ends.device.connect(address, **options) as channel, listener.accept() as accepted:  # type: ignore[arg-type]
        assert accepted.state == "ready"
        return channel.state


def test_the_right_secret_lets_in(ends: Ends) -> None:
    with ends.device.listen("127.0.0.1:0", secret="open sesame") as listener:
        assert joined(ends, listener, listener.address, secret=b"open sesame") == "ready"
        assert listener.refusals() == []


def test_a_ticket_carries_address_and_secret(ends: Ends) -> None:
    secret = rt.new_secret()
    with ends.device.listen("127.0.0.1:0", secret=secret) as listener:
        assert Ticket.parse(listener.ticket) == Ticket(listener.address, secret)
        assert joined(ends, listener, listener.ticket) == "ready"


@pytest.mark.parametrize(("theirs", "ours"), [("right", "wrong"), ("right", None), (None, "some")])
def test_another_secret_is_refused_and_both_ends_say_so(ends: Ends, theirs: str | None, ours: str | None) -> None:
    with ends.device.listen("127.0.0.1:0", secret=theirs) as listener:
        with pytest.raises(rt.AuthenticationError, match="secret"):
            ends.device.connect(listener.address, secret=ours)
        with pytest.raises(rt.DeadlineExceeded):
            listener.accept(0.1)
        refusals = listener.refusals()
        assert len(refusals) == 1
        assert "secret" in refusals[0]
        assert "right" not in refusals[0] + repr(listener)
        assert joined(ends, listener, listener.address, secret=theirs) == "ready"  # others are not concerned


@pytest.fixture
def nobody(ends: Ends) -> str:
    """An address where somebody listened before."""
    with ends.device.listen("127.0.0.1:0") as listener:
        return listener.address


class Naps:
    """Actions to take before each nap between two attempts to connect; the last one is repeated."""

    def __init__(self) -> None:
        self.todo: list[Callable[[], None]] = []
        self.count = 0
        self._skipped_ns = 0

    def skip(self) -> None:
        """Lets the time of every deadline pass."""
        self._skipped_ns += 10**12

    def now_ns(self, device: Any) -> int:
        return _now_ns(device) + self._skipped_ns

    def nap(self, *arguments: Any) -> None:
        assert self.todo, "it is tried again"
        self.count += 1
        (self.todo.pop(0) if len(self.todo) > 1 else self.todo[0])()
        _nap(*arguments)


_now_ns, _nap = _core.device_now_ns, _core.device_nap


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> Naps:
    made = Naps()
    monkeypatch.setattr(_core, "device_nap", made.nap)
    monkeypatch.setattr(_core, "device_now_ns", made.now_ns)
    return made


def nothing() -> None:
    pass


def test_nobody_listening_is_tried_again_and_said_at_the_deadline(ends: Ends, nobody: str, naps: Naps) -> None:
    naps.todo = [nothing, nothing, naps.skip]
    with pytest.raises(rt.ConnectError, match=f"{nobody}.*; tried 3 times in [0-9e+.]+ s"):
        ends.device.connect(nobody, timeout=60)
    assert naps.count == 3


def test_a_listener_that_comes_later_is_found(ends: Ends, nobody: str, naps: Naps) -> None:
    later: list[rt.Listener] = []
    naps.todo = [nothing, nothing, lambda: later.append(ends.device.listen(nobody)), nothing]
    with ends.device.connect(nobody, timeout=60) as channel:
        assert channel.state == "ready"
        assert later[0].accept().state == "ready"
    later[0].close()


def test_a_device_that_is_closed_gives_up_connecting(ends: Ends, nobody: str, naps: Naps) -> None:
    device = rt.Device(ends.device.url.replace("sim://here", "sim://another"))
    naps.todo = [nothing, device.close, nothing]
    with pytest.raises(rt.ClosedError):
        device.connect(nobody, timeout=60)


@pytest.mark.usefixtures("naps")
def test_a_refusal_is_not_tried_again(ends: Ends) -> None:
    with ends.device.listen("127.0.0.1:0", secret="right") as listener:
        with pytest.raises(rt.AuthenticationError):
            ends.device.connect(listener.address, secret="wrong", timeout=60)
        with pytest.raises(rt.AuthenticationError):
            ends.device.connect(listener.address, timeout=60)


def test_refused_connects_are_no_lost_channels(ends: Ends, nobody: str, naps: Naps) -> None:
    naps.todo = [naps.skip]
    before = ends.device.stats.channels_lost
    with pytest.raises(rt.ConnectError):
        ends.device.connect(nobody, timeout=60)
    with ends.device.listen("127.0.0.1:0", secret="right") as listener, pytest.raises(rt.AuthenticationError):
        ends.device.connect(listener.address, secret="wrong")
    assert joined_once(ends)  # what was refused before has ended by now
    assert ends.device.stats.channels_lost == before


def joined_once(ends: Ends) -> bool:
    with ends.device.listen("127.0.0.1:0") as listener:
        return joined(ends, listener, listener.address) == "ready"


def test_the_channel_that_nobody_accepts_is_refused_at_both_ends(ends: Ends) -> None:
    room = (ends.limits.link_count_max - 8) // (2 * ends.device.qps_per_peer)
    if room <= 64:
        pytest.skip(f"limits.link_count_max is {ends.limits.link_count_max}: fewer channels than a listener holds")
    refused = ends.device.stats.connects_refused
    with ends.device.listen("127.0.0.1:0") as listener:
        kept = [ends.device.connect(listener.address) for _ in range(64)]
        assert ends.device.stats.unaccepted == 64
        with pytest.raises(rt.ConnectError, match=r"holds 64 channels .* call accept\(\)"):
            ends.device.connect(listener.address)
        assert "accept()" in listener.refusals()[0]
        assert ends.device.stats.connects_refused == refused + 1
        assert "64 of 64 channels wait for accept()" in ends.device.dump()
        assert listener.accept().state == "ready"
        kept.append(ends.device.connect(listener.address))  # there is room again
        for channel in kept:
            channel.close()


@pytest.mark.parametrize("address", ["", "nowhere", "host:", "host:x", "host:65536", "::1:5", "a b:1"])
def test_a_text_that_is_no_address_is_refused(ends: Ends, address: str) -> None:
    with pytest.raises(rt.InvalidArgument, match="host"):
        ends.device.connect(address)
    with pytest.raises(rt.InvalidArgument, match="host"):
        ends.device.listen(address)


@pytest.mark.parametrize("data", [b"", b"x", b"rdmatensor-ticket-1:", b"rdmatensor-ticket-1:\xffshort"])
def test_bytes_that_are_no_ticket_are_refused(ends: Ends, data: bytes) -> None:
    with pytest.raises(rt.InvalidArgument, match="ticket"):
        ends.device.connect(data)


def test_other_interfaces_need_a_secret(ends: Ends) -> None:
    if ends.limits.virtual_time:
        pytest.skip("limits.virtual_time: its streams have no interfaces")
    with pytest.raises(rt.RdmaError, match="secret"):
        ends.device.listen("0.0.0.0:0")
    with ends.device.listen("0.0.0.0:0", secret="enough") as listener:
        port = listener.address.rpartition(":")[2]
        assert joined(ends, listener, f"127.0.0.1:{port}", secret="enough") == "ready"
        assert "0.0.0.0" not in Ticket.parse(listener.ticket).address


@contextmanager
def strange_server(answer: bytes) -> Iterator[str]:
    """Something else that listens: answers each connection with some bytes, then holds it open until the end."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in held:
                connection.close()


def test_a_port_that_answers_something_else_is_said(ends: Ends) -> None:
    if ends.limits.virtual_time:
        pytest.skip("limits.virtual_time: its streams meet nothing else")
    answer = b"HTTP/1.1 400 Bad Request\r\nServer: something else entirely\r\n\r\n"
    with strange_server(answer) as address, pytest.raises(rt.ConnectError, match="something else"):
        ends.device.connect(address)


def test_a_port_that_never_answers_costs_the_deadline(ends: Ends) -> None:
    if ends.limits.virtual_time:
        pytest.skip("limits.virtual_time: its streams meet nothing else")
    with strange_server(b"") as address, pytest.raises(rt.DeadlineExceeded, match=address):
        ends.device.connect(address, timeout=0.2)


@pytest.mark.parametrize("secret", ["", b"", "x" * 257])
def test_a_secret_that_proves_nothing_is_refused(ends: Ends, secret: str | bytes) -> None:
    with pytest.raises(rt.InvalidArgument, match="1 to 256"):
        ends.device.listen("127.0.0.1:0", secret=secret)


def test_a_closed_listener_accepts_nobody(ends: Ends) -> None:
    listener = ends.device.listen("127.0.0.1:0")
    listener.close()
    listener.close()
    assert "closed" in repr(listener)
    with pytest.raises(rt.ClosedError):
        listener.accept()
