"""Tensors of torch in registered memory, moved by the real driver. Edges and the backend are tested elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from joined import DEVICES
from peers import BOTH, digest, digest_of, expose

from rdmatensor.testing import VerbsFabric

pytestmark = pytest.mark.timeout(900)
torch = pytest.importorskip("torch", reason="no torch here: make torch")
SHAPE = (64, 3, 31)


def test_results_of_torch_in_registered_memory_are_written_and_read_back() -> None:
    with VerbsFabric(f"verbs://{DEVICES[0]}", there=f"verbs://{DEVICES[-1]}", timeout=300) as fabric:
        channel, region = fabric.connect(), fabric.here.device.region(1 << 16)
        source, back = (region.allocate(4 * 64 * 3 * 31) for _ in range(2))
        remote = channel.attach(fabric.there.call(expose, "memory", source.nbytes, int(BOTH), 1))
        tensor = torch.from_numpy(source.array(SHAPE, np.float32))
        torch.mul(torch.ones(SHAPE), 3, out=tensor)
        tensor += torch.arange(31)
        channel.memcpy(remote, source)
        expected = (3 + torch.arange(31, dtype=torch.float32)).expand(SHAPE).contiguous()
        assert fabric.there.call(digest_of, "memory") == digest(expected.numpy().tobytes())
        channel.memcpy(back, remote)
        assert torch.equal(torch.from_numpy(back.array(SHAPE, np.float32)), expected)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("switch", ["0", "1"])
def test_torch_calls_extensions_when_a_command_imports_it(switch: str) -> None:
    """This project's own is one, and the command's environment decides. Interpreters here may be copies of one that
    had imported torch before.
    """
    code = "import torch.distributed as dist; print(int(hasattr(dist.Backend, 'RDMATENSOR')), dist.__spec__.name)"
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": switch}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [switch, "torch.distributed"]
