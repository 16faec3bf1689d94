"""Runs a compiler that ends with the process that asked for it: `python -I -S supervise.py
COMMAND...`.

Standard input is a pipe that the asking process holds open. When that process dies, by SIGKILL too,
the pipe ends, and this whole process group is killed: the compiler and its children.
"""

import os
import signal
import subprocess
import sys
import threading


def end_with_parent() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        status = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"{sys.argv[1]} could not be run: {error.strerror}\n")
        status = 127
    os._exit(status if status >= 0 else 128 - status)
