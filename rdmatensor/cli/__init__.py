"""The command `rdmatensor`: one module per command, each with `add(subparsers)` and a function that runs it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import rdmatensor
from rdmatensor.cli import bench, devices, vm

__all__ = ["main"]


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    top = argparse.ArgumentParser(prog="rdmatensor", description="Tensors moved between processes by one-sided RDMA.")
    top.add_argument("--version", action="version", version=f"rdmatensor {rdmatensor.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    devices.add(commands)
    bench.add(commands)
    vm.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0 done, 1 failed with one line on standard error."""
    options = parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except rdmatensor.RdmaError as error:
        print(f"rdmatensor {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status
