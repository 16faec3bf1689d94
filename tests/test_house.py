"""The counting behind `make house`, on a tree small enough to count by hand."""

from __future__ import annotations

from pathlib import Path

import house
import pytest

FILES = {
    "csrc/base/word.h": """
static inline int rt_word(void)
{
    return 1;
}
""",
    "csrc/device/device.h": """
#include "base/word.h"
int rt_device_open(void);
int rt_region_open(int size);
""",
    "csrc/device/device.c": """
#include "device/device.h"
int rt_device_open(void)
{
    return rt_word();
}
""",
    "csrc/device/queue.c": """
static int look(void)
{
    return rt_device_open();
}

int rt_queue_look(void)
{
    return look();
}
""",
    "csrc/device/clock.c": """
int rt_clock(void)
{
    sched_yield();
    return rt_queue_look(); /* rt_region_open() */
}
""",
    "csrc/region/region.c": """
#include "device/device.h"
int rt_region_open(int size)
{
    const char *text = "rt_clock";
    return size;
}
""",
    "csrc/rdmatensor.h": """
int rt_device_open(void);
void rt_device_close(int device);
""",
    "rdmatensor/__init__.py": "",
    "rdmatensor/device.py": """
import time

from .memory.region import Region


def wait() -> None:
    time.slip(1)
""".replace("slip", "sleep"),
    "rdmatensor/memory/__init__.py": "",
    "rdmatensor/memory/region.py": "import rdmatensor.device",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_an_arrow_is_an_include_or_a_call_and_no_declaration_comment_or_text(root: Path) -> None:
    arrows = house.read_c(root).arrows
    assert arrows["csrc/device/device.c"] == {"csrc/device/device.h"}
    assert arrows["csrc/device/device.h"] == {"csrc/base/word.h"}
    assert arrows["csrc/device/queue.c"] == {"csrc/device/device.c"}
    assert arrows["csrc/device/clock.c"] == {"csrc/device/queue.c"}
    assert arrows["csrc/region/region.c"] == {"csrc/device/device.h"}
    assert arrows["csrc/rdmatensor.h"] == set()


def test_an_inline_function_goes_to_what_it_calls_unless_that_is_in_the_file_of_its_header(root: Path) -> None:
    text = "static inline int look(void)\n{\n    return rt_device_open() + rt_region_open(1);\n}\n"
    (root / "csrc/device/device.h").write_text(text)
    assert house.read_c(root).arrows["csrc/device/device.h"] == {"csrc/region/region.c"}


def test_a_static_function_is_nobodys_target(root: Path) -> None:
    (root / "csrc/device/clock.c").write_text(FILES["csrc/device/clock.c"].replace("rt_queue_look", "look"))
    assert house.read_c(root).arrows["csrc/device/clock.c"] == set()


def test_rooms_waits_and_lengths_are_counted(root: Path) -> None:
    found = house.read_c(root)
    assert set(found.rooms.values()) == {"csrc", "base", "device", "region"}
    assert found.waits == ["csrc/device/clock.c sched_yield"]
    assert found.longest_file == (10, "csrc/device/queue.c")
    assert found.longest_function[0] == 2
    assert house.between(found) == {"csrc": set(), "base": set(), "device": {"base"}, "region": {"device"}}


def test_an_arrow_to_a_room_above_goes_up(root: Path) -> None:
    assert house.up_between(house.read_c(root), house.LEVELS) == []
    (root / "csrc/device/clock.c").write_text("int rt_clock(void)\n{\n    return rt_region_open(1);\n}\n")
    assert house.up_between(house.read_c(root), house.LEVELS) == [("csrc/device/clock.c", "csrc/region/region.c")]


def test_circles_of_calls_are_found_and_one_arrow_of_each_goes_up(root: Path) -> None:
    assert house.circles(house.read_c(root).arrows) == []
    (root / "csrc/device/device.c").write_text("int rt_device_open(void)\n{\n    return rt_clock();\n}\n")
    found = house.read_c(root)
    assert house.circles(found.arrows) == [["csrc/device/clock.c", "csrc/device/device.c", "csrc/device/queue.c"]]
    assert len(house.against_any_order(house.inside(found, "device"))) == 1


def test_two_circles_are_two() -> None:
    arrows = {"a": ["b"], "b": ["a", "c"], "c": ["d"], "d": ["c", "e"], "e": []}
    assert house.circles(arrows) == [["a", "b"], ["c", "d"]]
    assert len(house.against_any_order(arrows)) == 2


def test_python_is_counted_by_its_imports(root: Path) -> None:
    found = house.read_python(root)
    assert found.rooms == {"rdmatensor.device": "rdmatensor", "rdmatensor.memory.region": "memory"}
    assert house.circles(found.arrows) == [["rdmatensor.device", "rdmatensor.memory.region"]]
    assert len(house.up_between(found, ())) == 1
    assert found.waits == ["rdmatensor/device.py time." + "sleep"]


def test_the_report_has_the_figures(root: Path) -> None:
    text = "\n".join(house.report(root))
    assert "C: 4 rooms, 7 files" in text
    assert "public functions         2 in rdmatensor.h" in text
    assert "modules at the top       1" in text
