"""mooncake: synchronous WRITEs of Mooncake's transfer engine over TCP, each followed by a word for
the receiver.
"""

from __future__ import annotations

import importlib.metadata
import os
import time

import numpy as np

from rdmatensor.bench.modes.base import DEADLINE_S, End, Look, Mode, Setup

__all__ = ["Mooncake"]

PACKAGES = ("mooncake-transfer-engine-non-cuda", "mooncake-transfer-engine")
LINE = 64


class Mooncake(Mode):
    """Mooncake; the build without CUDA where it is installed, since the other one needs a GPU
    driver.
    """

    name = "mooncake"
    install = "pip install mooncake-transfer-engine-non-cuda (mooncake-transfer-engine on a machine with CUDA)"

    def _installed(self) -> str:
        for package in PACKAGES:
            try:
                return f"{package} {importlib.metadata.version(package)}"
            except importlib.metadata.PackageNotFoundError:
                continue
        return ""

    def version(self) -> str:
        return self._installed()

    def missing(self, setup: Setup) -> str:
        return "" if self._installed() else f"mooncake-transfer-engine is not installed: {self.install}"

    def environment(self) -> dict[str, str]:
        return {"MC_LOG_LEVEL": os.environ.get("MC_LOG_LEVEL", "ERROR")}

    def end(self, setup: Setup) -> MooncakeEnd:
        return MooncakeEnd(setup)


class MooncakeEnd(End):
    """One end of Mooncake. With a depth, payloads go as one batch, followed by one word. No flow
    control: the receiver only counts.
    """

    touches = ("none", "read")
    transport = "tcp"
    note = "transfer_sync_write, then its word; batch_transfer_sync_write of depth payloads; the receiver polls"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        from mooncake.engine import TransferEngine

        self._engine = TransferEngine()
        host = setup.connect if setup.one_host else setup.bind
        if self._engine.initialize(host, "P2PHANDSHAKE", "tcp", "") != 0:
            raise RuntimeError("Mooncake's engine did not start")
        self._name = f"{host}:{self._engine.get_rpc_port()}"

    def prepare(self, size: int, depth: int) -> float | None:
        super().prepare(size, depth)
        stride = self._stride = -(-size // LINE) * LINE
        total = 2 * LINE + stride * (1 + depth)
        self._memory = np.zeros(total, np.uint8)  # incoming word, outgoing word, outgoing tensor, slots
        begin = time.perf_counter()
        if self._engine.register_memory(self._memory.ctypes.data, total) != 0:
            raise RuntimeError("Mooncake's engine did not register the memory")
        took = time.perf_counter() - begin
        self._words = self._memory[: 2 * LINE].view(np.uint64)
        self.outgoing = self._memory[2 * LINE :][:size]
        self._sent = self._taken = 0
        return took

    def token(self) -> str:
        return f"{self._name} {self._memory.ctypes.data}"

    def know(self, token: str) -> None:
        self._there, at = token.split()
        self._at = int(at)

    def _slot(self, number: int) -> int:
        return 2 * LINE + self._stride * (1 + number % self.depth)

    def _wrote(self, status: int) -> None:
        if status != 0:
            raise RuntimeError(f"Mooncake's engine says {status} to a WRITE")

    def _tell(self) -> None:
        self._words[LINE // 8] = self._sent
        here = self._memory.ctypes.data + LINE
        self._wrote(self._engine.transfer_sync_write(self._there, here, self._at, 8))

    def send(self) -> None:
        here, there = self._memory.ctypes.data + 2 * LINE, self._at + self._slot(self._sent)
        self._wrote(self._engine.transfer_sync_write(self._there, here, there, self.size))
        self._sent += 1
        self._tell()

    def push(self, count: int) -> float:
        here, there = self._memory.ctypes.data + 2 * LINE, [self._at + self._slot(slot) for slot in range(self.depth)]
        begin = time.perf_counter()
        left = count
        while left:
            batch = min(left, self.depth)
            self._wrote(
                self._engine.batch_transfer_sync_write(self._there, [here] * batch, there[:batch], [self.size] * batch)
            )
            left -= batch
            self._sent += batch
            self._tell()
        self.receive()
        return time.perf_counter() - begin

    def receive(self, look: Look | None = None) -> None:
        words, wanted = self._words, self._taken + 1
        looks = 0
        deadline = time.monotonic() + DEADLINE_S
        while words[0] < wanted:
            looks += 1
            if looks % 1024 == 0 and time.monotonic() > deadline:
                raise TimeoutError(f"nothing came for {DEADLINE_S:g} s")
            time.sleep(0)  # yields the core to the engine's threads
        if look is not None:
            look(self._memory[self._slot(self._taken) :][: self.size])
        self._taken = wanted

    def release(self) -> None:
        self._engine.unregister_memory(self._memory.ctypes.data)
        del self.outgoing, self._words, self._memory
