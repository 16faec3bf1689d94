"""The command `rdmatensor`: one module per command, each with `add(subparsers)` and a function that runs it."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence

import rdmatensor
from rdmatensor.cli import bench, devices, run, vm

__all__ = ["main"]


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    top = argparse.ArgumentParser(prog="rdmatensor", description="Tensors moved between processes by one-sided RDMA.")
    top.add_argument("--version", action="version", version=f"rdmatensor {rdmatensor.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    devices.add(commands)
    bench.add(commands)
    run.add(commands)
    vm.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0 done, 1 failed with one line on standard error."""
    make_printable()
    options = parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) has closed the pipe
        print_nowhere()
        return 0
    except rdmatensor.RdmaError as error:
        print(f"rdmatensor {options.command}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print_nowhere()
        on = f" on {error.filename}" if error.filename else ""
        print(f"rdmatensor {options.command}: the system refused something{on}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def make_printable() -> None:
    """Replaces characters that a terminal without UTF-8 cannot show, so that they do not end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def print_nowhere() -> None:
    """Points standard output at /dev/null, so that the interpreter does not try again at exit to
    print what failed.
    """
    with contextlib.suppress(AttributeError, OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
