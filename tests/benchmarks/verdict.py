"""How often the verdict is right over simulated sweeps, and how long it takes over a large one."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.comparison.sweeps import Trained, frozen
from tests.comparison.worlds import World, null_worlds, simulated
from tunerun.comparison import judge
from tunerun.statistics.flips import FLIPS

DRAWS = 1_000
"""Of each world: a rate of 3 % has then a standard error of 0.5 points."""

TRIALS, ROWS, METRICS = 200, 500, ("exact_match", "accuracy", "macro_f1")

_HALF_OF_FOUR, _HALF_OF_TWELVE = (0.25,) * 2 + (0.0,) * 2, (0.25,) * 6 + (0.0,) * 6
POWER = {
    World(24, _HALF_OF_FOUR, 1, shared=0.6): 0.43,
    World(24, _HALF_OF_TWELVE, 1, shared=0.6): 0.34,
    World(24, _HALF_OF_TWELVE, 3, shared=0.6): 0.21,
    World(100, _HALF_OF_TWELVE, 1, shared=0.6): 0.98,
    World(100, _HALF_OF_TWELVE, 3, shared=0.6): 0.98,
}
"""Share of comparisons of a truly better point with a baseline that say better, in the simulation by which the methods were
chosen (2026-11-25): half of the points are 25 points better, over worlds whose rows share 0.2 to 0.8 of their
difficulty."""


def run() -> Iterator[str]:
    """Time a large verdict; then the error rates of null worlds, and the power of others."""
    yield from speed()
    yield from error_rates()
    yield from power()


def speed() -> Iterator[str]:
    """Judge a sweep of many trials whose answers are labels."""
    draw = random.Random(0)
    labels = ["cancel", "pay", "return", "other"]
    expected = [draw.choice(labels) for _ in range(ROWS)]

    def answers(accuracy: float) -> list[str]:
        return [right if draw.random() < accuracy else draw.choice(labels) for right in expected]

    trials = [Trained(answers(0.4 + 0.4 * number / TRIALS)) for number in range(TRIALS)]
    baselines = {"base": answers(0.1), "base+4": answers(0.3), "majority": ["pay"] * ROWS}
    for decider in METRICS:
        evaluation = {"metrics": list(METRICS), "decide_by": decider}
        with tempfile.TemporaryDirectory() as folder:
            lab = frozen(Path(folder), trials, baselines, expected=expected, evaluation=evaluation)
            start, cpu_start = time.perf_counter(), time.process_time()
            verdict = judge(lab.ledger, lab.sweep)
            seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
            lab.ledger.close()
        yield (
            f"the verdict over {TRIALS} trials, {ROWS} rows, {len(METRICS)} metrics, {len(baselines)} baselines, "
            f"{FLIPS:,} flips, by {decider}: {seconds:.1f} s, {cpu_s:.1f} s of CPU (goal 10 s); {len(verdict.decision.tied)} tied"
        )


def error_rates() -> Iterator[str]:
    """Worlds in which nothing is better."""
    yield f'worlds in which no point is better: "better" is said (goal 3.5 %), a best point is left out (goal 6 %); {DRAWS} each'
    better, left_out = [], []
    for seed, world in enumerate(null_worlds()):
        tally = simulated(world, DRAWS, seed)
        better.append(tally.better / DRAWS)
        left_out.append(tally.left_out / DRAWS)
        yield f"  {world}: {100 * better[-1]:.1f} %, {100 * left_out[-1]:.1f} %"
    for rows in (24, 100):
        tally = simulated(World(rows), DRAWS // 2, rows, by_labels=True)
        share, lost = 100 * tally.better / tally.draws, 100 * tally.left_out / tally.draws
        yield f"  {World(rows)} by macro F1 of three labels: {share:.1f} %, {lost:.1f} %"
    yield (
        f"  all {len(better)}: {100 * sum(better) / len(better):.1f} %, {100 * sum(left_out) / len(left_out):.1f} %; "
        f"the most: {100 * max(better):.1f} %, {100 * max(left_out):.1f} %"
    )


def power() -> Iterator[str]:
    """Worlds in which half of the points are better."""
    yield "points that are 25 points better: comparisons that say so (in the simulation that chose the methods), better than every baseline"
    for seed, (world, tested) in enumerate(POWER.items()):
        tally = simulated(world, DRAWS, 100 + seed)
        alone, found = (sum(shares) / tally.draws for shares in (tally.detected_alone, tally.detected))
        lost = 100 * tally.left_out / tally.draws
        yield f"  {world}: {alone:.2f} ({tested:.2f}), {found:.2f}; a best point left out in {lost:.1f} %"
    for deviation, tested in ((0.02, 0.70), (0.04, 0.57)):
        world = World(100, (0.12, 0.0, 0.0, 0.0), accuracy=0.7, seeds=3, seed_deviation=deviation)
        tally = simulated(world, DRAWS, 7)
        yield f"  12 points better, {world}: {sum(tally.detected) / len(tally.detected):.2f} (there {tested:.2f})"


if __name__ == "__main__":
    for line in run():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
