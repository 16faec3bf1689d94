"""The fabrics that tests stand on: results and errors cross, and parties die with their parent."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading

import pytest

import rdmatensor as rt
from rdmatensor.testing import Party, PartyLost, ShmFabric, SimFabric


def add(party: Party, left: int, right: int = 0) -> tuple[str, int, int]:
    return party.name, os.getpid(), left + right


def fail(party: Party) -> None:
    raise rt.OutOfBounds("do it", party.name, "it cannot be")


def fail_strangely(party: Party) -> None:
    class Local(Exception):
        pass

    raise Local("of a class that cannot travel")


def hang(party: Party) -> None:
    threading.Event().wait(60)


def test_functions_run_in_the_partys_own_process() -> None:
    with ShmFabric(parties=3) as fabric:
        names = [party.call(add, 2, right=3) for party in fabric.parties]
        assert [name for name, _, _ in names] == ["here", "there", "there2"]
        assert [pid for _, pid, _ in names] == [party.pid for party in fabric.parties]
        assert len({pid for _, pid, _ in names}) == 3
        assert {total for _, _, total in names} == {5}


def test_an_error_that_a_function_raises_is_raised_here() -> None:
    with ShmFabric() as fabric:
        with pytest.raises(rt.OutOfBounds, match="do it on there: it cannot be"):
            fabric.there.call(fail)
        with pytest.raises(RuntimeError, match="of a class that cannot travel"):
            fabric.there.call(fail_strangely)
        assert fabric.there.call(add, 1)[2] == 1


def test_a_party_that_hangs_or_dies_is_an_error() -> None:
    with ShmFabric() as fabric:
        with pytest.raises(PartyLost, match="did not answer"):
            fabric.there.call(hang, timeout=0.1)
        fabric.there.kill()
        with pytest.raises(PartyLost):
            fabric.there.call(add, 1)


def test_parties_die_with_the_one_who_started_them() -> None:
    code = """
import os
from rdmatensor.testing import ShmFabric
fabric = ShmFabric()
print(fabric.there.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=900, check=False)
    try:
        process = os.pidfd_open(int(done.stdout))
    except ProcessLookupError:
        return
    ended, _, _ = select.select([process], [], [], 10)
    os.close(process)
    assert ended


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> list[str]:
        with SimFabric(seed=seed) as fabric:
            channel = fabric.connect()
            region = fabric.there.device.region(1 << 20, access=rt.Access.REMOTE_WRITE)  # type: ignore[union-attr]
            remote = channel.attach(region.handle())
            source = fabric.here.device.region(1 << 20)
            times = []
            for _ in range(20):
                channel.memcpy(remote, source)
                times.append(f"{fabric.here.device.now():.9f}")
            return times

    assert run(5) == run(5)
    assert run(5) != run(6)


def test_a_simulated_fabric_has_as_many_parties_as_one_likes() -> None:
    with SimFabric(parties=20) as fabric:
        channels = [fabric.connect(party) for party in fabric.parties[1:]]
        assert {channel.state for channel in channels} == {"ready"}
