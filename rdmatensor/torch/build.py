"""Compiles the C++ code that must match the installed torch, on first use, and caches the result.

The libraries lie in the user's cache, under a name derived from everything that they depend on: the
source, torch's version, location and ABI, the flags. The compiler is not part of the name, so a
machine that shares the cache needs none. Processes that need a library at the same time wait for
the first one to build it. Where the cache cannot be used, or others could have written to it, each
process compiles for itself and warns.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

import torch

from rdmatensor.backoff import Backoff
from rdmatensor.errors import DeadlineExceeded, RdmaError, Unsupported
from rdmatensor.settings.config import NO_HOME, compiler, torch_cache
from rdmatensor.settings.trust import make_private, why_distrust, why_distrust_file

__all__ = ["built", "module", "require"]

FLAGS = ("-std=c++20", "-O2", "-fPIC", "-shared", "-fvisibility=hidden")
WHAT = "compile what fits this torch"
BUILD_TIMEOUT = 3600.0
"""The longest build in seconds. A small library takes 2 s, a module 20 s, and on a busy machine
many times as long.
"""
_NAPS = (0.001, 0.02, 10)  # between two tries for the lock of another process that compiles
_SCRATCH = ".scratch-"


def built(
    source: Path,
    timeout: float = BUILD_TIMEOUT,
    *,
    flags: tuple[str, ...] = (),
    seen: tuple[Path, ...] = (),
    libraries: tuple[str, ...] = ("c10",),
) -> Path:
    """The shared library made from a C++ source, compiled unless it is in the cache for this torch.

    `flags` are additional compiler flags. `seen` are the headers that the source includes; like the
    source, they determine the library's name. `libraries` are torch's libraries to link.
    Unsupported without a compiler; RdmaError with the compiler's output when it fails;
    DeadlineExceeded.
    """
    options = [*_options(), *flags]
    last = [f"-l{name}" for name in libraries]
    name = f"{source.stem}-{_key((source, *seen), [*options, *last])}.so"
    deadline = time.monotonic() + timeout

    def inside(directory: Path) -> Path:
        library = directory / name
        if not _usable(library):
            with _locked(library.with_suffix(".lock"), deadline, timeout) as locked:
                _sweep(directory, library if locked else None)
                if not _usable(library):
                    _compile([*_compiler(), *options, str(source)], last, library, deadline, timeout)
        return library

    cache, why = _cache()
    if cache is not None:
        try:
            return inside(cache)
        except OSError as error:  # the disk is full or read-only
            if isinstance(error, RdmaError):
                raise
            why = f"{cache} cannot be used: {error.strerror}"
    return inside(_private(why))


def _usable(library: Path) -> bool:
    """Whether the library exists and only this user could have written it; otherwise it is compiled
    again in its place.
    """
    try:
        return not why_distrust_file(library)
    except FileNotFoundError:
        return False


def require(major: int, minor: int, what: str) -> None:
    """Unsupported when the installed torch is older."""
    numbers = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if numbers and (int(numbers[1]), int(numbers[2])) < (major, minor):
        raise Unsupported(what, _on(), f"this needs torch {major}.{minor} or later: pip install --upgrade torch")


def module(name: str, source: Path, seen: tuple[Path, ...]) -> ModuleType:
    """The Python module made from a C++ source, which gets its name as RDMATENSOR_MODULE. As
    `built`; loaded once.
    """
    known = sys.modules.get(name)
    if known is not None:
        return known
    python = sysconfig.get_paths()["include"]
    api = Path(torch.__file__).parent / "include" / "torch" / "csrc" / "api" / "include"
    flags = ("-isystem", str(api), "-isystem", python, f"-DRDMATENSOR_MODULE={name}")
    path = built(source, flags=flags, seen=seen, libraries=("torch_python", "torch_cpu", "torch", "c10"))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    sys.modules[name] = made
    return made


def _on() -> str:
    return f"torch {torch.__version__}"


def _compiler() -> list[str]:
    chosen = compiler()
    tried = chosen[:1] or ["c++", "g++", "clang++"]
    found = next((path for name in tried if (path := shutil.which(name))), None)
    if found is None:
        why = (
            f"this needs a C++ compiler once, and there is none: tried {', '.join(tried)}. Install one "
            "(apt-get install g++), or name one in the environment as CXX"
        )
        raise Unsupported(WHAT, _on(), why)
    return [found, *chosen[1:]]


def _options() -> list[str]:
    root = Path(torch.__file__).parent
    # torch's headers count as system headers, so that their warnings are suppressed.
    where = ["-isystem", str(root / "include"), f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}"]
    return [*FLAGS, f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}", *where]


def _key(sources: tuple[Path, ...], options: list[str]) -> str:
    version = torch.version.git_version or ""
    parts = [
        *(source.read_text(encoding="utf-8") for source in sources),
        torch.__version__,
        version,
        platform.machine(),
        *options,
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


# ---- where ----


def _cache() -> tuple[Path | None, str]:
    """The directory for libraries, or None and the reason: code that others could have written is
    not loaded.
    """
    directory = torch_cache()
    if directory is None:
        return None, NO_HOME
    try:
        make_private(directory)
        why = why_distrust(directory)
    except OSError as error:
        return None, f"{directory} cannot be used: {error.strerror}"
    return (None, why) if why else (directory, "")


def _private(why: str) -> Path:
    """A directory of this process alone, removed at its end, for libraries that cannot be cached.
    Warns once.
    """
    global _own
    if _own is None or _own[0] != os.getpid():
        made = _temporary()
        _own = os.getpid(), made
        atexit.register(_remove, *_own)
        text = (
            f"{why}; what fits torch is compiled for this process alone, in {made}, which takes a while each time: "
            "name a directory that only you can write to in the environment as XDG_CACHE_HOME"
        )
        warnings.warn(text, RuntimeWarning, stacklevel=4)
    return _own[1]


_own: tuple[int, Path] | None = None  # the process that made it, and its path


def _temporary() -> Path:
    refused = []
    for place in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")):
        try:
            made = Path(tempfile.mkdtemp(prefix="rdmatensor-", dir=place))
            why = why_distrust(made)
        except OSError as error:
            refused.append(f"{place}: {error.strerror}")
            continue
        if not why:
            return made
        made.rmdir()
        refused.append(why)
    raise RdmaError(WHAT, _on(), f"there is no directory for it ({'; '.join(refused)}): set TMPDIR or XDG_CACHE_HOME")


def _remove(process: int, directory: Path) -> None:
    if process == os.getpid():  # not in a child made by fork
        shutil.rmtree(directory, ignore_errors=True)


# ---- one at a time ----


@contextmanager
def _locked(path: Path, deadline: float, timeout: float) -> Iterator[bool]:
    """Holds a lock file that contains its holder's number; the kernel releases the lock when the
    holder dies.

    Gives whether the lock could be taken: some network file systems have none, and then several
    processes compile at once.
    """
    with path.open("a+") as file:
        naps = Backoff(*_NAPS)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.seek(0)
                    holder = file.read(20).strip() or "another process"
                    why = f"{holder} is compiling, and was not done after {timeout:g} s"
                    raise DeadlineExceeded(WHAT, str(path), why) from None
                naps.nap()
            except OSError:
                yield False
                return
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield True


def _sweep(directory: Path, ours: Path | None) -> None:
    """Removes the remains of compilations whose process was killed: those of the library whose lock
    we hold, and those whose lock is free.
    """
    for scratch in directory.glob(f"*{_SCRATCH}*"):
        stem = scratch.name.partition(_SCRATCH)[0]
        with suppress(OSError), (directory / f"{stem}.lock").open("a") as file:
            if ours is None or stem != ours.stem:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(scratch, ignore_errors=True)


# ---- compiling ----


def _compile(command: list[str], last: list[str], library: Path, deadline: float, timeout: float) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f"{library.stem}{_SCRATCH}", dir=library.parent))
    try:
        made = scratch / library.name
        status, said = _run([*command, "-o", str(made), *last], deadline, timeout)
        if status:
            text = "\n".join(said.strip().splitlines()[-20:])
            raise RdmaError(WHAT, _on(), f"{shlex.join(command[:1])} ended with status {status} and printed:\n{text}")
        made.chmod(0o700)
        made.replace(library)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _start(command: list[str], held: int) -> subprocess.Popen[str]:
    """Starts the compiler in a process group of its own, which is killed when this process ends."""
    supervisor = [sys.executable, "-I", "-S", str(Path(__file__).with_name("supervise.py"))]
    if "python" not in Path(sys.executable or "").name or not os.access(sys.executable, os.X_OK):
        supervisor = []  # an embedded interpreter, or one whose file is gone
    try:
        return subprocess.Popen(
            [*supervisor, *command],
            stdin=held,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise Unsupported(WHAT, _on(), f"{command[0]} could not be run: {error.strerror}") from error


def _run(command: list[str], deadline: float, timeout: float) -> tuple[int, str]:
    """Runs the compiler; gives its status and output."""
    held, ours = os.pipe()
    try:
        process = _start(command, held)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(held)
    try:
        said, _ = process.communicate(timeout=max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        why = f"{command[0]} was not done after {timeout:g} s"
        raise DeadlineExceeded(WHAT, _on(), why) from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        os.close(ours)
    return process.returncode, said
