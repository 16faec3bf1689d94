"""The names that `import rdmatensor` shows."""

from __future__ import annotations

import rdmatensor as rt


def test_dir_shows_what_is_public_and_nothing_else() -> None:
    shown = {name for name in dir(rt) if not name.startswith("__")}
    assert shown == {*rt.__all__, "errors"}


def test_everything_that_dir_shows_is_there() -> None:
    assert all(hasattr(rt, name) for name in dir(rt))
