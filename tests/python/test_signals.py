"""A signal prints who hangs, of every device."""

from __future__ import annotations

import os
import signal

import pytest

import rdmatensor as rt


def test_a_signal_dumps_every_open_device_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    restore = rt.dump_on_signal(signal.SIGUSR2)
    with rt.Device("shm://") as device, device.listen() as listener:
        channel, accepted = device.connect(listener.address), listener.accept()
        os.kill(os.getpid(), signal.SIGUSR2)
        text = capfd.readouterr().err
        assert channel.peer in text
        assert "qp 0" in text
        assert accepted.state == "ready"
    os.kill(os.getpid(), signal.SIGUSR2)
    assert channel.peer not in capfd.readouterr().err
    restore()
    assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL


def test_a_handler_that_was_there_is_called_after_the_dump() -> None:
    seen: list[int] = []
    former = signal.signal(signal.SIGUSR2, lambda number, _frame: seen.append(number))
    restore = rt.dump_on_signal(signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGUSR2)
    assert seen == [signal.SIGUSR2]
    restore()
    signal.signal(signal.SIGUSR2, former)


def test_the_environment_gives_the_default_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDMATENSOR_SECRET", "of the environment")
    with rt.Device("shm://") as device, device.listen() as listener:
        with device.connect(listener.address) as channel:
            assert channel.state == "ready"
        with pytest.raises(rt.AuthenticationError):
            device.connect(listener.address, secret="another")
