"""Support for `import rdmatensor` in a clone, where Python finds sources that may not have been
built.

This module is imported before everything else. If the compiled module is not beside the sources,
but the package is installed elsewhere, all modules are loaded from the installation. If it is not
installed either, the ImportError says what to do.
"""

import sys
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

__all__: list[str] = []


def _has_native(package: Path) -> bool:
    return any((package / f"_native{suffix}").exists() for suffix in EXTENSION_SUFFIXES)


def _find() -> None:
    package = sys.modules["rdmatensor"]
    here = Path(__file__).resolve().parent
    if any(_has_native(Path(place)) for place in package.__path__):
        return
    for entry in sys.path:
        installed = Path(entry or ".", "rdmatensor").resolve()
        if installed != here and _has_native(installed):
            package.__path__ = [str(installed)]
            text = (
                f"rdmatensor: the sources in {here} are not built, so that the installed package in {installed} is "
                "used, and no change of the sources: run `make build` there, or start Python elsewhere"
            )
            warnings.warn(text, RuntimeWarning, stacklevel=4)
            return
    raise ImportError(
        f"rdmatensor: {here} is the source tree, its compiled module has not been built, and the package is not "
        "installed elsewhere: run `make build` there, or `pip install .`",
        name="rdmatensor",
        path=str(here),
    )


_find()
