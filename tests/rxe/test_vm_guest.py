"""The guest: Python that starts fast and behaves as Python does, one host or two, a plain boot."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from machines import Vm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_pytest_with_numpy_passes_and_fails_as_it_should(vm: Vm, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import numpy as np\n\n\ndef test_good():\n    assert np.arange(4).sum() == 6\n\n\n"
        "def test_bad():\n    assert np.arange(4).sum() == 7\n"
    )
    done = vm("--", "python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 1, done.stdout.decode() + done.stderr.decode()
    assert b"1 failed, 1 passed" in done.stdout


def test_this_project_can_be_imported_from_a_directory_of_its_own(vm: Vm) -> None:
    done = vm("--", "python", "-c", "import rdmatensor as rt; print([p.devices for p in rt.providers()][0][0].name)")
    assert (done.returncode, done.stdout) == (0, b"rxe0\n"), done.stderr.decode()


@pytest.mark.parametrize("how", [(), ("--plain",)], ids=["fast", "plain"])
def test_interpreters_in_the_guest_behave_as_interpreters_do(vm: Vm, tmp_path: Path, how: tuple[str, ...]) -> None:
    script = Path(__file__).with_name("interpreters.py").read_text()
    (tmp_path / "script.py").write_text(script)
    done = vm(*how, "--", "python", "script.py")
    assert done.stdout.decode().splitlines() == [
        "arguments ['-c', 'a', 'b c']",
        "status 7 1",
        "ending ('joined\\nat exit\\ndeleted True\\nbuffered by C', 3)",
        "signal -6",
        "different numbers True",
        "flags True",
        "descriptor (b'sent', 0, b'')",
        "limit (65536, 65536)",
        "stopped and continued, killed (True, -9)",
        "terminated -15",
    ], done.stderr.decode()
    assert done.returncode == 0
    assert (b"(booted, " if how else b"(restored, ") in done.stderr


def test_processes_of_multiprocessing_find_the_functions_of_the_script(vm: Vm, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import multiprocessing\n\n\ndef double(x):\n    return 2 * x\n\n\nif __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n        print(pool.map(double, [1, 2, 3]))\n"
    )
    done = vm("--", "python", "script.py")
    assert (done.returncode, done.stdout) == (0, b"[2, 4, 6]\n"), done.stderr.decode()


WRITE = "ib_write_bw -s 65536 -n 100"


def test_two_processes_write_to_each_other_over_one_device(vm: Vm) -> None:
    script = f"{WRITE} >/dev/null & until ss -ltn | grep -q 18515; do :; done; {WRITE} localhost; wait"
    done = vm("--", "bash", "-c", script)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert re.search(rb"^ 65536 +100 ", done.stdout, re.MULTILINE)


def test_two_hosts_are_joined_by_a_link_that_carries_and_loses_packets(vm: Vm) -> None:
    script = (
        f"{WRITE} -d rxb >/dev/null & until ss -ltn | grep -q 18515; do :; done; {WRITE} -d rxa 10.80.0.2; wait; "
        "tc -s qdisc show dev net-a; cat /sys/class/net/net-b/statistics/rx_packets"
    )
    done = vm("--hosts", "2", "--loss", "2%", "--delay", "2ms", "--", "bash", "-c", script)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    assert re.search(rb"^ 65536 +100 ", done.stdout, re.MULTILINE)
    assert b"delay 2ms" in done.stdout
    dropped = re.search(rb"dropped (\d+)", done.stdout)
    assert dropped is not None and int(dropped.group(1)) > 0
    assert int(done.stdout.split()[-1]) >= 100 * 65536 // 4096


def test_a_kernel_that_has_soft_roce_is_used_directly(vm: Vm) -> None:
    inner = "python -m rdmatensor vm run -- sh -c 'echo $RDMATENSOR_RXE_DEVICES; ibv_devinfo -l; exit 3'"
    done = vm("--", "bash", "-c", inner)
    assert done.returncode == 3, done.stderr.decode()
    assert done.stdout.startswith(b"rxe0\n")
    assert b"own kernel" in done.stderr


def test_a_device_that_had_to_be_added_to_a_kernel_is_removed_again(vm: Vm) -> None:
    inner = "python -m rdmatensor vm run -- ls /sys/class/infiniband"
    look = "ls /sys/class/infiniband; ls -1 /sys/class/net; echo ."
    done = vm("--", "bash", "-c", f"rdma link delete rxe0; ip link delete net0; {look}; {inner}; {look}")
    assert done.returncode == 0, done.stderr.decode()
    before, during, after = done.stdout.partition(b".\nrxe0\n")
    assert during
    assert before + b".\n" == after
