"""Addresses and tickets: how a peer learns where to connect."""

from __future__ import annotations

from pathlib import Path

import pytest

import rdmatensor as rt
from rdmatensor.settings.rendezvous import Ticket, addresses, host_and_port, host_identity, reachable, why_apart


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), ("node-7.cluster:65535", ("node-7.cluster", 65535))],
)
def test_an_address_is_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert host_and_port(address) == parts


@pytest.mark.parametrize(
    "address", ["", "80", "host", "host:", "host:-1", "host:65536", "::1:80", "host:8O", "a b:1", "x:\uff11"]
)
def test_a_text_that_is_no_address_is_refused_with_the_form(address: str) -> None:
    with pytest.raises(rt.InvalidArgument, match=r"host:port|brackets"):
        host_and_port(address)


@pytest.mark.parametrize(
    ("text", "tried"),
    [
        ("10.0.0.7", ["10.0.0.7:0"]),
        ("[::1]", ["[::1]:0"]),
        ("node-7:4791", ["node-7:4791"]),
        ("10.0.0.7:7000-7002", ["10.0.0.7:7000", "10.0.0.7:7001", "10.0.0.7:7002"]),
        ("[::1]:7000-7000", ["[::1]:7000"]),
    ],
)
def test_a_range_of_ports_is_tried_from_its_first(text: str, tried: list[str]) -> None:
    assert addresses(text) == tried


@pytest.mark.parametrize("text", ["a:7-6", "a:0-5", "a:5-", "a:-5", "a:1-2-3", "a:1-65536", "::1", "a b"])
def test_a_text_that_is_no_range_of_ports_is_refused(text: str) -> None:
    with pytest.raises(rt.InvalidArgument):
        addresses(text)


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


# ---- one host or two ----


def machine(
    path: Path, *, boot: str = "", stat: str = "cpu 1 2 3\nbtime 1700000000\nprocesses 7\n", network: str = "net:[1]"
) -> dict[str, str]:
    """The identity that a process reads from a /proc of this content; an empty entry is not there."""
    proc, etc = path / "proc", path / "etc"
    (proc / "self" / "ns").mkdir(parents=True, exist_ok=True)
    (proc / "sys" / "kernel" / "random").mkdir(parents=True, exist_ok=True)
    etc.mkdir(exist_ok=True)
    for file, text in {
        proc / "sys/kernel/random/boot_id": boot,
        proc / "stat": stat,
        etc / "machine-id": "m1\n",
    }.items():
        file.unlink(missing_ok=True)
        if text:
            file.write_text(text)
    (proc / "self/ns/net").unlink(missing_ok=True)
    if network:
        (proc / "self/ns/net").symlink_to(network)
    return host_identity(str(proc), str(etc))


def test_a_process_is_together_with_itself() -> None:
    assert why_apart(host_identity(), host_identity()) is None
    assert why_apart(host_identity(), host_identity(), secret=False) is None


def test_a_host_that_hides_its_boot_id_is_known_by_its_boot_time(tmp_path: Path) -> None:
    hidden = machine(tmp_path)
    assert hidden["kernel"]
    assert why_apart(hidden, machine(tmp_path)) is None
    later = machine(tmp_path, stat="btime 1700000009\n")
    assert "different hosts" in str(why_apart(hidden, later))


def test_another_boot_is_another_host(tmp_path: Path) -> None:
    one, other = machine(tmp_path, boot="aaaa\n"), machine(tmp_path, boot="bbbb\n")
    assert why_apart(one, machine(tmp_path, boot="aaaa\n")) is None
    assert "different hosts" in str(why_apart(one, other))
    assert "hides" in str(why_apart(one, machine(tmp_path)))  # one of two containers shows it, the other does not


def test_a_host_that_tells_nothing_is_not_guessed_at(tmp_path: Path) -> None:
    blind = machine(tmp_path, stat="")
    assert why_apart(blind, blind) is not None
    assert "shm://" in str(why_apart(blind, blind))
    empty = host_identity(str(tmp_path / "none"), str(tmp_path / "none"))
    assert (empty["kernel"], empty["network"]) == ("", "")


def test_another_network_namespace_is_named(tmp_path: Path) -> None:
    one, other = machine(tmp_path, boot="a"), machine(tmp_path, boot="a", network="net:[2]")
    why = str(why_apart(one, other))
    assert "net:[1]" in why
    assert "net:[2]" in why
    assert "network namespaces" in str(why_apart(one, machine(tmp_path, boot="a", network="")))


def test_users_are_apart_only_without_a_secret(tmp_path: Path) -> None:
    one = machine(tmp_path, boot="a")
    other = {**one, "user": "4711"}
    assert why_apart(one, other) is None
    why = str(why_apart(one, other, secret=False))
    assert "4711" in why
    assert "secret" in why


def test_an_address_of_another_machine_cannot_be_listened_on_and_says_so_as_the_system_does() -> None:
    with rt.Device("shm://") as device, pytest.raises(OSError, match="no interface") as caught:
        device.listen("192.0.2.1:0", secret=b"x" * 32)  # of a range that documents are to use
    assert isinstance(caught.value, rt.AddressError)
