"""Memory for torch's own buffers lies in regions that grow as they are needed, within a bound."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("torch", reason="torch is not installed: `make torch` does it")

import torch

import rdmatensor as rt
from rdmatensor.settings.config import ddp_asks_for_memory, torch_memory
from rdmatensor.torch.buffers import Buffers

MIB = 1 << 20


@pytest.fixture
def device() -> Iterator[rt.Device]:
    with rt.Device("shm://") as device:
        yield device


def within(tensor: torch.Tensor, buffers: Buffers) -> bool:
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    regions = [place.region for place in buffers._places]
    return any(region.address <= start and end <= region.address + region.nbytes for region in regions)


@pytest.mark.parametrize("nbytes", [1, 4096, MIB - 4096, MIB - 64, MIB, 25 * MIB])
def test_a_new_region_has_room_for_the_tensor_it_is_made_for(device: rt.Device, nbytes: int) -> None:
    buffers = Buffers(device, 64 * MIB)
    tensor = buffers.empty(nbytes, torch.uint8)
    assert tensor.shape == (nbytes,)
    assert within(tensor, buffers)
    stats = buffers.stats
    assert stats["buffers"] == 1
    assert stats["buffer_bytes"] == nbytes < stats["buffer_region_bytes"] <= nbytes + MIB + 4096
    assert stats["buffers_fell_back"] == 0


def test_memory_is_used_again(device: rt.Device) -> None:
    buffers = Buffers(device, 64 * MIB)
    first = buffers.empty(3 * MIB, torch.uint8)
    second = buffers.empty(2 * MIB, torch.float32)
    held = buffers.stats["buffer_region_bytes"]
    for _ in range(20):
        del first, second
        assert buffers.stats["buffer_bytes"] == 0
        second = buffers.empty(2 * MIB, torch.float32)
        first = buffers.empty(3 * MIB, torch.uint8)
        assert within(first, buffers) and within(second, buffers)
    assert buffers.stats["buffer_region_bytes"] == held


def test_a_region_that_was_too_small_is_given_up_once_nothing_lies_in_it(device: rt.Device) -> None:
    buffers = Buffers(device, 8 * MIB)
    small = buffers.empty(3 * MIB, torch.uint8)
    with pytest.warns(RuntimeWarning, match="bounds such memory to 8388608 bytes, of which 4194304 are in use"):
        assert not within(buffers.empty(6 * MIB, torch.uint8), buffers)
    del small
    assert within(buffers.empty(6 * MIB, torch.uint8), buffers)
    assert buffers.stats["buffer_region_bytes"] <= 8 * MIB


def test_what_passes_the_bound_is_allocated_as_ever_counted_and_told_once(device: rt.Device) -> None:
    buffers = Buffers(device, 4 * MIB)
    with pytest.warns(RuntimeWarning, match="RDMATENSOR_TORCH_MEMORY bounds") as told:
        large = [buffers.empty(8 * MIB, torch.uint8) for _ in range(3)]
    assert len(told) == 1
    assert not any(within(tensor, buffers) for tensor in large)
    assert (buffers.stats["buffers_fell_back"], buffers.stats["buffers_fell_back_bytes"]) == (3, 24 * MIB)
    assert within(buffers.empty(MIB, torch.uint8), buffers)


def test_a_closed_device_serves_no_more_and_its_tensors_live_on(device: rt.Device) -> None:
    buffers = Buffers(device, 64 * MIB)
    tensor = buffers.empty(1000, torch.int64)
    buffers.close()
    device.close()
    tensor.fill_(7)
    assert int(tensor.sum()) == 7000
    assert not buffers.usable
    with pytest.warns(RuntimeWarning, match="closed"):
        assert buffers.empty(10, torch.int64).shape == (10,)
    buffers.close()


def test_a_device_that_fails_is_told_and_the_tensor_is_allocated_as_ever(device: rt.Device) -> None:
    buffers = Buffers(device, 1 << 62)
    device.close()
    with pytest.warns(RuntimeWarning, match="closed"):
        assert buffers.empty(10, torch.int64).shape == (10,)
    assert buffers.stats["buffer_region_bytes"] == 0


def test_where_peers_cannot_be_mapped_no_memory_is_registered() -> None:
    with rt.Device("sim://buffers") as device:
        assert not device.limits.maps_remote
        buffers = Buffers(device, 64 * MIB)
        assert not buffers.usable
        with pytest.warns(RuntimeWarning, match="cannot map"):
            buffers.empty(1000, torch.int64)
        assert buffers.stats["buffer_region_bytes"] == 0


def test_empty_tensors_need_no_region(device: rt.Device) -> None:
    buffers = Buffers(device, 64 * MIB)
    assert buffers.empty(0, torch.float32).shape == (0,)
    assert buffers.stats["buffer_region_bytes"] == buffers.stats["buffers_fell_back"] == 0


def test_threads_allocate_and_free_at_once(device: rt.Device) -> None:
    buffers = Buffers(device, 64 * MIB)
    wrong: list[int] = []

    def work(number: int) -> None:
        kept: list[torch.Tensor] = []
        for step in range(100):
            kept.append(buffers.empty(step * 1000 + 1, torch.int32).fill_(number))
            if len(kept) > 4 and not bool((kept.pop(step % 4) == number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert buffers.stats["buffers"] == 400
    assert buffers.stats["buffer_bytes"] == buffers.stats["buffers_fell_back"] == 0


def test_the_bound_and_ddp_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RDMATENSOR_TORCH_MEMORY", raising=False)
    assert torch_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    monkeypatch.setenv("RDMATENSOR_TORCH_MEMORY", "1000000")
    assert torch_memory() == 1_000_000
    monkeypatch.setenv("RDMATENSOR_TORCH_MEMORY", "1G")
    with pytest.raises(rt.InvalidArgument, match="RDMATENSOR_TORCH_MEMORY is bytes, not '1G'"):
        torch_memory()
    for chosen, found in ((None, "0"), ("1", "1"), ("0", "0")):
        monkeypatch.delenv("DDP_DISABLE_COMM_MEM", raising=False)
        if chosen is not None:
            monkeypatch.setenv("DDP_DISABLE_COMM_MEM", chosen)
        ddp_asks_for_memory()
        assert os.environ["DDP_DISABLE_COMM_MEM"] == found


def test_a_child_made_by_fork_allocates_as_ever() -> None:
    code = """
import os, torch, rdmatensor as rt
from rdmatensor.torch.buffers import Buffers
device = rt.Device("shm://")
buffers = Buffers(device, 1 << 26)
kept = buffers.empty(100, torch.int64).fill_(3)
with buffers._lock:
    pid = os.fork()
    if pid == 0:
        tensor = buffers.empty(1000, torch.int64).fill_(2)
        os._exit(0 if int(tensor.sum()) == 2000 and not buffers.usable else 1)
assert os.waitpid(pid, 0)[1] == 0
assert int(kept.sum()) == 300 and buffers.stats["buffers"] == 1
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
