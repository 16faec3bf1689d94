"""The common part of our own modes: a device for each end, and a channel between them."""

from __future__ import annotations

import contextlib
from typing import Any

import rdmatensor as rt
from rdmatensor.bench.modes.base import DEADLINE_S, End, Mode, Setup

__all__ = ["OwnEnd", "OwnMode"]


class OwnMode(Mode):
    """A mode of this library, which is always installed."""

    kind = "ours"

    def version(self) -> str:
        return f"rdmatensor {rt.__version__}"

    def missing(self, setup: Setup) -> str:
        return ""


class OwnEnd(End):
    """An end with a device and a channel; the second listens. Both use the library's defaults
    except for the settings.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.device = rt.Device(
            setup.url, queues=setup.cqs, qps_per_peer=setup.qps, wait=setup.wait, timeout=DEADLINE_S
        )
        self.transport = self.device.provider
        self.note = f"{setup.qps} QP, {setup.cqs} CQ, wait={setup.wait}"
        self._listener: rt.Listener | None = None
        self._channel: rt.Channel | None = None

    def offer(self) -> dict[str, Any]:
        self._listener = self.device.listen(f"{self.setup.bind}:0")
        return {"port": int(self._listener.address.rsplit(":", 1)[1])}

    def meet(self, offer: dict[str, Any]) -> None:
        if self._listener is not None:
            self._channel = self._listener.accept(timeout=DEADLINE_S)
        else:
            self._channel = self.device.connect(f"{self.setup.connect}:{offer['port']}", timeout=DEADLINE_S)

    @property
    def channel(self) -> rt.Channel:
        assert self._channel is not None
        return self._channel

    def region(self, nbytes: int, *, access: rt.Access = rt.Access.LOCAL) -> rt.Region:
        """Registered memory of this end."""
        return self.device.region(nbytes, access=access)

    @staticmethod
    def registration_s(*regions: rt.Region) -> float:
        """The seconds that registration took, from the regions' counters."""
        return sum(region.stats.registering_ns for region in regions) / 1e9

    def close(self) -> None:
        with contextlib.suppress(rt.RdmaError):
            self.channel.close()
        self.device.close()
