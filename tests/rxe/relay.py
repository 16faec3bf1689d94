"""A run of pytest whose every report is also a line of JSON on standard output, for a pytest elsewhere to show as its
own: `python tests/rxe/relay.py ARGUMENTS`. The output of pytest itself goes to standard error.

The first line says how many tests there are, the last one how pytest ended.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pytest


class Relay:
    """The plugin that writes the lines."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, **line: Any) -> None:
        data = json.dumps(line).encode() + b"\n"
        while data:
            data = data[os.write(self._descriptor, data) :]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.config = session.config
        self.write(collected=len(session.items))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.write(report=self.config.hook.pytest_report_to_serializable(config=self.config, report=report))


def main() -> int:
    relay = Relay(os.dup(1))
    os.dup2(2, 1)
    status = int(pytest.main(sys.argv[1:], plugins=[relay]))
    relay.write(status=status)
    return status


if __name__ == "__main__":
    sys.exit(main())
