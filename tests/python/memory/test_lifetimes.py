"""Memory lives as long as someone looks at it; everything else ends when it is closed, in any order."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import rdmatensor as rt


@pytest.fixture
def device() -> Iterator[rt.Device]:
    with rt.Device("shm://") as opened:
        yield opened


def pair(device: rt.Device) -> tuple[rt.Channel, rt.Channel]:
    with device.listen() as listener:
        return device.connect(listener.address), listener.accept()


def test_a_buffer_gives_its_block_back_when_it_is_collected(device: rt.Device) -> None:
    region = device.region(1 << 16)
    buffer = region.allocate(1000)
    assert region.stats.allocations == 1
    del buffer
    assert region.stats.allocations == 0


def test_freeing_gives_the_block_back_at_once_and_only_once(device: rt.Device) -> None:
    region = device.region(1 << 16)
    buffer = region.allocate(1000)
    buffer.free()
    assert region.stats.allocations == 0
    other = region.allocate(1000)
    buffer.free()
    del buffer
    assert region.stats.allocations == 1
    other.free()


LOOKS: dict[str, Callable[[rt.Buffer], object]] = {
    "view": lambda buffer: buffer.view(),
    "array": lambda buffer: buffer.array((16, 16), np.float32)[1:],
    "slice": lambda buffer: buffer[10:20],
    "slice of a slice": lambda buffer: buffer[10:20][2:4],
    "asarray": np.asarray,
    "view of a slice": lambda buffer: buffer[10:20].view(),
}


@pytest.mark.parametrize("look", list(LOOKS))
def test_a_block_is_not_served_again_while_someone_looks_at_it(device: rt.Device, look: str) -> None:
    region = device.region(1 << 16)
    buffer = region.allocate(1024)
    looker = LOOKS[look](buffer)
    buffer.free()
    assert region.stats.allocations == 1
    del buffer
    gc.collect()
    assert region.stats.allocations == 1
    del looker
    gc.collect()
    assert region.stats.allocations == 0


def test_views_show_the_same_bytes(device: rt.Device) -> None:
    buffer = device.region(4096).allocate(64)
    buffer.view()[:] = bytes(range(64))
    assert buffer.array((4, 4), np.int32)[0, 1] == int.from_bytes(bytes(range(4, 8)), "little")
    assert np.asarray(buffer)[63] == 63
    assert bytes(buffer[8:16].view()) == bytes(range(8, 16))
    assert buffer.array(dtype="<u2")[31] == 63 << 8 | 62
    assert buffer[8:16].address == buffer.address + 8
    buffer.array(-1, np.float64)[:] = 1.0
    assert bytes(buffer.view()[6:8]) == b"\xf0\x3f"


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 3), np.float32), (-1, np.dtype("V7")), ((64,), object), ((65,), np.uint8)]
)
def test_an_array_must_fill_the_span(device: rt.Device, shape: object, dtype: object) -> None:
    with pytest.raises(rt.InvalidArgument, match=r"64 bytes|holds Python objects"):
        device.region(4096).allocate(64).array(shape, dtype)  # type: ignore[arg-type]


def test_an_empty_buffer_is_a_buffer(device: rt.Device) -> None:
    buffer = device.region(4096).allocate(0)
    assert buffer.nbytes == 0
    assert bytes(buffer.view()) == b""
    assert buffer.array((0, 5), np.float32).shape == (0, 5)


def test_memory_outlives_its_region_and_its_device() -> None:
    device = rt.Device("shm://")
    region = device.region(1 << 16)
    array = region.allocate(4096).array((1024,), np.int32)
    array[:] = np.arange(1024)
    region.close()
    device.close()
    del device, region
    gc.collect()
    assert int(array.sum()) == 1023 * 1024 // 2
    array[0] = 7
    assert array[0] == 7


def test_closing_twice_is_fine_and_repr_says_it() -> None:
    device = rt.Device("shm://")
    region, listener = device.region(4096), device.listen()
    channel, accepted = device.connect(listener.address), listener.accept()
    things = (accepted, channel, listener, region, device)
    for thing in things:
        assert "closed" not in repr(thing)
    for thing in things:
        thing.close()
        thing.close()
        assert "closed" in repr(thing)
        assert thing.closed


def test_closing_the_device_first_ends_everything_made_from_it() -> None:
    device = rt.Device("shm://")
    listener, region = device.listen(), device.region(4096, access=rt.Access.REMOTE_WRITE)
    channel, accepted = device.connect(listener.address), listener.accept()
    remote = channel.attach(region.handle())
    other = device.region(4096)
    copy = channel.prepare(remote[:8], other[:8])
    device.close()
    attempts = [
        device.listen,
        device.now,
        device.dump,
        lambda: device.stats,
        lambda: device.region(64),
        lambda: device.connect("127.0.0.1:1"),
        lambda: region.allocate(64),
        region.handle,
        listener.accept,
        lambda: channel.memcpy(remote[:8], other[:8]),
        lambda: channel.memcpy_async(remote[:8], other[:8]),
        lambda: channel.memcpy_many([(remote[:8], other[:8])]),
        lambda: channel.wait_word(other[:8], 1),
        lambda: channel.lookup("x"),
        lambda: channel.stats,
        copy,
        copy.start,
        remote.view,
    ]
    for attempt in attempts:
        with pytest.raises(rt.ClosedError, match="closed"):
            attempt()
    assert channel.state == accepted.state == "closed"
    assert isinstance(channel.failure, rt.ClosedError)


def test_closing_the_device_ends_what_other_threads_wait_for() -> None:
    device = rt.Device("shm://")
    listener = device.listen()
    channel, accepted = device.connect(listener.address), listener.accept()
    region = device.region(1 << 20, access=rt.Access.REMOTE_WRITE)
    remote, source = channel.attach(region.handle()), device.region(1 << 20)
    ended: list[type[BaseException]] = []

    def wait(call: Callable[[], object]) -> None:
        try:
            while True:
                call()
        except Exception as error:
            ended.append(type(error))

    calls: list[Callable[[], object]] = [
        lambda: listener.accept(30),
        lambda: channel.wait_word(source[:8], 1, timeout=300),
        lambda: channel.memcpy(remote, source),
        lambda: channel.memcpy_async(remote, source).wait(),
        lambda: accepted.lookup("never", timeout=300),
    ]
    threads = [threading.Thread(target=wait, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    while channel.stats.bytes_written < 10 << 20:
        channel.memcpy(remote, source)
    device.close()
    for thread in threads:
        thread.join(5)
    assert len(ended) == len(calls)
    assert set(ended) <= {rt.ClosedError, rt.PeerClosed}  # both ends of the channel are the device's


def test_context_managers_close() -> None:
    with rt.Device("shm://") as device, device.region(4096) as region, device.listen() as listener:
        with device.connect(listener.address) as channel:
            assert channel.state == "ready"
        assert channel.closed
    assert region.closed
    assert listener.closed
    assert device.closed


def test_a_device_that_is_dropped_closes() -> None:
    other = rt.Device("shm://")
    with other.listen() as listener:
        device = rt.Device("shm://")
        channel = device.connect(listener.address)
        accepted = listener.accept()
        gone = weakref.ref(device)
        del device, channel
        gc.collect()
        assert gone() is None
        word = other.region(64)
        with pytest.raises(rt.PeerClosed):
            accepted.wait_word(word[:8], 1, timeout=300)
    other.close()


def test_garbage_in_a_ring_is_ended_in_any_order() -> None:
    for _ in range(20):
        device = rt.Device("shm://")
        region = device.region(1 << 16, access=rt.Access.REMOTE_WRITE)
        channel, accepted = pair(device)
        remote = channel.attach(region.handle())
        source = device.region(4096)
        copy = channel.prepare(remote[:8], source[:8])
        ring: list[object] = [device, region, channel, accepted, remote, copy, source.allocate(64), region.allocate(64)]
        ring.append(ring)
        device.publish("ring", region)
        del device, region, channel, accepted, remote, copy, ring, source
        gc.collect()


def test_registered_memory_of_the_caller_is_kept(device: rt.Device) -> None:
    class Owner(bytearray):
        pass

    memory = Owner(4096)
    region = device.register(memory)
    with pytest.raises(BufferError):
        memory.extend(b"more")  # locked while it is registered
    alive = weakref.ref(memory)
    del memory
    gc.collect()
    assert alive() is not None
    region.close()
    del region
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    ("memory", "why"),
    [
        (object(), "has no buffer"),
        ("text", "has no buffer"),
        (b"", "is empty"),
        (np.zeros((8, 8))[:, ::2], "not contiguous"),
    ],
)
def test_memory_that_cannot_be_registered_is_refused_with_the_reason(
    device: rt.Device, memory: object, why: str
) -> None:
    with pytest.raises(rt.InvalidArgument, match=why):
        device.register(memory)


def test_access_is_made_of_its_flags_only(device: rt.Device) -> None:
    for bad in (2, "write", None, rt.Access(64)):
        with pytest.raises(rt.InvalidArgument, match="Access"):
            device.region(4096, access=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("alignment", [1, 8, 64, 4096, 2 << 20])
def test_buffers_are_aligned(device: rt.Device, alignment: int) -> None:
    region = device.region(8 << 20)
    region.allocate(1)
    buffer = region.allocate(100, alignment=alignment)
    assert buffer.offset % alignment == 0


@pytest.mark.parametrize(("nbytes", "alignment"), [(-1, 64), (1 << 70, 64), (64, 3), (64, 0), (64, 4 << 20), (64, -8)])
def test_a_size_or_alignment_that_cannot_be_is_refused(device: rt.Device, nbytes: int, alignment: int) -> None:
    region = device.region(4096)
    with pytest.raises(rt.InvalidArgument):
        region.allocate(nbytes, alignment=alignment)
    with pytest.raises(TypeError, match="must be an int"):
        region.allocate("64")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "ending", ["pass", "raise SystemExit(0)", "import os; os.register_at_fork; del channel", "del device, region"]
)
def test_an_interpreter_that_ends_with_all_open_ends_quietly(ending: str) -> None:
    code = f"""
import rdmatensor as rt
device, other = rt.Device("shm://"), rt.Device("shm://")
region = other.region(1 << 20, access=rt.Access.REMOTE_WRITE)
other.publish("x", region)
listener = other.listen()
channel = device.connect(listener.address)
accepted = listener.accept()
remote = channel.lookup("x")
buffer = device.region(1 << 20).allocate(100)
channel.memcpy(remote[:100], buffer)
array = buffer.array()
copy = channel.prepare(remote[:100], buffer)
transfer = channel.memcpy_async(remote[:100], buffer)
{ending}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_peer_hears_a_goodbye_when_the_interpreter_ends(device: rt.Device) -> None:
    with device.listen() as listener:
        code = f"import rdmatensor as rt; d = rt.Device('shm://'); c = d.connect({listener.address!r}); input()"
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
        accepted = listener.accept(30)
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.close()
        word = device.region(64)
        with pytest.raises(rt.PeerClosed):
            accepted.wait_word(word[:8], 1, timeout=300)
        assert child.wait(30) == 0
