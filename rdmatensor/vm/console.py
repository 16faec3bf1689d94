"""The part of the guest's console that a report needs: its end and, once the kernel is in trouble,
also the beginning of that trouble, which the kernel's register dump would otherwise push out.
"""

from __future__ import annotations

import re

__all__ = ["END_KEPT", "TROUBLE_KEPT", "Console"]

END_KEPT = 16 << 10
"""The bytes kept of the end."""
TROUBLE_KEPT = 32 << 10
"""The bytes kept from the first line of trouble on: several dumps of a few KiB each."""
TROUBLE = re.compile(rb"^.*(Kernel panic|Oops|BUG: |general protection fault|Out of memory: Killed)", re.MULTILINE)
LINE_MAX = 512
"""The bytes before new ones that are searched again, since a trouble mark may have begun in them."""


class Console:
    """The kept output of the console."""

    def __init__(self) -> None:
        self._trouble: bytes | None = None
        self._end = b""

    def keep(self, data: bytes) -> None:
        """Appends new bytes."""
        fresh = max(0, len(self._end) - LINE_MAX)
        self._end += data
        if self._trouble is None and (found := TROUBLE.search(self._end, fresh)):
            self._trouble = b""
            self._end = self._end[found.start() :]
        if self._trouble is not None:
            room = TROUBLE_KEPT - len(self._trouble)
            self._trouble += self._end[:room]
            self._end = self._end[room:]
        self._end = self._end[-END_KEPT:]

    def cause(self) -> str:
        """The first line of trouble, or the last line when there was none."""
        lines = self.report().splitlines() or [""]
        return lines[-1 if self._trouble is None else 0].strip()

    def report(self, lines: int = 40) -> str:
        """The last lines; when there was trouble, everything kept since it began."""
        text = ((self._trouble or b"") + self._end).decode(errors="replace").replace("\r\n", "\n").strip()
        return "\n".join(text.splitlines()[-lines:]) if self._trouble is None else text
