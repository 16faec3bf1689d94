"""A copy of the C sources and of the objects built from them: mutants are compiled and linked there.

The copy is taken once, so that work on the checkout goes on meanwhile. A mutant costs one
compilation, and one link per test that is tried: the mutated object stands before the archive, so
that the linker does not take the archive's own.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from points import Mutant

ROOT = Path(__file__).resolve().parents[2]
PLAIN = Path("build/plain")
COVER = Path("build/cover")
MODEL = "explore"
FOLDERS = ("csrc", "tests/c", "tests/model")


@dataclass(frozen=True, slots=True)
class Program:
    """A test executable: its name and the objects that are its own, relative to the folder of a flavour."""

    name: str
    objects: tuple[str, ...]

    def path(self, flavour: Path) -> Path:
        return flavour / ("tests/model" if self.name == MODEL else "tests/c") / self.name


def programs(root: Path = ROOT) -> list[Program]:
    """The C tests and the model."""
    shared = [path.stem for path in sorted((root / "tests/c").glob("*.c"))]
    helpers = [f"tests/c/{stem}.o" for stem in shared if not stem.startswith("fake_verbs")]
    own = sorted((root / "tests/c").glob("*/test_*.c"), key=lambda path: path.stem)
    tests = [Program(path.stem, (f"tests/c/{path.parent.name}/{path.stem}.o", *helpers)) for path in own]
    model = tuple(f"tests/model/{path.stem}.o" for path in sorted((root / "tests/model").glob("*.c")))
    return [*tests, Program(MODEL, model)]


def built(root: Path) -> list[Program]:
    """Those that make has built: a test that is written while mutants run takes part next time."""
    return [
        program
        for program in programs(root)
        if all(program.path(root / flavour).exists() for flavour in (PLAIN, COVER))
    ]


def digest(root: Path, program: Program) -> str:
    """A name for the state of all that a program is built from."""
    total = hashlib.sha256()
    own = {root / Path(name).with_suffix(".c") for name in program.objects}
    headers = {path for folder in FOLDERS for path in (root / folder).rglob("*.h")}
    for path in sorted(own | headers | set((root / "csrc").rglob("*.c"))):
        total.update(f"{path.relative_to(root)}\n".encode())
        total.update(path.read_bytes())
    return total.hexdigest()[:16]


class Tree:
    """The copy below build/mutants, and how its files are compiled."""

    def __init__(
        self, root: Path, compiler: list[str], libraries: list[str], wraps: dict[str, list[str]] | None = None
    ) -> None:
        self.root = root
        self.path = root / "build/mutants/tree"
        self.work = root / "build/mutants/work"
        self.compiler = compiler
        self.libraries = libraries
        self.wraps = wraps or {}

    def copy(self, tests: list[Program]) -> None:
        for place in (self.path, self.work):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        for folder in FOLDERS:
            shutil.copytree(self.root / folder, self.path / folder, ignore=shutil.ignore_patterns("__pycache__"))
        wanted = {name for program in tests for name in program.objects}
        for name in sorted({*wanted, "librdmatensor.a", "libfakeibverbs.so", "libfakecuda.so"}):
            place = self.path / PLAIN / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.root / PLAIN / name, place)
            subprocess.run(["strip", "--strip-debug", place], check=True)

    def compile(self, file: str, source: bytes, output: Path) -> bytes | None:
        """The object of a file with this content, or None: it does not compile."""
        folder = str(Path(file).parent)
        command = [*self.compiler, "-g0", "-w", "-iquote", folder, "-x", "c", "-", "-c", "-o", str(output)]
        named = f'# 1 "{file}"\n'.encode() + source
        done = subprocess.run(command, cwd=self.path, input=named, capture_output=True, check=False)
        return output.read_bytes() if done.returncode == 0 else None

    def object_of(self, mutant: Mutant | None, file: str, output: Path) -> bytes | None:
        """The object of a mutant, or of the file as it is."""
        source = (self.path / file).read_bytes()
        return self.compile(file, source if mutant is None else mutant.apply(source), output)

    def link(self, program: Program, mutated: Path, output: Path) -> None:
        archive = self.path / PLAIN / "librdmatensor.a"
        own = [str(self.path / PLAIN / name) for name in program.objects]
        command = [self.compiler[0], "-rdynamic", *own, str(mutated), str(archive), "-o", str(output), *self.libraries]
        command += self.wraps.get(program.name, [])
        subprocess.run(command, cwd=self.path, check=True, capture_output=True)
