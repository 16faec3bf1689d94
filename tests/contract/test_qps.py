"""QPs can be chosen; each reports to a completion queue of its own, round robin."""

from __future__ import annotations

import threading

import pytest
from ends import Ends, pattern

import rdmatensor as rt


def test_a_channel_has_the_qps_that_were_asked_for(wide: Ends) -> None:
    assert wide.device.queues == 2
    assert wide.device.qps_per_peer == 4
    assert wide.channel.qps == 4


def test_qps_go_to_queues_round_robin(wide: Ends) -> None:
    queues = [wide.channel.queue_of(qp) for qp in range(4)]
    assert sorted(queues) == [0, 0, 1, 1]
    assert queues[0] != queues[1]


def test_every_qp_moves_bytes(wide: Ends) -> None:
    name, remote = wide.expose(4 * 5000)
    for qp in range(4):
        part = slice(qp * 5000, (qp + 1) * 5000)
        wide.channel.memcpy(remote[part], wide.local(pattern(5000, qp)), qp=qp)
        back = wide.local(5000)
        wide.channel.memcpy(back, remote[part], qp=qp)
        assert bytes(back.view()) == pattern(5000, qp)
        assert wide.peek(name, part.start, part.stop) == pattern(5000, qp)


def test_async_many_and_prepared_take_a_qp(wide: Ends) -> None:
    name, remote = wide.expose(300)
    source = wide.local(pattern(300))
    wide.channel.memcpy_async(remote[:100], source[:100], qp=3).wait()
    wide.channel.memcpy_many([(remote[100:200], source[100:200])], qp=2)
    with wide.channel.prepare(remote[200:], source[200:], qp=1) as copy:
        copy()
    assert wide.peek(name, 0, 300) == pattern(300)


@pytest.mark.parametrize("qp", [4, -1, 1 << 40])
def test_a_qp_that_is_not_there_is_refused(wide: Ends, qp: int) -> None:
    _, remote = wide.expose(64)
    source = wide.local(64)
    for attempt in (
        lambda: wide.channel.memcpy(remote, source, qp=qp),
        lambda: wide.channel.memcpy_async(remote, source, qp=qp),
        lambda: wide.channel.memcpy_many([(remote, source)], qp=qp),
        lambda: wide.channel.prepare(remote, source, qp=qp),
        lambda: wide.channel.queue_of(qp),
    ):
        with pytest.raises(rt.InvalidArgument, match="QPs 0 to 3"):
            attempt()


def test_a_qp_that_is_no_number_is_refused(wide: Ends) -> None:
    _, remote = wide.expose(64)
    with pytest.raises(TypeError, match="qp is a number"):
        wide.channel.memcpy(remote, wide.local(64), qp="1")  # type: ignore[arg-type]


def test_threads_on_their_own_qps_do_not_disturb_each_other(wide: Ends) -> None:
    if wide.limits.virtual_time:
        pytest.skip("limits.virtual_time: one thread only")
    name, remote = wide.expose(4 * 4096)
    sources = [wide.local(4096) for _ in range(4)]
    failed: list[BaseException] = []

    def work(qp: int) -> None:
        part = slice(qp * 4096, (qp + 1) * 4096)
        try:
            for number in range(50):
                sources[qp].view()[:] = pattern(4096, 100 * qp + number)
                wide.channel.memcpy(remote[part], sources[qp], qp=qp)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(qp,)) for qp in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    for qp in range(4):
        assert wide.peek(name, qp * 4096, (qp + 1) * 4096) == pattern(4096, 100 * qp + 49)


def test_threads_on_one_qp_take_turns(wide: Ends) -> None:
    if wide.limits.virtual_time:
        pytest.skip("limits.virtual_time: one thread only")
    name, remote = wide.expose(4 * 4096)
    failed: list[BaseException] = []
    sources = [wide.local(pattern(4096, slot)) for slot in range(4)]

    def work(slot: int) -> None:
        try:
            for _ in range(50):
                wide.channel.memcpy(remote[slot * 4096 : (slot + 1) * 4096], sources[slot])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert wide.peek(name, 0, 4 * 4096) == b"".join(pattern(4096, slot) for slot in range(4))
