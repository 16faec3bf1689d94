"""Compiles the C++ that must know the installed torch, on first use, and keeps it.

What is built lies in the user's cache, under a name made of all that it depends on: the source, torch's version, place
and ABI, the flags. Which compiler made it does not matter, so a machine that shares the cache needs none. Processes
that need it at once wait for the first.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch

from rdmatensor.config import compiler, torch_cache
from rdmatensor.errors import DeadlineExceeded, RdmaError, Unsupported

__all__ = ["built", "module", "require"]

FLAGS = ("-std=c++20", "-O2", "-fPIC", "-shared", "-fvisibility=hidden")
BUILD_TIMEOUT = 300.0
"""Seconds; a build takes two, that of a module 20."""
_NAP = 0.02


def built(
    source: Path,
    timeout: float = BUILD_TIMEOUT,
    *,
    flags: tuple[str, ...] = (),
    seen: tuple[Path, ...] = (),
    libraries: tuple[str, ...] = ("c10",),
) -> Path:
    """The shared library made of a C++ source, compiled if this torch has not seen it yet.

    `flags` are further ones, `seen` the headers that the source includes, which make its name as it does, `libraries`
    those of torch to link. Unsupported without a compiler; RdmaError with what the compiler said when it fails;
    DeadlineExceeded.
    """
    options = [*_options(), *flags]
    last = [f"-l{name}" for name in libraries]
    directory = _directory()
    library = directory / f"{source.stem}-{_key((source, *seen), [*options, *last])}.so"
    if library.exists():
        return library
    deadline = time.monotonic() + timeout
    with _locked(library.with_suffix(".lock"), deadline, timeout):
        if not library.exists():
            _compile([_compiler(), *options, str(source)], last, library, deadline, timeout)
    return library


def require(major: int, minor: int, what: str) -> None:
    """Unsupported when this torch is older."""
    numbers = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if numbers and (int(numbers[1]), int(numbers[2])) < (major, minor):
        raise Unsupported(what, _on(), f"this needs torch {major}.{minor} or later: pip install --upgrade torch")


def module(name: str, source: Path, seen: tuple[Path, ...]) -> ModuleType:
    """The Python module made of a C++ source, which finds its name in RDMATENSOR_MODULE. As `built`; loaded once."""
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


def _compiler() -> str:
    chosen = compiler()
    tried = [chosen] if chosen else ["c++", "g++", "clang++"]
    found = next((path for name in tried if (path := shutil.which(name))), None)
    if found is None:
        why = (
            f"this needs a C++ compiler once, and there is none: tried {', '.join(tried)}. Install one "
            "(apt-get install g++), or name one in the environment as CXX"
        )
        raise Unsupported("compile what fits this torch", _on(), why)
    return found


def _options() -> list[str]:
    root = Path(torch.__file__).parent
    # torch's headers are the system's, so that their warnings are not ours.
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


def _directory() -> Path:
    """Where libraries are kept. What others could write is not loaded from."""
    directory = torch_cache()
    what = "keep what was compiled"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = directory.stat()
    except OSError as error:
        why = f"{error.strerror}: name a directory of yours in the environment as XDG_CACHE_HOME"
        raise RdmaError(what, str(directory), why, error_number=error.errno or 0) from error
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        why = (
            "others can write there, and code is loaded from it: make it yours alone (chmod 700) or set XDG_CACHE_HOME"
        )
        raise RdmaError(what, str(directory), why)
    return directory


@contextmanager
def _locked(path: Path, deadline: float, timeout: float) -> Iterator[None]:
    """Holds a lock file; the kernel lets go of it when a holder dies."""
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    why = f"another process is compiling, and was not done after {timeout:g} s"
                    raise DeadlineExceeded("compile what fits this torch", str(path), why) from None
                time.sleep(_NAP)
        yield


def _compile(command: list[str], last: list[str], library: Path, deadline: float, timeout: float) -> None:
    what = "compile what fits this torch"
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        made = Path(scratch) / library.name
        try:
            done = subprocess.run(
                [*command, "-o", str(made), *last],
                capture_output=True,
                text=True,
                timeout=max(deadline - time.monotonic(), 0.1),
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            why = f"{command[0]} was not done after {timeout:g} s"
            raise DeadlineExceeded(what, _on(), why) from None
        except OSError as error:
            raise Unsupported(what, _on(), f"{command[0]} could not be run: {error.strerror}") from error
        if done.returncode:
            said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-20:])
            raise RdmaError(what, _on(), f"{command[0]} ended with status {done.returncode} and said:\n{said}")
        made.replace(library)
