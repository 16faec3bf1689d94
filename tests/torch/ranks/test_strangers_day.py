"""A newcomer's first day: as another user, without HOME, in the first programs that anybody writes.

The ranks are forked by strangers.py, but for a few plain processes and torchrun. Interrupts and deaths come at seeded
moments: RT_SEED chooses others, and a failure prints its own.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rdmatensor.torch import backend

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
STRANGER = 65431
"""A user that nobody has made: no entry, no home, no files."""

LIMIT = 240.0
"""Seconds after which ranks hang. The groups' own deadline is longer, so that none of them ends by it."""

SEED = int(os.environ.get("RT_SEED", "1"))


def interpreter_is_open() -> bool:
    """Whether another user can start this Python."""
    test = [sys.executable, "-c", "import torch"]
    as_user: dict[str, Any] = {"user": STRANGER, "group": STRANGER, "extra_groups": [], "cwd": "/"}
    try:
        return subprocess.run(test, **as_user, capture_output=True, check=False).returncode == 0
    except PermissionError:
        return False


class Place:
    """A user's environment, and folders that are the user's own. `user` is None for oneself."""

    def __init__(self, folder: Path, user: int | None) -> None:
        self.folder = folder
        self.user = user
        cache = folder / "cache" / "rdmatensor" / "torch"
        cache.mkdir(parents=True, mode=0o700)
        backend.native()
        compiled = Path(sys.modules["rdmatensor_c10d"].__file__ or "")
        shutil.copy(compiled, cache / compiled.name)
        folder.chmod(0o755)
        for path in (folder, *folder.rglob("*")):
            if path != folder and path.is_dir():
                path.chmod(0o700)
            if user is not None:
                os.chown(path, user, user)
        unset = ("HOME", "USER", "LOGNAME", "PYTHONPATH", "XDG_CACHE_HOME")
        self.environment = {name: value for name, value in os.environ.items() if name not in unset}
        self.environment.update(
            XDG_CACHE_HOME=str(folder / "cache"), TMPDIR=str(folder), OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo"
        )


@pytest.fixture(scope="module", params=["oneself", "a stranger"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    user = None
    if request.param == "a stranger":
        if os.geteuid() != 0:
            pytest.skip("only root can be another user")
        user = STRANGER
    with tempfile.TemporaryDirectory() as folder:  # which others can reach, as pytest's own cannot be
        yield Place(Path(folder), user)


class Host:
    """The process that forks ranks."""

    def __init__(self, place: Place) -> None:
        self.place = place
        as_user = [] if place.user is None else ["--user", str(place.user)]
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "strangers.py"), *as_user],
            env=place.environment,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "up", "torch could not be imported"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def run(self, day: str, size: int, store: str = "file", signals: tuple[Any, ...] = (), limit: float = LIMIT) -> Any:
        assert self.process.stdin is not None
        order = {
            "day": day,
            "size": size,
            "store": store,
            "signals": signals,
            "limit": limit,
            "folder": str(self.place.folder),
        }
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self._line())
        answer["text"] = f"{order}\n" + "\n".join(
            f"---- rank {rank} ended with {code} and said:\n{said}"
            for rank, (code, said) in enumerate(zip(answer["codes"], answer["said"], strict=True))
        )
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """As a stranger, where the tests may become one."""
    with tempfile.TemporaryDirectory() as folder:
        made = Host(Place(Path(folder), STRANGER if os.geteuid() == 0 else None))
        yield made
        made.close()


def hellos(size: int) -> list[str]:
    return [f"hello from {rank} of {size}\n" for rank in range(size)]


@pytest.mark.parametrize("size", [2, 4])
def test_the_first_program_never_fails(host: Host, size: int) -> None:
    for index in range(50):
        found = host.run("hello", size, ("file", "tcp")[index % 2])
        assert found["codes"] == [0] * size and found["said"] == hellos(size), found["text"]


@pytest.mark.parametrize("day", ["groups", "threads", "hook", "fork", "leave"])
def test_the_next_steps_of_newcomers_work(host: Host, day: str) -> None:
    for size in (2, 4):
        found = host.run(day, size, "tcp")
        assert found["codes"] == [0] * size and found["said"] == hellos(size), found["text"]


CALLS = ["recv", "barrier", "all_reduce", "send", "new_group", "late", "everything"]


@pytest.mark.parametrize("day", CALLS)
def test_ctrl_c_ends_a_call_at_once_and_the_others_are_told(host: Host, day: str) -> None:
    """Half of the interrupts come to one rank, half to all, as a terminal sends them."""
    chance = random.Random(f"{SEED} {day}")
    for index in range(2):
        size = chance.choice([2, 3])
        delay = chance.choice([0.0, chance.uniform(0, 0.01), chance.uniform(0, 0.2)])
        struck = range(size) if index % 2 else range(1)
        found = host.run(day, size, signals=tuple((rank, "SIGINT", delay) for rank in struck))
        text = f"RT_SEED={SEED}\n{found['text']}"
        for rank in range(size):
            said = found["said"][rank]
            if rank in struck:
                ended = (130, -2, 1) if index % 2 else (130, -2)  # -2: the signal came while it was ending
                assert found["codes"][rank] in ended, text
            else:
                assert found["codes"][rank] == 1 and "rank 0" in said, text
            assert "Segmentation" not in said and "terminate called" not in said, text


@pytest.mark.parametrize("day", CALLS)
def test_a_rank_that_is_killed_is_named_to_the_others(host: Host, day: str) -> None:
    chance = random.Random(f"{SEED} killed {day}")
    for size in (2, 4):
        found = host.run(day, size, signals=((0, "SIGKILL", chance.uniform(0, 0.1)),))
        text = f"RT_SEED={SEED}\n{found['text']}"
        assert found["codes"] == [-9] + [1] * (size - 1), text
        assert all("rank 0" in said for said in found["said"][1:]), text


# ---- whole programs ----


@pytest.fixture
def whole(place: Place) -> dict[str, Any]:
    """How to start a program as the user."""
    words: dict[str, Any] = {"env": place.environment, "cwd": "/", "text": True}
    if place.user is not None:
        if not interpreter_is_open():
            pytest.skip("another user cannot read this Python, or torch")
        words.update(user=place.user, group=place.user, extra_groups=[])
    return words


def unused_port() -> int:
    """Below those that the kernel gives to clients, so that none of them takes it before rank 0 does."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    chance = random.SystemRandom()
    while True:
        port = chance.randrange(first // 2, first)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def test_the_first_program_runs_in_plain_processes(whole: dict[str, Any]) -> None:
    size, port = 2, unused_port()
    processes = []
    for rank in range(size):
        where = {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment = {**whole["env"], **where}
        command = [sys.executable, str(HERE / "scripts" / "hello.py")]
        processes.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **{**whole, "env": environment})
        )
    ended = [(*process.communicate(timeout=600), process.returncode) for process in processes]
    assert ended == [(hello, "", 0) for hello in hellos(size)]


def test_the_first_program_runs_under_torchrun(whole: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    done = subprocess.run(
        [*command, "--rdzv-endpoint=127.0.0.1:0", str(HERE / "scripts" / "hello.py")],
        capture_output=True,
        timeout=600,
        check=False,
        **whole,
    )
    lines = sorted(line for line in re.split(r"(?<=of 2)|\n", done.stdout) if line)  # two may share one line
    assert done.returncode == 0 and lines == [hello.strip() for hello in hellos(2)], done.stdout + done.stderr
