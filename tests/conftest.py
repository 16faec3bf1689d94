"""For all tests, and the processes that they start: the locks of the Python layer check their order, and Ctrl-C
interrupts.

With `-n`, workers of pytest-xdist share the tests: sharing.py.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sharing import FilesTogether

os.environ.setdefault("RDMATENSOR_DEBUG_LOCKS", "1")  # before anything imports rdmatensor
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background, which processes inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which need not be installed
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesTogether | None:
    if config.getoption("dist") != "load":  # something else was asked for
        return None
    from sharing import FilesTogether

    return FilesTogether(config, log)


class Named:
    """Names failures as they come: a run that is ended before its summary has then told them."""

    def __init__(self, reporter: Any) -> None:
        self._reporter = reporter

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._reporter.write_line(f"\nfailed, as the summary will explain: {report.nodeid} ({report.when})")


@pytest.hookimpl(trylast=True)  # the terminal's plugin is there
def pytest_configure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None and not hasattr(config, "workerinput"):  # a worker's reports are shown by its controller
        config.pluginmanager.register(Named(reporter))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Counts the tests that a worker shows beside its own: those of tests/rxe that ran elsewhere."""
    node = getattr(report, "node", None)
    if node is not None and report.when == "setup" and report.nodeid.endswith("@soft-roce"):
        node.config.pluginmanager.getplugin("session").testscollected += 1
