"""Simulated sweeps whose truth is known: rows of a latent difficulty, answered by models of a given accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from tunerun.comparison.arms import BaselineScores, PointScores
from tunerun.comparison.decision import Comparison, decide
from tunerun.comparison.paired_tests import Rules
from tunerun.comparison.results import Outcome
from tunerun.metrics import Asks, Unit
from tunerun.metrics.base import FloatArray
from tunerun.metrics.macro_f1 import MacroF1


@dataclass(frozen=True)
class Scores:
    """A metric of right and wrong rows: 1 and 0."""

    name: str = "right"
    unit: Unit = Unit.SHARE
    higher_is_better: bool = True
    asks: Asks = Asks.ANSWERS
    is_corpus: bool = False

    def rows(self, expected: Sequence[str], answers: Sequence[str]) -> FloatArray:
        return np.array([[float(e == a)] for e, a in zip(expected, answers, strict=True)])

    def value(self, means: FloatArray) -> FloatArray:
        return np.asarray(means[..., 0])


RIGHT = Scores()


@dataclass(frozen=True)
class World:
    """How models answer rows.

    Attributes:
        gains: what each point's accuracy is above the baselines'.
        shared: how much of a row's difficulty all models have in common.
        cluster_size: rows of one cluster; half of a model's luck is the cluster's.
        seed_deviation: of a point's accuracy from seed to seed.
    """

    rows: int = 24
    gains: tuple[float, ...] = (0.0,) * 4
    baselines: int = 1
    accuracy: float = 0.5
    shared: float = 0.5
    cluster_size: int = 1
    seeds: int = 1
    seed_deviation: float = 0.0

    @property
    def clusters(self) -> list[int] | None:
        return None if self.cluster_size == 1 else [row // self.cluster_size for row in range(self.rows)]

    def __str__(self) -> str:
        parts = [f"n={self.rows}", f"k={len(self.gains)}", f"b={self.baselines}"]
        if self.cluster_size > 1:
            parts.append(f"clusters of {self.cluster_size}")
        if self.seeds > 1:
            parts.append(f"{self.seeds} seeds, sd {self.seed_deviation:g}")
        return " ".join(parts)

    def draw(self, generator: np.random.Generator) -> tuple[list[PointScores], list[BaselineScores]]:
        """Draw the scores of one sweep."""
        common = self._luck(generator)
        points = [
            PointScores(number, self._answers(generator, common, self.accuracy + gain, self.seeds)[:, :, None])
            for number, gain in enumerate(self.gains)
        ]
        baselines = [
            BaselineScores(f"base+{n}", self._answers(generator, common, self.accuracy, 1)[0][:, None])
            for n in range(self.baselines)
        ]
        return points, baselines

    def _luck(self, generator: np.random.Generator) -> FloatArray:
        own = generator.standard_normal(self.rows)
        if self.cluster_size == 1:
            return own
        of_clusters = generator.standard_normal(-(-self.rows // self.cluster_size))
        return np.asarray((own + of_clusters[self.clusters]) / np.sqrt(2))

    def _answers(self, generator: np.random.Generator, common: FloatArray, accuracy: float, seeds: int) -> FloatArray:
        """Draw answers, [seeds, rows]; a fifth of what is not shared differs from seed to seed."""
        own = self._luck(generator)
        tables = []
        for _ in range(seeds):
            moved = accuracy + (self.seed_deviation * generator.standard_normal() if seeds > 1 else 0.0)
            limit = NormalDist().inv_cdf(min(0.999, max(0.001, moved)))
            rest = np.sqrt(0.8) * own + np.sqrt(0.2) * self._luck(generator)
            tables.append(np.sqrt(self.shared) * common + np.sqrt(1 - self.shared) * rest < limit)
        return np.array(tables, dtype=float)


@dataclass
class Tally:
    """How often each claim was made over many draws of one world.

    Attributes:
        better: it advised a point as better than the baselines; wrong where no point is.
        left_out: a truly best point was not in the tied set.
        detected: share of truly better points that are better than every baseline.
        detected_alone: share of their comparisons, each with one baseline, that say better.
    """

    draws: int = 0
    better: int = 0
    left_out: int = 0
    detected: list[float] = field(default_factory=list)
    detected_alone: list[float] = field(default_factory=list)

    def add(self, world: World, comparison: Comparison) -> None:
        decision = comparison.decision
        best = {number for number, gain in enumerate(world.gains) if gain == max(world.gains)}
        self.draws += 1
        self.better += decision.outcome is Outcome.BETTER
        self.left_out += not best <= set(decision.tied)
        truly = [number for number, gain in enumerate(world.gains) if gain > 0]
        if truly:
            differences = comparison.differences
            is_better = [all(d.outcome is Outcome.BETTER for d in differences[number]) for number in truly]
            self.detected.append(sum(is_better) / len(is_better))
            each = [d.outcome is Outcome.BETTER for number in truly for d in differences[number]]
            self.detected_alone.append(sum(each) / len(each))


def simulated(world: World, draws: int, seed: int, flips: int = 1_000, *, by_labels: bool = False) -> Tally:
    """Decide about many draws of a world.

    Args:
        by_labels: by the macro F1 of three labels, a corpus metric, in the place of the share of right answers.
    """
    generator = np.random.default_rng(seed)
    tally = Tally()
    for draw in range(draws):
        points, baselines = world.draw(generator)
        if by_labels:
            points, baselines = _labelled(generator, points, baselines)
        rules = Rules(flips=flips, resamples=2, seed=draw)
        metric = MacroF1() if by_labels else RIGHT
        tally.add(world, decide(metric, points, baselines, world.clusters, rules))
    return tally


def _labelled(
    generator: np.random.Generator, points: Sequence[PointScores], baselines: Sequence[BaselineScores]
) -> tuple[list[PointScores], list[BaselineScores]]:
    """The same right and wrong answers as labels: a wrong one is any of the two others."""
    expected = generator.integers(0, 3, size=(points[0].scores.shape[1],))

    def counts(right: FloatArray) -> FloatArray:
        other = (expected + generator.integers(1, 3, len(expected))) % 3
        answers = np.where(right[:, 0] > 0, expected, other)
        return MacroF1().rows([str(label) for label in expected], [str(label) for label in answers])

    return (
        [PointScores(each.number, np.stack([counts(table) for table in each.scores])) for each in points],
        [BaselineScores(each.name, counts(each.scores)) for each in baselines],
    )


def null_worlds() -> Iterator[World]:
    """Worlds in which no point is better than a baseline.

    With one seed the sentence is about these trained models, so in a null world these are equal; with three it is about
    settings, whose trained models differ by their seeds.
    """
    for rows in (24, 100):
        for points in (4, 12):
            for baselines in (1, 3):
                gains = (0.0,) * points
                yield World(rows, gains, baselines)
                yield World(rows, gains, baselines, cluster_size=2 if rows == 24 else 4)
                for deviation in (0.0, 0.04):
                    yield World(rows, gains, baselines, seeds=3, seed_deviation=deviation)
