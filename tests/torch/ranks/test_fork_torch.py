"""A child made by fork of a process that has groups: it ends as it would without them, and its parent goes on."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc, os, signal, sys, warnings
warnings.simplefilter("ignore")
import torch
import torch.distributed as dist

dist.init_process_group("rdmatensor", store=dist.HashStore(), rank=0, world_size=1)
group = dist.new_group([0])
tensor = torch.ones(4)
work = dist.all_reduce(tensor, async_op=True)  # the group's worker waits for the next call from here on
work.wait()

def forked(function):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        function()
        sys.exit(0)  # with atexit, and the end of every object
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def nothing():
    pass

def destroys():
    dist.destroy_process_group()
    globals().update(work=None, group=None)
    gc.collect()

def calls():
    for call in (lambda: dist.all_reduce(tensor), lambda: dist.all_reduce(tensor, async_op=True), dist.barrier):
        try:
            call()
        except RuntimeError as error:
            assert "fork" in str(error), error
        else:
            raise AssertionError("a call in a child went through")

for function in (nothing, destroys, calls):
    assert forked(function) == 0, function.__name__
dist.all_reduce(tensor)
dist.destroy_process_group()
print("all")
"""


@pytest.mark.slow
def test_a_child_of_a_process_with_groups_ends_and_its_parent_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stdout) == (0, "all\n"), done.stderr
