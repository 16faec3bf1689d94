"""`rdmatensor bench` itself, small: real processes over shm. Nothing here looks at how fast it was."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdmatensor.bench import native, run
from rdmatensor.bench.collectives.base import OPERATIONS
from rdmatensor.bench.modes import MODES
from rdmatensor.bench.modes.base import Setup
from rdmatensor.bench.modes.memcpy import MemcpyEnd
from rdmatensor.bench.options import Options
from rdmatensor.cli import main

SMALL = ["--provider", "shm", "--duration", "0.01", "--rounds", "2"]
OURS = [name for name, mode in MODES.items() if mode.kind == "ours" and mode.standard]
LIMIT_S = 900


def measured(arguments: list[str], path: Path) -> dict[str, Any]:
    status = main(["bench", *SMALL, *arguments, "--json", str(path)])
    assert status == 0
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


def check_row(row: dict[str, Any]) -> None:
    """The schema of a row that was measured whole."""
    assert isinstance(row["mode"], str)
    assert isinstance(row["provider"], str)
    assert isinstance(row["bytes"], int)
    assert set(row["one_way_us"]) == {"p50", "p90", "p99", "p999"}
    p50, p90, p99, p999 = (row["one_way_us"][name] for name in ("p50", "p90", "p99", "p999"))
    assert 0 < p50 <= p90 <= p99 <= p999
    assert row["samples"] >= 2
    assert row["gbytes_per_s"] > 0
    assert row["transfers_per_s"] > 0
    assert set(row["cpu_s_per_gb"]) == {"sender", "receiver"}
    assert row["verified"] is True
    assert set(row["rounds"]) == {"one_way_us", "gbytes_per_s"}


def test_a_run_over_shm_measures_checks_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "rows.csv"
    found = measured(["--modes", "ours,floor", "--sizes", "64,200000", "--csv", str(table)], tmp_path / "now.json")
    for name in ("version", "commit", "machine", "kernel", "provider", "device"):
        assert isinstance(found["meta"][name], str)
    assert found["meta"]["provider"] == "shm"
    assert [(row["mode"], row["bytes"]) for row in found["results"]] == [
        (mode, size) for size in (64, 200000) for mode in (*OURS, "floor")
    ]
    for row in found["results"]:
        check_row(row)
        assert row["ratio_to_limit"]["latency"] > 0
    assert found["missing"] == []
    assert len(table.read_text().splitlines()) == 1 + len(found["results"])
    out = capsys.readouterr().out
    assert "What limits it: at 64 B" in out


def test_copies_are_counted_not_claimed(tmp_path: Path) -> None:
    found = measured(["--modes", "ours", "--sizes", "300000"], tmp_path / "now.json")
    counted = {row["mode"]: row["copies_per_tensor"] for row in found["results"]}
    wanted = {"static": 0, "static-c": 0, "dynamic": 0, "borrow": 0, "loan": 0, "copy": 1, "rpc": 2, "memcpy": 0}
    assert counted == wanted


def test_rows_driven_from_c_and_by_hand_are_checked_too(tmp_path: Path) -> None:
    modes = ["static-c", "loan", "rpc-c", "floor", "floor-two", "by-hand", "by-hand-in-place"]
    found = measured(["--modes", ",".join(modes), "--sizes", "64,8192,65536,1000000"], tmp_path / "now.json")
    assert found["missing"] == []
    assert {row["mode"] for row in found["results"]} == set(modes)
    for row in found["results"]:
        check_row(row)


@pytest.mark.parametrize("touch", ["read", "rewrite"])
def test_receivers_read_and_senders_write_where_that_is_asked(tmp_path: Path, touch: str) -> None:
    arguments = ["--modes", "ours,floor,floor-two,by-hand,gloo", "--sizes", "1000,100000", "--touch", touch]
    found = measured(arguments, tmp_path / "now.json")
    assert found["meta"]["options"]["touch"] == touch
    for row in found["results"]:
        check_row(row)
    wanted = {*OURS, "floor", "floor-two", "by-hand"}
    assert {row["mode"] for row in found["results"]} - {"gloo"} == wanted - {"memcpy-read"}
    assert all("--touch" in missing["why"] for missing in found["missing"] if missing["mode"] != "gloo")


def test_a_loop_that_touches_no_bytes_is_not_measured_where_that_is_asked(tmp_path: Path) -> None:
    arguments = ["--modes", "static,memcpy-read", "--sizes", "64", "--touch", "read"]
    found = measured(arguments, tmp_path / "now.json")
    assert [(missing["mode"], missing["bytes"]) for missing in found["missing"]] == [("memcpy-read", 64)]
    assert "--touch read" in found["missing"][0]["why"]


def test_reading_reads_every_byte_and_writing_anew_changes_them() -> None:
    bytes_read = np.arange(1003, dtype=np.uint64).astype(np.uint8)
    words = int(bytes_read[:1000].view(np.uint64).sum(dtype=np.uint64)) + int(bytes_read[1000:].sum())
    assert native.read(bytes_read) == words % 2**64
    for place in (0, 500, 1002):
        changed = bytes_read.copy()
        changed[place] ^= 1
        assert native.read(changed) != native.read(bytes_read)


def test_reads_are_measured_on_request(tmp_path: Path) -> None:
    found = measured(["--modes", "memcpy-read", "--sizes", "64,100000"], tmp_path / "now.json")
    assert [row["mode"] for row in found["results"]] == ["memcpy-read"] * 2
    for row in found["results"]:
        check_row(row)


@pytest.mark.parametrize("wait", ["spin", "yield", "block"])
def test_every_way_to_wait_and_several_queue_pairs(tmp_path: Path, wait: str) -> None:
    arguments = ["--modes", "static,memcpy", "--sizes", "100000", "--wait", wait, "--qps", "2", "--cqs", "2"]
    found = measured(arguments, tmp_path / "now.json")
    assert [row["verified"] for row in found["results"]] == [True, True]


@pytest.mark.slow
def test_collectives_have_the_same_form(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is optional: make torch")
    path = tmp_path / "now.json"
    arguments = ["bench", "collectives", *SMALL, "--sizes", "1Ki", "--json", str(path)]
    arguments += ["--modes", "rdmatensor,team,team-region,gloo"]
    assert main(arguments) == 0
    found = json.loads(path.read_text())
    assert {(row["mode"], row["collective"]) for row in found["results"]} == {
        (mode, operation) for mode in ("rdmatensor", "team", "team-region", "gloo") for operation in OPERATIONS
    }
    assert all(row["verified"] and row["one_way_us"]["p50"] > 0 for row in found["results"])


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as line:
        return line.read().rsplit(")", 1)[1].split()[0]


def workers_of(command: int) -> list[int]:
    """The measured processes that a command has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            parent = int((path.parent / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == command and b"rdmatensor.bench.worker" in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def until(what: Callable[[], bool], limit: float = LIMIT_S) -> bool:
    end = time.monotonic() + limit
    pause = threading.Event()
    while not what() and time.monotonic() < end:
        pause.wait(0.02)
    return what()


def test_only_the_mode_whose_turn_it_is_runs_and_a_killed_command_leaves_nothing_behind() -> None:
    arguments = [
        "--provider",
        "shm",
        "--modes",
        "static,memcpy,rpc",
        "--sizes",
        "64",
        "--duration",
        "60",
        "--rounds",
        "2",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "rdmatensor", "bench", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as command:
        try:
            assert until(lambda: len(workers_of(command.pid)) == 6)
            workers = workers_of(command.pid)
            assert until(lambda: [state_of(pid) for pid in workers].count("T") == 4)
        finally:
            command.kill()
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_both_directions_at_once(tmp_path: Path) -> None:
    sizes = ["--sizes", "4Ki,4Mi", "--depth", "32"]  # 4 MiB is more than all buffers of the RPC
    found = measured(["--modes", "ours", *sizes, "--direction", "both"], tmp_path / "now.json")
    assert len(found["results"]) == 2 * len(OURS)
    for row in found["results"]:
        check_row(row)


def test_a_peer_that_is_not_installed_is_a_row_that_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MODES["grpc"], "package", "no-such-package-at-all")
    found = measured(["--modes", "memcpy,grpc", "--sizes", "64"], tmp_path / "now.json")
    assert [missing["mode"] for missing in found["missing"]] == ["grpc"]
    assert "pip install grpcio" in found["missing"][0]["why"]
    assert "grpc: not measured" in capsys.readouterr().out


def test_a_mode_that_breaks_costs_its_own_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODES["rpc"], "environment", lambda: {"PYTHONPATH": "", "PYTHONHOME": "/nowhere"})
    found = measured(["--modes", "memcpy,rpc", "--sizes", "64"], tmp_path / "now.json")
    assert [row["mode"] for row in found["results"]] == ["memcpy"]
    assert "could not start" in found["missing"][0]["why"]


def test_a_slow_mode_is_measured_in_one_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SLOW_S", 0.0)
    (row,) = measured(["--modes", "memcpy", "--sizes", "64", "--rounds", "3"], tmp_path / "now.json")["results"]
    assert {name: len(rounds) for name, rounds in row["rounds"].items()} == {"one_way_us": 1, "gbytes_per_s": 1}
    assert row["verified"]


def test_wrong_bytes_are_told_and_fail_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(self: run.Cell) -> int:
        return 3

    monkeypatch.setattr(run.Cell, "check", spoilt)
    assert main(["bench", *SMALL, "--modes", "memcpy", "--sizes", "64"]) == 1


def test_a_receiver_that_sees_other_bytes_says_how_many() -> None:
    end = MemcpyEnd.__new__(MemcpyEnd)
    end.size = 64

    def receive(look: Any = None) -> None:
        import numpy as np

        look(np.zeros(64, np.uint8))

    end.receive = receive  # type: ignore[method-assign]
    assert end.check_in(1) > 50


def test_a_run_can_be_compared_with_an_earlier_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "then.json"
    old = measured(["--modes", "memcpy", "--sizes", "64"], path)
    for row in old["results"]:
        row["rounds"] = {name: [value / 1e6 for value in values] * 3 for name, values in row["rounds"].items()}
    path.write_text(json.dumps(old))
    measured(["--modes", "memcpy", "--sizes", "64", "--rounds", "3", "--compare", str(path)], tmp_path / "now.json")
    out = capsys.readouterr().out
    assert "WORSE: memcpy, 64 B, one way" in out
    assert "better: memcpy, 64 B, bandwidth" in out


@pytest.fixture
def server() -> Iterator[str]:
    """A `--serve` of this user; its address."""
    environment = {name: value for name, value in os.environ.items() if name != "RDMATENSOR_SECRET"}
    command = [sys.executable, "-m", "rdmatensor", "bench", "--provider", "shm", "--serve", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        match = re.search(r"serving on (127\.0\.0\.1:\d+)", process.stdout.readline())
        assert match
        yield match.group(1)
    finally:
        process.kill()
        process.wait(LIMIT_S)


def test_the_other_end_can_serve_elsewhere_one_command_after_the_other(tmp_path: Path, server: str) -> None:
    for number in range(2):
        arguments = ["--modes", "memcpy,rpc,floor", "--sizes", "64", "--connect", server]
        found = measured(arguments, tmp_path / f"{number}.json")
        assert [row["mode"] for row in found["results"]] == ["rpc", "memcpy", "floor"]
        for row in found["results"]:
            check_row(row)


def test_an_address_that_others_reach_is_not_served_without_a_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RDMATENSOR_SECRET", raising=False)
    assert main(["bench", "--provider", "shm", "--serve", "0.0.0.0:0"]) == 1
    assert "without a secret" in capsys.readouterr().err


def test_modes_run_one_after_the_other_when_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "available_bytes", lambda: 1)
    found = measured(["--modes", "memcpy,rpc", "--sizes", "64"], tmp_path / "now.json")
    assert [row["interleaved"] for row in found["results"]] == [False, False]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is optional: pip install 'rdmatensor[bench]'")
    for name in ("picture.png", "picture.svg"):
        arguments = ["--modes", "memcpy,floor", "--sizes", "64,4Ki", "--plot", str(tmp_path / name)]
        measured(arguments, tmp_path / "now.json")
        assert (tmp_path / name).stat().st_size > 1000


def test_the_largest_and_smallest_standard_run_is_what_the_help_says() -> None:
    asked = Options()
    assert asked.sizes[0] == 64
    assert asked.duration_of(12) * 12 * len(asked.sizes) <= 30


def test_every_mode_says_what_to_do_where_it_is_missing() -> None:
    setup = Setup("first", "shm://", "127.0.0.1", "127.0.0.1", True, "", 1, 1, "adaptive", "auto", "one-way")
    for mode in MODES.values():
        assert mode.kind in ("ours", "peer", "limit")
        if mode.missing(setup):
            assert mode.install
