"""PyTorch's backend tests over Gloo and over rdmatensor, side by side, at 2, 3 and 4 ranks.

    python tests/torch/ranks/report.py [--ranks 2 3 4] [--folder build/torch-tests]

Prints what passed, failed and was skipped, and every test that Gloo passes and rdmatensor does not. Fails if there is
one that is not in `suite.INAPPLICABLE`. Results that are in the folder already are not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

SUITE = Path(__file__).with_name("suite.py")
OUTCOMES = ("passed", "failed", "cannot", "skipped")


def results(folder: Path, backend: str, ranks: int) -> dict[str, list[str]]:
    path = folder / f"{backend}-{ranks}.json"
    if not path.exists():
        print(f"== {backend}, {ranks} ranks", flush=True)
        command = [sys.executable, str(SUITE), "--backend", backend, "--ranks", str(ranks), "--verbose"]
        with (folder / f"{backend}-{ranks}.log").open("w") as log:
            subprocess.run([*command, "--json", str(path)], stdout=log, stderr=subprocess.STDOUT, check=False)
    found: dict[str, list[str]] = json.loads(path.read_text())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="*", default=[2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("build/torch-tests"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    behind = 0
    rows, named = [], []
    for ranks in options.ranks:
        both = {backend: results(options.folder, backend, ranks) for backend in ("gloo", "rdmatensor")}
        for backend, found in both.items():
            counts = Counter(outcome for outcome, _ in found.values())
            rows.append(f"{backend:>12} {ranks:>5} " + "".join(f"{counts[outcome]:>9}" for outcome in OUTCOMES))
        for name, (outcome, _) in both["gloo"].items():
            ours, why = both["rdmatensor"][name]
            if outcome == "passed" and ours != "passed":
                named.append(f"{name}, {ranks} ranks: {ours}, {why if ours == 'cannot' else 'see the log'}")
                behind += ours != "cannot"
    print("     backend ranks " + "".join(f"{outcome:>9}" for outcome in OUTCOMES))
    print("\n".join(rows))
    print("\n".join(["passes over gloo and not over rdmatensor:", *(named or ["none"])]))
    reasons = Counter(why for outcome, why in both["rdmatensor"].values() if outcome == "skipped")
    print(f"why tests are skipped, at {options.ranks[-1]} ranks:")
    for why, count in reasons.most_common():
        print(f"{count:>6}  {why}")
    return 1 if behind else 0


if __name__ == "__main__":
    sys.exit(main())
