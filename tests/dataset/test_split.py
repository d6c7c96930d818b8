"""The laws of splits."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunerun.dataset.split import Split, choose, ranks_of, split_rows

FRACTIONS = st.tuples(st.integers(0, 50), st.integers(0, 49)).map(lambda pair: (pair[0] / 100, pair[1] / 100))
SEEDS = st.integers(0, 2**32 - 1)
CLASSES = st.lists(st.sampled_from("abcde"), min_size=1, max_size=80)


def _split(identities: Sequence[object], classes: Sequence[str], fractions: tuple[float, float], seed: int) -> Split:
    ranks = ranks_of((repr(identity).encode() for identity in identities), seed)
    return split_rows(ranks, identities, classes, validation=fractions[0], test=fractions[1])


def _half_up(count: int, fraction: float) -> int:
    return (count * round(fraction * 100) + 50) // 100


@given(identities=st.lists(st.integers(0, 20), min_size=1, max_size=80), fractions=FRACTIONS, seed=SEEDS)
def test_partition(identities: list[object], fractions: tuple[float, float], seed: int) -> None:
    """Every row is in exactly one part, in the file's order, and something is left to train on."""
    split = _split(identities, [""] * len(identities), fractions, seed)
    parts = (split.training, split.validation, split.test)
    assert sorted(row for part in parts for row in part) == list(range(len(identities)))
    assert all(list(part) == sorted(part) for part in parts)
    assert split.training


@given(identities=st.lists(st.integers(0, 20), min_size=1, max_size=80), fractions=FRACTIONS, seed=SEEDS)
def test_equal_rows_stay_together(identities: list[object], fractions: tuple[float, float], seed: int) -> None:
    """Rows that are equal after the template are never torn apart into two parts."""
    split = _split(identities, [""] * len(identities), fractions, seed)
    sets = [{identities[row] for row in part} for part in (split.training, split.validation, split.test)]
    assert sum(map(len, sets)) == len(set(identities))


@given(classes=CLASSES, fractions=FRACTIONS, seed=SEEDS)
def test_determinism(classes: list[str], fractions: tuple[float, float], seed: int) -> None:
    """The same seed gives the same split."""
    rows: list[object] = list(range(len(classes)))
    assert _split(rows, classes, fractions, seed) == _split(rows, classes, fractions, seed)


@given(count=st.integers(1, 300), fractions=FRACTIONS, seed=SEEDS)
def test_sizes(count: int, fractions: tuple[float, float], seed: int) -> None:
    """Each part has its fraction of the rows, rounded half up, as long as a row is left to train on."""
    split = _split(list(range(count)), [""] * count, fractions, seed)
    validation = min(_half_up(count, fractions[0]), count - 1)
    test = min(_half_up(count, fractions[1]), count - 1 - validation)
    assert (len(split.validation), len(split.test)) == (validation, test)


@given(classes=CLASSES, fractions=FRACTIONS, seed=SEEDS)
def test_stratification(classes: list[str], fractions: tuple[float, float], seed: int) -> None:
    """Each class keeps its share within one row, and at least one row of it stays in training."""
    split = _split(list(range(len(classes))), classes, fractions, seed)
    assert {classes[row] for row in split.training} == set(classes)
    total = Counter(classes)
    held = Counter(classes[row] for row in split.validation)
    for name, count in total.items():
        share = min(count * fractions[0], count - 1)
        assert abs(held[name] - share) < 1 + 1e-9
    assert len(split.validation) <= _half_up(len(classes), fractions[0])


@given(
    counts=st.lists(st.integers(20, 40), min_size=1, max_size=5),
    fraction=st.integers(0, 40).map(lambda percent: percent / 100),
    seed=SEEDS,
)
def test_stratified_sizes_add_up(counts: list[int], fraction: float, seed: int) -> None:
    """The classes' shares add up to the fraction of all rows."""
    classes = [str(name) for name, count in enumerate(counts) for _ in range(count)]
    split = _split(list(range(len(classes))), classes, (fraction, fraction), seed)
    assert len(split.validation) == len(split.test) == _half_up(len(classes), fraction)


def test_the_split_of_a_seed_never_changes() -> None:
    """A seed's split is the same on every platform and version: results of older runs depend on it."""
    split = _split(range(12), ["a", "b"] * 6, (0.25, 0.25), 7)
    assert split == Split(training=(2, 3, 5, 7, 9, 10), validation=(0, 8, 11), test=(1, 4, 6))


def test_seeds_differ() -> None:
    """Another seed gives another split."""
    splits = {_split(range(50), [""] * 50, (0.2, 0.0), seed) for seed in range(5)}
    assert len(splits) == 5


@given(count=st.integers(20, 200), kinds=st.integers(1, 6), place=st.integers(0, 200), seed=SEEDS)
def test_a_row_more_moves_few_others(count: int, kinds: int, place: int, seed: int) -> None:
    """Where a row goes follows from its own content; one that is added takes the place of one or two of a class."""
    rows = [str(number) for number in range(count)]
    more = [*rows[:place], "new", *rows[place:]]
    before, after = (
        _split(each, [str(len(row) * 7 % kinds) for row in each], (0.2, 0.1), seed) for each in (rows, more)
    )
    for name in ("validation", "test"):
        held, later = {rows[row] for row in getattr(before, name)}, {more[row] for row in getattr(after, name)}
        assert len(held ^ later) <= 2 * kinds + 1


@given(count=st.integers(1, 80), fractions=FRACTIONS, seed=SEEDS)
def test_the_order_of_rows_does_not_matter(count: int, fractions: tuple[float, float], seed: int) -> None:
    """The same rows in another order are split the same way."""
    rows = list(range(count))
    other = random.Random(seed).sample(rows, count)
    one, two = _split(rows, [""] * count, fractions, seed), _split(other, [""] * count, fractions, seed)
    for name in ("training", "validation", "test"):
        assert {rows[row] for row in getattr(one, name)} == {other[row] for row in getattr(two, name)}


@pytest.mark.parametrize("fraction", [0.29, 0.07, 0.57])
def test_fractions_are_decimal(fraction: float) -> None:
    """A fraction means its decimal digits, not the binary number next to them."""
    split = _split(range(100), [""] * 100, (fraction, 0.0), 0)
    assert len(split.validation) == round(fraction * 100)


@given(count=st.integers(0, 50), limit=st.integers(1, 60), seed=SEEDS)
def test_choose(count: int, limit: int, seed: int) -> None:
    """A limit chooses different positions, and a smaller limit the first of a larger one's."""
    ranks = ranks_of((str(row).encode() for row in range(count)), seed)
    chosen = choose(ranks, limit)
    assert len(chosen) == len(set(chosen)) == min(count, limit)
    assert set(chosen) <= set(range(count))
    assert chosen == choose(ranks, max(count, 1))[:limit]
