"""Facts about the Python whose environment the guest gets: the paths of its parts, and a digest of
its packages.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdmatensor.vm.errors import VmError

__all__ = ["PRELOAD", "Interpreter", "probe"]

PRELOAD = ("numpy", "torch", "torch.distributed", "cffi", "pytest")
"""Modules that are imported once before the snapshot, where they are installed."""

PROBE = """
import importlib.metadata, importlib.util, json, os, sys, sysconfig
distributions = []
editable = []
for found in importlib.metadata.distributions():
    direct = json.loads(found.read_text("direct_url.json") or "{}")
    if direct.get("dir_info", {}).get("editable"):
        editable.append(direct["url"])
        stamp = 0
    else:
        record = found.locate_file(f"{found.metadata['Name'].replace('-', '_')}-{found.version}.dist-info/RECORD")
        stamp = os.stat(record).st_mtime_ns if os.path.exists(record) else 0
    distributions.append([found.metadata["Name"], found.version, stamp])
json.dump({
    "executable": sys.executable, "prefix": sys.prefix, "base_prefix": sys.base_prefix,
    "version": "%d.%d" % sys.version_info[:2], "full_version": sys.version, "path": sys.path[1:],
    "stdlib": sysconfig.get_path("stdlib"), "distributions": sorted(distributions), "editable": editable,
    "preload": [name for name in sys.argv[1].split(",") if importlib.util.find_spec(name.partition(".")[0])],
}, sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python and the packages installed for it."""

    executable: Path
    prefix: Path
    base_prefix: Path
    stdlib: Path
    version: str
    path: tuple[Path, ...]
    preload: tuple[str, ...]
    editable: tuple[Path, ...]
    identity: str
    """A text that differs when a package is installed, removed or replaced; projects installed in
    place count by name only.
    """

    @property
    def is_venv(self) -> bool:
        return self.prefix != self.base_prefix


def probe(python: Path) -> Interpreter:
    """Asks an interpreter about itself; VmError when it does not answer."""
    try:
        done = subprocess.run(
            [str(python), "-c", PROBE, ",".join(PRELOAD)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VmError("ask Python about itself", str(python), f"{error}; name another with --python") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise VmError("ask Python about itself", str(python), f"{last}; it must be Python 3.10 or newer (--python)")
    return parse(json.loads(done.stdout))


def parse(answer: dict[str, Any]) -> Interpreter:
    """The answer of the probe as a value."""
    files = [url.removeprefix("file://") for url in answer["editable"] if url.startswith("file://")]
    identity = {name: answer[name] for name in ("executable", "full_version", "distributions", "path", "preload")}
    return Interpreter(
        executable=Path(answer["executable"]),
        prefix=Path(answer["prefix"]),
        base_prefix=Path(answer["base_prefix"]),
        stdlib=Path(answer["stdlib"]),
        version=answer["version"],
        path=tuple(Path(entry) for entry in answer["path"] if entry),
        preload=tuple(answer["preload"]),
        editable=tuple(Path(name) for name in files),
        identity=json.dumps(identity, sort_keys=True),
    )
