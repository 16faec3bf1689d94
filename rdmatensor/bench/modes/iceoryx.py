"""iceoryx2: publish and subscribe over shared memory; the sender copies its tensor into a loaned
sample. `iceoryx2-loan` computes it there and moves no byte.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy as np

from rdmatensor.bench import pattern
from rdmatensor.bench.modes.base import DEADLINE_S, Copies, End, Look, Mode, Setup

__all__ = ["Iceoryx", "IceoryxLoan"]

LOOKS_PER_CLOCK = 1024


class Iceoryx(Mode):
    """iceoryx2 with a copy into the loan."""

    name = "iceoryx2"
    package = "iceoryx2"
    install = "pip install iceoryx2"
    one_host_only = True

    def end(self, setup: Setup) -> IceoryxEnd:
        return IceoryxEnd(setup, self.in_place)


class IceoryxLoan(Iceoryx):
    """iceoryx2 with tensors that are made in the loan."""

    name = "iceoryx2-loan"
    in_place = True


class IceoryxEnd(End):
    """One end: a publisher and a subscriber of two services, which are made anew for each size."""

    transport = "memory"

    def __init__(self, setup: Setup, lends: bool) -> None:
        super().__init__(setup)
        import iceoryx2

        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        self._library: Any = iceoryx2
        self._node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        self._lends = lends
        self._number = 0
        self.note = "both ends spin; samples aligned to 4096; views by address, its fastest"

    def offer(self) -> dict[str, Any]:
        return {"name": self.setup.folder.rsplit("/", 1)[-1]}

    def meet(self, offer: dict[str, Any]) -> None:
        self._name = f"{offer['name']}/{'loan' if self._lends else 'copy'}"

    def _service(self, reader: str) -> Any:
        iox = self._library
        name = iox.ServiceName.new(f"{self._name}/{reader}/{self._number}")
        builder = self._node.service_builder(name).publish_subscribe(iox.Slice[ctypes.c_uint8])
        builder = builder.payload_alignment(iox.Alignment.new(4096)).max_publishers(1).max_subscribers(1)
        builder = builder.history_size(0).subscriber_max_buffer_size(max(self.depth, 2))
        return builder.subscriber_max_borrowed_samples(2).enable_safe_overflow(False).open_or_create()

    def prepare(self, size: int, depth: int) -> float | None:
        super().prepare(size, depth)
        self._number += 1
        iox = self._library
        mine, other = ("first", "second") if self.setup.first else ("second", "first")
        self._services = self._service(mine), self._service(other)
        self._subscriber = self._services[0].subscriber_builder().buffer_size(max(depth, 2)).create()
        publisher = self._services[1].publisher_builder().initial_max_slice_len(size).max_loaned_samples(1)
        self._publisher = publisher.backpressure_strategy(iox.BackpressureStrategy.RetryUntilDelivered).create()
        self._type = ctypes.c_uint8 * size
        self.outgoing = np.zeros(0 if self._lends else size, np.uint8)
        self._sent = 0
        return None

    def token(self) -> str | None:
        return ""  # so that both are asked, after both have made their ports

    def know(self, token: str) -> None:
        self._publisher.update_connections()

    def _view(self, sample: Any) -> Any:
        return np.frombuffer(memoryview(self._type.from_address(sample.payload_ptr)), np.uint8)

    def send(self) -> None:
        sample = self._publisher.loan_slice_uninit(self.size)
        if not self._lends:
            ctypes.memmove(sample.payload_ptr, self.outgoing.ctypes.data, self.size)
        self._hand_over(sample)

    def _hand_over(self, sample: Any) -> None:
        sample.assume_init().send()
        self._sent += 1

    def send_anew(self) -> None:
        if not self._lends:
            super().send_anew()
            return
        self._value = (self._value + 1) & 255
        sample = self._publisher.loan_slice_uninit(self.size)
        self._view(sample).fill(self._value)
        self._hand_over(sample)

    def receive(self, look: Look | None = None) -> None:
        receive, looks, deadline = self._subscriber.receive, 0, 0.0
        while (sample := receive()) is None:
            looks += 1
            if looks % LOOKS_PER_CLOCK == 0:
                now = time.monotonic()
                deadline = deadline or now + DEADLINE_S
                if now > deadline:
                    raise TimeoutError(f"the other end did not move for {DEADLINE_S:g} s")
        if look is not None:
            look(self._view(sample))
        sample.delete()

    def check_out(self, seed: int) -> None:
        if not self._lends:
            super().check_out(seed)
            return
        sample = self._publisher.loan_slice_uninit(self.size)
        pattern.fill(self._view(sample), seed)
        self._hand_over(sample)

    def copies(self) -> Copies:
        return Copies(0 if self._lends else self._sent, self._sent)

    def release(self) -> None:
        self._subscriber.delete()
        self._publisher.delete()
        del self._subscriber, self._publisher, self._services, self.outgoing
