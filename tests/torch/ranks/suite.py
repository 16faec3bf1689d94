"""Runs the backend tests that PyTorch ships (torch.testing._internal.distributed.distributed_test) over a backend.

    python tests/torch/ranks/suite.py --backend rdmatensor --ranks 2 [--only PATTERN] [--json FILE]

Many of those tests run only where the backend is called "gloo". So for rdmatensor each rank puts rdmatensor's backend
in the place where torch makes a group of Gloo's, under that name: every test that can run for Gloo on this machine
runs, unchanged, over rdmatensor. Prints a line per test, and what was counted.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

INAPPLICABLE = {
    "test_ddp_logging_data_cpu": "asserts that DDP logs 'gloo' as the name of the backend",
}
"""Tests that pass over Gloo and cannot over another backend, and why. They run and are reported all the same."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("gloo", "rdmatensor"), default="rdmatensor")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--only", action="append", default=[], help="test names, with * and ?")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--verbose", action="store_true", help="show what failed tests printed")
    parser.add_argument("--timeout", type=int, default=60, help="seconds for one test")
    return parser.parse_args()


def stand_in() -> None:
    """In a rank's process: groups that torch makes of Gloo are made of rdmatensor."""
    from torch.distributed import distributed_c10d

    from rdmatensor.torch import backend

    class StandIn(backend.native().Backend):  # type: ignore[misc, name-defined]
        def __init__(self, store: Any, rank: int, size: int, timeout: Any) -> None:
            member = backend.join(store, rank, size, timeout)
            team = member.team
            super().__init__(rank, size, member, team.address, team.api_address, timeout, "gloo")
            backend.keep(member)

    # Where torch is told that a group's backend is Gloo's it casts to that class, so it is told "custom".
    group, custom = distributed_c10d.ProcessGroup, distributed_c10d.ProcessGroup.BackendType.CUSTOM
    register = group._register_backend

    def register_custom(self: Any, device: Any, _kind: Any, made: Any = None) -> None:
        register(self, device, custom, made)
        self._set_default_backend(custom)

    group._register_backend = register_custom
    distributed_c10d.ProcessGroupGloo = StandIn


def suite_class(backend: str) -> type[unittest.TestCase]:
    """The class of torch's tests, its ranks started by fork, which saves importing torch for each test."""
    import torch.multiprocessing
    from torch.testing._internal.distributed.distributed_test import DistributedTest, TestDistBackend

    class Suite(TestDistBackend, DistributedTest._DistTestBase):  # type: ignore[misc, name-defined]
        def setUp(self) -> None:
            super().setUp()
            self._start_processes(torch.multiprocessing.get_context("fork").Process)

        @classmethod
        def _run(cls, rank: int, test_name: str, file_name: str, pipe: Any, **rest: Any) -> None:
            if backend == "rdmatensor":
                stand_in()
            super()._run(rank, test_name, file_name, pipe, **rest)

    return Suite


class Result(unittest.TestResult):
    """A line per test while they run."""

    def __init__(self, backend: str, verbose: bool) -> None:
        super().__init__()
        self.backend = backend
        self.verbose = verbose
        self.rows: dict[str, tuple[str, str]] = {}
        self.began = 0.0

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.began = time.monotonic()

    def note(self, test: unittest.TestCase, outcome: str, why: str = "") -> None:
        name = test.id().rpartition(".")[2]
        self.rows[name] = (outcome, why)
        reason = why if outcome in ("skipped", "cannot") else ""
        print(f"{outcome:8} {name} {time.monotonic() - self.began:.1f} s {reason}", flush=True)
        if outcome == "failed" and self.verbose:
            print(why, flush=True)

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.note(test, "passed")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.note(test, "skipped", reason)

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        name = test.id().rpartition(".")[2]
        if self.backend == "rdmatensor" and name in INAPPLICABLE:
            self.note(test, "cannot", INAPPLICABLE[name])
            return
        self.note(test, "failed", self._exc_info_to_string(err, test))  # type: ignore[attr-defined]

    addError = addFailure


def main() -> int:
    options = arguments()
    scratch = tempfile.TemporaryDirectory()
    os.environ.update(
        BACKEND="gloo",
        WORLD_SIZE=str(options.ranks),
        TEMP_DIR=scratch.name,
        INIT_METHOD=f"file://{scratch.name}/shared_init_file",
        DISTRIBUTED_TESTS_DEFAULT_TIMEOUT=str(options.timeout),
        OMP_NUM_THREADS="1",
        GLOO_SOCKET_IFNAME=os.environ.get("GLOO_SOCKET_IFNAME", "lo"),
    )
    suite = suite_class(options.backend)
    names = [
        name
        for name in unittest.TestLoader().getTestCaseNames(suite)
        if not options.only or any(fnmatch.fnmatch(name, pattern) for pattern in options.only)
    ]
    result = Result(options.backend, options.verbose)
    unittest.TestSuite(suite(name) for name in names).run(result)
    counts = {
        outcome: sum(row[0] == outcome for row in result.rows.values())
        for outcome in ("passed", "failed", "skipped", "cannot")
    }
    print(
        f"{options.backend}, {options.ranks} ranks: " + ", ".join(f"{count} {name}" for name, count in counts.items())
    )
    if options.json:
        options.json.write_text(json.dumps(result.rows, indent=1, sort_keys=True) + "\n")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
