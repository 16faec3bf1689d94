"""`rdmatensor bench`: the speed of tensors between two processes, beside the physical limit and the
peers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import rdmatensor as rt
from rdmatensor.bench import compare, machine, options, plot, remote, report, run
from rdmatensor.bench.collectives import COLLECTIVES
from rdmatensor.bench.collectives import measure as collective
from rdmatensor.bench.modes import MODES, Mode
from rdmatensor.bench.modes.base import Setup
from rdmatensor.errors import InvalidArgument, ProviderUnavailable, RdmaError

__all__ = ["add", "modes_of"]

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
PORT = 7471
GROUPS = {"ours": "ours", "peers": "peer", "limits": "limit"}

EPILOG = """\
examples:
  rdmatensor bench                                          two processes here, main modes and sizes, under a minute
  rdmatensor bench --modes static,grpc --sizes 64..64Mi     some modes, sizes in steps of 4 times
  rdmatensor bench --json now.json --plot now.png           for later, and to look at
  rdmatensor bench --compare then.json                      what got better or worse
  rdmatensor bench collectives                              torch's backend of this library, Gloo, MPI
  rdmatensor bench --serve                                  there (RDMATENSOR_SECRET set at both ends) ...
  rdmatensor bench --connect there:7471                     ... and here
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    command = commands.add_parser(
        "bench",
        help="measure transfers between two processes, beside the limit and the peers",
        description="Measures how fast tensors move between two processes: this library's modes, the physical limit,"
        " and the peers that are installed, in one run. What is measured and how: rdmatensor/bench/README.md.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    say = command.add_argument
    say("what", nargs="?", default="transfers", metavar="WHAT", help="transfers (the default) or collectives")
    say("--provider", default="auto", metavar="NAME", help=f"one of {', '.join(options.PROVIDERS)} (auto: the best)")
    say("--device", default="", metavar="NAME", help="the provider's device, as in mlx5_0?gid=3 (its best)")
    say("--modes", default="", metavar="LIST", help=f"any of {', '.join(MODES)}; or ours, peers, limits, all")
    sizes = f"bytes, as in 64,64Ki,64Mi, or 64..64Mi*4 ({options.SIZES})"
    say("--sizes", default=options.SIZES, metavar="LIST", help=sizes)
    say("--depth", default="8", metavar="N", help="tensors under way when bandwidth is measured (8)")
    say("--qps", default="1", metavar="N", help="queue pairs of a channel (1)")
    say("--cqs", default="1", metavar="N", help="completion queues of a device (1)")
    say("--duration", metavar="S", help="seconds that each row measures (so that all fit in a minute)")
    say("--rounds", default=str(options.ROUNDS), metavar="N", help="rounds of each row (5)")
    say("--direction", default="one-way", metavar="WAY", help="one-way or both (at the same time, for bandwidth)")
    say("--wait", default="adaptive", metavar="HOW", help=f"how a receiver waits: {', '.join(options.WAITS)}")
    say("--ordering", default="auto", metavar="HOW", help=f"how a flag is carried: {', '.join(options.ORDERINGS)}")
    touch = "read: the receiver reads every byte; rewrite: the sender also writes its tensor anew (none)"
    say("--touch", default="none", metavar="HOW", help=touch)
    say("--verify", action=argparse.BooleanOptionalAction, default=True, help="compare the bytes of every row (yes)")
    say("--pin", default="", metavar="A,B", help="run the sender on CPU A and the receiver on CPU B")
    say("--json", metavar="FILE", help="write everything that was measured")
    say("--csv", metavar="FILE", help="write the rows")
    say("--plot", metavar="FILE", help="draw latency and bandwidth: .png or .svg (needs rdmatensor[bench])")
    say("--compare", metavar="FILE", help="say what got better or worse than in a file that --json wrote")
    ends = command.add_mutually_exclusive_group()
    ends.add_argument("--serve", nargs="?", const=f"0.0.0.0:{PORT}", metavar="HOST:PORT", help="be the other end")
    ends.add_argument("--connect", metavar="HOST:PORT", help="measure to the host where --serve runs")
    command.set_defaults(run=run_command)


def modes_of(text: str, known: Mapping[str, Mode] = MODES) -> tuple[str, ...]:
    """The modes that names and groups stand for, in the order of the tables; the standard modes for
    an empty text.
    """
    if not text:
        return tuple(name for name, mode in known.items() if mode.standard)
    found: set[str] = set()
    for word in (part.strip() for part in text.split(",")):
        if word in known:
            found.add(word)
        elif word in GROUPS or word == "all":
            found |= {name for name, mode in known.items() if mode.standard and word in ("all", kind_group(mode.kind))}
        else:
            right = f"any of {', '.join(known)}; or {', '.join(GROUPS)}, all"
            raise InvalidArgument("bench", f"--modes {word!r}", f"expected {right}")
    return tuple(name for name in known if name in found)


def kind_group(kind: str) -> str:
    return next(group for group, of in GROUPS.items() if of == kind)


def options_of(given: argparse.Namespace) -> options.Options:
    """The options that were given, checked."""
    options.choose("WHAT", given.what, ("transfers", "collectives"))
    if given.what == "collectives" and given.touch != "none":
        raise options.refused("collectives", "with --touch", "no --touch: results are read where they are compared")
    if given.what == "collectives" and (given.serve or given.connect):
        raise options.refused("collectives", "with --serve or --connect", "both ranks on this host")
    if given.plot:
        plot.check(given.plot)
    numbers = {
        name: options.whole(f"--{name}", getattr(given, name), *bounds) for name, bounds in options.BOUNDS.items()
    }
    return options.Options(
        provider=given.provider,
        device=given.device,
        modes=modes_of(given.modes, COLLECTIVES if given.what == "collectives" else MODES),
        sizes=options.sizes_of(given.sizes),
        depth=numbers["depth"],
        qps=numbers["qps"],
        cqs=numbers["cqs"],
        duration=None if given.duration is None else options.seconds("--duration", given.duration),
        direction=given.direction,
        wait=given.wait,
        ordering=given.ordering,
        touch=given.touch,
        verify=given.verify,
        pin=options.cpus_of(given.pin) if given.pin else (),
        rounds=numbers["rounds"],
    )


class Progress:
    """Progress on standard error: one line that changes on a terminal, otherwise a line for each
    size.
    """

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last = ""

    def __call__(self, text: str) -> None:
        if self._live:
            print(f"\r{text:<78.78}", end="", file=sys.stderr, flush=True)
        elif text.split(":")[0] != self._last:
            self._last = text.split(":")[0]
            print(self._last if ":" in text else text, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._live:
            print(f"\r{'':78}\r", end="", file=sys.stderr, flush=True)


def run_command(given: argparse.Namespace) -> int:
    """Measures and prints the report. Status 1 when bytes arrived wrong; RdmaError when nothing was
    measured.
    """
    asked = options_of(given)
    before = compare.load(given.compare) if given.compare else None
    for path in filter(None, (given.json, given.csv, given.plot)):
        if not Path(path).resolve().parent.is_dir():
            raise InvalidArgument("bench", f"write {path}", "its directory does not exist: make it first")
    load = machine.load()  # the load of other programs, taken before this command adds its own
    url = f"{asked.provider}://{asked.device}"
    with rt.Device(url) as device:
        provider, name = device.provider, device.name
        if given.serve:
            url = f"{provider}://{asked.device}"
            remote.serve(device, given.serve, lambda text: print(text, flush=True), url=url)
            return 0
        if asked.provider == "auto" and device.why:
            why = "; ".join(f"{one}: {reason}" for one, reason in device.why.items())
            print(f"{provider}://, since {why}", file=sys.stderr)
        progress = Progress()
        try:
            found = measured(asked, device, given, progress)
        finally:
            progress.end()
    report.relate(found.rows)
    meta = machine.meta(provider, name, load)
    objects = write(given, found, meta)  # first, since printing may fail
    print(report.as_text(found, meta))
    if before is not None:
        print(f"\n{compare.as_text(before, objects)}")
    if not any(row.samples or row.gbytes_per_s for row in found.rows):
        why = "; ".join(f"{missing.mode}: {missing.why}" for missing in found.missing) or "no mode took part"
        raise RdmaError("bench", f"{provider}://{name}", f"nothing was measured: {why}")
    return 1 if found.wrong else 0


def write(given: argparse.Namespace, found: run.Run, meta: dict[str, object]) -> dict[str, object]:
    """Writes the files that were asked for; gives the object of --json."""
    objects = report.as_objects(found, meta)
    if given.json:
        Path(given.json).write_text(report.to_json(found, meta), encoding="utf-8")
    if given.csv:
        Path(given.csv).write_text(report.as_csv(found), encoding="utf-8")
    if given.plot:
        plot.draw(given.plot, (plot.title_of(meta), objects["results"]))
    return objects


def measured(
    asked: options.Options, device: rt.Device, given: argparse.Namespace, progress: Callable[[str], None]
) -> run.Run:
    """A run within this host, or with the serving host."""
    connect = given.connect
    host = connect.rsplit(":", 1)[0] if connect else "127.0.0.1"
    setup = Setup(
        role="first",
        url=f"{device.provider}://{asked.device}",
        bind="127.0.0.1",
        connect=host,
        one_host=host in LOOPBACK,
        folder="",
        qps=asked.qps,
        cqs=asked.cqs,
        wait=asked.wait,
        ordering=asked.ordering,
        direction=asked.direction,
        touch=asked.touch,
    )
    if given.what == "collectives":
        return collective.local(asked, setup, progress)
    if connect is None:
        return run.local(asked, setup, progress)
    if device.provider == "shm" and host not in LOOPBACK:
        raise ProviderUnavailable("bench", connect, "two hosts need an RDMA device at both ends (rdmatensor devices)")
    return run.far(asked, setup, remote.Far(device, connect), progress)
