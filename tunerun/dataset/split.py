"""Split rows into training, validation and test, by a hash of each row's content; stratified on request.

A row's part depends on its content and the seed, not on its position in the file: an appended row moves few others,
and the same rows in another order, or with another template, are split in the same way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Split:
    """The positions of the rows of each part, ascending; each row is in exactly one part."""

    training: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def ranks_of(contents: Iterable[bytes], seed: int) -> list[int]:
    """Return a rank for each row, which depends on its content and the seed alone; parts take rows by rank."""
    # A hash and not a random generator: a rank does not depend on the other rows or their number. With the seed as the
    # key of the hash, another seed gives an order of its own.
    key = seed.to_bytes(8, "big")
    return [int.from_bytes(hashlib.blake2b(each, digest_size=8, key=key).digest(), "big") for each in contents]


def split_rows(
    ranks: Sequence[int],
    identities: Sequence[Hashable],
    classes: Sequence[Hashable],
    *,
    validation: float,
    test: float,
) -> Split:
    """Split validation and test rows off; the rest are for training.

    Each part has its fraction of the rows, rounded half up, and the same share of each class, within one row. It gets
    fewer if a class would have nothing left to train on (a class of one row stays in training), or if rows with one
    identity, which stay together, do not fit.

    Args:
        ranks: of each row, from `ranks_of`.
        identities: of each row; rows of equal identity stay in one part, and have the class of the first of them.
        classes: of each row; the same for all: no stratification.
        validation: fraction of all rows, 0 to below 1.
        test: the same.
    """
    groups: dict[Hashable, list[int]] = {}
    for row, identity in enumerate(identities):
        groups.setdefault(identity, []).append(row)
    members: dict[Hashable, list[list[int]]] = {}
    for group in groups.values():
        members.setdefault(classes[group[0]], []).append(group)
    for of_class in members.values():
        of_class.sort(key=lambda group: (min(ranks[row] for row in group), group[0]))

    sizes = {name: sum(map(len, of_class)) for name, of_class in members.items()}
    validation_quotas = quotas(sizes, validation, {name: size - 1 for name, size in sizes.items()})
    test_quotas = quotas(sizes, test, {name: size - 1 - validation_quotas[name] for name, size in sizes.items()})

    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for name, of_class in members.items():
        # Validation gets the lowest ranks and test the highest, so that an added row moves only those at the limits.
        rest = _take(of_class, validation_quotas[name], parts[1])
        rest = _take(rest[::-1], test_quotas[name], parts[2])
        parts[0].extend(row for group in rest for row in group)
    return Split(*(tuple(sorted(part)) for part in parts))


def quotas(sizes: Mapping[Hashable, int], fraction: float, capacities: Mapping[Hashable, int]) -> dict[Hashable, int]:
    """Return how many rows of each class a part gets, by the largest remainder method.

    Args:
        sizes: rows of each class.
        fraction: share of all rows.
        capacities: the most that may be taken of each class.
    """
    share = Fraction(str(fraction))  # Fraction(0.29) is not 29/100
    # Fractions and not floats, so that a share that is exactly half a row is rounded the same way everywhere.
    exact = {name: size * share for name, size in sizes.items()}
    result = {name: min(int(value), capacities[name]) for name, value in exact.items()}
    total = int(sum(sizes.values()) * share + Fraction(1, 2))
    remainders = {name: value - result[name] for name, value in exact.items() if result[name] < capacities[name]}
    # Equal remainders go by name: the order of the rows in the file must not decide.
    behind = sorted(
        (name for name, left in remainders.items() if left), key=lambda name: (-remainders[name], str(name))
    )
    for name in behind[: max(0, total - sum(result.values()))]:
        result[name] += 1
    return result


def _take(groups: list[list[int]], quota: int, part: list[int]) -> list[list[int]]:
    """Move whole groups into `part` as long as they fit into the quota; return the rest."""
    rest = []
    for group in groups:
        if len(group) <= quota:
            part.extend(group)
            quota -= len(group)
        else:
            rest.append(group)
    return rest


def choose(ranks: Sequence[int], limit: int) -> list[int]:
    """Return the positions of the `limit` lowest ranks; a smaller limit gives a prefix of a larger one."""
    return sorted(range(len(ranks)), key=ranks.__getitem__)[:limit]
