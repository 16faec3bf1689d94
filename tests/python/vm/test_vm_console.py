"""The guest's console, and machines whose kernel dies."""

from __future__ import annotations

import pytest

from rdmatensor.vm import machine
from rdmatensor.vm.console import END_KEPT, TROUBLE_KEPT, Console


def heard(text: str, piece: int) -> Console:
    console = Console()
    data = text.encode()
    for start in range(0, len(data), piece):
        console.keep(data[start : start + piece])
    return console


def test_a_quiet_console_is_reported_by_its_last_lines() -> None:
    report = heard("".join(f"line {number}\r\n" for number in range(5000)), 1000).report(lines=2)
    assert report == "line 4998\nline 4999"


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
def test_a_panic_is_reported_from_its_first_line_on_however_long_the_dump(piece: int) -> None:
    dump = "".join(f"[    9.0] RAX: {number:016x}\r\n" for number in range(400))
    report = heard(f"early\r\n[    9.0] Kernel panic - not syncing: why\r\n{dump}", piece).report()
    assert report.startswith("[    9.0] Kernel panic - not syncing: why\n")
    assert report.endswith(f"RAX: {399:016x}")


def test_the_cause_is_the_first_line_of_trouble_or_else_the_last_line() -> None:
    assert heard("early\r\n[    9.0] Oops: int3: 0000\r\nRAX: 0\r\n", 7).cause() == "[    9.0] Oops: int3: 0000"
    assert heard("early\r\nlast\r\n", 7).cause() == "last"
    assert Console().cause() == ""


@pytest.mark.parametrize("deaths", range(machine.BOOTS + 1))
def test_only_a_kernel_that_dies_is_booted_again_and_not_for_ever(deaths: int) -> None:
    said: list[str] = []
    calls: list[Exception] = [machine.KernelDied(heard("Kernel panic - why", 100)) for _ in range(deaths)]

    def boot() -> str:
        if calls:
            raise calls.pop()
        return "up"

    if deaths < machine.BOOTS:
        assert machine.booted(boot, said.append) == "up"
    else:
        with pytest.raises(machine.KernelDied, match="Kernel panic - why"):
            machine.booted(boot, said.append)
    assert len(said) == min(deaths, machine.BOOTS - 1)
    calls = [machine.MachineLost("it is silent", Console())]
    with pytest.raises(machine.MachineLost, match="it is silent"):
        machine.booted(boot, said.append)


def test_of_an_endless_dump_both_ends_are_kept() -> None:
    report = heard("[    1.0] BUG: unable to handle page fault\n" + "x" * (4 * TROUBLE_KEPT) + "\nlast", 4096).report()
    assert report.startswith("[    1.0] BUG: unable")
    assert report.endswith("\nlast")
    assert len(report) == TROUBLE_KEPT + END_KEPT
