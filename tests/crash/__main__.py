"""`make soak`: kill a sweep at points drawn by seed, for as long as asked; prints the seed that breaks it."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.kills import Instant, Kill
from tests.crash.rig import Rig
from tests.rigs.gemini_service import GeminiService
from tunerun.tracking.address import parse_address
from tunerun.tracking.store import Store

SWEEP = "hyperparameters.epoch_count=2,3,4"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first walk; each further one adds 1")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, GeminiService() as service:
        store = Path(folder) / "mlflow.db"
        Store(parse_address(f"sqlite:///{store}", store.parent)).experiments()
        rig = Rig(Path(folder), service, store, SWEEP)
        place = rig.place()
        expected = rig.outcome(place, rig.run(place))
        deadline, walks, points = time.monotonic() + 60 * options.minutes, 0, 0
        while time.monotonic() < deadline:
            seed = options.seed + walks
            kills = drawn(seed)
            _, outcome = rig.survives(*kills)
            if outcome != expected:
                sys.exit(f"seed {seed} breaks it: killed at {', '.join(map(str, kills))}")
            walks, points = walks + 1, points + len(kills)
        sys.stdout.write(
            f"{walks} walks with {points} kills, from seed {options.seed}: every one ended as undisturbed\n"
        )


def drawn(seed: int) -> list[Kill]:
    """One to five kills; the later ones come earlier, because less is left to do."""
    draw = random.Random(seed)
    instants = [instant for instant in Instant if instant is not Instant.MADE]  # the store exists already
    return [Kill(draw.choice(instants), draw.randint(1, 40 // (n + 1))) for n in range(draw.randint(1, 5))]


if __name__ == "__main__":
    main()
