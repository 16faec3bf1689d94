"""The contract tests of edges, for what no C test noticed: a package of its own, with a mutated extension.

They run over shm alone, in about 20 s, so they are tried last, and for several mutants at once: few of
those that no C test noticed are noticed here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

import programs
from points import Mutant
from tree import PLAIN, Tree

FILES = ("csrc/edge/*.c", "csrc/proto/edge*.c")
TESTS = "tests/contract/test_edges_*.py"
FABRIC = "shm"
EXTENSION = "_native.abi3.so"
USUAL_S = 60.0  # where it was never timed
GROUP_MAX = 8  # mutants tried at once
GENERATE = "import sys; sys.path.insert(0, 'csrc'); import ffi_build; ffi_build.ffibuilder.emit_c_code(sys.argv[1])"


def concerns(mutant: Mutant) -> bool:
    """Whether these tests may notice it."""
    return any(fnmatch(mutant.file, pattern) for pattern in FILES)


def groups_of(numbered: Iterable[tuple[int, Mutant]]) -> list[list[int]]:
    """The numbers of mutants that can be linked at once: no two of a file, which is one object."""
    groups: list[dict[str, int]] = []
    for number, mutant in numbered:
        open_to = [group for group in groups if mutant.file not in group and len(group) < GROUP_MAX]
        if not open_to:
            groups.append({})
        group = open_to[0] if open_to else groups[-1]
        group[mutant.file] = number
    return [list(group.values()) for group in groups]


class Contract:
    """The package and its tests in the tree, and the objects that know Python."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.objects: list[Path] = []
        self.usual_s = USUAL_S

    def prepare(self) -> None:
        """Copies the package, compiles what knows Python, and sees the tests pass without any mutant."""
        root, path = self.tree.root, self.tree.path
        unwanted = shutil.ignore_patterns("__pycache__", "*.so", "torch")
        shutil.copytree(root / "rdmatensor", path / "package", ignore=unwanted)
        shutil.copytree(root / "tests/contract", path / "tests/contract", ignore=unwanted)
        for name in ("pyproject.toml", "tests/conftest.py"):
            shutil.copy2(root / name, path / name)
        generated = path / "csrc/python/native.c"
        subprocess.run([sys.executable, "-c", GENERATE, generated], cwd=path, check=True)
        include = ["-isystem", sysconfig.get_path("include"), "-Icsrc"]
        for source in sorted((path / "csrc/python").glob("*.c")):
            output = path / PLAIN / "csrc/python" / f"{source.stem}.o"
            output.parent.mkdir(parents=True, exist_ok=True)
            name = str(source.relative_to(path))
            command = [*self.tree.compiler, "-g0", "-w", *include, "-c", name, "-o", str(output)]
            subprocess.run(command, cwd=path, check=True)
            self.objects.append(output)
        outcome = self.run("usual", [])
        if outcome.failed is not None:
            raise SystemExit(f"the contract tests fail without any mutant: {outcome.failed}")
        self.usual_s = outcome.seconds

    def attempt(self, numbers: list[int]) -> programs.Outcome:
        """Tries the mutants of these numbers at once."""
        return self.run("-".join(map(str, numbers)), [self.tree.work / f"chosen-{number}.o" for number in numbers])

    def killers(self, numbers: list[int]) -> dict[int, str]:
        """The numbers of those that are noticed, and what failed; each half is tried unless all pass at once."""
        failed = self.attempt(numbers).failed
        if failed is None:
            return {}
        if len(numbers) == 1:
            return {numbers[0]: failed}
        middle = len(numbers) // 2
        return self.killers(numbers[:middle]) | self.killers(numbers[middle:])

    def run(self, name: str, mutated: list[Path]) -> programs.Outcome:
        tree = self.tree
        place = tree.work / f"package-{name}"
        package = place / "rdmatensor"
        package.mkdir(parents=True)
        for part in (tree.path / "package").iterdir():
            (package / part.name).symlink_to(part)
        objects = [*self.objects, *mutated, tree.path / PLAIN / "librdmatensor.a"]
        link = [tree.compiler[0], "-shared", *map(str, objects), "-o", str(package / EXTENSION), *tree.libraries]
        subprocess.run(link, cwd=tree.path, check=True, capture_output=True)
        tests = sorted(str(path.relative_to(tree.path)) for path in tree.path.glob(TESTS))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", FABRIC, *tests]
        paths = os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH", "")]))
        environment = {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
        outcome = programs.run(command, tree.path, self.usual_s, environment)
        shutil.rmtree(place, ignore_errors=True)
        return outcome
