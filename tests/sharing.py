"""How workers of pytest-xdist share the tests: a file's tests stay together, and what takes longest starts first.

Fixtures of a file or a session are then made once per file, and a C executable runs once. `pytest` without `-n` does
not come here.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

TOGETHER = ("tests/rxe",)
"""Folders that one worker takes whole: emulated machines, which are made once and fill the processors."""

SECONDS: dict[str, int] = {
    "tests/rxe": 900,
    "tests/torch/ranks/test_strangers_day.py": 300,
    "tests/torch/ranks/test_hooks.py": 100,
    "tests/torch/unit/test_operators.py": 100,
    "tests/torch/ranks/test_ecosystem.py": 60,
    "tests/torch/ranks/test_failures.py": 60,
    "tests/torch/ranks/test_groups.py": 60,
    "tests/torch/ranks/test_suite.py": 60,
    "tests/torch/ranks/test_launched.py": 60,
    "tests/torch/ranks/test_demo.py": 60,
    "tests/torch/ranks/test_examples_torch.py": 60,
    "tests/torch/ranks/test_meeting.py": 60,
    "tests/torch/unit/test_build.py": 60,
    "tests/model/test_model.py": 60,
    "tests/c/provider/test_shm_peers.c": 30,
    "tests/c/team/test_team_pair.c": 30,
    "tests/c/team/test_team_pieces.c": 30,
    "tests/c/team/test_team.c": 30,
}
"""About how long the longest take. The order is all that depends on it; a file not named counts by its tests."""


class FilesTogether(LoadScopeScheduling):
    """A worker takes a file, or a folder of TOGETHER, at a time."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::", 1)[0]
        return next((folder for folder in TOGETHER if path.startswith(f"{folder}/")), path)

    def _assign_work_unit(self, node: WorkerController) -> None:
        longest = max(self.workqueue, key=lambda scope: (SECONDS.get(scope, 0), len(self.workqueue[scope])))
        self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)
