"""Exceptions carry what, on what and why, and every status of the core has one."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

import rdmatensor as rt
from rdmatensor import _core, errors

KINDS = [getattr(errors, name) for name in errors.__all__]
HEADER = Path(__file__).resolve().parents[2] / "csrc" / "base" / "status.h"
STATUSES = re.findall(r"^    (RT_E_\w+) = (-\d+),", HEADER.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_reads_as_what_on_what_why(kind: type[rt.RdmaError]) -> None:
    error = kind("copy 64 bytes", "channel 1", "it is down", status="flushed", error_number=5)
    assert str(error) == "copy 64 bytes on channel 1: it is down"
    assert (error.what, error.on, error.why) == ("copy 64 bytes", "channel 1", "it is down")
    assert str(kind("copy", why="no")) == "copy: no"
    assert str(kind("copy")) == "copy"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_crosses_processes(kind: type[rt.RdmaError]) -> None:
    error = pickle.loads(pickle.dumps(kind("a", "b", "c", status="auth", error_number=13)))
    assert type(error) is kind
    assert (error.what, error.on, error.why, error.status, error.error_number) == ("a", "b", "c", "auth", 13)


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_public_documented_and_one_of_ours(kind: type[rt.RdmaError]) -> None:
    assert getattr(rt, kind.__name__) is kind
    assert issubclass(kind, rt.RdmaError)
    assert kind.__doc__
    assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize(("name", "number"), STATUSES)
def test_every_status_becomes_an_exception_with_its_name(name: str, number: str) -> None:
    error = _core.failure(int(number), "try", "it")
    assert error.status == name[5:].lower().replace("_", "-")
    if name not in ("RT_E_INTERRUPTED", "RT_E_SYSTEM"):  # the one is never raised, the other has no radius of its own
        assert type(error) is not rt.RdmaError


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (rt.DeadlineExceeded, TimeoutError),
        (rt.PeerLost, ConnectionError),
        (rt.ConnectError, ConnectionError),
        (rt.OutOfBounds, IndexError),
        (rt.AccessDenied, PermissionError),
        (rt.InvalidArgument, ValueError),
        (rt.ClosedError, ValueError),
        (rt.NameNotFound, LookupError),
        (rt.OutOfMemory, MemoryError),
        (rt.Unsupported, NotImplementedError),
    ],
)
def test_an_error_is_what_python_calls_it_as_well(kind: type[rt.RdmaError], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)


def test_radiuses_contain_each_other() -> None:
    assert issubclass(rt.PeerClosed, rt.PeerLost)
    assert issubclass(rt.AuthenticationError, rt.ConnectError)
    assert issubclass(rt.DeadlineExceeded, rt.TransferError)
    assert not issubclass(rt.PeerLost, rt.TransferError)
    assert not issubclass(rt.DeviceLost, rt.PeerLost)
