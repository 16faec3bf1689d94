"""Both ends prove who they are before anything else is looked at; who cannot is told why."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ends import Ends

import rdmatensor as rt
from rdmatensor.rendezvous import Ticket


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


def test_nobody_listening_is_said(ends: Ends) -> None:
    with ends.device.listen("127.0.0.1:0") as listener:
        address = listener.address
    with pytest.raises(rt.ConnectError, match=address):
        ends.device.connect(address)


@pytest.mark.parametrize("address", ["", "nowhere", "host:", "host:x", "host:65536", "::1:5", "a b:1"])
def test_what_is_no_address_is_refused(ends: Ends, address: str) -> None:
    with pytest.raises(rt.InvalidArgument, match="host"):
        ends.device.connect(address)
    with pytest.raises(rt.InvalidArgument, match="host"):
        ends.device.listen(address)


@pytest.mark.parametrize("data", [b"", b"x", b"rdmatensor-ticket-1:", b"rdmatensor-ticket-1:\xffshort"])
def test_what_is_no_ticket_is_refused(ends: Ends, data: bytes) -> None:
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
