"""A copy that cannot be right is refused before a byte moves, with an error that says what would be."""

from __future__ import annotations

import contextlib
import errno
from typing import Any

import numpy as np
import pytest
from ends import BOTH, Ends, close_region, handle_of, make

import rdmatensor as rt


def test_a_write_to_memory_without_the_right_is_denied(ends: Ends) -> None:
    name, remote = ends.expose(64, rt.Access.REMOTE_READ)
    assert remote.access == rt.Access.REMOTE_READ
    with pytest.raises(rt.AccessDenied, match=r"WRITE of 64 bytes .*REMOTE_WRITE"):
        ends.channel.memcpy(remote, ends.local(b"\xff" * 64))
    assert ends.peek(name, 0, 64) == bytes(64)
    assert ends.channel.state == "ready"


def test_a_read_of_memory_without_the_right_is_denied(ends: Ends) -> None:
    _, remote = ends.expose(64, rt.Access.REMOTE_WRITE)
    with pytest.raises(rt.AccessDenied, match=r"READ of 64 bytes .*REMOTE_READ"):
        ends.channel.memcpy(ends.local(64), remote)
    assert ends.channel.state == "ready"


def test_a_range_outside_local_memory_cannot_be_named(ends: Ends) -> None:
    region = ends.device.region(4096)
    for bad in (slice(0, 4097), slice(4000, 5000), slice(10, 5), slice(-5000, None)):
        with pytest.raises(rt.OutOfBounds, match="4096 bytes"):
            region[bad]
    with pytest.raises(rt.InvalidArgument, match="step"):
        region[0:10:2]
    with pytest.raises(TypeError, match="slice"):
        region.span[3]  # type: ignore[index]
    region.close()


def test_a_range_outside_remote_memory_cannot_be_named(ends: Ends) -> None:
    _, remote = ends.expose(4096)
    for bad in (slice(0, 4097), slice(4096, 4097), slice(-4097, None)):
        with pytest.raises(rt.OutOfBounds):
            remote[bad]
    assert remote[-96:].offset == 4000
    assert remote[4000:][10:20].offset == 4010


def test_a_handle_of_a_part_reaches_that_part_only(ends: Ends) -> None:
    name, _ = ends.expose(4096)
    part = ends.channel.attach(ends.call(handle_of, name, 1000, 1100))
    assert part.nbytes == 100
    ends.channel.memcpy(part, ends.local(b"\x01" * 100))
    assert ends.peek(name, 990, 1110) == bytes(10) + b"\x01" * 100 + bytes(10)
    with pytest.raises(rt.OutOfBounds):
        part[0:101]


def test_sizes_must_agree(ends: Ends) -> None:
    _, remote = ends.expose(64)
    with pytest.raises(rt.InvalidArgument, match="dst has 64 bytes and src 63"):
        ends.channel.memcpy(remote, ends.local(63))
    with pytest.raises(rt.InvalidArgument, match="dst has 63 bytes and src 64"):
        ends.channel.memcpy_async(ends.local(63), remote)


def test_exactly_one_end_must_be_remote(ends: Ends) -> None:
    _, remote = ends.expose(64)
    with pytest.raises(rt.InvalidArgument, match="both are the peer's"):
        ends.channel.memcpy(remote, remote)
    with pytest.raises(rt.InvalidArgument, match="both are local"):
        ends.channel.memcpy(ends.local(64), ends.local(64))


@pytest.mark.parametrize(
    ("thing", "error"),
    [
        *((memory, rt.InvalidArgument) for memory in (b"x" * 64, bytearray(64), np.zeros(64), memoryview(bytes(64)))),
        *((thing, TypeError) for thing in (None, 64, "x")),
    ],
)
def test_memory_that_is_not_registered_is_refused_with_the_way_to_register_it(
    ends: Ends, thing: Any, error: type[Exception]
) -> None:
    _, remote = ends.expose(64)
    with pytest.raises(error, match=r"src is a .*register"):
        ends.channel.memcpy(remote, thing)
    with pytest.raises(error, match=r"dst is a .*register"):
        ends.channel.memcpy(thing, remote)


def test_a_freed_buffer_is_refused(ends: Ends) -> None:
    _, remote = ends.expose(64)
    buffer = ends.local(64)
    buffer.free()
    with pytest.raises(rt.ClosedError, match="freed"):
        ends.channel.memcpy(remote, buffer)
    with pytest.raises(rt.ClosedError, match="freed"):
        ends.channel.memcpy(buffer, remote)


def test_memory_of_a_closed_region_is_refused(ends: Ends) -> None:
    _, remote = ends.expose(64)
    region = ends.device.region(4096)
    span = region[:64]
    region.close()
    with pytest.raises(rt.ClosedError, match="closed"):
        ends.channel.memcpy(remote, span)
    assert ends.channel.state == "ready"


def test_a_closed_remote_is_refused_and_so_are_its_spans(ends: Ends) -> None:
    _, remote = ends.expose(64)
    span = remote[:32]
    remote.close()
    remote.close()
    assert remote.closed
    with pytest.raises(rt.ClosedError):
        ends.channel.memcpy(remote, ends.local(64))
    with pytest.raises(rt.ClosedError):
        ends.channel.memcpy(ends.local(32), span)


def test_memory_that_the_peer_closed_is_refused_by_it_and_others_go_on(ends: Ends) -> None:
    name, remote = ends.expose(64)
    ends.channel.memcpy(remote, ends.local(64))
    ends.call(close_region, name)
    with pytest.raises((rt.AccessDenied, rt.PeerLost, rt.TransferError, rt.ClosedError)):
        ends.channel.memcpy(remote, ends.local(64))
    again = Ends(ends.fabric)
    _, fresh = again.expose(64)
    again.channel.memcpy(fresh, again.local(64))
    again.channel.close()


def test_read_only_memory_is_a_source_and_no_target(ends: Ends) -> None:
    name, remote = ends.expose(64)
    with ends.device.register(b"\x07" * 64) as region:
        ends.channel.memcpy(remote, region)
        assert ends.peek(name, 0, 64) == b"\x07" * 64
        for attempt in (region, region[0:64], region.span):
            with pytest.raises(rt.AccessDenied, match="read-only"):
                ends.channel.memcpy(attempt, remote)
        with pytest.raises(rt.AccessDenied, match="read-only"):
            ends.channel.memcpy_many([(region[:64], remote)])


def test_every_range_is_a_span_that_says_whether_it_may_be_written_to(ends: Ends) -> None:
    with ends.device.register(b"\x07" * 64) as constant, ends.device.region(4096) as region:
        for span in (constant.span, constant[8:16], constant.span[8:16]):
            assert isinstance(span, rt.Span)
            assert span.readonly and span.view().readonly
            assert repr(span).startswith("<Span of ") and repr(span).endswith(", read-only>")
        for span in (region.span, region[8:16], region.allocate(64), region.allocate(64)[8:16], region.empty(4).span):
            assert isinstance(span, rt.Span)
            assert not span.readonly and not span.view().readonly
        assert (constant.readonly, region.readonly) == (True, False)


def test_a_remote_and_its_slices_are_remote_spans(ends: Ends) -> None:
    _, remote = ends.expose(64)
    assert isinstance(remote, rt.RemoteSpan) and isinstance(remote[8:16], rt.RemoteSpan)


def test_a_region_of_another_device_is_refused(ends: Ends) -> None:
    _, remote = ends.expose(64)
    if ends.limits.virtual_time:
        url = f"sim://other?{ends.device.url.partition('?')[2]}"
    else:
        url = f"{ends.device.provider}://{ends.device.name}"
    with rt.Device(url) as other, other.region(4096) as region, pytest.raises(rt.InvalidArgument, match="belongs to"):
        ends.channel.memcpy(remote, region[:64])


def test_a_remote_of_another_channel_is_refused(ends: Ends) -> None:
    _, remote = ends.expose(64)
    second = ends.fabric.connect(keep="second")
    with pytest.raises(rt.InvalidArgument, match="attached through"):
        second.memcpy(remote, ends.local(64))
    with pytest.raises(rt.InvalidArgument, match="attached through"):
        second.memcpy_many([(remote, ends.local(64))])
    second.close()


def test_both_ends_in_the_same_bytes_are_refused(ends: Ends) -> None:
    device = ends.device
    region = device.region(4096, access=BOTH)
    with device.listen("127.0.0.1:0") as listener:
        outward = device.connect(listener.address)
        inward = listener.accept()
    remote = outward.attach(region.handle())
    with pytest.raises(rt.OverlapError, match="share bytes"):
        outward.memcpy(remote[100:200], region[150:250])
    with pytest.raises(rt.OverlapError, match=r"pair 1: .*share bytes"):
        outward.memcpy_many([(remote[:10], region[20:30]), (region[199:200], remote[100:200][99:])])
    region[:100].view()[:] = b"\x05" * 100
    outward.memcpy(remote[100:200], region[:100])  # side by side is no overlap
    assert bytes(region[100:200].view()) == b"\x05" * 100
    outward.close()
    inward.close()
    region.close()


def test_a_handle_of_a_region_without_rights_is_not_made(ends: Ends) -> None:
    with ends.device.region(4096) as region, pytest.raises(rt.AccessDenied, match="right"):
        region.handle()


def test_a_handle_of_another_device_is_refused(ends: Ends) -> None:
    region = ends.device.region(4096, access=BOTH)
    with pytest.raises(rt.RdmaError, match="device"):
        ends.channel.attach(region.handle())  # our own, not the peer's
    region.close()


def test_bytes_that_are_no_handle_are_refused(ends: Ends) -> None:
    name, _ = ends.expose(64)
    good = ends.call(handle_of, name, 0, 64)
    for bad in (b"", b"x", good[:-1], good + b"\x00", b"\x00" * len(good), good[:1] + b"\xff" + good[2:]):
        with pytest.raises(rt.InvalidArgument):
            ends.channel.attach(bad)
    with pytest.raises(TypeError, match="bytes"):
        ends.channel.attach("text")  # type: ignore[arg-type]
    assert ends.channel.state == "ready"


def test_every_cut_and_every_changed_byte_of_a_handle_ends_in_an_error_or_harmless(ends: Ends) -> None:
    name, _ = ends.expose(64)
    good = ends.call(handle_of, name, 0, 64)
    for size in range(len(good)):
        with pytest.raises(rt.RdmaError):
            ends.channel.attach(good[:size])
    for at in range(len(good)):
        changed = bytearray(good)
        changed[at] ^= 0x41
        with contextlib.suppress(rt.RdmaError):
            ends.channel.attach(bytes(changed), timeout=0.2).close()
    assert ends.channel.state in ("ready", "failed")


def test_a_remote_can_be_viewed_in_place_only_where_it_can_be_mapped(ends: Ends) -> None:
    name, remote = ends.expose(4096, data=b"there")
    if ends.limits.maps_remote:
        view = remote.view()
        assert bytes(view[:5]) == b"there"
        assert view.readonly
        ends.poke(name, 0, b"changed")
        assert bytes(view[:7]) == b"changed"
        assert bytes(remote[2:7].view()) == b"anged"
    else:
        with pytest.raises(rt.Unsupported, match="maps_remote"):
            remote.view()


def test_a_region_too_large_is_refused(ends: Ends) -> None:
    with pytest.raises((rt.OutOfMemory, rt.InvalidArgument)):
        ends.device.region(1 << 62)
    for bad in (0, -1):
        with pytest.raises(rt.InvalidArgument):
            ends.device.region(bad)


def test_memory_not_exposed_cannot_be_registered_for_peers(ends: Ends) -> None:
    if ends.limits.exposes_caller_memory:
        memory = bytearray(100)
        with ends.device.register(memory, access=BOTH) as region:
            assert len(region.handle()) > 0
    else:
        with pytest.raises(rt.Unsupported, match=r"remote rights|create a region"):
            ends.device.register(bytearray(100), access=BOTH)


def test_publishing_what_has_no_right_is_denied(ends: Ends) -> None:
    ends.call(make, "sealed", 4096, 0)
    with ends.device.region(4096) as region, pytest.raises(rt.AccessDenied):
        ends.device.publish("sealed", region)


def test_a_second_listener_on_a_port_is_refused(ends: Ends) -> None:
    with ends.device.listen("127.0.0.1:0") as listener:
        with pytest.raises(rt.AddressError, match=listener.address) as caught:
            ends.device.listen(listener.address)
        assert isinstance(caught.value, OSError) and caught.value.errno == errno.EADDRINUSE
        port = listener.address
    with ends.device.listen(port) as again:  # closed, it is free again
        assert again.address == port
