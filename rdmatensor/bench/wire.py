"""Lines of JSON between the command and the modes' processes, over a Unix socket that only this
user can reach.
"""

from __future__ import annotations

import json
import select
import socket
import time
from typing import Any

__all__ = ["Gone", "Lines"]

LINE_MAX = 1 << 20


class Gone(Exception):
    """The other end is gone, or did not answer in time."""


class Lines:
    """One end of such a connection. It owns the socket; a context manager."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._rest = b""

    @classmethod
    def to(cls, path: str) -> Lines:
        """Connects to the command."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        return cls(connection)

    def fileno(self) -> int:
        return self._socket.fileno()

    def tell(self, message: dict[str, Any]) -> None:
        """Sends one message. Gone when the other end is gone."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Gone(f"it ended: {error}") from None

    def hear(self, timeout: float | None = None) -> dict[str, Any]:
        """The next message; Gone when none can come, or none came within `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._rest:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and (left <= 0 or not select.select([self._socket], [], [], left)[0]):
                raise Gone(f"no answer in {timeout:g} s")
            try:
                part = self._socket.recv(1 << 16)
            except OSError as error:
                raise Gone(f"it ended: {error}") from None
            if not part:
                raise Gone("it ended")
            self._rest += part
            if len(self._rest) > LINE_MAX:
                raise Gone("its message is too long")
        line, self._rest = self._rest.split(b"\n", 1)
        message = json.loads(line)
        if not isinstance(message, dict):
            raise Gone("it does not speak this protocol")
        return message

    def close(self) -> None:
        """Closes the socket. Twice is fine."""
        self._socket.close()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
