"""The README's examples run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
EXAMPLES: list[str] = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
PATIENCE = 900
LINES_MAX = 10


def example(opening: str) -> str:
    """The one example that opens so."""
    (found,) = (code for code in EXAMPLES if code.startswith(opening))
    return found


def test_the_readme_has_its_examples() -> None:
    assert len(EXAMPLES) == 4


def test_the_example_of_a_copy_runs() -> None:
    code = example("import numpy")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr


def test_the_example_of_two_processes_moves_a_tensor_without_copies() -> None:
    receive = [sys.executable, "-c", example("# receiver.py\n")]
    with subprocess.Popen(receive, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        address = receiver.stdout.readline().strip()
        send = [sys.executable, "-c", example("# sender.py ADDRESS\n"), address]
        sent = subprocess.run(send, capture_output=True, text=True, timeout=PATIENCE, check=False)
        output, errors = receiver.communicate(timeout=PATIENCE)
    assert (sent.returncode, receiver.returncode) == (0, 0), sent.stderr + errors
    assert output == "65536.0 after 0 copies\n"


def test_a_side_of_two_processes_is_short() -> None:
    for opening in ("# receiver.py\n", "# sender.py ADDRESS\n"):
        lines = [line for line in example(opening).splitlines() if line and not line.startswith("#")]
        assert len(lines) <= LINES_MAX


def test_the_example_of_a_team_runs(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(example("# script.py\n") + "    step()\n    print(total[0])\n")
    command = [sys.executable, "-m", "rdmatensor", "run", "-n", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["2", "2"]), done.stderr
