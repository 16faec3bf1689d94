"""Registration under a small limit of locked memory, as an ordinary user meets it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from joined import DEVICES

pytestmark = pytest.mark.timeout(900)
NOBODY = 65534
LIMIT = 1 << 20
SCRIPT = f"""
import os, resource
import rdmatensor as rt
resource.setrlimit(resource.RLIMIT_MEMLOCK, ({LIMIT}, {LIMIT}))
os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})  # root may lock all it wants
with rt.Device("verbs://{DEVICES[0] if DEVICES else ""}") as device:
    for _ in range(3):  # what was released may be taken again
        device.region(512 << 10).close()
    try:
        device.region(4 << 20)
    except rt.LockedMemoryError as error:
        print(error)
    kept = device.region(512 << 10)
    print(kept.nbytes)
    try:
        device.register(bytearray(768 << 10))
    except rt.LockedMemoryError as error:
        print(error)
"""


def test_too_little_locked_memory_is_an_error_that_names_the_limit_and_the_fix() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=900)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    first, nbytes, second = done.stdout.splitlines()
    assert nbytes == str(512 << 10)
    for text, asked in ((first, 4096), (second, 768)):
        assert f"{asked} KiB more do not fit the limit of locked memory (RLIMIT_MEMLOCK), which is 1024 KiB" in text
        for fix in ("ulimit -l unlimited", "LimitMEMLOCK=infinity", "--ulimit memlock=-1"):
            assert fix in text
