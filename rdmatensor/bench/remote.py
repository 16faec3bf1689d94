"""Runs between two hosts: a channel of this library carries the command's messages to the processes
of the other host.

The library's own rules therefore decide which peers may connect: without a secret, only processes
of this user on this host; on any other address, only peers that know the secret. Messages are lines
of JSON in a mailbox that the other end WRITEs into.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np

import rdmatensor as rt
from rdmatensor.bench.modes import MODES
from rdmatensor.bench.pair import Process, Spot
from rdmatensor.bench.wire import Gone

__all__ = ["Far", "Mailbox", "serve"]

PAYLOAD = 64 * 1024
ARRIVED, TAKEN, LENGTH, BODY = 0, 64, 128, 192
NAME = "bench-mail"
ANSWER_S = 30.0
TURN_S = 120.0
"""The longest time that a command waits while another one is served."""
IDLE_S = 0.5
ENDS = {"end": Process.close, "rest": Process.rest, "wake": Process.wake}
"""Commands that act on a process and are not forwarded to it."""


class Mailbox:
    """One end of a pair of mailboxes. Any thread may send; one thread receives.

    The connecting end publishes its mailbox. The listening end, which may have several mailboxes
    one after the other, names its own in its first message.
    """

    def __init__(self, device: rt.Device, channel: rt.Channel, *, connected: bool) -> None:
        self.channel = channel
        self._device = device
        self._inbox = device.region(BODY + PAYLOAD, access=rt.Access.REMOTE_WRITE)
        self._outbox = device.region(BODY + PAYLOAD)
        self._words = self._outbox[:BODY].array(-1, np.uint64)
        self._body = self._outbox[BODY:].array()
        self._told = self._heard = 0
        self._lock = threading.Lock()
        if connected:
            device.publish(NAME, self._inbox)
            self._there = channel.attach(bytes.fromhex(self._read(TURN_S)["mailbox"]))
            self._took()
        else:
            self._there = channel.lookup(NAME, timeout=ANSWER_S)
            self.tell({"mailbox": self._inbox.handle().hex()})

    def _write(self, at: int, size: int = 8) -> None:
        self.channel.memcpy(self._there[at : at + size], self._outbox[at : at + size])

    def tell(self, message: dict[str, Any]) -> None:
        """Sends one message once the peer has taken the previous one. Gone when the peer is gone."""
        text = json.dumps(message).encode()
        if len(text) > PAYLOAD:
            raise ValueError(f"a message has {len(text)} bytes, more than {PAYLOAD}")
        with self._lock:
            try:
                self.channel.wait_word(self._inbox[TAKEN : TAKEN + 8], self._told, timeout=ANSWER_S)
                self._body[: len(text)] = np.frombuffer(text, np.uint8)
                self._words[LENGTH // 8] = len(text)
                self._write(LENGTH, BODY - LENGTH + len(text))
                self._told += 1
                self._words[ARRIVED // 8] = self._told
                self._write(ARRIVED)
            except rt.RdmaError as error:
                raise Gone(f"the other host: {error}") from None

    def hear(self, timeout: float) -> dict[str, Any]:
        """The next message; Gone when none came within `timeout` seconds, or when none can come."""
        message = self._read(timeout)
        self._took()
        return message

    def _read(self, timeout: float) -> dict[str, Any]:
        try:
            self.channel.wait_word(self._inbox[ARRIVED : ARRIVED + 8], self._heard + 1, timeout=timeout)
            size = min(int.from_bytes(self._inbox[LENGTH : LENGTH + 8].view(), "little"), PAYLOAD)
            message = json.loads(bytes(self._inbox[BODY : BODY + size].view()))
        except rt.DeadlineExceeded:
            raise Gone(f"no answer in {timeout:g} s") from None
        except (rt.RdmaError, ValueError) as error:
            raise Gone(f"the other host: {error}") from None
        if not isinstance(message, dict):
            raise Gone("the other host does not speak this protocol")
        return message

    def _took(self) -> None:
        """Tells the peer that the message may be overwritten. Takes no lock: its holder may be
        waiting for this very word.
        """
        self._heard += 1
        self._words[TAKEN // 8] = self._heard
        try:
            self._write(TAKEN)
        except rt.RdmaError as error:
            raise Gone(f"the other host: {error}") from None

    def close(self) -> None:
        """Ends the channel."""
        self.channel.close()
        with contextlib.suppress(rt.RdmaError):
            self._device.unpublish(NAME)  # where it was published


class Far:
    """The second ends of all modes on the other host, as the command drives them."""

    def __init__(self, device: rt.Device, address: str) -> None:
        self._mail = Mailbox(device, device.connect(address, timeout=ANSWER_S), connected=True)
        self._waiting: dict[str, deque[dict[str, Any]]] = defaultdict(deque)
        self._mail.tell({"hello": rt.__version__})
        answer = self._mail.hear(ANSWER_S)
        if answer.get("version") != rt.__version__:
            why = f"it runs rdmatensor {answer.get('version')}, this is {rt.__version__}: install the same at both ends"
            raise rt.ConnectError("bench", address, why)
        self.bind: str = answer["bind"]

    def end(self, mode: str) -> FarEnd:
        """Starts a mode's second process on the other host."""
        self._mail.tell({"start": mode})
        return FarEnd(self, mode)

    def tell(self, mode: str, message: dict[str, Any]) -> None:
        self._mail.tell({"to": mode, "line": message})

    def hear(self, mode: str, timeout: float) -> dict[str, Any]:
        """The next answer of a mode; answers of other modes are kept."""
        while not self._waiting[mode]:
            answer = self._mail.hear(timeout)
            self._waiting[str(answer["from"])].append(answer["line"])
        line = self._waiting[mode].popleft()
        if "gone" in line:
            raise Gone(line["gone"])
        return line

    def close(self) -> None:
        with contextlib.suppress(Gone):
            self._mail.tell({"bye": True})
        self._mail.close()


class FarEnd:
    """One second end on the other host; the counterpart of `pair.Process` on this one."""

    def __init__(self, far: Far, mode: str) -> None:
        self._far, self._mode = far, mode

    def tell(self, message: dict[str, Any]) -> None:
        self._far.tell(self._mode, message)

    def hear(self, timeout: float) -> dict[str, Any]:
        return self._far.hear(self._mode, timeout)

    def trouble(self) -> str:
        return "on the other host"

    def rest(self) -> None:
        with contextlib.suppress(Gone):  # the next question to this end reports it
            self._far.tell(self._mode, {"do": "rest"})

    def wake(self) -> None:
        with contextlib.suppress(Gone):
            self._far.tell(self._mode, {"do": "wake"})

    def close(self) -> None:
        with contextlib.suppress(Gone):
            self._far.tell(self._mode, {"do": "end"})


def serve(device: rt.Device, address: str, say: Callable[[str], None], *, url: str = "", once: bool = False) -> None:
    """Runs the second ends for each command that connects, one after the other, until it is
    interrupted.
    """
    bind = address.rsplit(":", 1)[0]
    with device.listen(address) as listener:
        say(f"serving on {listener.address} over {device.provider}; there: rdmatensor bench --connect HOST:PORT")
        while True:
            try:
                channel = listener.accept(timeout=IDLE_S)
            except rt.DeadlineExceeded:
                for refusal in listener.refusals():
                    say(f"turned away: {refusal}")
                continue
            say(f"serving {channel.peer}")
            try:
                Session(device, channel, bind, url or f"{device.provider}://{device.name}").run()
            except (Gone, rt.RdmaError) as gone:
                say(f"{channel.peer} is gone: {gone}")
            if once:
                return


class Session:
    """The processes that run here for one connected command."""

    def __init__(self, device: rt.Device, channel: rt.Channel, bind: str, url: str) -> None:
        self._mail = Mailbox(device, channel, connected=False)
        self._bind = bind
        self._url = url  # of this host's device: the other host's may have another name
        self._spot = Spot()
        self._ends: dict[str, Process] = {}

    def run(self) -> None:
        """Serves commands until the peer closes or is gone."""
        try:
            while True:
                with contextlib.suppress(Gone):
                    message = self._mail.hear(IDLE_S)
                    if "bye" in message:
                        return
                    self._act(message)
                    continue
                if self._mail.channel.state != "ready":
                    raise Gone(str(self._mail.channel.failure))
        finally:
            for end in self._ends.values():
                end.close()
            self._spot.close()
            self._mail.close()

    def _act(self, message: dict[str, Any]) -> None:
        if "hello" in message:
            self._mail.tell({"version": rt.__version__, "bind": self._bind})
        elif "start" in message and message["start"] in MODES:
            mode = str(message["start"])
            self._ends[mode] = Process(self._spot, MODES[mode], "second")
            threading.Thread(target=self._forward, args=(mode, self._ends[mode]), daemon=True).start()
        elif "to" in message and message["to"] in self._ends:
            end, line = self._ends[message["to"]], message["line"]
            if line.get("do") in ENDS:
                ENDS[line["do"]](end)
                return
            if line.get("do") == "open":
                line["setup"] |= {"folder": self._spot.folder, "url": self._url}
            with contextlib.suppress(Gone):  # the forwarding thread reports it
                end.tell(line)

    def _forward(self, mode: str, end: Process) -> None:
        """Forwards a process's answers until the process ends."""
        with contextlib.suppress(Gone):
            try:
                end.join()
                while True:
                    self._mail.tell({"from": mode, "line": end.hear(1e6)})
            except Gone as gone:
                trouble = end.trouble()
                self._mail.tell({"from": mode, "line": {"gone": f"{gone} ({trouble})" if trouble else str(gone)}})
