"""The tables of the documents are those of the result files."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    specification = importlib.util.spec_from_file_location("bench_tables", ROOT / "benchmarks" / "tables.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def test_tables_agree_with_the_result_files(tables: ModuleType) -> None:
    for name in tables.DOCUMENTS:
        text = (ROOT / name).read_text()
        assert tables.MARK.search(text), f"{name} has no table"
        assert tables.filled(text) == text, f"{name}: make tables"


def test_a_table_that_was_changed_by_hand_is_noticed(tables: ModuleType) -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    changed = tables.MARK.sub(lambda match: f"{match.group(1)}| 1 µs |\n{match.group(3)}", text, count=1)
    assert changed != text
    assert tables.filled(changed) == text


def test_every_table_stands_in_a_document(tables: ModuleType) -> None:
    found = {match.group(2) for name in tables.DOCUMENTS for match in tables.MARK.finditer((ROOT / name).read_text())}
    assert found == set(tables.TABLES)


def test_a_ratio_outside_the_papers_range_is_said(tables: ModuleType) -> None:
    assert "all sizes lie within" in tables.sentence("RDMA.cp", 1.2, 1.8, {64: 1.3, 1024: 1.7})
    said = tables.sentence("RDMA.cp", 1.2, 1.8, {64: 1.0, 1024: 1.5, 2048: 2.5})
    assert "less at 64 B; more at 2 KiB" in said
