"""The agent: runs inside the guest, on the interpreter of the image, and runs the host's command
there.

It imports the heavy modules, waits for one job from the host, runs its command and sends the
output. Meanwhile it serves copies of itself to `python.c`. A copy is a fork of this process, so it
starts with everything imported; it then makes itself look like an interpreter that was just
started, and runs what was requested. Three virtual serial ports lead to the host: `control` (lines
of JSON), `out` and `err`.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import gc
import importlib
import io
import json
import multiprocessing.process  # noqa: F401  (copies reset the start-up state that it keeps)
import os
import resource
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
import types
import warnings
from pathlib import Path
from typing import Any

import ending  # type: ignore[import-not-found]  # beside this file, as are the next
import torch_extensions  # type: ignore[import-not-found]
from preloading import RUN, preload  # type: ignore[import-not-found]

SOCKET = f"{RUN}/python.socket"
HIGH = 1 << 11
"""The lowest number to which a copy moves its descriptors before they take their places."""
LIMITS = 16
"""The number of kinds of resource limits in Linux."""
STOP_POLL = 0.02
"""The seconds between checks whether a stand-in was stopped; only its parent is notified of a
SIGSTOP.
"""
ADD_ENTROPY, RESEED = 0x40085203, 0x5207


def option(name: str) -> str:
    """An option of the kernel's command line."""
    for word in Path("/proc/cmdline").read_text().split():
        if word.startswith(f"rdmatensor.{name}="):
            return word.partition("=")[2]
    return ""


def port(name: str) -> int:
    """The descriptor of the virtual serial port of that name."""
    for entry in Path("/sys/class/virtio-ports").iterdir():
        if (entry / "name").read_text().strip() == name:
            return os.open(f"/dev/{entry.name}", os.O_RDWR | os.O_CLOEXEC)
    raise FileNotFoundError(f"no virtual serial port {name}")


def write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def put_stand_in() -> None:
    """Puts python.c in the place of this interpreter, under all its names in its folder; the real one stays beside."""
    if not os.path.exists(f"{RUN}/python"):
        return
    here = Path(sys.executable)
    real = here.resolve()
    names = ["python", "python3", f"python3.{sys.version_info[1]}", here.name]
    same = {here.parent / name for name in names if (here.parent / name).resolve() == real}
    kept = here.parent / ".python-real"
    if real.parent == here.parent:
        real.rename(kept)
    else:
        kept.symlink_to(real)
    for path in same:
        path.unlink(missing_ok=True)
        shutil.copy2(f"{RUN}/python", path)
        path.chmod(0o755)
    if sys.prefix != sys.base_prefix:  # a share may be mounted over it; see mount_shares
        os.makedirs(f"{RUN}/venv")
        subprocess.run(["mount", "--bind", sys.prefix, f"{RUN}/venv"], check=True)


# ---- the job ----


def receive(control: int) -> dict[str, Any]:
    """The next message of the host."""
    data = b""
    while not data.endswith(b"\n"):
        piece = os.read(control, 1 << 16)
        if not piece:  # the other end is not connected yet
            time.sleep(0.01)  # a fixed nap: the agent stands alone, without the package that has the growing ones
        data += piece
    message: dict[str, Any] = json.loads(data)
    return message


def prepare(job: dict[str, Any]) -> None:
    """Prepares the guest for a job: clock, randomness, shared folders, network."""
    time.clock_settime(time.CLOCK_REALTIME, job["time"])
    seed = bytes.fromhex(job["seed"])
    random = os.open("/dev/urandom", os.O_RDWR)
    fcntl.ioctl(random, ADD_ENTROPY, struct.pack("ii", 0, len(seed)) + seed)  # bits of credit, bytes
    fcntl.ioctl(random, RESEED)
    os.close(random)
    mount_shares(job["shares"], job["fast"])
    if job["hosts"] == 2:
        laid = subprocess.run(["sh", f"{RUN}/network.sh", "two", *job["netem"]], capture_output=True, text=True)
        if laid.returncode != 0:
            raise OSError(f"the link between two hosts: {(laid.stdout + laid.stderr).strip()}")


def mount_shares(shares: list[list[str]], fast: bool) -> None:
    """Mounts folders of the host under their own paths. A virtual environment inside one of them is
    then covered by the image's, which contains the stand-in, unless the run is a plain one.
    """
    for tag, path in shares:
        os.makedirs(path, exist_ok=True)
        options = "trans=virtio,version=9p2000.L,msize=1048576,cache=loose"
        done = subprocess.run(["mount", "-t", "9p", "-o", options, tag, path], capture_output=True, text=True)
        if done.returncode != 0:
            raise OSError(f"mount {path}: {done.stderr.strip()}")
        if fast and os.path.isdir(f"{RUN}/venv") and Path(path) in Path(sys.prefix).parents:
            subprocess.run(["mount", "--bind", f"{RUN}/venv", sys.prefix], check=True)


def start(job: dict[str, Any]) -> tuple[int, int, int]:
    """Starts the command in a session of its own; gives its pid and the descriptors of its output."""
    out, write_out = os.pipe()
    err, write_err = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            nothing = os.open(os.devnull, os.O_RDONLY)
            for number, descriptor in enumerate((nothing, write_out, write_err)):
                os.dup2(descriptor, number)
            for number in (signal.SIGPIPE, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.chdir(job["directory"])
            os.execvpe(job["command"][0], job["command"], job["environment"])
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            hint = "; the guest has this system's basic packages, others come with --package NAME" if missing else ""
            os.write(2, f"rdmatensor vm: run {job['command'][0]}: {error.strerror}{hint}\n".encode())
            os._exit(127 if missing else 126)
        finally:
            os._exit(126)
    os.close(write_out)
    os.close(write_err)
    return pid, out, err


# ---- copies of this process ----


class Request:
    """A request of python.c: an interpreter with these arguments, directory, environment and
    descriptors.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        head, beside, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(4 * 250))
        descriptors = array.array("i")
        for _, _, data in beside:
            descriptors.frombytes(data[: len(data) - len(data) % 4])
        (size,) = struct.unpack("=I", head)
        body = b""
        while len(body) < size:
            piece = connection.recv(size - len(body))
            if not piece:
                raise ConnectionError("the request ends early")
            body += piece
        words = iter([os.fsdecode(word) for word in body.split(b"\0")[:-1]])
        self.descriptors = {int(next(words)): descriptor for descriptor in descriptors} if int(next(words)) else {}
        self.directory = next(words)
        self.arguments = [next(words) for _ in range(int(next(words)))]
        self.environment = dict(word.split("=", 1) for word in words if "=" in word)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        (self.stand_in, _, _) = struct.unpack("3i", credentials)


class Copy:
    """A running copy, and the stand-in that waits for it."""

    def __init__(self, pid: int, stand_in: int, connection: socket.socket) -> None:
        self.pid = pid
        self.stand_in = stand_in
        self.connection = connection
        self.ended = os.pidfd_open(pid)
        self.stopped = False
        self.abandoned = False

    def follow(self) -> None:
        """Stops or continues the copy, following its stand-in."""
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{self.stand_in}/stat").read_text().rpartition(")")[2].split()[0]
            if (state == "T") != self.stopped:
                self.stopped = state == "T"
                os.kill(self.pid, signal.SIGSTOP if self.stopped else signal.SIGCONT)

    def abandon(self) -> None:
        """Kills the copy, since its stand-in was killed."""
        self.abandoned = True
        os.kill(self.pid, signal.SIGKILL)

    def finish(self) -> None:
        """Tells the stand-in how the copy ended."""
        _, status = os.waitpid(self.pid, 0)
        with contextlib.suppress(OSError):
            self.connection.send(struct.pack("=i", status))
        self.connection.close()
        os.close(self.ended)


class Server:
    """Forwards the command's output and serves copies, until the command ends."""

    def __init__(self, pid: int, routes: dict[int, int], listener: socket.socket) -> None:
        self.listener = listener
        self.ended = os.pidfd_open(pid)
        self.routes = routes
        self.sent = dict.fromkeys(routes.values(), 0)
        self.copies: list[Copy] = []
        self.followed = 0.0

    def serve(self) -> Request | None:
        """Returns None when the command has ended; in a copy, returns the request to carry out."""
        while True:
            sources = [self.listener.fileno(), self.ended, *self.routes]
            for copy in self.copies:
                sources += [copy.ended] if copy.abandoned else [copy.ended, copy.connection.fileno()]
            poller = select.poll()
            for source in sources:
                poller.register(source, select.POLLIN)
            ready = {descriptor for descriptor, _ in poller.poll(STOP_POLL * 1000 if self.copies else None)}
            for source in ready & set(self.routes):
                self.pass_on(source)
            if request := self.look_after(ready):
                return request
            if self.ended in ready:
                for source in list(self.routes):
                    os.set_blocking(source, False)
                    while source in self.routes and self.pass_on(source):
                        pass
                return None

    def pass_on(self, source: int) -> int:
        """Forwards the bytes that can be read now; returns their number."""
        try:
            data = os.read(source, 1 << 16)
        except BlockingIOError:
            return 0
        target = self.routes[source]
        write_all(target, data)
        self.sent[target] += len(data)
        if not data:
            del self.routes[source]
            os.close(source)
        return len(data)

    def look_after(self, ready: set[int]) -> Request | None:
        """Ends, stops and starts copies; in a new one, returns the request to carry out."""
        follow = time.monotonic() > self.followed + STOP_POLL
        self.followed = time.monotonic() if follow else self.followed
        for copy in list(self.copies):
            if copy.ended in ready:
                copy.finish()
                self.copies.remove(copy)
            elif copy.connection.fileno() in ready and not copy.abandoned:
                copy.abandon()
            elif follow:
                copy.follow()
        if self.listener.fileno() in ready:
            connection, _ = self.listener.accept()
            try:
                request = Request(connection)
            except (OSError, ValueError, struct.error):
                connection.close()
                return None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the warning that this process has threads, which are idle
                pid = os.fork()
            if pid == 0:
                for held in [self.listener, connection, *(copy.connection for copy in self.copies)]:
                    held.detach()  # take_over closes the descriptors
                return request
            for descriptor in request.descriptors.values():
                os.close(descriptor)
            with contextlib.suppress(OSError):
                connection.send(struct.pack("=i", pid))
            self.copies.append(Copy(pid, request.stand_in, connection))
        return None


# ---- what a copy does ----
def take_over(request: Request) -> None:
    """Gives this process the state with which the stand-in was started."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    high = {number: fcntl.fcntl(held, fcntl.F_DUPFD, HIGH) for number, held in request.descriptors.items()}
    os.closerange(0, HIGH)
    for number, held in high.items():
        os.dup2(held, number)
        os.close(held)
    for kind in range(LIMITS):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, resource.prlimit(request.stand_in, kind))
    for line in Path(f"/proc/{request.stand_in}/status").read_text().splitlines():
        if line.startswith("Umask:"):
            os.umask(int(line.split()[1], 8))
    os.chdir(request.directory)
    os.environ.clear()
    os.environ.update(request.environment)
    Path("/proc/self/comm").write_text("python")


def open_streams(unbuffered: bool) -> None:
    """Opens the standard streams on the current descriptors."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream: io.TextIOWrapper | None = None
        with contextlib.suppress(OSError):
            terminal = os.isatty(number)
            mode = "rb" if name == "stdin" else "wb"
            raw = open(number, mode, buffering=0 if unbuffered and mode == "wb" else -1, closefd=False)  # noqa: SIM115
            os.fstat(number)
            stream = io.TextIOWrapper(
                raw,
                encoding="utf-8",
                errors="backslashreplace" if name == "stderr" else "surrogateescape",
                line_buffering=terminal or name == "stderr",
                write_through=unbuffered and mode == "wb",
            )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def import_paths(first: str) -> list[str]:
    """sys.path as a fresh interpreter would have it, with folders of .pth files that were not there at the start."""
    paths = [first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *START["path"]]
    for folder in START["path"]:
        if folder.endswith("-packages") and os.path.isdir(folder):
            for file in sorted(Path(folder).glob("*.pth")):
                for line in file.read_text(errors="replace").splitlines():
                    place = os.path.join(folder, line.strip())
                    if line.strip() and not line.startswith(("import ", "#")) and os.path.isdir(place):
                        paths += [place] if place not in paths else []
    return paths


def become(request: Request) -> None:
    """Carries out a request as the real interpreter would; returns, or raises SystemExit, when it
    is done.
    """
    try:
        take_over(request)
    except Exception:
        Path("/dev/console").write_text(f"rdmatensor: a copy failed\n{traceback.format_exc()}")
        raise
    arguments = request.arguments
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.orig_argv = [sys.executable, *arguments]
    while arguments[0] in ("-u", "-B"):
        unbuffered = unbuffered or arguments[0] == "-u"
        sys.dont_write_bytecode = sys.dont_write_bytecode or arguments[0] == "-B"
        arguments = arguments[1:]
    open_streams(unbuffered)
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # otherwise every copy would draw the same numbers
    torch_extensions.call_when_imported()
    process: Any = sys.modules["multiprocessing.process"]
    process.ORIGINAL_DIR = os.getcwd()  # a spawned process looks for the script in this directory
    main = types.ModuleType("__main__")
    main.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules["__main__"] = main
    try:
        if arguments[0] == "-c":
            sys.argv, sys.path[:] = ["-c", *arguments[2:]], import_paths("")
            exec(compile(arguments[1], "<string>", "exec"), main.__dict__)
        elif arguments[0] == "-m":
            sys.argv, sys.path[:] = ["-m", *arguments[2:]], import_paths(os.getcwd())
            runpy._run_module_as_main(arguments[1], alter_argv=True)  # type: ignore[attr-defined]
        else:
            run_file(arguments, main)
    except SystemExit:
        raise
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, "<frozen runpy>", runpy.__file__):
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        raise SystemExit(1) from None


def run_file(arguments: list[str], main: types.ModuleType) -> None:
    """Runs a script, or a folder or archive that contains a __main__."""
    path = arguments[0]
    sys.argv = arguments
    sys.path[:] = import_paths(os.path.dirname(os.path.realpath(path)))
    if os.path.isdir(path) or path.endswith((".zip", ".pyz")):
        sys.path[:] = sys.path[1:]
        runpy.run_path(path, run_name="__main__")
        return
    try:
        with io.open_code(os.path.abspath(path)) as file:
            source = file.read()
    except OSError as error:
        print(f"{sys.executable}: can't open file {path!r}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    main.__file__ = path
    main.__dict__["__cached__"] = None
    exec(compile(source, path, "exec"), main.__dict__)


START = {"path": sys.path[1:]}


def work() -> Request | None:
    """The life of the agent. Returns only in copies."""
    fast = option("mode") == "fast"
    took: dict[str, float] = {}
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    listener.listen(64)
    if fast:
        put_stand_in()
        took = preload()
    control, out, err = port("control"), port("out"), port("err")

    def send(message: dict[str, Any]) -> None:
        write_all(control, (json.dumps(message) + "\n").encode())

    ending.keep_all()
    gc.collect()
    gc.freeze()
    os.sync()
    send({"ready": took})
    job = receive(control)
    try:
        prepare(job)
        pid, job_out, job_err = start(job)
    except OSError as error:
        send({"failed": str(error)})
        signal.pause()
    send({"started": True})
    server = Server(pid, {job_out: out, job_err: err}, listener)
    request = server.serve()
    if request is not None:
        return request
    _, status = os.waitpid(pid, 0)
    os.sync()
    send({"done": os.waitstatus_to_exitcode(status), "out": server.sent[out], "err": server.sent[err]})
    signal.pause()
    return None


if __name__ == "__main__":
    if (asked := work()) is not None:
        become(asked)
