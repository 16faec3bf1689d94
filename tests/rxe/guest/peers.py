"""The other end in tests on soft-RoCE: a stranger over pyverbs, and what can be read from an address or a handle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import select
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rdmatensor as rt
from rdmatensor.testing import Party

SCRIPT = Path(__file__).with_name("stranger.py")
TIMEOUT = 60.0
SUCCESS, FLUSHED, REMOTE_ACCESS = 0, 5, 10  # of enum ibv_wc_status
QP_ERROR = 6  # of enum ibv_qp_state
KEY = struct.Struct("<BIQQI")  # the end of a verbs handle: version, rkey, address, size, rights
RANGE = struct.Struct("<QQIQ")  # before it and its length: offset, size, rights, size of the registration


@dataclass(frozen=True)
class Key:
    """The fields of a handle of the verbs provider."""

    rkey: int
    address: int
    size: int


def key_in(handle: bytes) -> Key:
    _, rkey, address, size, _ = KEY.unpack(handle[-KEY.size :])
    offset = RANGE.unpack(handle[-KEY.size - 1 - RANGE.size : -KEY.size - 1])[0]
    return Key(rkey, address + offset, size)


def forged(handle: bytes, *, rkey: int | None = None, size: int | None = None, rights: int | None = None) -> bytes:
    """The handle of a whole region with some of what it says changed."""
    at = len(handle) - KEY.size
    version, old_rkey, address, old_size, old_rights = KEY.unpack(handle[at:])
    size, rights = size or old_size, rights or old_rights
    key = KEY.pack(version, old_rkey if rkey is None else rkey, address, size, rights)
    return handle[: at - 1 - RANGE.size] + RANGE.pack(0, size, rights, size) + handle[at - 1 : at] + key


class Stranger:
    """A process of stranger.py; `rights` are those of its memory, `claimed` what its handle says instead."""

    def __init__(self, device: str, *, shift: int = 0, rights: int = 6) -> None:
        self._start = [device, str(shift), str(rights)]

    def connect(self, device: rt.Device) -> rt.Channel:
        """It connects to us."""
        with device.listen("127.0.0.1:0") as listener:
            self._run("connect", listener.address)
            return self._joined(listener.accept())

    def accept(self, device: rt.Device) -> rt.Channel:
        """We connect to it."""
        self._run("listen")
        return self._joined(device.connect(f"127.0.0.1:{self._line()['port']}"))

    def _run(self, *how: str) -> None:
        self._process = subprocess.Popen(
            ["/usr/bin/python3", str(SCRIPT), *self._start, *how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def _joined(self, channel: rt.Channel) -> rt.Channel:
        said = self._line()
        self.own: dict[str, int] = said["own"]
        self.peer: dict[str, int] = said["peer"]
        self.memory: dict[str, int] = said["memory"]
        self.handle = bytes.fromhex(said["handle"])
        return channel

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], TIMEOUT)[0], "the stranger says nothing"
        line = self._process.stdout.readline()
        assert line, f"the stranger ended with {self._process.wait(TIMEOUT)}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def tell(self, do: str, **words: int) -> dict[str, Any]:
        """Gives it a command and returns its reply."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **words}).encode() + b"\n")
        self._process.stdin.flush()
        return self._line()

    def end(self) -> None:
        if hasattr(self, "_process"):
            self._process.kill()
            self._process.communicate()


# ---- functions for the other party ----

BOTH = rt.Access.REMOTE_WRITE | rt.Access.REMOTE_READ


def filled(nbytes: int, seed: int) -> bytes:
    """Bytes in which a shift, a swap or a repetition shows."""
    return random.Random(seed).randbytes(nbytes)


def digest(data: bytes | bytearray | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def expose(party: Party, name: str, nbytes: int, access: int, seed: int) -> bytes:
    """A new region with known bytes, kept under its name; its handle."""
    region = party.kept[name] = party.device.region(nbytes, access=rt.Access(access))
    region[:].view()[:] = filled(nbytes, seed)
    return region.handle()


def digest_of(party: Party, name: str) -> str:
    return digest(party.kept[name][:].view())


def failure_of(party: Party, name: str, timeout: float) -> tuple[str, str, float]:
    """The state of a channel over there once it failed or after the timeout, why, and seconds until then."""
    channel, word, began = party.kept[name], party.device.region(64), time.monotonic()
    with contextlib.suppress(rt.RdmaError):
        channel.wait_word(word[:8], 1, timeout=timeout)
    return channel.state, str(channel.failure), time.monotonic() - began


def until_word(party: Party, channel: str, flag: str, value: int, name: str, start: int, stop: int) -> str:
    """Waits for a word, then at once the digest of a part of a region."""
    party.kept[channel].wait_word(party.kept[flag][:8], value, timeout=300)
    return digest(party.kept[name][start:stop].view())


def write_endlessly(party: Party, channel: str, target: bytes, count: bytes, nbytes: int) -> None:
    """Writes to memory of the first party and counts up a word there, until it is killed."""
    link = party.kept[channel]
    remote, word = link.attach(target), link.attach(count)
    source, number = party.device.region(nbytes), party.device.region(64)
    for turn in range(1, 1 << 60):
        source[:].view()[:] = bytes([turn & 255]) * nbytes
        number[:8].view()[:] = turn.to_bytes(8, "little")
        link.memcpy_many([(remote, source), (word, number[:8])])
