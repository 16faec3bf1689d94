"""`rdmatensor vm` without a machine: arguments, names of what is made, what goes into a guest, how qemu is started."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rdmatensor.cli import main, parser, vm
from rdmatensor.errors import InvalidArgument
from rdmatensor.settings import config
from rdmatensor.vm import Options, Shape, Store, accel, here, image, initramfs, interpreter, kernel, machine, session
from rdmatensor.vm.errors import VmError
from rdmatensor.vm.options import duration, memory_size, percent, variables
from rdmatensor.vm.store import KEPT, digest


def options(*arguments: str) -> Options:
    return vm.options_of(parser().parse_args(["vm", "run", *arguments]))


# ---- arguments ----


def test_everything_behind_the_dashes_is_the_command() -> None:
    given = options("--hosts", "2", "--loss", "1%", "--", "bash", "-c", "a -- b", "--", "--loss", "2%")
    assert given.command == ("bash", "-c", "a -- b", "--", "--loss", "2%")
    assert (given.hosts, given.shape.loss) == (2, "1%")


def test_defaults_are_one_clean_host_and_this_python() -> None:
    given = options("--", "true")
    assert (given.hosts, given.shape.netem, given.memory, given.timeout) == (1, [], 2 << 30, 300.0)
    assert given.python == Path(sys.executable)
    assert given.devices == ("rxe0",)


def test_a_shape_becomes_arguments_of_netem() -> None:
    shape = options("--hosts", "2", "--loss", "1", "--delay", "1.5ms", "--corrupt", "0.10%", "--", "true").shape
    assert shape.netem == ["delay", "1.5ms", "loss", "1%", "corrupt", "0.1%", "limit", "20000"]


def test_reordering_needs_a_delay_and_gets_one() -> None:
    assert Shape(reorder="5%").netem[:4] == ["delay", "1ms", "reorder", "5%"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--loss", "1%"),
        ("--hosts", "2", "--loss", "101%"),
        ("--hosts", "2", "--loss", "1%; reboot"),
        ("--hosts", "2", "--delay", "5"),
        ("--memory", "12"),
        ("--memory", "100G"),
        ("--timeout", "0"),
        ("--env", "=x"),
    ],
    ids=" ".join,
)
def test_a_wrong_argument_is_refused_before_anything_is_made(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RDMATENSOR_VM_CACHE", str(tmp_path / "cache"))
    assert main(["vm", "run", *arguments, "--", "true"]) == 2
    assert capsys.readouterr().err.startswith("rdmatensor vm: ")
    assert not (tmp_path / "cache").exists()


def test_units_are_understood() -> None:
    assert (percent("1"), percent("0.5%"), duration("250us"), memory_size("1536MiB")) == (
        "1%",
        "0.5%",
        "250us",
        1536 << 20,
    )


def test_variables_are_given_or_passed_on() -> None:
    assert variables(["A=1=2", "B", "C"], {"B": "ours"}) == {"A": "1=2", "B": "ours"}


def test_the_cache_is_where_it_was_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.delenv("RDMATENSOR_VM_CACHE", raising=False)
    assert config.vm_cache() == Path("/somewhere/rdmatensor/vm")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RDMATENSOR_VM_CACHE", ".cache/vm")
    assert config.vm_cache() == tmp_path / ".cache/vm"


# ---- shared folders ----


def test_shared_folders_are_each_there_once(tmp_path: Path) -> None:
    work, other, inside = tmp_path / "work", tmp_path / "other", tmp_path / "work" / "inside"
    inside.mkdir(parents=True)
    other.mkdir()
    assert session.shared_folders(work, [other, inside], [other, tmp_path / "gone"]) == (work, other)
    assert session.shared_folders(inside, [work], []) == (work,)


@pytest.mark.parametrize("place", ["/", "/usr", "/proc/self", "/dev/shm"])
def test_the_system_is_not_shared(place: str) -> None:
    with pytest.raises(InvalidArgument, match="the guest has its own"):
        session.shared_folders(Path(place), [], [])


def test_too_many_folders_are_refused_and_projects_give_way(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(machine.SHARES_MAX + 1)]
    for folder in folders:
        folder.mkdir()
    with pytest.raises(InvalidArgument, match="is the most"):
        session.shared_folders(folders[0], folders[1:], [])
    assert session.shared_folders(folders[0], folders[1:-1], folders[-1:]) == tuple(folders[:-1])


# ---- the kernel ----


def test_the_newest_generic_kernel_comes_first() -> None:
    names = """
        linux-image-6.1.0-9-amd64 linux-image-6.1.0-56-amd64 linux-image-6.12.117+deb12-amd64
        linux-image-6.12.117+deb12-cloud-amd64 linux-image-6.12.117+deb12-rt-amd64 linux-image-6.1.0-56-amd64-dbg
        linux-image-6.1.0-56-amd64-unsigned linux-image-amd64 linux-image-generic linux-image-6.8.0-40-generic
        linux-image-unsigned-6.8.0-40-generic linux-image-6.8.0-40-lowlatency
    """
    assert kernel.candidates(names.split()) == [
        "linux-image-6.12.117+deb12-amd64",
        "linux-image-6.8.0-40-generic",
        "linux-image-6.1.0-56-amd64",
        "linux-image-6.1.0-9-amd64",
    ]


def modules(folder: Path, needed: dict[str, str]) -> dict[str, Path]:
    for name, depends in needed.items():
        (folder / f"{name}.ko").write_bytes(b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0")
    return {kernel.module_name(path): path for path in folder.iterdir()}


def test_a_module_is_loaded_after_all_it_depends_on(tmp_path: Path) -> None:
    plain = dict.fromkeys(kernel.MODULES, "")
    found = modules(tmp_path, {**plain, "rdma_rxe": "ib-core,udp_tunnel", "ib-core": "rdma_base", "rdma_base": ""})
    order = [kernel.module_name(path) for path in kernel.load_order(found, {"udp_tunnel"})]
    assert order.index("rdma_base") < order.index("ib_core") < order.index("rdma_rxe")
    assert len(order) == len(set(order)) == len(plain) + 2


def test_a_kernel_without_the_driver_is_refused_by_its_name(tmp_path: Path) -> None:
    found = modules(tmp_path, {name: "" for name in kernel.MODULES if name not in kernel.OPTIONAL | {"rdma_rxe"}})
    with pytest.raises(session.VmError, match="rdma_rxe"):
        kernel.load_order(found, set())


# ---- what boots, and the root ----


def test_the_archive_has_the_layout_that_the_kernel_reads() -> None:
    content = [("a", stat.S_IFDIR | 0o755, b""), ("a/b", stat.S_IFREG | 0o644, b"12345")]
    data = b"".join(initramfs.cpio(iter(content)))
    assert len(data) % 4 == 0
    first = data.index(b"a/b\0")
    assert data[first - 110 : first - 104] == b"070701"
    assert int(data[first - 110 + 54 : first - 110 + 62], 16) == 5  # the size's field
    assert data.endswith(b"TRAILER!!!" + bytes(len(data) - data.index(b"TRAILER!!!") - 10))


def test_packages_come_with_all_they_depend_on() -> None:
    known = {
        "tool": ("tool:amd64", {"library", "virtual", "absent"}),
        "library": ("library:amd64", {"base"}),
        "virtual": ("provider", set()),
        "base": ("base", {"library"}),
        "unrelated": ("unrelated", set()),
        "*essential": ("essential", set()),
    }
    assert image.closure(["tool", "unknown"], known) == ["base", "essential", "library:amd64", "provider", "tool:amd64"]


def test_a_link_brings_its_target(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("")
    (tmp_path / "middle").symlink_to("real")
    (tmp_path / "link").symlink_to(tmp_path / "middle")
    tree = image.Tree()
    tree.add(tmp_path / "link")
    assert {Path(place).name for place in tree.files} == {"link", "middle", "real"}


def test_python_is_asked_about_itself() -> None:
    found = interpreter.probe(Path(sys.executable))
    assert found.version == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert "numpy" in found.preload
    assert found.identity == interpreter.probe(Path(sys.executable)).identity


def test_a_python_that_cannot_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(session.VmError, match="--python"):
        interpreter.probe(tmp_path / "python")


def test_the_stand_in_compiles_without_warnings(tmp_path: Path) -> None:
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"]
    done = subprocess.run(
        ["gcc", *flags, "-c", "-o", str(tmp_path / "o"), str(initramfs.GUEST / "python.c")], capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


# ---- names, machines, devices ----


def test_a_digest_tells_parts_apart() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("a", b"b") == digest("a", "b")


def test_things_made_last_stay_and_older_ones_go(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", lambda text: None)
    for number in range(KEPT + 2):
        place = store.root / f"image-{number}"
        store.add(place, lambda folder: (folder / "root").touch())
        os.utime(place, (number, number))
    assert sorted(path.name for path in store.root.glob("image-*")) == [f"image-{number}" for number in (2, 3)]
    store.clean()
    assert not store.root.exists()


def test_a_thing_that_failed_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, lambda text: None)

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError(errno.EIO, "the disk is broken")

    with pytest.raises(VmError, match=r"make the image .* the disk is broken"):
        store.add(tmp_path / "image-1", fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def spec(**changes: object) -> machine.Spec:
    values: dict[str, object] = {
        "kernel": Path("k"),
        "initramfs": Path("i"),
        "image": Path("r"),
        "memory": 1 << 30,
        "shares": (Path("/a,b"),),
        "mode": "fast",
    }
    return machine.Spec(**{**values, **changes})  # type: ignore[arg-type]


def test_commas_in_paths_do_not_become_options() -> None:
    words = machine.command_line(spec(), dict.fromkeys(machine.LINKS, 3))
    assert "local,id=share0,path=/a,,b,security_model=none,multidevs=remap" in words


def test_the_processor_runs_the_guest_only_where_kvm_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent, strange = tmp_path / "kvm", tmp_path / "file"
    strange.touch()
    assert "there is no" in accel.refusal(absent)
    assert "makes no machine" in accel.refusal(strange)
    monkeypatch.setattr(accel.fcntl, "ioctl", lambda *_: os.open(os.devnull, os.O_RDONLY))
    for flags, said in (("fpu vmx sse", ""), ("svm", ""), ("fpu svm_lock", "neither vmx nor svm")):
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\nbugs : vmx\n")
        assert said in accel.refusal(strange, tmp_path / "cpuinfo")
        assert bool(said) == bool(accel.refusal(strange, tmp_path / "cpuinfo"))
    monkeypatch.setattr(accel, "refusal", lambda: "")
    qemu = tmp_path / "qemu"
    monkeypatch.setattr(accel.packages, "find", lambda _: str(qemu))
    for script, said in (
        ('read word; [ "$word" = quit ]', ""),
        ("echo failed to set MSR 0x10a >&2; exit 134", "failed to set MSR"),
        ("exit 7", "status 7"),
    ):
        qemu.write_text(f"#!/bin/sh\n{script}\n")
        qemu.chmod(0o755)
        assert said in accel.trial()
        assert [accel.choose(asked) for asked in ("auto", "tcg")] == ["tcg" if said else "kvm", "tcg"]
    with pytest.raises(VmError, match="status 7"):
        accel.choose("kvm")
    monkeypatch.setattr(accel, "refusal", lambda: "/dev/kvm may not be opened: `sudo chmod a+rw /dev/kvm`")
    assert accel.choose("auto") == "tcg"
    with pytest.raises(VmError, match="sudo chmod"):
        accel.choose("kvm")
    with pytest.raises(InvalidArgument, match="auto, kvm, tcg"):
        Options(accel="xen")


def test_each_accelerator_has_its_processor() -> None:
    for name, processor in (("kvm", "host"), ("tcg", "max,-avx,-avx2,-f16c,-fma,-erms,-fsrm")):
        words = machine.command_line(spec(accelerator=name), dict.fromkeys(machine.LINKS, 3))
        assert words[words.index("-accel") + 1].partition(",")[0] == name
        assert words[words.index("-cpu") + 1] == processor
    assert accel.identity("tcg") == "tcg" != accel.identity("kvm")


def test_a_restored_machine_never_writes_the_snapshot() -> None:
    descriptors = dict.fromkeys(machine.LINKS, 3)
    made, restored = (
        machine.command_line(spec(ram=Path("ram"), restore=later), descriptors) for later in (False, True)
    )
    memory = "memory-backend-file,size=1073741824,id=memory,mem-path=ram,share="
    assert f"{memory}on" in made
    assert f"{memory}off" in restored


def test_only_soft_roce_that_is_active_counts(tmp_path: Path) -> None:
    for name, parent, state in (("mlx5_0", False, "4: ACTIVE"), ("rxe0", True, "4: ACTIVE"), ("rxe1", True, "1: DOWN")):
        port = tmp_path / name / "ports" / "1"
        port.mkdir(parents=True)
        (port / "state").write_text(state)
        if parent:
            (tmp_path / name / "parent").write_text("eth0")
    assert here.devices(tmp_path) == ["rxe0"]
    assert here.devices(tmp_path / "absent") == []


def test_a_command_on_this_kernel_ends_with_its_status_and_in_time(tmp_path: Path) -> None:
    def run(script: str, timeout: float = 30) -> int:
        return here.run(Options(command=("sh", "-c", script), directory=tmp_path, timeout=timeout), {"STATUS": "5"})

    assert run("exit $STATUS") == 5
    assert run("kill -TERM $$") == 128 + 15
    assert run("exec sleep 1000", timeout=0.05) == 124
    assert here.run(Options(command=("no-such-program",), directory=tmp_path), {}) == 127


def test_help_is_printed_for_every_action() -> None:
    for action in ("run", "prepare", "status", "clean"):
        with pytest.raises(SystemExit) as ended:
            parser().parse_args(["vm", action, "--help"])
        assert ended.value.code == 0
    assert isinstance(parser(), argparse.ArgumentParser)


# ---- what goes wrong with the cache ----


def test_a_cache_that_cannot_be_used_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setattr(here, "device", lambda: contextlib.nullcontext(None))
    for cache in (file, file / "below"):
        monkeypatch.setenv("RDMATENSOR_VM_CACHE", str(cache))
        assert main(["vm", "run", "--", "true"]) == 125
        said = capsys.readouterr().err
        assert str(cache) in said and "RDMATENSOR_VM_CACHE" in said and "Traceback" not in said
        assert main(["vm", "prepare"]) == 1
        assert main(["vm", "clean"]) == 0


def test_a_cache_that_others_could_write_to_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "open" / "cache"
    Store(root, print)
    for directory in (root, root.parent):
        directory.chmod(0o777)
        with pytest.raises(VmError, match=f"others can write to {directory}"):
            Store(root, print)
        directory.chmod(0o755)
    Store(root, print)


def test_a_user_without_a_home_is_told_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RDMATENSOR_VM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_entry(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr(config.pwd, "getpwuid", no_entry)
    monkeypatch.setenv("HOME", "")
    with pytest.raises(InvalidArgument, match=r"no home directory.*RDMATENSOR_VM_CACHE"):
        config.vm_cache()


def test_a_full_disk_ends_the_making_of_a_kernel_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def fetch(name: str, folder: Path, say: object) -> None:
        tried.append(name)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "vmlinuz"))

    monkeypatch.setattr(kernel, "fetch", fetch)
    store = Store(tmp_path / "cache", print)
    with pytest.raises(VmError, match="No space left on device: make room there, or name another"):
        store.make_kernel(["linux-image-3-amd64", "linux-image-2-amd64", "linux-image-1-amd64"])
    assert tried == ["linux-image-3-amd64"]
    assert {path.name for path in store.root.iterdir()} == {"empty"}


def test_a_kernel_without_the_driver_gives_way_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def fetch(name: str, folder: Path, say: object) -> None:
        tried.append(name)
        raise VmError("pick modules for the guest", name, "it has none")

    monkeypatch.setattr(kernel, "fetch", fetch)
    with pytest.raises(VmError, match="it has none"):
        Store(tmp_path / "cache", print).make_kernel(["linux-image-2-amd64", "linux-image-1-amd64"])
    assert tried == ["linux-image-2-amd64", "linux-image-1-amd64"]


def test_a_misspelt_package_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "installed", lambda: {"strace": ("strace", set())})
    image.check(["strace"])
    with pytest.raises(InvalidArgument, match="stracee, gbd: not installed here"):
        image.check(["stracee", "strace", "gbd"])


def test_a_wait_for_the_cache_has_an_end_and_names_whom_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    store = Store(tmp_path / "cache", said.append)
    monkeypatch.setattr("rdmatensor.vm.store.LOCK_TIMEOUT", 0.05)
    with (
        store.locked(alone=False),
        pytest.raises(VmError, match=r"another rdmatensor vm .* has used it for 0\.05 s"),
        store.locked(alone=True),
    ):
        pass
    (line,) = said
    assert str(os.getpid()) in line or "another process" in line  # some kernels do not tell
    with store.locked(alone=True):
        pass


def test_the_help_shows_commands_as_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["vm"], ["vm", "run"], ["vm", "prepare"], ["bench"], ["devices"], []):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        assert "%%" not in capsys.readouterr().out
