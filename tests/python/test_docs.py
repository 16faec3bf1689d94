"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import rdmatensor

MODULES = [
    name
    for _, name, _ in pkgutil.iter_modules(rdmatensor.__path__, "rdmatensor.")
    if not name.rpartition(".")[2].startswith("_") and name.count(".") == 1
]


@pytest.mark.parametrize(
    "name", ["rdmatensor", *(n for n in MODULES if n not in ("rdmatensor.torch", "rdmatensor.vm"))]
)
def test_the_examples_of_a_module_run(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name), verbose=False)
    assert failed == 0


def test_the_package_has_an_example() -> None:
    assert ">>>" in (rdmatensor.__doc__ or "")


def test_every_public_name_is_there_and_documented() -> None:
    for name in rdmatensor.__all__:
        assert getattr(rdmatensor, name).__doc__, name
