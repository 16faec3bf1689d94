"""torch.ops.rdmatensor in graphs of two processes: kept, in order, and with the values that eager calls have."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed: `make torch` does it")

import crossing
import torch
from crossing import Other
from torch import library
from torch.fx.experimental.proxy_tensor import make_fx

import rdmatensor as rt
import rdmatensor.torch as rtt
from rdmatensor.torch import operators

ops = torch.ops.rdmatensor
FORMS = ["traced", "exported", "decomposed", "loaded", "eager", "aot_eager"]
slow = pytest.param("inductor", marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def device() -> Iterator[rt.Device]:
    with rt.Device("shm://", timeout=300) as made:
        yield made


@pytest.fixture(scope="module")
def other(device: rt.Device) -> Iterator[Other]:
    """The process at the other end, for all tests that do not kill it."""
    with device.listen() as listener:
        made = Other(listener)
        yield made
        made.close()


@pytest.fixture
def mortal(device: rt.Device) -> Iterator[Other]:
    with device.listen() as listener:
        made = Other(listener)
        yield made
        made.close()


@pytest.fixture(autouse=True)
def _nothing_bound() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    operators._sending.clear()
    operators._receiving.clear()


@pytest.fixture
def pair() -> Iterator[tuple[rt.Device, rt.Channel]]:
    """Both ends in one process."""
    with (
        rt.Device("shm://", timeout=300) as here,
        rt.Device("shm://", timeout=300) as there,
        here.listen() as listener,
    ):
        yield here, there.connect(listener.address)


def targets(graph: torch.fx.Graph) -> list[str]:
    """The operators of ours in a graph, with the edge of each, in order; tokens looked through."""
    found = []
    for node in graph.nodes:
        target, given = node.target, list(node.args)
        if target is torch.ops.higher_order.with_effects:
            target, given = given[1], given[2:]
        if str(target).startswith("rdmatensor."):
            edge = next(word for word in given if isinstance(word, str))
            found.append(f"{str(target).split('.')[1]} {edge}")
    return found


SENDS = ["send first", "send second", "send first"]
RECEIVES = ["recv first", "recv second", "recv first"]


# ---- graphs ----


@pytest.mark.parametrize("module, given, expected", [
    (crossing.Sends(), crossing.sample(), SENDS),
    (crossing.Receives(), torch.eye(4), RECEIVES),
])  # fmt: skip
def test_graphs_keep_the_operators_in_order_and_as_live_code(
    module: torch.nn.Module, given: torch.Tensor, expected: list[str]
) -> None:
    traced = make_fx(module, tracing_mode="fake")(given)
    exported = torch.export.export(module, (given,))
    functional = exported.run_decompositions()
    for graph in (traced.graph, exported.graph, functional.graph):
        assert targets(graph) == expected
        graph.eliminate_dead_code()
        assert targets(graph) == expected
    tokens = [node for node in functional.graph.nodes if node.target is torch.ops.higher_order.with_effects]
    assert len(tokens) == 3
    for before, after in itertools.pairwise(tokens):
        assert after.args[0].args[0] is before  # the token of each is what the one before gave


def test_schemas_say_that_no_tensor_is_written_to() -> None:
    for name in ("send", "recv", "send_dyn", "recv_dyn"):
        schema = getattr(ops, name).default._schema
        assert not schema.is_mutable
        assert all(argument.alias_info is None for argument in (*schema.arguments, *schema.returns))


def test_shapes_that_are_not_known_are_new_symbols() -> None:
    exported = torch.export.export(crossing.ReceivesAnyShape(), ())
    node = next(node for node in exported.graph.nodes if node.target is ops.recv_dyn.default)
    sizes = node.meta["val"].shape
    assert len(sizes) == 2
    assert len({str(size) for size in sizes if isinstance(size, torch.SymInt)}) == 2


@pytest.mark.parametrize("form", [*FORMS, slow])
def test_programs_of_two_processes_run_over_static_edges(
    device: rt.Device, other: Other, form: str, tmp_path: Any
) -> None:
    with device.recv_edge("first", shape=(4, 4)) as first, device.recv_edge("second", shape=4) as second:
        rtt.bind_edge(first)
        rtt.bind_edge(second)
        other.begin(crossing.send_program, form, str(tmp_path), 3)
        weight = torch.eye(4) * 3
        graph = crossing.program(crossing.Receives(), (weight,), form, str(tmp_path))
        for step in range(3):
            found, summed = graph(weight)
            expected = crossing.expected(crossing.sample() + step, weight)
            assert torch.equal(found, expected[0]) and torch.equal(summed, expected[1])
        assert other.result() == sum(float(((crossing.sample() + step) * 2 + 1).sum()) for step in range(3))
        assert (first.stats.transfers, first.stats.released) == (6, 6)
        assert first.stats.copies == second.stats.copies == 0


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("form", ["exported", "eager", "aot_eager", slow])
def test_programs_of_two_processes_run_over_dynamic_edges(
    device: rt.Device, other: Other, form: str, registered: bool
) -> None:
    """A sent tensor is zeroed in the sender's graph at once, and comes whole all the same."""
    counts = [2, 300, 1, 120, 700, 3]
    with device.recv_edge("rows") as edge, torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        rtt.bind_edge(edge)
        other.begin(crossing.send_rows, form, counts, registered)
        graph = crossing.program(crossing.ReceivesAnyShape(), (), form)
        for count in counts:
            found = graph()
            assert torch.equal(found, torch.arange(count * 1000.0).reshape(count, 1000) * 2)
            del found
        transfers, copies = other.result()
        assert transfers == len(counts)
        assert copies == (0 if registered else sum(count > 1 for count in counts))  # one row rides in its record


@pytest.mark.parametrize("name", ["send", "recv", "send_dyn", "recv_dyn"])
def test_torch_finds_nothing_wrong_with_the_operators(pair: tuple[rt.Device, rt.Channel], name: str) -> None:
    here, channel = pair
    words = {"shape": (8, 8)} if "dyn" not in name else {}
    receiver, sender = here.recv_edge("x", options=rt.EdgeOptions(slots=8), **words), channel.send_edge("x", **words)
    tensor, over = torch.ones(8, 8), threading.Event()

    def serve() -> None:
        while not over.is_set():
            try:
                if "send" in name:
                    receiver.recv(0.05).release()
                else:
                    sender.send(tensor, 0.05)
            except rt.DeadlineExceeded:
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        if "send" in name:
            rtt.bind_edge(sender)
            given: tuple[Any, ...] = (tensor, "x")
        else:
            rtt.bind_edge(receiver)
            given = ("x", [8, 8] if name == "recv" else 2, torch.float32)
        library.opcheck(getattr(ops, name).default, given, {"timeout": 5.0})
    finally:
        over.set()
        thread.join()


# ---- memory ----


def test_a_slot_is_the_senders_again_when_nobody_holds_the_tensor(pair: tuple[rt.Device, rt.Channel]) -> None:
    here, channel = pair
    receiver = rtt.bind_edge(here.recv_edge("x", shape=3, options=rt.EdgeOptions(slots=2)))
    sender = rtt.bind_edge(channel.send_edge("x", shape=3))
    ops.send(torch.ones(3), "x")
    ops.send(torch.ones(3) * 2, "x")
    first = ops.recv("x", [3], torch.float32)
    view = first[1:]
    second = ops.recv("x", [3], torch.float32)
    with pytest.raises(rt.RegionBusy):
        ops.recv("x", [3], torch.float32)
    del first
    assert receiver.stats.released == 0 and view.tolist() == [1, 1]
    del view
    assert receiver.stats.released == 1 and second.tolist() == [2, 2, 2]
    ops.send(torch.ones(3) * 3, "x")
    assert ops.recv("x", [3], torch.float32).tolist() == [3, 3, 3]
    assert sender.stats.copies == receiver.stats.copies == 0


def test_a_dynamic_send_waits_until_its_tensor_may_change(pair: tuple[rt.Device, rt.Channel]) -> None:
    here, channel = pair
    receiver = rtt.bind_edge(here.recv_edge("x"))
    sender = rtt.bind_edge(channel.send_edge("x"))
    with channel.device.region(1 << 20, access=rt.Access.REMOTE_READ).allocating():
        large, small = torch.ones(10_000), torch.ones(10)
    outside = torch.ones(10_000)
    ops.send_dyn(small, "x")
    ops.send_dyn(outside, "x")
    small.zero_()
    outside.zero_()
    assert torch.equal(ops.recv_dyn("x", 1, torch.float32), torch.ones(10))
    assert torch.equal(ops.recv_dyn("x", 1, torch.float32), torch.ones(10_000))
    first = threading.Thread(target=ops.send_dyn, args=(large, "x"))
    first.start()  # the receiver learns of the region
    assert torch.equal(ops.recv_dyn("x", 1, torch.float32), large)
    first.join()
    with pytest.raises(rt.DeadlineExceeded, match="not everything was taken"):
        ops.send_dyn(large, "x", timeout=0.1)
    assert sender.stats.transfers == 4  # it is on its way all the same
    assert torch.equal(ops.recv_dyn("x", 1, torch.float32), large)
    assert receiver.stats.transfers == 4


# ---- what goes wrong ----


def test_a_name_is_of_one_open_edge_of_each_direction(pair: tuple[rt.Device, rt.Channel]) -> None:
    here, channel = pair
    with pytest.raises(rt.NameNotFound, match=r"no sending edge .*\(none is\)"):
        ops.send(torch.ones(3), "x")
    receiver = rtt.bind_edge(here.recv_edge("wire", shape=3), "x")
    sender = rtt.bind_edge(channel.send_edge("wire", shape=3), "x")
    assert rtt.bind_edge(sender, "x") is sender
    another = here.recv_edge("another", shape=3)
    with pytest.raises(rt.NameTaken, match="'x' means"):
        rtt.bind_edge(another, "x")
    with pytest.raises(rt.NameNotFound, match=r"\('x' is\)"):
        ops.recv("y", [3], torch.float32)
    receiver.close()
    with pytest.raises(rt.ClosedError):
        ops.recv("x", [3], torch.float32)
    assert rtt.bind_edge(another, "x") is another
    rtt.unbind_edge(another)
    rtt.unbind_edge(another)
    with pytest.raises(rt.NameNotFound):
        ops.recv("x", [3], torch.float32)
    with pytest.raises(TypeError, match="not a Channel"):
        rtt.bind_edge(channel)  # type: ignore[type-var]


@pytest.mark.parametrize("form", ["traced", "aot_eager"])
def test_a_tensor_that_does_not_fit_the_edge_is_refused(pair: tuple[rt.Device, rt.Channel], form: str) -> None:
    here, channel = pair
    fixed = rtt.bind_edge(here.recv_edge("fixed", shape=3))
    free = rtt.bind_edge(here.recv_edge("free"))
    senders = rtt.bind_edge(channel.send_edge("fixed", shape=3)), rtt.bind_edge(channel.send_edge("free"))

    def sends(name: str, tensor: torch.Tensor, operator: Any = ops.send) -> None:
        module = lambda x: operator(x, name)  # noqa: E731
        crossing.program(module, (tensor,), form)(tensor)  # type: ignore[arg-type]

    for wrong in (torch.ones(4), torch.ones(3, 1), torch.ones(3, dtype=torch.float64)):
        with pytest.raises(rt.InvalidArgument, match=r"its (shape|element type) is"):
            sends("fixed", wrong)
    with pytest.raises(rt.InvalidArgument, match="needs rdmatensor::send_dyn"):
        sends("free", torch.ones(3))
    with pytest.raises(rt.InvalidArgument, match="needs rdmatensor::send for"):
        sends("fixed", torch.ones(3), ops.send_dyn)
    assert [edge.stats.transfers for edge in senders] == [0, 0]
    sends("fixed", torch.ones(3))
    sends("free", torch.ones(3), ops.send_dyn)
    for shape, dtype in (([4], torch.float32), ([3], torch.float64)):
        with pytest.raises(rt.InvalidArgument, match="the graph expects"):
            ops.recv("fixed", shape, dtype)
    for rank, dtype in ((2, torch.float32), (1, torch.int32)):
        with pytest.raises(rt.InvalidArgument, match="waits for the next call"):
            ops.recv_dyn("free", rank, dtype)
    with pytest.raises(rt.InvalidArgument, match="needs rdmatensor::recv_dyn"):
        ops.recv("free", [3], torch.float32)
    assert torch.equal(ops.recv("fixed", [3], torch.float32), torch.ones(3))
    assert torch.equal(ops.recv_dyn("free", 1, torch.float32), torch.ones(3))
    assert fixed.stats.transfers == free.stats.transfers == 1


def test_a_wait_ends_with_its_deadline(pair: tuple[rt.Device, rt.Channel]) -> None:
    here, channel = pair
    rtt.bind_edge(here.recv_edge("x", shape=3, options=rt.EdgeOptions(slots=1)))
    rtt.bind_edge(channel.send_edge("x", shape=3))
    with pytest.raises(rt.DeadlineExceeded, match=r"no tensor came in 0\.05 s"):
        ops.recv("x", [3], torch.float32, timeout=0.05)
    ops.send(torch.ones(3), "x")
    with pytest.raises(rt.DeadlineExceeded, match=r"in 0\.05 s: no credit"):
        ops.send(torch.ones(3), "x", timeout=0.05)


@pytest.mark.parametrize("form", ["exported", "aot_eager"])
@pytest.mark.parametrize("static", [True, False])
def test_a_peer_that_is_killed_is_an_error_of_the_graph(
    device: rt.Device, mortal: Other, form: str, static: bool
) -> None:
    name, shape = f"doomed {form} {static}", (4, 4) if static else None
    edge = rtt.bind_edge(device.recv_edge(name, shape=shape))
    mortal.begin(crossing.send_nothing, name, shape)
    mortal.result()

    class Waits(torch.nn.Module):
        def forward(self) -> torch.Tensor:
            given = [4, 4] if static else 2
            return (ops.recv if static else ops.recv_dyn)(name, given, torch.float32) * 2

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        graph = crossing.program(Waits(), (), form)
        killer = threading.Timer(0.2, mortal.kill)
        killer.start()
        with pytest.raises(rt.PeerLost):
            graph()
    killer.join()
    edge.close()


def test_a_receiver_that_is_killed_is_an_error_of_the_graph(device: rt.Device, mortal: Other) -> None:
    mortal.begin(crossing.receive_nothing, "doomed", (4, 4))
    mortal.result()
    edge = rtt.bind_edge(mortal.channel.send_edge("doomed", shape=(4, 4)))
    graph = crossing.program(lambda x: ops.send(x, "doomed"), (torch.ones(4, 4),), "aot_eager")  # type: ignore[arg-type]
    graph(torch.ones(4, 4))
    graph(torch.ones(4, 4))
    killer = threading.Timer(0.2, mortal.kill)
    killer.start()
    with pytest.raises(rt.PeerLost):
        graph(torch.ones(4, 4))  # both slots are taken: it waits
    killer.join()
    edge.close()


def test_a_torch_without_ordered_effects_is_refused(
    pair: tuple[rt.Device, rt.Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch._higher_order_ops.effects", None)
    missing = operators._define()
    assert "needs 2.4 or later" in missing
    monkeypatch.setattr(operators, "_missing", missing)
    with pytest.raises(rt.Unsupported, match="lacks what keeps them in graphs"):
        rtt.bind_edge(pair[0].recv_edge("x", shape=3))


@pytest.mark.parametrize("count", [4, 100_000])
def test_a_tensor_whose_storage_was_freed_is_not_sent(pair: tuple[rt.Device, rt.Channel], count: int) -> None:
    here, channel = pair
    ends = [here.recv_edge("fixed", shape=count, options=rt.EdgeOptions(slots=2)), here.recv_edge("free")]
    rtt.bind_edge(channel.send_edge("fixed", shape=count))
    rtt.bind_edge(channel.send_edge("free"))
    for name, operator in (("fixed", ops.send), ("free", ops.send_dyn)):
        tensor = torch.ones(count)
        tensor.untyped_storage().resize_(0)
        with pytest.raises(rt.InvalidArgument, match="storage was freed"):
            operator(tensor, name)
    assert [end.stats.transfers for end in ends] == [0, 0]
