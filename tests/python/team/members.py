"""The members of teams in tests: `rdmatensor run -n 4 members.py NAME` runs the function of this name in each process.
A failed assertion fails the run.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rdmatensor as rt

KINDS = {"bool": "?", "int8": "b", "uint16": "H", "int64": "q", "float16": "e", "float32": "f", "complex128": "D"}
SIZES = [0, 1, 33, 5000]
LARGE = [(kind, 300_000) for kind in ("float16", "float32")]
REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": np.add,
    "product": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


def values(rank: int, count: int, kind: str) -> np.ndarray[Any, Any]:
    """The array of a rank, which every member can make: small numbers, so that sums are exact in any order."""
    return np.random.default_rng(rank * 1000 + count).integers(0, 4, count).astype(KINDS[kind])


def of_all(team: rt.Team, count: int, kind: str) -> list[np.ndarray[Any, Any]]:
    return [values(rank, count, kind) for rank in range(team.size)]


def every_call(team: rt.Team) -> None:
    for kind, count in [*itertools.product(KINDS, SIZES), *LARGE]:
        everyone = of_all(team, count, kind)
        mine, root = everyone[team.rank], count % team.size
        assert np.array_equal(team.all_gather(mine), everyone)
        copy = mine.copy()
        assert team.broadcast(copy, root) is copy
        assert np.array_equal(copy, everyone[root])
        gathered = team.gather(mine, root)
        assert np.array_equal(gathered, everyone) if team.rank == root else gathered is None
        out = np.empty_like(mine)
        assert team.scatter(np.stack(everyone) if team.rank == root else None, out, root) is out
        assert np.array_equal(out, everyone[team.rank])
        parts = np.stack([everyone[team.rank] for _ in range(team.size)])
        assert np.array_equal(team.all_to_all(parts), everyone)
        team.barrier()


def every_reduction(team: rt.Team) -> None:
    for (kind, count), op in itertools.product([*itertools.product(KINDS, SIZES), *LARGE], REDUCTIONS):
        everyone = of_all(team, count * team.size, kind)
        mine, root = everyone[team.rank], count % team.size
        if (kind.startswith(("float", "complex")) and op in {"and", "or", "xor"}) or (
            kind == "complex128" and op in {"min", "max"}
        ):
            with pytest.raises(rt.InvalidArgument, match="has these reductions"):
                team.all_reduce(mine, op)
            continue
        expected = everyone[0]
        for other in everyone[1:]:
            expected = REDUCTIONS[op](expected, other)
        before, out = mine.copy(), np.empty_like(mine)
        assert team.all_reduce(mine, op, out=out) is out
        assert np.array_equal(out, expected) and np.array_equal(mine, before)
        reduced = team.reduce(mine, root, op, out=out if team.rank == root else None)
        assert np.array_equal(reduced, expected) if team.rank == root else reduced is None
        assert np.array_equal(mine, before)
        part = team.reduce_scatter(mine, op)
        assert np.array_equal(part, expected[team.rank * count : (team.rank + 1) * count])
        assert team.all_reduce(mine, op) is mine
        assert np.array_equal(mine, expected)


def a_nan_makes_minimum_and_maximum_nan(team: rt.Team) -> None:
    for kind in ("float16", "float32", "float64"):
        for op in ("min", "max"):
            array = np.ones(3, kind)
            array[team.rank % 3] = np.nan
            expected = [rank < team.size for rank in range(3)]
            assert np.isnan(team.all_reduce(array, op)).tolist() == expected  # type: ignore[arg-type]


def prepared_calls_run_as_often_as_wanted(team: rt.Team) -> None:
    array, total = np.zeros(4), np.zeros(4)
    step = team.prepare("all_reduce", array, out=total)
    for round in range(100):
        array[:] = round + team.rank
        assert step() is total
        assert (total == team.size * round + sum(range(team.size))).all()
    wait = team.prepare("barrier")
    wait()


def regions_are_read_where_they_lie(team: rt.Team) -> None:
    region = team.device.region(4 << 20, access=rt.Access.REMOTE_READ | rt.Access.REMOTE_WRITE)
    array = region.allocate(1 << 20).array((1 << 18,), np.float32)
    array[:] = team.rank
    before = team.stats.staged_bytes
    team.all_reduce(array)
    assert (array == sum(range(team.size))).all()
    if team.size > 1 and team.device.limits.maps_remote:
        assert team.stats.staged_bytes - before < 4096


def sends_find_their_receives(team: rt.Team) -> None:
    others = [rank for rank in range(team.size) if rank != team.rank]
    for count in (0, 1, 1000, 400_000):
        sends = [team.send_async(np.full(count, 10 * team.rank + tag), to, tag) for to in others for tag in (0, 7)]
        for tag in (7, 0):
            for source in others:
                got = np.empty(count, np.int64)
                assert team.recv(got, source, tag) == source
                assert (got == 10 * source + tag).all()
        for send in sends:
            send.wait()
            assert send.done()
    if team.rank == 0:
        seen = set()
        for _ in others:
            got = np.empty(1, np.int64)
            source = team.recv(got)
            assert got[0] == source
            seen.add(source)
        assert seen == set(others)
    else:
        team.send(np.array([team.rank]), 0)
    team.barrier()


def dropped_sends_arrive(team: rt.Team) -> None:
    if team.rank == 0:
        for count in (10, 400_000):
            team.send_async(np.full(count, count), 1)
    if team.rank == 1:
        for count in (10, 400_000):
            got = np.empty(count, np.int64)
            team.recv(got, 0)
            assert (got == count).all()
    team.barrier()


def teams_beside_each_other(team: rt.Team) -> None:
    with rt.Team.join() as second:
        failed: list[BaseException] = []

        def run(which: rt.Team, number: int) -> None:
            try:
                for _ in range(200):
                    array = np.full(3000, number)
                    assert (which.all_reduce(array) == number * which.size).all()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=run, args=(which, 1 + index)) for index, which in enumerate((team, second))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed


def wrong_arguments_lose_nothing(team: rt.Team) -> None:
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: team.all_reduce(np.ones((4, 4))[:, 0]), "not contiguous"),
        (lambda: team.all_reduce(np.ones(4), "mean"), "these are sum, product"),  # type: ignore[arg-type]
        (lambda: team.all_reduce(np.ones(4), out=np.ones(5)), r"out= has \(5,\) of float64, and the result \(4,\)"),
        (lambda: team.all_reduce(np.ones(4), out=np.ones(4, np.float32)), "of float32, and the result"),
        (lambda: team.broadcast(np.ones(4), team.size), "a rank is 0 to"),
        (lambda: team.reduce_scatter(np.ones(team.size * 2 + 1)), "is divided by") if team.size > 1 else
        (lambda: team.reduce_scatter(np.array(1.0)), "is divided by"),
        (lambda: team.send(np.ones(1), team.rank), "does not send to itself"),
        (lambda: team.recv(np.ones(1), team.size), "source="),
        (lambda: team.prepare("all_reduces", np.ones(1)), "no collective call"),  # type: ignore[arg-type]
        (lambda: team.all_reduce(np.ones(1), timeout=-1), "a timeout is 0 to"),
    ]  # fmt: skip
    frozen = np.ones(3)
    frozen.flags.writeable = False
    wrong.append((lambda: team.all_reduce(frozen), "read-only"))
    whole = np.ones(8)
    wrong.append((lambda: team.all_reduce(whole[:6], out=whole[2:]), "shares memory"))
    for call, why in wrong:
        with pytest.raises(rt.InvalidArgument, match=why):
            call()
    with pytest.raises(TypeError, match="not a tensor"):
        team.all_reduce([1.0])  # type: ignore[arg-type]
    assert (team.all_reduce(frozen, out=np.empty(3)) == team.size).all()


def members_that_disagree_are_told(team: rt.Team) -> None:
    with pytest.raises(rt.InvalidArgument, match=r"do not agree: rank . called call 1, reduce of 12 bytes of"):
        team.all_reduce(np.ones(3, np.float32 if team.rank == 0 else np.int32))
    with pytest.raises(rt.InvalidArgument, match="do not agree"):
        team.barrier()


def one_that_does_not_come_is_named(team: rt.Team) -> None:
    if team.rank == team.size - 1:
        got = np.empty(1)
        with pytest.raises(rt.RdmaError):
            team.recv(got, 0, tag=9)  # ends with the team
        return
    with pytest.raises(rt.DeadlineExceeded, match=f"rank {team.size - 1}"):
        team.barrier(timeout=0.3)


def one_that_dies_is_named(team: rt.Team) -> None:
    team.barrier()
    if team.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(rt.PeerLost, match="rank 1"):
        team.barrier(timeout=60)
    print(f"rank {team.rank} saw it", flush=True)


def one_that_raises_says_why(team: rt.Team) -> None:
    team.barrier()
    if team.rank == 0:
        raise ArithmeticError("the numbers are wrong")
    with pytest.raises(rt.RdmaError, match="rank 0 failed: ArithmeticError: the numbers are wrong"):
        team.barrier()
    print(f"rank {team.rank} saw it", flush=True)


def a_closed_team_refuses(team: rt.Team) -> None:
    step = team.prepare("barrier")
    ended: list[str] = []

    def receive() -> None:
        try:
            team.recv(np.empty(3), tag=5)
        except rt.RdmaError as error:
            ended.append(type(error).__name__)

    thread = threading.Thread(target=receive)
    thread.start()
    while not team._inside:
        threading.Event().wait(0.001)
    team.close()
    thread.join()
    assert ended == ["ClosedError"]
    team.close()
    for call in (step, team.barrier, lambda: team.stats, lambda: team.send(np.ones(1), 0)):
        with pytest.raises(rt.ClosedError):
            call()


def ctrl_c_ends_a_wait(team: rt.Team) -> None:
    if team.rank == 0:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            team.barrier(timeout=60)
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            team.recv(np.empty(1), 1)
    else:
        with pytest.raises(rt.RdmaError):
            team.recv(np.empty(1), 0, timeout=60)  # ends with the team


def a_signal_may_come_with_the_result(team: rt.Team) -> None:
    """The handler lets the other member come, and then raises: the call has its data, and is interrupted."""
    with rt.Team.join() as helper:

        def handler(number: int, frame: object) -> None:
            for _ in range(2):  # the other one is let into its call, and comes out of it
                helper.barrier(timeout=60)
            raise ArithmeticError("from the handler")

        def strike() -> None:
            while not team._collective:
                threading.Event().wait(0.001)
            threading.Event().wait(0.2)
            os.kill(os.getpid(), signal.SIGUSR1)

        signal.signal(signal.SIGUSR1, handler)
        for kind in ("float32", "complex128"):  # NumPy reduces the latter
            array = np.ones(3, kind)
            if team.rank == 0:
                threading.Thread(target=strike).start()
                with pytest.raises(ArithmeticError, match="from the handler"):
                    team.all_reduce(array)
            else:
                helper.barrier(timeout=60)
                team.all_reduce(array)
                helper.barrier(timeout=60)
            assert (array == 2).all()
            team.barrier()


def a_reduction_that_fails_ends_the_call(team: rt.Team) -> None:
    from rdmatensor import _core

    def fails(*about: int) -> None:
        raise ArithmeticError("no reduction today")

    _core.team_reduces_with(fails)
    with pytest.raises(ArithmeticError, match="no reduction today"):
        team.all_reduce(np.ones(3, "complex128"))


def torch_tensors_too(team: rt.Team) -> None:
    import torch

    tensor = torch.full((5,), team.rank + 1.0)
    assert team.all_reduce(tensor) is tensor
    assert tensor.tolist() == [sum(range(1, team.size + 1))] * 5
    gathered = team.all_gather(torch.tensor([team.rank], dtype=torch.bfloat16))
    assert gathered.dtype == torch.bfloat16
    assert gathered.flatten().tolist() == list(range(team.size))
    halves = torch.full((7,), 1.0, dtype=torch.bfloat16)
    assert team.all_reduce(halves).tolist() == [team.size] * 7
    with pytest.raises(rt.InvalidArgument, match="these reductions: sum"):
        team.all_reduce(halves, "max")


def in_its_own_child_by_fork_it_refuses(team: rt.Team) -> None:
    child = os.fork()
    if child == 0:
        try:
            team.barrier()
        except rt.ForkedProcessError:
            team.close()
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    team.barrier()


def leaves_without_closing(team: rt.Team) -> None:
    rt.Team.join().barrier()


if __name__ == "__main__":
    function = globals()[sys.argv[1]]
    with rt.Team.join(timeout=120) as joined:
        function(joined)
