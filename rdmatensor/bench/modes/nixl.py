"""nixl: prepared WRITEs with a notification over NIXL's UCX backend; progress thread off (by far
the faster setting).
"""

from __future__ import annotations

import base64
import time

import numpy as np

from rdmatensor.bench.modes.base import DEADLINE_S, End, Look, Mode, Setup

__all__ = ["Nixl"]


class Nixl(Mode):
    """NIXL, driven as in its Python examples."""

    name = "nixl"
    package = "nixl"
    install = "pip install nixl"

    def end(self, setup: Setup) -> NixlEnd:
        return NixlEnd(setup)


class NixlEnd(End):
    """One end of NIXL. Each slot has a prepared transfer into the same slot of the peer. No flow
    control: the receiver counts.
    """

    transport = "ucx"
    note = "prepared WRITE with notification, progress thread off, both ends poll"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        from nixl._api import nixl_agent, nixl_agent_config

        config = nixl_agent_config(enable_prog_thread=False, backends=["UCX"])
        self._agent = nixl_agent(setup.role, config)
        self._other = "second" if setup.first else "first"

    def prepare(self, size: int, depth: int) -> float | None:
        super().prepare(size, depth)
        self._memory = np.zeros((1 + depth, size), np.uint8)  # the outgoing tensor, then the slots
        at = self._memory.ctypes.data
        begin = time.perf_counter()
        self._registered = self._agent.register_memory([(at, self._memory.nbytes, 0, "")], "DRAM")
        took = time.perf_counter() - begin
        self.outgoing = self._memory[0]
        self._slots = [(at + (1 + slot) * size, size, 0) for slot in range(depth)]
        self._busy = [False] * depth
        self._sent = self._taken = self._seen = 0
        return took

    def token(self) -> str:
        described = self._agent.get_serialized_descs(self._agent.get_xfer_descs(self._slots, "DRAM"))
        return ",".join(base64.b64encode(part).decode() for part in (self._agent.get_agent_metadata(), described))

    def know(self, token: str) -> None:
        metadata, described = (base64.b64decode(part) for part in token.split(","))
        agent = self._agent
        agent.add_remote_agent(metadata)
        local = agent.prep_xfer_dlist("NIXL_INIT_AGENT", [(self._memory.ctypes.data, self.size, 0)], "DRAM")
        remote = agent.prep_xfer_dlist(self._other, agent.deserialize_descs(described))
        self._lists = (local, remote)
        self._handles = [
            agent.make_prepped_xfer("WRITE", local, [0], remote, [slot], b"t") for slot in range(self.depth)
        ]

    def _poll(self) -> None:
        for messages in self._agent.get_new_notifs().values():
            self._seen += len(messages)

    def _settle(self, slot: int) -> None:
        deadline = 0.0
        while self._busy[slot]:
            state = self._agent.check_xfer_state(self._handles[slot])
            if state == "DONE":
                self._busy[slot] = False
            elif state == "ERR":
                raise RuntimeError("NIXL says that a transfer failed")
            else:
                self._poll()
                deadline = self._late(deadline)

    @staticmethod
    def _late(deadline: float) -> float:
        if deadline == 0.0:
            return time.monotonic() + DEADLINE_S
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing moved for {DEADLINE_S:g} s")
        return deadline

    def send(self) -> None:
        slot = self._sent % self.depth
        if self._busy[slot]:
            self._settle(slot)
        state = self._agent.transfer(self._handles[slot])
        if state == "ERR":
            raise RuntimeError("NIXL could not begin a transfer")
        self._busy[slot] = state != "DONE"
        self._sent += 1

    def finish(self) -> None:
        for slot in range(self.depth):
            self._settle(slot)

    def receive(self, look: Look | None = None) -> None:
        deadline = 0.0
        while self._seen <= self._taken:
            self._poll()
            if self._seen <= self._taken:
                for slot in range(self.depth):  # without a progress thread, polling a transfer moves it
                    if self._busy[slot]:
                        self._busy[slot] = self._agent.check_xfer_state(self._handles[slot]) != "DONE"
                deadline = self._late(deadline)
        if look is not None:
            look(self._memory[1 + self._taken % self.depth])
        self._taken += 1

    def release(self) -> None:
        self.finish()
        for handle in self._handles:
            self._agent.release_xfer_handle(handle)
        for prepared in self._lists:
            self._agent.release_dlist_handle(prepared)
        del self._handles, self._lists
        self._agent.deregister_memory(self._registered)
        self._agent.remove_remote_agent(self._other)
        del self.outgoing, self._memory, self._registered
