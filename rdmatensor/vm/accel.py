"""The accelerator of the guest: KVM where the system allows it, otherwise qemu's emulation."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from pathlib import Path

from rdmatensor.vm import packages
from rdmatensor.vm.errors import VmError

__all__ = ["CPUINFO", "KVM", "NAMES", "choose", "identity", "refusal", "trial", "words"]

KVM = Path("/dev/kvm")
CPUINFO = Path("/proc/cpuinfo")
NAMES = ("auto", "kvm", "tcg")
CREATE_VM = 0xAE01
TRIAL_TIMEOUT = 30.0
_TCG = ("-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,-avx,-avx2,-f16c,-fma,-erms,-fsrm")


def refusal(device: Path = KVM, processor: Path = CPUINFO) -> str:
    """The reason why KVM cannot be used here, with the remedy; empty where it can.

    Some systems offer the device only for guests of their own kind, on processors without
    virtualisation.
    """
    try:
        opened = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return (
            f"there is no {device}: `modprobe kvm_intel` or kvm_amd, on a machine that is not itself a guest without it"
        )
    except PermissionError:
        return f"{device} may not be opened: `sudo chmod a+rw {device}`, or join its group"
    except OSError as error:
        return f"{device} cannot be opened: {error.strerror}"
    try:
        os.close(fcntl.ioctl(opened, CREATE_VM, 0))
    except OSError as error:
        return f"{device} makes no machine: {error.strerror}"
    finally:
        os.close(opened)
    if not re.search(r"^flags\b.*\b(vmx|svm)\b", processor.read_text(), re.MULTILINE):
        return (
            f"{device} is there, but the processor shows neither vmx nor svm: allow nested virtualisation on its host"
        )
    return ""


def trial() -> str:
    """Lets qemu make a machine with KVM and end it before its first instruction. Gives the reason
    of a failure, or nothing.
    """
    qemu = packages.find("qemu-system-x86_64") or "qemu-system-x86_64"
    command = [
        qemu,
        *words("kvm"),
        "-machine",
        "q35",
        "-m",
        "64M",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
    ]
    try:
        done = subprocess.run(
            [*command, "-S", "-monitor", "stdio"], input="quit\n", capture_output=True, text=True, timeout=TRIAL_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"qemu makes no machine with {KVM}: {error}"
    if done.returncode == 0:
        return ""
    said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[0]
    return f"qemu makes no machine with {KVM}: {said}"


def choose(asked: str) -> str:
    """The accelerator to use, kvm or tcg; VmError for a KVM that was asked for and is not available."""
    if asked == "tcg":
        return asked
    why = refusal() or trial()
    if why and asked == "kvm":
        raise VmError("run the machine with KVM", str(KVM), why)
    return "tcg" if why else "kvm"


def words(accelerator: str) -> tuple[str, ...]:
    """The options for qemu. Emulated vector units are slower than none. So are string instructions,
    which are emulated byte by byte: a C library that believes they are fast fills memory at a sixth
    of the speed that it has with words.
    """
    return ("-accel", "kvm", "-cpu", "host") if accelerator == "kvm" else _TCG


def identity(accelerator: str) -> str:
    """The facts that a snapshot depends on: with KVM the processor, whose features the guest has
    seen.
    """
    if accelerator != "kvm":
        return accelerator
    about = [line for line in CPUINFO.read_text().split("\n\n")[0].splitlines() if "MHz" not in line]
    return "\n".join([accelerator, os.uname().release, *about])
