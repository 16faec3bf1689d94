"""Addresses and tickets: how a peer learns where to connect."""

from __future__ import annotations

import pytest

import rdmatensor as rt
from rdmatensor.rendezvous import Ticket, host_and_port, reachable


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), ("node-7.cluster:65535", ("node-7.cluster", 65535))],
)
def test_an_address_is_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert host_and_port(address) == parts


@pytest.mark.parametrize(
    "address", ["", "80", "host", "host:", "host:-1", "host:65536", "::1:80", "host:8O", "a b:1", "x:\uff11"]
)
def test_what_is_no_address_is_refused_with_the_form(address: str) -> None:
    with pytest.raises(rt.InvalidArgument, match=r"host:port|brackets"):
        host_and_port(address)


def test_a_ticket_survives_its_journey_and_hides_its_secret() -> None:
    ticket = Ticket("10.0.0.1:4791", b"\x00secret\xff")
    assert Ticket.parse(bytes(ticket)) == ticket
    assert "secret" not in repr(ticket)
    assert Ticket.parse(bytes(Ticket("[::1]:1"))) == Ticket("[::1]:1", b"")


def test_every_cut_of_a_ticket_without_a_secret_is_refused() -> None:
    data = bytes(Ticket("10.0.0.1:4791"))
    for size in range(len(data)):
        with pytest.raises(rt.InvalidArgument, match="ticket"):
            Ticket.parse(data[:size])


def test_an_address_for_all_interfaces_becomes_one_that_others_reach() -> None:
    assert reachable("192.0.2.7:5") == "192.0.2.7:5"
    host, port = host_and_port(reachable("0.0.0.0:5"))
    assert host not in ("", "0.0.0.0")
    assert port == 5


def test_secrets_cannot_be_guessed() -> None:
    assert len(rt.new_secret()) == 32
    assert rt.new_secret() != rt.new_secret()
