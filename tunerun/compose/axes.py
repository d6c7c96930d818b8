"""Expands a sweep: axes in Hydra's override grammar become points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from hydra.core.override_parser.types import Override

from tunerun import dotted_keys
from tunerun.compose import grammar
from tunerun.compose.exclusions import check_exclusions, is_excluded
from tunerun.compose.grammar import MAX_POINTS
from tunerun.compose.loader import Loader
from tunerun.compose.source import GLOBAL_GROUPS
from tunerun.errors import ConfigError
from tunerun.job import Scalar

NOT_SWEPT = ("name", "sweep", "tracking", "paths", "budget", "runner")
"""Top-level keys that must be the same for all trials of a sweep."""
_ZIPPED = "zip"
_AXES = "sweep.axes."


@dataclass(frozen=True)
class Axis:
    """An axis of the sweep: a dotted key or a group, and an override text for each of its values."""

    key: str
    values: tuple[str, ...]
    zipped: bool


@dataclass(frozen=True)
class ExpandedSweep:
    """An expanded sweep: the pins by key, and the overrides of each point."""

    pins: Mapping[str, Scalar]
    points: tuple[tuple[Override, ...], ...]


def expand(
    loader: Loader,
    axes: Mapping[str, Any],
    exclude: Sequence[Mapping[str, Any]],
    command_line: Sequence[Override],
    seed: int = 0,
) -> ExpandedSweep:
    """Expand the axes of the config and the command line into points.

    Of several overrides of one key the last wins. A sweeping one adds an axis or replaces the one of its key; a plain
    one pins the axis. Axes written with `zip(...)` advance together; all others multiply. The last axis varies fastest.

    Args:
        axes: `sweep.axes`: dotted key or group -> text in Hydra's grammar, a list, or one value.
        exclude: `sweep.exclude`; a point that has all values of an entry is left out.
        command_line: every override that was typed.
        seed: for the order of `shuffle(...)`.

    Raises:
        ConfigError: an axis without values, of an unknown kind, or of a key that changes no trial; zipped axes of
            unequal length; an exclusion that excludes nothing; more than `MAX_POINTS` points.
    """
    # As in Hydra, the last override of a key wins: a value after values pins the key, values after a value sweep it.
    last = {override.key_or_group: override for override in command_line}
    swept = {key: override for key, override in last.items() if override.is_sweep_override()}
    # In YAML an axis may be written nested, `hyperparameters: {epoch_count: [1, 2]}`.
    flat = dotted_keys.leaves(axes)
    problems = list(_hidden_pins([*flat, *swept], command_line))
    written: list[Axis] = []
    in_use: list[Axis] = []
    for key in [*flat, *(key for key in swept if key not in flat)]:
        try:
            if key in flat:
                written.append(_written_axis(loader, key, flat[key], seed))
            if key in swept:
                in_use.append(_axis(loader, key, swept[key], seed))
            elif key not in last:
                in_use.append(written[-1])
        except ConfigError as error:
            problems.extend(error.problems)
    problems.extend(_disagreements(in_use))
    if problems:
        raise ConfigError(problems)
    # An axis of the file that the command line gives one value; the plan shows it, since the file says otherwise.
    pins = overrides_of([last[key] for key in flat if key in last and key not in swept and not last[key].is_delete()])
    rows = [list(zip(*(_parsed(loader, axis) for axis in dimension), strict=True)) for dimension in _dimensions(in_use)]
    points = [tuple(itertools.chain.from_iterable(combination)) for combination in itertools.product(*rows)]
    entries = [dotted_keys.leaves(entry) for entry in exclude]
    if entries:
        # An entry about values that the command line replaced is needed by the file without that override.
        unused = [axis for axis in written if axis.key in last]
        check_exclusions(
            entries,
            [{**pins, **overrides_of(point)} for point in points],
            {axis.key: [value.value() for value in _parsed(loader, axis)] for axis in unused},
        )
        points = [point for point in points if not is_excluded({**pins, **overrides_of(point)}, entries)]
    if not points:
        raise ConfigError("sweep.exclude leaves no point of the sweep; remove an entry")
    return ExpandedSweep(pins, tuple(points))


def _hidden_pins(keys: Sequence[str], command_line: Sequence[Override]) -> Iterator[str]:
    """Yield problems with overrides that set a swept key inside a dictionary: the axis would silently overwrite it."""
    own = {override.key_or_group: position for position, override in enumerate(command_line)}
    for position, override in enumerate(command_line):
        value = override.value()
        if isinstance(value, dict):
            set_here = dotted_keys.leaves(value, f"{override.key_or_group}.")
            yield from (
                f"{override.input_line}: {key} is swept; pin it by a plain {key}=VALUE"
                for key in dict.fromkeys(keys)
                if key in set_here and own.get(key, -1) < position
            )


def overrides_of(point: Sequence[Override]) -> dict[str, Scalar]:
    """Return the values that a point sets, by key."""
    return {override.key_or_group: cast(Scalar, override.value()) for override in point}


def _written_axis(loader: Loader, key: str, value: Any, seed: int) -> Axis:
    if value in ([], None, ""):
        raise ConfigError(f"sweep.axes.{key}: has no values; give some, such as 1,2,3, or remove the axis")
    try:
        if isinstance(value, list):
            _check_key(key, loader.parse(f"{key}=null"), f"sweep.axes.{key}")
            return Axis(
                key, tuple(f"{key}={_text(key, item)}" for item in _not_too_many(value, f"{_AXES}{key}")), zipped=False
            )
        return _axis(loader, key, loader.parse(f"{key}={_text(key, value, grammar=True)}"), seed)
    except ConfigError as error:
        place = f"{_AXES}{key}"
        raise ConfigError([p if p.startswith(_AXES) else f"{place}: {p}" for p in error.problems]) from error


def _text(key: str, value: Any, *, grammar: bool = False) -> str:
    match value:
        case bool():  # before int, of which bool is a subclass
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str() if grammar:
            return value
        case str():
            # A text of a YAML list is one value; quotes keep its commas and braces out of the grammar.
            quoted = value.replace("\\", "\\\\").replace("'", "\\'")
            return f"'{quoted}'"
        case None:
            return "null"
        case _:
            raise ConfigError(
                f"sweep.axes.{key}: a value must be text, a number, true, false or null; sweep a group instead"
            )


def _axis(loader: Loader, key: str, override: Override, seed: int) -> Axis:
    written = str(override.input_line)
    _check_key(key, override, written)
    sweeps = override.is_sweep_override()
    elements = loader.elements(override, MAX_POINTS, seed) if sweeps else [override.get_value_string()]
    if not elements:
        raise ConfigError(f"{written}: has no values; give some, such as 1,2,3, or remove the axis")
    prefix = override.get_key_element()
    values = tuple(f"{prefix}={element}" for element in _not_too_many(elements, written))
    return Axis(key, values, grammar.is_zipped(override))


def _check_key(key: str, override: Override, written: str) -> None:
    """Refuse an axis over a key that changes no trial or that a sweep cannot set."""
    top = key.split(".")[0]
    if key.startswith(_AXES):
        raise ConfigError(f"{written}: write {key.removeprefix(_AXES)}=1,2 to add or replace that axis")
    if top in GLOBAL_GROUPS:
        raise ConfigError(f"{written}: each choice of {top} is a sweep of its own; name one, and run once for each")
    if top in NOT_SWEPT:
        raise ConfigError(f"{written}: {key} changes no trial and cannot be swept; run once for each value")
    if override.is_delete():
        raise ConfigError(f"{written}: a key cannot be deleted by a sweep; set it to null instead")


def _not_too_many(values: Sequence[Any], written: str) -> Sequence[Any]:
    if len(values) > MAX_POINTS:
        raise ConfigError(f"{written}: more than {MAX_POINTS:,} values; shorten the axis")
    return values


def _disagreements(axes: Sequence[Axis]) -> list[str]:
    zipped = [axis for axis in axes if axis.zipped]
    if len({len(axis.values) for axis in zipped}) > 1:
        lengths = ", ".join(f"{axis.key} has {len(axis.values)}" for axis in zipped)
        return [f"sweep.axes: axes written with zip(..) must have equally many values: {lengths}"]
    sizes = [len(dimension[0].values) for dimension in _dimensions(axes)]
    if math.prod(sizes) > MAX_POINTS:
        product = " x ".join(map(str, sizes))
        return [f"sweep.axes: {product} points; at most {MAX_POINTS:,} are allowed; shorten an axis"]
    return []


def _dimensions(axes: Sequence[Axis]) -> list[list[Axis]]:
    """Return the factors of the product; all zipped axes are one factor, at the position of the first."""
    dimensions: dict[str, list[Axis]] = {}
    for axis in axes:
        dimensions.setdefault(_ZIPPED if axis.zipped else axis.key, []).append(axis)
    return list(dimensions.values())


def _parsed(loader: Loader, axis: Axis) -> list[Override]:
    values = [loader.parse(text) for text in axis.values]
    # A point's values are compared, listed in tables and stored by key, so they are plain.
    if any(isinstance(value.value(), dict | list) for value in values):
        raise ConfigError(f"{axis.key}: a value must be text, a number, true, false or null; sweep a group instead")
    return values
