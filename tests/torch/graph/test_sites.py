"""Tensors that are sent are born in the region from the second step on, and nothing else is."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: `make torch` does it")

import models
import torch
from marking import ops
from torch import fx

import rdmatensor as rt
from rdmatensor.torch import as_tensor
from rdmatensor.torch.graph import capture
from rdmatensor.torch.graph.sites import ANY, RETRACES, Site, Sites, holds

CACHE = Path(__file__).resolve().parents[3] / "build" / "cache"


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))
    torch.set_num_threads(1)


@pytest.fixture
def region() -> Iterator[rt.Region]:
    with rt.Device("shm://") as device:
        yield device.region(1 << 20)


class Marked(fx.Interpreter):
    """Runs a graph node by node; marks each, or only those of `only`, and shows each sent tensor to `look`."""

    def __init__(self, module: fx.GraphModule, sites: Sites, sent: set[str], look: Callable[[str, torch.Tensor], None]):
        super().__init__(module)
        self.sites, self.sent, self.look = sites, sent, look
        self.numbers = {node: number for number, node in enumerate(module.graph.nodes)}
        self.only: frozenset[int] | None = None

    def run_node(self, n: fx.Node) -> Any:
        number = self.numbers[n]
        if self.only is None or number in self.only:
            self.sites.enter(number)
            result = super().run_node(n)
            self.sites.leave()
        else:
            result = super().run_node(n)
        if n.name in self.sent:
            self.look(n.name, result)
        return result


@pytest.mark.parametrize("name", list(models.ALL))
def test_every_gradient_is_found_in_the_first_step_and_born_in_the_region_in_later_ones(name: str) -> None:
    torch.manual_seed(1)
    model, batch, loss_fn = models.ALL[name]()
    captured = capture(model, loss_fn, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), batch)
    nodes = list(captured.module.graph.nodes)
    sites = Sites([node.name for node in nodes])
    sent = {node.name for node in captured.gradients if node is not None}
    seen: dict[str, torch.Tensor] = {}

    def find(name: str, tensor: torch.Tensor) -> None:
        assert sites.found(name, tensor) is not None
        seen[name] = tensor.clone()

    runner = Marked(captured.module, sites, sent, find)
    random, values = torch.get_rng_state(), captured.values(batch)
    begin = [value.clone() if isinstance(value, torch.Tensor) else value for value in values]

    def step() -> torch.Tensor:
        """A step from the same state."""
        torch.set_rng_state(random)
        for value, first in zip(values, begin, strict=True):
            if isinstance(value, torch.Tensor):
                value.copy_(first)
        return runner.run(*values)[0].clone()

    with sites.tracing():
        loss = step()
    first, seen = seen, {}
    with rt.Device("shm://") as device:
        region = device.region(sum(tensor.nbytes + 256 for tensor in first.values()) * 4 + (1 << 16))
        sites.serve(region)
        runner.only = frozenset(sites.marked)
        outside: list[str] = []

        def look(name: str, tensor: torch.Tensor) -> None:
            seen[name] = tensor.clone()
            if not holds(region, tensor):
                outside.append(name)

        runner.look = look
        for _ in range(2):
            assert torch.equal(step(), loss)
            assert sorted(seen) == sorted(first)
            assert all(torch.equal(seen[name], first[name]) for name in first)
            assert outside == []
            assert not sites.settle()
        stats = sites.stats
        assert (stats.traced, stats.mismatched, stats.fell_back, stats.unseen) == (1, 0, 0, 0)
        assert stats.served == 2 * stats.sites  # each site once in a step, and nothing besides
        assert all(sites.born(name).startswith("node ") for name in sent)
        runner.look = lambda name, tensor: None
        seen.clear()
        gc.collect()
        assert region.stats.allocations == 0
        sites.close()


def test_one_allocation_of_a_fused_operator_is_served_and_the_others_are_not(region: rt.Region) -> None:
    images, kernel, grown = torch.randn(2, 3, 16, 16), torch.randn(8, 3, 3, 3), torch.randn(2, 8, 14, 14)
    backward = torch.ops.aten.convolution_backward.default
    sites, step = ops(
        lambda: backward(grown, images, kernel, [8], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, True])
    )
    with sites.tracing():
        _, weight, _ = step()[0]
        site = sites.found("weight", weight)
    assert site is not None
    assert site in sites.allocations
    assert len(sites.allocations) > 3
    assert site.nbytes == weight.nbytes
    assert sites.born("weight") == f"node node0, allocation {site.ordinal}"
    sites.serve(region)
    assert sites.marked == (0,)
    of_images, again, of_bias = step()[0]
    assert holds(region, again)
    assert not holds(region, of_images) and not holds(region, of_bias)
    assert region.stats.allocations == 1
    assert torch.equal(again, weight)


def test_views_and_operators_in_place_are_found_where_their_memory_was_allocated(region: rt.Region) -> None:
    made: list[torch.Tensor] = []

    def view() -> torch.Tensor:
        return made[-1].t()[1:]

    def in_place() -> torch.Tensor:
        return made[-1].add_(1)

    def make() -> torch.Tensor:
        made.append(torch.ones(30, 40))
        return made[-1]

    sites, step = ops(make, view, in_place, lambda: made[-1].split(10)[1])
    with sites.tracing():
        tensors = step()
        assert {sites.found(f"sent{number}", tensor) for number, tensor in enumerate(tensors)} == {Site(0, 0, 4800)}
    sites.serve(region)
    assert sites.marked == (0,)
    assert all(holds(region, tensor) for tensor in step())
    assert sites.stats.sites == 1


def test_memory_that_was_freed_names_no_site(region: rt.Region) -> None:
    sites, step = ops(lambda: torch.ones(1 << 16))
    with sites.tracing():
        address = step()[0].data_ptr()
        for _ in range(50):  # until other memory lies there
            foreign = torch.ones(1 << 16)
            if foreign.data_ptr() == address:
                break
        assert sites.found("foreign", foreign) is None
    assert sites.born("foreign") == "copied: no node of this part allocates it"
    assert sites.stats.unseen == 1


def test_what_no_node_allocates_is_cloned_into_the_region(region: rt.Region) -> None:
    given = torch.randn(6, 5).t()
    sites, step = ops(lambda: given)
    with sites.tracing():
        assert sites.found("given", step()[0]) is None
    assert not holds(region, sites.clone(given))
    sites.serve(region)
    copy = sites.clone(given)
    assert holds(region, copy)
    assert copy.is_contiguous()
    assert torch.equal(copy, given)
    assert sites.marked == ()
    assert not sites.settle()


def test_another_size_is_served_ordinarily_counted_and_traced_again(region: rt.Region) -> None:
    size = [100]
    sites, step = ops(lambda: torch.ones(size[0]), lambda: torch.ones(50))

    def trace() -> None:
        with sites.tracing():
            first, second = step()
            sites.found("first", first)
            sites.found("second", second)
        sites.serve(region)
        assert not sites.settle()

    trace()
    size[0] = 200
    first, second = step()
    assert not holds(region, first)
    assert holds(region, second)
    assert sites.stats.mismatched == 1
    assert sites.settle()
    trace()
    assert sites.stats.traced == 2
    for size[0] in (200, 300, 7):  # a size that differed at two traces is served whatever it is
        assert all(holds(region, tensor) for tensor in step())
        assert not sites.settle()
    assert sites.stats.mismatched == 1


def test_a_dynamic_tensor_is_served_at_any_size(region: rt.Region) -> None:
    size = [100]
    sites, step = ops(lambda: torch.ones(size[0]))
    with sites.tracing():
        assert sites.found("rows", step()[0], any_size=True) == Site(0, 0, ANY)
    sites.serve(region)
    for size[0] in (100, 3, 1000):
        assert holds(region, step()[0])
    size[0] = 0
    assert step()[0].shape == (0,)
    assert sites.stats.served == 3


def test_allocations_that_did_not_come_are_counted_and_traced_again(region: rt.Region) -> None:
    there = [True]
    sites, step = ops(lambda: torch.ones(10) if there[0] else None)
    with sites.tracing():
        sites.found("one", step()[0])
    sites.serve(region)
    there[0] = False
    for number in range(RETRACES + 4):  # in the end it goes on as it is
        step()
        again = sites.settle()
        assert again == (number < RETRACES)
        if again:
            with sites.tracing():
                step()
    assert sites.stats.traced == RETRACES + 1


def test_what_finds_no_room_is_allocated_as_ever_counted_and_told() -> None:
    sites, step = ops(lambda: torch.ones(5000), lambda: torch.ones(40))
    with sites.tracing():
        for number, tensor in enumerate(step()):
            sites.found(f"sent{number}", tensor)
    with rt.Device("shm://") as device:
        region = device.region(4096)
        sites.serve(region)
        large, small = step()
        assert not holds(region, large)
        assert holds(region, small)
        assert float(large.sum()) == 5000
        with pytest.warns(RuntimeWarning, match=r"1 sent tensors found no room .* \(20000 bytes"):
            assert not sites.settle()
        assert (sites.stats.fell_back, sites.stats.fell_back_bytes, sites.stats.served) == (1, 20000, 1)
        assert not sites.settle()


def test_threads_that_run_nodes_at_once_have_sites_of_their_own(region: rt.Region) -> None:
    sites = Sites([f"node{number}" for number in range(4)])
    kept: list[torch.Tensor] = []

    def run(number: int, check: bool) -> None:
        sites.enter(number)
        ordinary = torch.ones(10 + number)
        tensor = torch.full((100 + number,), float(number))
        sites.leave()
        if not check:
            sites.found(f"sent{number}", tensor)
        elif holds(region, ordinary) or not holds(region, tensor) or not bool((tensor == number).all()):
            wrong.append(number)
        kept.append(tensor)

    wrong: list[int] = []
    with sites.tracing():
        for number in range(4):
            run(number, False)
    sites.serve(region)
    kept.clear()

    def work(number: int) -> None:
        for step in range(100):
            run((number + step) % 4, True)
            kept.pop()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    stats = sites.stats
    assert (stats.served, stats.mismatched) == (400, 0)


def test_two_parts_in_one_process_do_not_meet(region: rt.Region) -> None:
    first, run_first = ops(lambda: torch.ones(100))
    second, run_second = ops(lambda: torch.ones(100))
    with first.tracing(), second.tracing():
        tensor = run_first()[0]
        assert second.found("theirs", tensor) is None
        assert first.found("mine", tensor) == Site(0, 0, 400)
    first.serve(region)
    second.serve(region)
    assert holds(region, run_first()[0])
    assert not holds(region, run_second()[0])


def test_an_exception_in_a_node_leaves_no_mark_behind_the_step(region: rt.Region) -> None:
    sites, step = ops(lambda: torch.ones(100))
    with sites.tracing():
        sites.found("one", step()[0])
    sites.serve(region)
    sites.enter(0)
    sites.settle()
    assert not holds(region, torch.ones(100))


def test_closed_sites_serve_no_more_and_tensors_stay(region: rt.Region) -> None:
    sites, step = ops(lambda: torch.arange(100))
    with sites.tracing():
        sites.found("one", step()[0])
    sites.serve(region)
    kept = step()[0]
    sites.close()
    sites.close()
    assert holds(region, kept)
    assert not holds(region, step()[0])
    region.close()
    del sites, step
    gc.collect()
    assert int(kept.sum()) == 4950


def test_a_mark_outlives_its_sites(region: rt.Region) -> None:
    sites, step = ops(lambda: torch.ones(100))
    with sites.tracing():
        sites.found("one", step()[0])
    sites.serve(region)
    enter, leave = sites.enter, sites.leave
    enter(0)
    del sites, step
    gc.collect()
    assert holds(region, torch.ones(100))
    leave()
    del enter, leave
    assert not holds(region, torch.ones(100))


@pytest.mark.parametrize("urls", [("sim://here", "sim://there"), ("shm://", "shm://")], ids=["sim", "shm"])
@pytest.mark.parametrize("shape", [(8, 3, 3, 3), None], ids=["static", "dynamic"])
def test_what_is_born_at_its_site_is_sent_without_a_copy(urls: tuple[str, str], shape: tuple[int, ...] | None) -> None:
    images, kernel, grown = torch.randn(2, 3, 16, 16), torch.randn(8, 3, 3, 3), torch.randn(2, 8, 14, 14)
    backward = torch.ops.aten.convolution_backward.default
    sites, step = ops(
        lambda: backward(grown, images, kernel, [8], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, True])
    )
    with rt.Device(urls[0]) as here, rt.Device(urls[1]) as there, here.listen() as listener:
        channel = there.connect(listener.address)
        options = rt.EdgeOptions(eager=0) if shape is None else rt.EdgeOptions()
        received = here.recv_edge("weight", shape=shape, options=options)
        edge = channel.send_edge("weight", shape=shape)
        with sites.tracing():
            weight = step()[0][1]
            sites.found("weight", weight, any_size=shape is None)
        edge.send(weight)
        with received.recv() as tensor:
            assert torch.equal(as_tensor(tensor), weight)
        copies = edge.stats.copies
        assert copies == (0 if shape and there.limits.local_anywhere else 1)
        sites.serve(there.region(1 << 20, access=rt.Access.REMOTE_READ))
        for _ in range(3):
            edge.send(step()[0][1])
            with received.recv() as tensor:
                assert torch.equal(as_tensor(tensor), weight)
        assert edge.stats.copies == copies
        assert sites.stats.served == 3


def test_other_allocations_of_a_node_lie_where_the_thread_chose(region: rt.Region) -> None:
    sites, step = ops(lambda: (torch.ones(100), torch.ones(200)))
    with sites.tracing():
        sites.found("second", step()[0][1])
    sites.serve(region)
    with rt.Device("shm://") as device:
        chosen = device.region(1 << 16)
        with chosen.allocating():
            first, second = step()[0]
            third = torch.ones(10)
        assert [holds(chosen, tensor) for tensor in (first, second, third)] == [True, False, True]
        assert holds(region, second)
        del first, second, third


def test_a_thread_that_ends_inside_a_node_keeps_nothing() -> None:
    sites, step = ops(lambda: torch.ones(100))
    with sites.tracing():
        sites.found("one", step()[0])
    with rt.Device("shm://") as device:
        region = device.region(1 << 16)
        sites.serve(region)
        thread = threading.Thread(target=sites.enter, args=(0,))
        thread.start()
        thread.join()
        left = weakref.ref(region)
        del region, sites, step, thread
        gc.collect()
        assert left() is None


def test_an_interpreter_that_ends_inside_a_node_ends_quietly() -> None:
    code = """
import torch, rdmatensor as rt
from rdmatensor.torch.graph.sites import Sites, holds
sites = Sites(["node"])
with sites.tracing():
    sites.enter(0)
    sites.found("one", torch.ones(100))
region = rt.Device("shm://").region(1 << 20)
sites.serve(region)
sites.enter(0)
torch.kept = torch.ones(100)
assert holds(region, torch.kept)
sites.enter(0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_numbers_that_name_no_node_are_refused_or_mark_nothing() -> None:
    sites, _ = ops(lambda: None)
    sites.enter(1000)
    sites.leave()
    for wrong in (-1, 1 << 40):
        with pytest.raises(OverflowError):
            sites.enter(wrong)
    with pytest.raises(TypeError):
        sites.enter("one")  # type: ignore[arg-type]
    with pytest.raises(rt.InvalidArgument, match="not traced"):
        sites.found("one", torch.ones(1))
    with sites.tracing(), pytest.raises(rt.InvalidArgument, match="traced already"), sites.tracing():
        pass


def test_a_child_made_by_fork_allocates_as_ever() -> None:
    code = """
import os, torch, rdmatensor as rt
from rdmatensor.torch.graph.sites import Sites, holds
sites = Sites(["node"])
with sites.tracing():
    sites.enter(0)
    sites.found("one", torch.ones(100))
device = rt.Device("shm://")
region = device.region(1 << 20)
sites.serve(region)
sites.enter(0)
pid = os.fork()
if pid == 0:
    inside = torch.ones(100)
    sites.enter(0)
    again = torch.ones(100)
    try:
        with sites.tracing():
            os._exit(2)
    except rt.ForkedProcessError:
        os._exit(1 if holds(region, inside) or holds(region, again) else 0)
assert holds(region, torch.ones(100))
assert os.waitpid(pid, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
