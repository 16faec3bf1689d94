"""Tests that PyTorch ships, over rdmatensor: some of them here, all of them in `make torch-tests`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SUITE = Path(__file__).with_name("suite.py")
SOME = (
    "test_all_gather",
    "test_all_reduce_sum",
    "test_all_gather_object_default_pg",
    "test_barrier_timeout_global",
    "test_batch_isend_irecv_gloo_tags",
    "test_broadcast_full_group",
    "test_DistributedDataParallelCPU",
    "test_gather_checks",
    "test_get_future",
    "test_isend",
    "test_monitored_barrier_gloo",
    "test_reduce_max",
    "test_scatter",
    "test_send_recv_any_source",
    "test_sparse_all_reduce_sum",
)


@pytest.mark.skipif("RT_TORCH_ALL" in os.environ, reason="`make torch-tests` runs all of them, in a table of their own")
def test_some_of_what_pytorch_ships_passes() -> None:
    pytest.importorskip("expecttest", reason="PyTorch's tests need it")
    only = [word for name in SOME for word in ("--only", name)]
    command = [sys.executable, str(SUITE), "--ranks", "2", "--verbose", *only]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert f"{len(SOME)} passed, 0 failed" in done.stdout, done.stdout
