"""Code compiled against the installed torch, on first use, and kept.

A wheel of rdmatensor fits every torch because it holds sources of what must be compiled against one. The result lies in
`config.build_cache()`, under a name made of everything it depends on, so that another torch, Python or version of the
sources gets its own. Several processes that come at once compile once.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.machinery
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

import torch

from rdmatensor.config import build_cache, cxx_compiler
from rdmatensor.errors import ProviderUnavailable

__all__ = ["load"]

_NATIVE = Path(__file__).parent / "native"


def load(name: str, source: str, libraries: tuple[str, ...] = ("torch_python", "torch_cpu", "torch", "c10")) -> ModuleType:
    """The module `name` made from a C++ file of `native/`, compiled if it is not there yet.

    ProviderUnavailable, with the compiler's words, when there is no compiler or it fails.
    """
    module = sys.modules.get(f"rdmatensor.torch.{name}")
    if module is not None:
        return module
    path = _built(name, source, libraries)
    loader = importlib.machinery.ExtensionFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    sys.modules[f"rdmatensor.torch.{name}"] = module
    return module


def _built(name: str, source: str, libraries: tuple[str, ...]) -> Path:
    folder = build_cache()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{_fingerprint(libraries)}.so"
    if path.exists():
        return path
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _compile(name, _NATIVE / source, libraries, path)
    return path


def _fingerprint(libraries: tuple[str, ...]) -> str:
    """Of the sources, the headers they see, torch, Python, the machine and the compiler."""
    digest = hashlib.sha256()
    for file in sorted(path for path in _NATIVE.rglob("*") if path.suffix in (".h", ".cpp")):
        digest.update(file.name.encode() + file.read_bytes())
    for word in (torch.__version__, sys.version, platform.machine(), cxx_compiler(), *libraries):
        digest.update(word.encode() + b"\0")
    return digest.hexdigest()[:16]


def _compile(name: str, source: Path, libraries: tuple[str, ...], path: Path) -> None:
    compiler = cxx_compiler()
    on = f"{source.name} with {compiler}"
    if shutil.which(compiler) is None:
        raise ProviderUnavailable(
            "compile", on, "there is no such compiler: install one (apt-get install g++), or name it in CXX"
        )
    where = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory(dir=path.parent) as made:
        result = Path(made) / path.name
        command = [
            compiler, "-O2", "-std=c++20", "-fPIC", "-shared", "-fvisibility=hidden", "-DNDEBUG",
            f"-DRDMATENSOR_MODULE={name}", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
            f"-I{_NATIVE}", f"-isystem{where / 'include'}", f"-isystem{where / 'include/torch/csrc/api/include'}",
            f"-isystem{sysconfig.get_paths()['include']}", str(source), "-o", str(result),
            f"-L{where / 'lib'}", *(f"-l{library}" for library in libraries),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ProviderUnavailable("compile", on, f"it failed:\n{done.stderr[-4000:]}")
        os.replace(result, path)
