"""A line fitted to points that lie with several processes: each has its own points, and they agree on the line.

    rdmatensor run -n 4 examples/team.py

The sums that a least-squares fit needs are reduced over all processes by one prepared call; then every process has the
same line, and rank 0 prints it.
"""

from __future__ import annotations

import numpy as np

import rdmatensor as rt

SLOPE, OFFSET, POINTS = 3.0, -1.0, 100_000


def main() -> None:
    with rt.Team.join() as team:
        random = np.random.default_rng(team.rank)
        x = random.uniform(0.0, 10.0, POINTS)
        y = SLOPE * x + OFFSET + random.normal(0.0, 0.1, POINTS)
        sums = np.array([POINTS, x.sum(), (x * x).sum(), y.sum(), (x * y).sum()])
        team.all_reduce(sums)
        count, sum_x, sum_xx, sum_y, sum_xy = sums
        slope = (count * sum_xy - sum_x * sum_y) / (count * sum_xx - sum_x * sum_x)
        offset = (sum_y - slope * sum_x) / count
        lines = team.gather(np.array([slope, offset]))
        if lines is not None:
            same = bool((lines == lines[0]).all())
            print(f"{team.size} processes, {count:,.0f} points: y = {slope:.3f} x + {offset:.3f}", end="; ")
            print(f"the same line everywhere: {same}")


if __name__ == "__main__":
    main()
