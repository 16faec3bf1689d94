"""`import rdmatensor` where the sources lie: they hide the installed package, and may not have been built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rdmatensor

PACKAGE = Path(rdmatensor.__file__).parent
USES = "import rdmatensor as rt; rt.Device('shm://').close(); print(rt.Device.__module__, rt.__path__[0])"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The sources alone."""
    left_out = shutil.ignore_patterns("_native*", "__pycache__", "guest")
    shutil.copytree(PACKAGE, tmp_path / "clone" / "rdmatensor", ignore=left_out)
    return tmp_path / "clone"


def run(folder: Path, installed: Path | None) -> subprocess.CompletedProcess[str]:
    """The output of `python -c` in a folder, with a package that lies elsewhere, and no other."""
    import cffi
    import numpy

    needed = tmp_links(folder.parent / "needed", cffi.__file__, numpy.__file__)
    path = os.pathsep.join(str(place) for place in (installed, needed) if place is not None)
    command = [sys.executable, "-S", "-c", USES]
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("PYTHONSAFEPATH", None)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def tmp_links(folder: Path, *files: str) -> Path:
    """The packages that rdmatensor needs, without rdmatensor itself."""
    folder.mkdir()
    for site in {Path(file).parent.parent for file in files}:
        for entry in site.iterdir():
            if "rdmatensor" not in entry.name and not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)
    return folder


def test_a_clone_that_was_not_built_uses_the_installed_package_and_says_so(clone: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    shutil.copytree(PACKAGE, installed / "rdmatensor", ignore=shutil.ignore_patterns("__pycache__", "guest"))
    done = run(clone, installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"rdmatensor.device {installed / 'rdmatensor'}\n"
    assert "are not built" in done.stderr and "make build" in done.stderr


def test_a_clone_that_was_not_built_says_what_to_do(clone: Path) -> None:
    done = run(clone, None)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: rdmatensor: ") and "`make build`" in last and "`pip install .`" in last
