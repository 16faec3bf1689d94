"""The arithmetic of `rdmatensor bench`: percentiles, noise, comparison, patterns, sizes. No process is started here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rdmatensor as rt
from rdmatensor.bench import compare, numbers, options, pattern, plot, remote, report
from rdmatensor.bench.modes import MODES, perftest
from rdmatensor.bench.run import Row, Run, in_flight
from rdmatensor.cli import bench as command
from rdmatensor.cli import main

# ---- percentiles ----


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50.0), (0.9, 90.0), (0.99, 99.0), (0.999, 100.0), (0.001, 1.0), (1.0, 100.0)]
)
def test_a_percentile_is_the_smallest_sample_that_so_many_do_not_exceed(share: float, expected: float) -> None:
    assert numbers.percentile([float(value) for value in range(1, 101)], share) == expected


def test_of_one_sample_every_percentile_is_that_sample() -> None:
    assert list(numbers.summary(np.array([3e-6])).values()) == [pytest.approx(3.0)] * 4


def test_the_summary_does_not_need_ordered_samples() -> None:
    samples = np.random.default_rng(1).permutation(np.arange(1, 1001)) * 1e-6
    found = numbers.summary(samples)
    assert found == pytest.approx({"p50": 500, "p90": 900, "p99": 990, "p999": 999})


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no samples"):
        numbers.percentile([], 0.5)


def test_rounds_of_a_program_are_joined_by_the_median_of_those_that_told_it() -> None:
    told = [{"p50": 1e-6, "p99": None}, {"p50": 3e-6, "p99": 9e-6}, {"p50": 2e-6}]
    assert numbers.joined(told) == {"p50": pytest.approx(2), "p90": None, "p99": pytest.approx(9), "p999": None}


# ---- noise ----


def test_rounds_that_overlap_are_the_same_however_far_their_medians() -> None:
    assert not numbers.change([1.0, 1.0, 1.0, 1.0, 9.0], [5.0, 5.0, 5.0, 5.0, 5.0]).beyond_noise


def test_rounds_apart_by_more_than_the_least_differ() -> None:
    found = numbers.change([1.00, 1.01, 1.02], [1.20, 1.21, 1.22])
    assert found.beyond_noise
    assert found.ratio == pytest.approx(1.21 / 1.01)


def test_rounds_apart_by_less_than_the_least_are_the_same() -> None:
    assert not numbers.change([1.00, 1.01, 1.02], [1.03, 1.04, 1.05]).beyond_noise


def test_two_rounds_say_nothing() -> None:
    assert not numbers.change([1.0, 1.0], [2.0, 2.0]).beyond_noise


# ---- comparison ----


def result(rows: list[dict[str, Any]], **meta: str) -> dict[str, Any]:
    return {"meta": {"machine": "m", "kernel": "k", **meta}, "results": rows}


def row(mode: str, microseconds: list[float], rate: list[float], size: int = 64) -> dict[str, Any]:
    rounds = {"one_way_us": microseconds, "gbytes_per_s": rate}
    return {"mode": mode, "provider": "shm", "bytes": size, "depth": 8, "direction": "one-way", "rounds": rounds}


def test_less_time_and_more_bytes_a_second_are_better() -> None:
    old = result([row("static", [2.0, 2.1, 2.2], [1.0, 1.1, 1.2])])
    new = result([row("static", [1.0, 1.1, 1.2], [2.0, 2.1, 2.2])])
    assert [one.better for one in compare.differences(old, new)] == [True, True]
    assert [one.better for one in compare.differences(new, old)] == [False, False]
    assert "WORSE" in compare.as_text(new, old)


def test_rows_of_one_result_only_are_not_compared() -> None:
    old, new = result([row("static", [1.0] * 3, [1.0] * 3)]), result([row("static", [9.0] * 3, [9.0] * 3, size=128)])
    assert compare.differences(old, new) == []


def test_the_comparison_says_when_the_machines_differ() -> None:
    assert "the machines differ" in compare.as_text(result([], machine="a"), result([], machine="b"))
    assert "differ" not in compare.as_text(result([]), result([]))


@pytest.mark.parametrize("text", ["no json", "[]", '{"meta": {}}', '{"meta": 1, "results": []}'])
def test_a_file_that_is_no_result_cannot_be_compared_with(tmp_path: Path, text: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(rt.InvalidArgument, match="give a file that --json wrote"):
        compare.load(str(path))


# ---- bytes ----


@pytest.mark.parametrize("size", [1, 7, 8, 64, 4097, pattern.BLOCK + 5])
def test_a_pattern_is_found_again_and_every_wrong_byte_counted(size: int) -> None:
    array = np.zeros(size, np.uint8)
    pattern.fill(array, 3)
    assert pattern.differences(array, 3) == 0
    array[size // 2] ^= 0xFF
    assert pattern.differences(array, 3) == 1


def test_patterns_of_two_seeds_differ_nearly_everywhere() -> None:
    array = np.zeros(1 << 16, np.uint8)
    pattern.fill(array, 1)
    assert pattern.differences(array, 2) > 0.98 * len(array)


# ---- what is asked ----


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("64,64Ki,64Mi", (64, 64 << 10, 64 << 20)),
        ("1GiB, 8", (8, 1 << 30)),
        ("64..4Ki", (64, 256, 1024, 4096)),
        ("1Ki..8Ki*2,3", (3, 1024, 2048, 4096, 8192)),
    ],
)
def test_sizes_are_read_from_lists_and_ranges(text: str, sizes: tuple[int, ...]) -> None:
    assert options.sizes_of(text) == sizes


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        (["--sizes", "64,x"], "64,64Ki,64Mi"),
        (["--sizes", "0"], "from 1 to 64Gi"),
        (["--sizes", "8Ki..64"], "64..64Mi*4"),
        (["--modes", "fast"], "any of"),
        (["--provider", "sim"], "one of auto, verbs, shm"),
        (["--wait", "sleep"], "one of adaptive, spin, yield, block"),
        (["--ordering", "none"], "one of auto, tail, chained, immediate"),
        (["--direction", "up"], "one of one-way, both"),
        (["--depth", "0"], "from 1 to 128"),
        (["--depth", "many"], "from 1 to 128"),
        (["--qps", "65"], "from 1 to 64"),
        (["--cqs", "-1"], "from 1 to 64"),
        (["--rounds", "1"], "from 2 to 100"),
        (["--duration", "0"], "from 0.001 to 3600"),
        (["--duration", "long"], "from 0.001 to 3600"),
        (["--pin", "0"], "as in 0,1"),
        (["--plot", "picture.gif"], ".png or .svg"),
        (["--json", "/nowhere/at/all.json"], "make it first"),
    ],
)
def test_a_bad_value_gets_one_line_that_names_the_right_ones(
    arguments: list[str], right: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert right in err


def test_groups_of_modes_are_words_too() -> None:
    assert set(command.modes_of("limits")) == {"floor", "floor-two", "perftest"}
    assert "grpc" in command.modes_of("peers")
    assert command.modes_of("grpc,memcpy") == ("memcpy", "grpc")
    assert "perftest-read" not in command.modes_of("")


def test_large_tensors_are_fewer_under_way() -> None:
    assert in_flight(64, 8) == 8
    assert in_flight(1 << 30, 8) == 1


# ---- what is said ----


def made(mode: str, kind: str, microseconds: float, rate: float, size: int = 64) -> Row:
    found = Row(mode, kind, "shm", "1.0", size, samples=500, gbytes_per_s=rate, transfers_per_s=rate * 1e9 / size)
    found.one_way_us = {"p50": microseconds, "p90": 9.0, "p99": 9.0, "p999": None}
    found.cpu_s_per_gb = {"sender": 0.5, "receiver": 0.1}
    return found


def test_ratios_are_to_the_limit_and_to_the_best_peer_of_the_size() -> None:
    rows = [
        made("static", "ours", 2.0, 4.0),
        made("floor", "limit", 1.0, 8.0),
        made("mpi", "peer", 4.0, 1.0),
        made("grpc", "peer", 8.0, 2.0),
        made("mpi", "peer", 1.0, 1.0, size=128),
    ]
    report.relate(rows)
    assert rows[0].ratio_to_limit == {"latency": 2.0, "bandwidth": 0.5}
    best = {"latency": 0.5, "latency_peer": "mpi", "bandwidth": 2.0, "bandwidth_peer": "grpc"}
    assert rows[0].ratio_to_best_peer == best


def test_the_limit_that_is_named_follows_from_the_numbers() -> None:
    large = 1 << 20
    small = made("static", "ours", 2.0, 9.0)
    at_memory = [small, made("static", "ours", 2.0, 9.5, large), made("floor", "limit", 1.0, 10.0, large)]
    report.relate(at_memory)
    assert "the memory limits it" in report.limits(at_memory)
    busy = [small, made("static", "ours", 2.0, 1.8, large)]
    report.relate(busy)
    assert "the sender's core limits it" in report.limits(busy)
    idle = [small, made("static", "ours", 2.0, 0.1, large)]
    report.relate(idle)
    assert "neither end's core is busy" in report.limits(idle)


def test_csv_has_every_row_and_leaves_out_what_there_is_not() -> None:
    lines = report.as_csv(Run(options.Options(), [made("static", "ours", 2.0, 4.0)])).splitlines()
    assert len(lines) == 2
    found = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert (found["p50_us"], found["p999_us"], found["copies_per_tensor"]) == ("2.0", "", "")


def test_a_percentile_without_enough_samples_is_marked() -> None:
    few = made("static", "ours", 2.0, 4.0)
    few.samples = 50
    shown = report.cells(few)
    assert shown[1] == "2"
    assert shown[3] == "9*"


def test_every_mode_has_a_colour_and_a_mark_of_its_own() -> None:
    drawn = [plot.STYLES[name] for name, mode in MODES.items() if mode.kind != "limit"]
    assert len({colour for colour, _ in drawn}) == len(drawn)
    assert len({mark for _, mark in drawn}) == len(drawn)


def test_the_options_of_a_run_are_json() -> None:
    assert json.loads(json.dumps(report.as_objects(Run(options.Options()), {})))["results"] == []


def test_perftest_takes_the_gid_of_the_device_url() -> None:
    assert perftest.gid_of("verbs://mlx5_0?gid=3&traffic_class=106") == ["-x", "3"]
    assert perftest.gid_of("verbs://mlx5_0?gid=10.1.0.0/16") == []
    assert perftest.gid_of("verbs://mlx5_0") == []


def test_the_serving_host_opens_its_own_device() -> None:
    told: list[dict[str, Any]] = []
    session = remote.Session.__new__(remote.Session)
    session._url, session._spot = "verbs://there?gid=5", SimpleNamespace(folder="/spot")  # type: ignore[assignment]
    session._ends = {"static": SimpleNamespace(tell=told.append)}  # type: ignore[dict-item]
    session._act({"to": "static", "line": {"do": "open", "setup": {"url": "verbs://here?gid=3", "folder": ""}}})
    assert told == [{"do": "open", "setup": {"url": "verbs://there?gid=5", "folder": "/spot"}}]
