"""A script for the guest: starts interpreters in the ways programs do and prints what came of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

ENDLESS = "while True: print('x' * 100, flush=True)"


def start(code: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **options)


def text(code: str, **options: Any) -> tuple[str, int]:
    """The output of an interpreter, and its status."""
    process = start(code, **options)
    return process.communicate()[0].strip(), process.returncode


def a_descriptor() -> tuple[bytes, int, bytes]:
    ours, theirs = os.pipe()
    process = start(f"import os; os.write({theirs}, b'sent')", pass_fds=[theirs])
    os.close(theirs)
    return os.read(ours, 100), process.wait(), os.read(ours, 100)


def a_limit() -> str:
    code = "import resource as r; print(r.getrlimit(r.RLIMIT_MEMLOCK))"
    command = ["bash", "-c", 'ulimit -l 64; "$0" -c "$1"', sys.executable, code]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def stopped_and_continued() -> tuple[bool, int]:
    """Whether output goes on after SIGCONT, having ceased after SIGSTOP; the status after SIGKILL."""
    process = start(ENDLESS)
    assert process.stdout is not None
    source = process.stdout.fileno()
    os.read(source, 1)
    process.send_signal(signal.SIGSTOP)
    came = threading.Event()

    def drain() -> None:
        while os.read(source, 1 << 20):
            came.set()

    threading.Thread(target=drain, daemon=True).start()
    while came.wait(1.0):  # ends once nothing came for a second
        came.clear()
    process.send_signal(signal.SIGCONT)
    went_on = came.wait(20)
    process.kill()
    return went_on, process.wait()


def terminated() -> int:
    process = start(ENDLESS)
    assert process.stdout is not None
    os.read(process.stdout.fileno(), 1)
    process.terminate()
    return process.wait()


ENDING = """
import atexit, ctypes, sys, threading
class Last:
    def __del__(self):
        print('deleted', sys.is_finalizing(), flush=True)
kept = Last()
threading.Thread(target=lambda: print('joined')).start()
atexit.register(print, 'at exit')
puts = ctypes.CDLL(None).puts
sys.stdout.flush()
atexit.register(puts, b'buffered by C')
raise SystemExit(3)
"""
"""Does at its end what programs do then."""


if __name__ == "__main__":
    draw = "import numpy as np; print(np.random.rand())"
    arguments = [sys.executable, "-c", "import sys; print(sys.argv)", "a", "b c"]
    print("arguments", subprocess.run(arguments, capture_output=True, text=True).stdout.strip())
    print("status", text("raise SystemExit(7)")[1], text("1 / 0", stderr=subprocess.DEVNULL)[1])
    print("ending", text(ENDING))
    print("signal", text("import os; os.abort()")[1])
    print("different numbers", text(draw) != text(draw))
    print("flags", text("import sys; print(sys.flags.dev_mode)", env={**os.environ, "PYTHONDEVMODE": "1"})[0])
    print("descriptor", a_descriptor())
    print("limit", a_limit())
    print("stopped and continued, killed", stopped_and_continued())
    print("terminated", terminated())
