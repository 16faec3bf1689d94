"""`rdmatensor vm`: runs any command with soft-RoCE, in an emulated machine where this kernel has no
soft-RoCE.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rdmatensor.errors import InvalidArgument
from rdmatensor.settings import config
from rdmatensor.vm import Options, Shape, Store, accel, here, packages, run
from rdmatensor.vm.options import duration, memory_size, percent, variables

__all__ = ["add", "options_of"]

EPILOG = """\
exit status: that of COMMAND (128 and the number of the signal that ended it), 124 when it did not end in time, 125 when
the machine could not be made or failed; 127 when there is no such command in the guest.

  rdmatensor vm run -- ibv_devinfo
  rdmatensor vm run -- python -m pytest tests/
  rdmatensor vm run --hosts 2 --loss 1% -- bash -c 'ib_write_bw -d rxb & ib_write_bw -d rxa 10.80.0.2; wait'
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    top = commands.add_parser(
        "vm",
        help="run a command with soft-RoCE, on any machine",
        description="Runs commands with soft-RoCE (rdma_rxe): of this kernel, or else of an emulated machine.",
    )
    actions = top.add_subparsers(dest="action", metavar="ACTION", required=True)
    command = actions.add_parser(
        "run",
        help="run a command",
        description="Runs COMMAND in the current directory, which the guest shares.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_machine_options(command)
    add_run_options(command)
    command.set_defaults(run=run_command)
    prepare = actions.add_parser(
        "prepare", help="make everything a run needs, with the newest kernel that has rdma_rxe"
    )
    add_machine_options(prepare)
    prepare.set_defaults(run=prepare_command)
    actions.add_parser("status", help="show what is prepared, and where").set_defaults(run=status_command)
    actions.add_parser("clean", help="remove all that was prepared").set_defaults(run=clean_command)


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that describe the machine."""
    parser.add_argument("--memory", default="2G", metavar="SIZE", help="the guest's memory (2G)")
    parser.add_argument(
        "--python", type=Path, default=Path(sys.executable), metavar="PATH", help="take this Python's environment along"
    )
    parser.add_argument(
        "--package",
        action="append",
        default=[],
        metavar="NAME",
        help="take this installed system package along; repeatable",
    )
    parser.add_argument("--kernel", default="", metavar="PACKAGE", help="use this linux-image-* package")
    parser.add_argument(
        "--accel",
        default="auto",
        choices=accel.NAMES,
        help="kvm: the processor runs the guest; tcg: qemu emulates one; auto: kvm where this system has it (auto)",
    )
    parser.add_argument("--plain", action="store_true", help="boot afresh, without snapshot and preloaded modules")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of one run."""
    parser.add_argument("--hosts", type=int, default=1, choices=(1, 2), help="2: devices rxa and rxb joined by a link")
    for name, example, what in (
        ("loss", "1%", "packets lost"),
        ("reorder", "5%", "packets that overtake others"),
        ("duplicate", "1%", "packets doubled"),
        ("corrupt", "1%", "packets with a flipped bit"),
    ):
        text = f"{what} on the link, in both directions, as in {example}".replace("%", "%%")
        parser.add_argument(f"--{name}", default="", metavar="SHARE", help=text)
    parser.add_argument("--delay", default="", metavar="TIME", help="delay of the link in each direction, as in 1ms")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="for the command (300)")
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="a variable for the command, or yours; repeatable",
    )
    parser.add_argument(
        "--share",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="a further folder for the guest; repeatable",
    )
    parser.add_argument("--force-vm", action="store_true", help="use the machine even where this kernel has soft-RoCE")
    parser.add_argument("command_words", nargs="+", metavar="COMMAND", help="after --, with its arguments")


def options_of(given: argparse.Namespace) -> Options:
    """The arguments as checked options; InvalidArgument names the wrong one."""
    words: list[str] = getattr(given, "command_words", [])
    running = bool(words)
    shape = Shape()
    if running:
        shares = {name: getattr(given, name) for name in ("loss", "reorder", "duplicate", "corrupt")}
        shape = Shape(
            **{name: percent(text) for name, text in shares.items() if text},
            delay=duration(given.delay) if given.delay else "",
        )
    return Options(
        command=tuple(words[1:] if words[:1] == ["--"] else words),
        python=given.python,
        hosts=given.hosts if running else 1,
        shape=shape,
        memory=memory_size(given.memory),
        timeout=given.timeout if running else 300.0,
        environment=variables(given.env, dict(os.environ)) if running else {},
        shares=tuple(given.share) if running else (),
        packages=tuple(given.package),
        kernel=given.kernel,
        accel=given.accel,
        plain=given.plain,
        force_vm=running and given.force_vm,
    )


def speaker() -> Callable[[str], None]:
    """A function that prints lines on standard error, with the seconds since `speaker` was called."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"rdmatensor vm [{time.monotonic() - began:5.1f} s] {text}", file=sys.stderr, flush=True)

    return say


def run_command(given: argparse.Namespace) -> int:
    """`vm run`."""
    say = speaker()
    try:
        return run(options_of(given), lambda: Store(config.vm_cache(), say), say)
    except InvalidArgument as error:
        print(f"rdmatensor vm: {error}", file=sys.stderr)
        return 2


def prepare_command(given: argparse.Namespace) -> int:
    """`vm prepare`."""
    with Store(config.vm_cache(), speaker()).prepared(options_of(given), refresh=True) as parts:
        print(f"ready: Linux {parts.version} with {parts.interpreter.prefix}")
    return 0


def status_command(given: argparse.Namespace) -> int:
    """`vm status`."""
    own = here.devices()
    able = "it can be added" if here.can_add() else "none"
    print(f"soft-RoCE of this kernel: {', '.join(own) or able}")
    print(f"missing packages: {' '.join(packages.missing()) or 'none'}")
    root = config.vm_cache()
    print(f"prepared parts in {root}:{'' if root.is_dir() else ' none'}")
    if root.is_dir():
        for name, size in Store(root, speaker()).sizes().items():
            print(f"    {name}  {size >> 20} MiB")
    return 0


def clean_command(given: argparse.Namespace) -> int:
    """`vm clean`."""
    root = config.vm_cache()
    if root.is_dir():
        Store(root, speaker()).clean()
    print(f"removed what was prepared in {root}")
    return 0
