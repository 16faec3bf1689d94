"""A report of all devices on a signal, to find what hangs."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable
from types import FrameType

from rdmatensor.device import open_devices
from rdmatensor.errors import RdmaError
from rdmatensor.fork import forked

__all__ = ["dump_all", "dump_on_signal"]


def dump_all() -> str:
    """The `Device.dump()` reports of every open device of this process."""
    if forked():
        return "rdmatensor: a child made by fork has no devices\n"
    reports = []
    for device in open_devices():
        with contextlib.suppress(RdmaError):  # closed meanwhile
            reports.append(device.dump())
    return "\n".join(reports) if reports else "rdmatensor: no device is open\n"


def dump_on_signal(number: int = signal.SIGUSR1) -> Callable[[], None]:
    """Makes a signal print `dump_all()` to stderr; a former Python handler is called afterwards.

    Call it on the main thread. The function that it returns restores the former handler.
    """
    former = signal.getsignal(number)

    def handle(signum: int, frame: FrameType | None) -> None:
        sys.stderr.write(dump_all())
        sys.stderr.flush()
        if callable(former):
            former(signum, frame)

    signal.signal(number, handle)

    def restore() -> None:
        if signal.getsignal(number) is handle:
            signal.signal(number, former if former is not None else signal.SIG_DFL)

    return restore
