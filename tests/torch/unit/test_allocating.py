"""Results of ordinary operators are born in the region that was chosen, and give their bytes back."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: `make torch` does it")

import torch

import rdmatensor as rt
from rdmatensor.torch import allocate_in


def within(tensor: torch.Tensor, region: rt.Region) -> bool:
    return region.address <= tensor.data_ptr() < region.address + region.nbytes


@pytest.fixture
def other() -> Iterator[rt.Region]:
    with rt.Device("shm://") as device:
        yield device.region(1 << 20)


@pytest.fixture(autouse=True)
def _ordinary_afterwards() -> Iterator[None]:
    yield
    allocate_in(None)


def test_results_of_operators_and_gradients_lie_in_the_region(region: rt.Region) -> None:
    images, left = torch.randn(2, 3, 16, 16), torch.randn(32, 32)
    with region.allocating() as allocation:
        kernel = torch.randn(8, 3, 3, 3, requires_grad=True)
        product = left @ left
        convolved = torch.nn.functional.conv2d(images, kernel)
        torch.relu(convolved).square().mean().backward()
    outside = left + 1
    assert kernel.grad is not None
    for tensor in (kernel, product, convolved, kernel.grad):
        assert within(tensor, region)
    assert not within(outside, region)
    assert torch.allclose(product, left @ left)
    stats = allocation.stats
    assert stats.served >= 5
    assert stats.fell_back == 0
    assert region.stats.allocations == stats.alive > 0
    del kernel, product, convolved, tensor
    gc.collect()
    assert region.stats.allocations == allocation.stats.alive == allocation.stats.alive_bytes == 0
    assert region.stats.allocated_bytes == 0


def test_contexts_nest_and_the_innermost_serves(region: rt.Region, other: rt.Region) -> None:
    outer, inner = region.allocating(), other.allocating()
    with outer:
        first = torch.ones(10)
        with inner:
            second = torch.ones(10)
            with outer:
                third = torch.ones(10)
            fourth = torch.ones(10)
        fifth = torch.ones(10)
    sixth = torch.ones(10)
    assert [within(tensor, region) for tensor in (first, second, third, fourth, fifth, sixth)] == [
        True, False, True, False, True, False,
    ]  # fmt: skip
    assert [within(tensor, other) for tensor in (first, second, third, fourth, fifth, sixth)] == [
        False, True, False, True, False, False,
    ]  # fmt: skip
    assert (outer.stats.served, inner.stats.served) == (3, 2)


def test_an_exception_ends_the_context(region: rt.Region) -> None:
    with pytest.raises(ZeroDivisionError), region.allocating():
        raise ZeroDivisionError
    assert not within(torch.ones(10), region)


def test_a_thread_has_a_choice_of_its_own(region: rt.Region) -> None:
    found: list[bool] = []
    with region.allocating():
        thread = threading.Thread(target=lambda: found.append(within(torch.ones(10), region)))
        thread.start()
        thread.join()
        assert within(torch.ones(10), region)
    assert found == [False]


def test_the_choice_of_the_process_holds_for_threads_without_one(region: rt.Region, other: rt.Region) -> None:
    found: list[tuple[bool, bool]] = []

    def work() -> None:
        weight = torch.ones(10, requires_grad=True)
        (weight * 2).sum().backward()
        assert weight.grad is not None
        with other.allocating():
            mine = torch.ones(10)
        found.append((within(weight.grad, region), within(mine, other)))

    allocation = allocate_in(region)
    assert allocation is not None
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert within(torch.ones(10), region)
    assert allocate_in(None) is None
    assert not within(torch.ones(10), region)
    assert found == [(True, True)]
    gc.collect()
    assert allocation.stats.alive == region.stats.allocations == 0


def test_another_thread_may_free_what_was_served(region: rt.Region) -> None:
    with region.allocating():
        tensors = [torch.full((100,), float(index)) for index in range(50)]
    threads = [threading.Thread(target=tensors.clear) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert region.stats.allocations == 0


def test_threads_allocate_and_free_at_once(region: rt.Region) -> None:
    allocation = allocate_in(region)
    assert allocation is not None
    wrong: list[int] = []

    def work(number: int) -> None:
        kept: list[torch.Tensor] = []
        for step in range(300):
            kept.append(torch.full((step % 97 + 1,), float(number)))
            if len(kept) > 10 and not bool((kept.pop(step % 10) == number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    allocate_in(None)
    gc.collect()
    assert wrong == []
    assert allocation.stats.served >= 1200
    assert region.stats.allocations == 0


def test_tensors_outlive_their_region_and_device() -> None:
    device = rt.Device("shm://")
    region = device.region(1 << 20)
    with region.allocating():
        tensor = torch.arange(1000)
        device.close()
        del region, device
        gc.collect()
    assert int(tensor.sum()) == 499500
    tensor.add_(1)
    assert int(tensor.sum()) == 500500


def test_a_tensor_that_finds_no_room_is_allocated_as_ever_counted_and_told(region: rt.Region) -> None:
    allocation = region.allocating()
    with pytest.warns(RuntimeWarning, match=r"1 tensors found no room .* \(33554432 bytes"), allocation:
        large = torch.zeros(8 << 20)
        small = torch.zeros(8)
    assert not within(large, region)
    assert within(small, region)
    assert (allocation.stats.fell_back, allocation.stats.fell_back_bytes) == (1, 32 << 20)


def test_a_tensor_that_finds_no_room_may_fail_instead(region: rt.Region) -> None:
    with region.allocating(when_full="raise") as allocation:
        with pytest.raises(RuntimeError, match="the region has no room for a tensor of 33554432 bytes"):
            torch.zeros(8 << 20)
        assert within(torch.zeros(8), region)
        with pytest.warns(RuntimeWarning, match="found no room"):
            allocation.__exit__(None, None, None)
        allocation.__enter__()


def test_a_region_closed_inside_serves_no_more(region: rt.Region) -> None:
    with pytest.warns(RuntimeWarning, match="closed"), region.allocating():
        first = torch.ones(10)
        region.close()
        second = torch.ones(10)
    assert within(first, region)
    assert not within(second, region)
    assert float((first + second).sum()) == 20.0


def test_empty_tensors_and_resized_ones(region: rt.Region) -> None:
    with region.allocating() as allocation:
        empty = torch.empty(0, 3)
        grown = torch.arange(4)
        grown.resize_(1000)
    assert allocation.stats.served == 2
    assert empty.shape == (0, 3)
    assert grown[:4].tolist() == [0, 1, 2, 3]
    assert within(grown, region)
    del grown
    assert region.stats.allocations == 0


def test_regions_that_cannot_serve_are_refused(region: rt.Region) -> None:
    with rt.Device("shm://") as device:
        adopted = device.register(np.zeros(4096, np.uint8))
        with pytest.raises(rt.InvalidArgument, match="caller's"):
            adopted.allocating()
    region.close()
    with pytest.raises(rt.ClosedError, match="closed"):
        region.allocating()
    with pytest.raises(rt.InvalidArgument, match="when_full"):
        rt.Device("shm://").region(4096).allocating(when_full="whatever")


def test_a_context_ends_in_its_thread(region: rt.Region) -> None:
    allocation = region.allocating()
    allocation.__enter__()
    failed: list[BaseException] = []

    def leave() -> None:
        try:
            allocation.__exit__(None, None, None)
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    assert len(failed) == 1
    allocation.__exit__(None, None, None)
    assert not within(torch.ones(3), region)


ENDINGS = {
    "inside": "",
    "closed": "device.close()",
    "child": """
import os
pid = os.fork()
if pid == 0:
    os._exit(0 if float(torch.ones(1000).sum()) == 1000.0 else 1)
assert os.waitpid(pid, 0)[1] == 0
""",
    "for all": "from rdmatensor.torch import allocate_in; allocate_in(region); kept.append(torch.ones(50))",
    "thread": """
import threading
thread = threading.Thread(target=lambda: region.allocating().__enter__() and kept.append(torch.ones(9)))
thread.start(); thread.join()
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("ending", list(ENDINGS))
def test_an_interpreter_that_ends_with_tensors_alive_ends_quietly(ending: str) -> None:
    code = f"""
import warnings; warnings.simplefilter("ignore")
import torch, rdmatensor as rt
device = rt.Device("shm://")
region = device.region(1 << 20)
allocation = region.allocating()
allocation.__enter__()
kept = [torch.ones(100)]
kept.append(kept)
torch.kept = torch.ones(10)
{ENDINGS[ending]}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
