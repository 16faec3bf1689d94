"""Runs of pytest in `rdmatensor vm run` beside this one, whose reports are shown here as they come."""

from __future__ import annotations

import json
import os
import queue
import shlex
import subprocess
import sys
import threading
from typing import IO, Any

import pytest
from machines import ROOT, environment

TIMEOUT = 1200
SAID = b"rdmatensor vm ["
SUFFIX = "@soft-roce"
"""Of the names of tests that ran there. tests/conftest.py counts these, where workers share the tests."""


class Run:
    """A run under way: lines of relay.py and of `rdmatensor vm` in a queue, and None at the end."""

    def __init__(self, *words: str) -> None:
        options = shlex.split(os.environ.get("RXE_VM", ""))
        further = shlex.split(os.environ.get("RXE_ARGS", ""))
        command = [
            sys.executable,
            "-m",
            "rdmatensor",
            "vm",
            "run",
            "--timeout",
            str(TIMEOUT),
            *options,
            *words,
            *further,
        ]
        self.printed: list[bytes] = []
        self.lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, kept), daemon=True)
            for stream, kept in ((self.process.stdout, False), (self.process.stderr, True))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[bytes], kept: bool) -> None:
        for line in stream:
            if kept:
                self.printed.append(line)
            if not kept or line.startswith(SAID):
                self.lines.put(line)
        self.lines.put(None)

    def end(self) -> None:
        """Ends it if it still runs."""
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


class Shown:
    """Shows a run's reports as reports of this pytest."""

    def __init__(self, session: pytest.Session) -> None:
        self.session = session
        self.collected = 0
        self.ended: set[str] = set()
        self.failed = False
        self.status: int | None = None

    def follow(self, run: Run) -> int:
        """Until its end; its status."""
        capture = self.session.config.pluginmanager.getplugin("capturemanager")
        streams = 2
        while streams:
            line = run.lines.get()
            if line is None:
                streams -= 1
                continue
            with capture.global_and_fixture_disabled():
                if line.startswith(SAID):
                    self._say(line.decode(errors="replace").rstrip())
                else:
                    self._take(json.loads(line))
        return run.process.wait()

    def _say(self, line: str) -> None:
        if hasattr(
            self.session.config, "workerinput"
        ):  # a worker's standard error is that of the pytest that started it
            print(f"\n{line}", file=sys.stderr, flush=True)
        else:
            terminal = self.session.config.pluginmanager.getplugin("terminalreporter")
            terminal.ensure_newline()
            terminal.write_line(line)

    def _report(self, report: Any) -> None:
        """To this pytest, or to the one that started this worker, whose own hook takes only reports of its items."""
        config = self.session.config
        workers = [plugin for plugin in config.pluginmanager.get_plugins() if hasattr(plugin, "sendevent")]
        if workers:
            data = config.hook.pytest_report_to_serializable(config=config, report=report)
            workers[0].sendevent("testreport", data={**data, "worker_id": config.workerinput["workerid"]})
        else:
            config.hook.pytest_runtest_logreport(report=report)

    def _take(self, message: dict[str, Any]) -> None:
        config = self.session.config
        if "collected" in message:
            self.collected = message["collected"]
            self.session.testscollected += self.collected
        elif "status" in message:
            self.status = message["status"]
        else:
            report = config.hook.pytest_report_from_serializable(config=config, data=message["report"])
            report.nodeid += SUFFIX
            if isinstance(report.longrepr, list):
                report.longrepr = tuple(report.longrepr)  # where and why of a skip, which JSON made a list
            self.failed |= report.failed
            if report.when == "teardown":
                self.ended.add(report.nodeid)
            self._report(report)
