"""grpc: unary calls of gRPC for Python with bytes in and bytes out, so without serialisation beyond
gRPC's framing.
"""

from __future__ import annotations

import os
import queue
import time
from collections import deque
from concurrent import futures
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdmatensor.bench import pattern
from rdmatensor.bench.modes.base import DEADLINE_S, End, Mode, Setup

__all__ = ["Grpc", "GrpcTcp"]

FRAME = 16 * 1024 * 1024 - 1  # the largest frame of HTTP/2


class Grpc(Mode):
    """grpcio, used as its performance guide recommends: unary calls (streams are slower in Python),
    one channel kept open.
    """

    name = "grpc"
    package = "grpcio"
    install = "pip install grpcio"

    def memory(self, size: int, depth: int) -> int:
        return size * (4 + 2 * depth)  # messages, slices and data held back by flow control

    def end(self, setup: Setup) -> GrpcEnd:
        return GrpcEnd(setup)


class GrpcTcp(Grpc):
    """The same over TCP where a Unix socket would do: the paper's gRPC.TCP. Measured on request."""

    name = "grpc-tcp"
    standard = False

    def end(self, setup: Setup) -> GrpcEnd:
        return GrpcEnd(setup, tcp=True)


class GrpcEnd(End):
    """One end of gRPC: the first end calls, the second serves. A round trip is one call with the
    tensor as request and response.
    """

    touches = ("none",)

    def __init__(self, setup: Setup, *, tcp: bool = False) -> None:
        super().__init__(setup)
        self._tcp = tcp or not setup.one_host
        self.transport = "tcp" if self._tcp else "unix"
        self.note = "unary calls, bytes in and out, no limit of message size, frames of 16 MiB"
        self._options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.http2.max_frame_size", FRAME),
        ]
        self._payload = b""
        self._seen: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._given: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    # ---- the serving end ----

    def offer(self) -> dict[str, Any]:
        import grpc

        def echo(request: bytes, _context: Any) -> bytes:
            self._seen.put(None)
            return request

        def take(_request: bytes, _context: Any) -> bytes:
            self._seen.put(None)
            return b""

        def keep(request: bytes, _context: Any) -> bytes:
            self._seen.put(request)
            return b""

        def fetch(_request: bytes, _context: Any) -> bytes:
            self._seen.put(None)
            return self._payload

        def give(_request: bytes, _context: Any) -> bytes:
            payload = self._given.get(timeout=DEADLINE_S)
            self._seen.put(None)
            return payload

        handlers = {
            name: grpc.unary_unary_rpc_method_handler(call)
            for name, call in (("Echo", echo), ("Take", take), ("Keep", keep), ("Fetch", fetch), ("Give", give))
        }
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=2), options=self._options)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", handlers),))
        if not self._tcp:
            address = f"unix:{os.path.join(self.setup.folder, 'grpc')}"
            self._server.add_insecure_port(address)
        else:
            address = f"{self.setup.connect}:{self._server.add_insecure_port(f'{self.setup.bind}:0')}"
        self._server.start()
        return {"address": address}

    def meet(self, offer: dict[str, Any]) -> None:
        if not self.setup.first:
            return
        import grpc

        self._channel = grpc.insecure_channel(offer["address"], options=self._options)
        grpc.channel_ready_future(self._channel).result(DEADLINE_S)
        names = ("Echo", "Take", "Keep", "Fetch", "Give")
        self._calls = {name: self._channel.unary_unary(f"/bench/{name}") for name in names}

    # ---- transfers ----

    def prepare(self, size: int, depth: int) -> float | None:
        super().prepare(size, depth)
        self._payload = bytes(size)
        return None

    def ping(self, count: int) -> NDArray[np.float64]:
        halves = np.empty(count)
        echo, payload, now = self._calls["Echo"], self._payload, time.perf_counter_ns
        for index in range(count):
            begin = now()
            echo(payload, timeout=DEADLINE_S)
            halves[index] = now() - begin
        return halves / 2e9

    def _served(self, count: int) -> None:
        for _ in range(count):
            self._seen.get(timeout=DEADLINE_S)

    def pong(self, count: int) -> None:
        self._served(count)

    def push(self, count: int) -> float:
        begin = time.perf_counter()
        self._call_many(self._calls["Take"], count)
        self._calls["Fetch"](b"", timeout=DEADLINE_S)
        return time.perf_counter() - begin

    def _call_many(self, call: Any, count: int) -> None:
        under_way: deque[Any] = deque()
        for _ in range(count):
            if len(under_way) >= self.depth:
                under_way.popleft().result()
            under_way.append(call.future(self._payload, timeout=DEADLINE_S))
        while under_way:
            under_way.popleft().result()

    def pull(self, count: int) -> None:
        self._served(count + 1)

    def both(self, count: int) -> float:
        """Sends the tensor as request and as response: one each way for every call."""
        begin = time.perf_counter()
        if self.setup.first:
            self._call_many(self._calls["Echo"], count)
        else:
            self._served(count)
        return time.perf_counter() - begin

    # ---- checks ----

    def check_out(self, seed: int) -> None:
        payload = pattern.bytes_of(0, self.size, seed).tobytes()
        if self.setup.first:
            self._calls["Keep"](payload, timeout=DEADLINE_S)
        else:
            self._given.put(payload)
            self._seen.get(timeout=DEADLINE_S)

    def check_in(self, seed: int) -> int:
        first = self.setup.first
        got = self._calls["Give"](b"", timeout=DEADLINE_S) if first else self._seen.get(timeout=DEADLINE_S)
        assert got is not None
        return pattern.differences(np.frombuffer(got, np.uint8), seed) + abs(len(got) - self.size)

    def close(self) -> None:
        if self.setup.first:
            self._channel.close()
        else:
            self._server.stop(None)
