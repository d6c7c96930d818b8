"""The sweep: axes in Hydra's override grammar become points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from hydra.core.override_parser.types import Override

from tunerun.compose.loader import Loader
from tunerun.errors import ConfigError
from tunerun.schema import Scalar

MAX_POINTS = 100_000
"""More is a typing error: at a second a trial it would take a day."""

_NOT_SWEPT = ("name", "sweep", "tracking", "paths", "budget", "runner", "experiment", "debug", "local")
_ZIPPED = "zip"
_AXES = "sweep.axes."


@dataclass(frozen=True)
class Axis:
    """A dotted key or a group, and the texts of overrides that set each of its values."""

    key: str
    values: tuple[str, ...]
    zipped: bool


@dataclass(frozen=True)
class ExpandedSweep:
    """What the axes come to: the pins by key, and for each point its overrides."""

    pins: Mapping[str, Scalar]
    points: tuple[tuple[Override, ...], ...]


def expand(
    loader: Loader,
    axes: Mapping[str, Any],
    exclude: Sequence[Mapping[str, Scalar]],
    command_line: Sequence[Override],
) -> ExpandedSweep:
    """Walk the axes of the config, changed by those of the command line.

    A sweeping override on the command line adds an axis or replaces the one of its key; a plain one of a swept key
    pins that axis. Axes written with `zip(...)` advance together; all others multiply. The last axis turns fastest.

    Args:
        axes: `sweep.axes`: dotted key or group -> text in Hydra's grammar, a list, or one value.
        exclude: `sweep.exclude`: points that have all values of an entry are left out.
        command_line: every override that was typed.

    Raises:
        ConfigError: an axis without values, of an unknown kind, or of a key that changes no trial; zipped axes of
            unequal length; an exclusion of what is not swept; more than `MAX_POINTS` points.
    """
    swept = {o.key_or_group: o for o in command_line if o.is_sweep_override()}
    pinned = {o.key_or_group: o for o in command_line if not o.is_sweep_override()}
    flat = _flat(axes)
    problems: list[str] = []
    found: list[Axis] = []
    for key in [*flat, *(key for key in swept if key not in flat)]:
        if key in pinned and key not in swept:
            continue
        try:
            found.append(_axis(loader, key, swept[key]) if key in swept else _written_axis(loader, key, flat[key]))
        except ConfigError as error:
            problems.extend(error.problems)
    problems.extend(_hidden_pins(flat, command_line))
    pins = overrides_of([pinned[key] for key in flat if key in pinned and key not in swept])
    problems.extend(_disagreements(found))
    problems.extend(_unknown_exclusions(exclude, {axis.key for axis in found} | pins.keys()))
    if problems:
        raise ConfigError(problems)
    points = tuple(point for point in _product(loader, found) if not _is_excluded(point, pins, exclude))
    if not points:
        raise ConfigError("sweep.exclude leaves no point of the sweep; take an entry away")
    return ExpandedSweep(pins, points)


def _hidden_pins(flat: Mapping[str, Any], command_line: Sequence[Override]) -> Iterator[str]:
    """Overrides that set a swept key inside of a dictionary: the axis would win, and nobody would be told."""
    for override in command_line:
        above, value = f"{override.key_or_group}.", override.value()
        if not isinstance(value, dict):
            continue
        set_here = {f"{above}{key}" for key in _flat(value)}
        yield from (
            f"{override.input_line}: {key} is swept; pin it by a plain {key}=VALUE" for key in flat if key in set_here
        )


def overrides_of(point: Sequence[Override]) -> dict[str, Scalar]:
    """What a point sets, by key."""
    return {override.key_or_group: cast(Scalar, override.value()) for override in point}


def _flat(axes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Axes by dotted key, whether the YAML nests them or not."""
    flat: dict[str, Any] = {}
    for key, value in axes.items():
        dotted = f"{prefix}{key}"
        flat.update(_flat(value, f"{dotted}.") if isinstance(value, Mapping) else {dotted: value})
    return flat


def _written_axis(loader: Loader, key: str, value: Any) -> Axis:
    items = value if isinstance(value, list) else None
    if items == [] or value is None or value == "":
        raise ConfigError(f"sweep.axes.{key}: has no values; give some, such as 1,2,3, or take the axis away")
    text = ",".join(_text(key, item) for item in items) if items else _text(key, value, grammar=True)
    try:
        return _axis(loader, key, loader.parse(f"{key}={text}"))
    except ConfigError as error:
        raise ConfigError([f"sweep.axes.{key}: {problem}" for problem in error.problems]) from error


def _text(key: str, value: Any, *, grammar: bool = False) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str() if grammar:
            return value
        case str():
            quoted = value.replace("\\", "\\\\").replace("'", "\\'")
            return f"'{quoted}'"
        case None:
            return "null"
        case _:
            raise ConfigError(
                f"sweep.axes.{key}: a value must be text, a number, true, false or null; sweep a group instead"
            )


def _axis(loader: Loader, key: str, override: Override) -> Axis:
    if key.startswith(_AXES):
        raise ConfigError(f"{override.input_line}: write {key.removeprefix(_AXES)}=1,2 to add or replace that axis")
    if key.split(".")[0] in _NOT_SWEPT:
        raise ConfigError(f"{override.input_line}: {key} changes no trial and cannot be swept; run once for each value")
    if override.is_delete():
        raise ConfigError(f"{override.input_line}: a key cannot be deleted by a sweep; set it to null instead")
    sweeps = override.is_sweep_override()
    elements = loader.elements(override, MAX_POINTS) if sweeps else [override.get_value_string()]
    if len(elements) > MAX_POINTS:
        raise ConfigError(f"{override.input_line}: more than {MAX_POINTS:,} values; shorten the axis")
    if not elements:
        raise ConfigError(f"{override.input_line}: has no values; give some, such as 1,2,3, or take the axis away")
    prefix = override.get_key_element()
    return Axis(key, tuple(f"{prefix}={element}" for element in elements), loader.is_zipped(override))


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


def _unknown_exclusions(exclude: Sequence[Mapping[str, Scalar]], known: set[str]) -> list[str]:
    return [
        f"sweep.exclude.{index}.{key}: is not swept; name one of {', '.join(sorted(known)) or '(nothing is swept)'}"
        for index, entry in enumerate(exclude)
        for key in entry
        if key not in known
    ]


def _dimensions(axes: Sequence[Axis]) -> list[list[Axis]]:
    """The factors of the product; all zipped axes are one, at the place of the first."""
    dimensions: dict[str, list[Axis]] = {}
    for axis in axes:
        dimensions.setdefault(_ZIPPED if axis.zipped else axis.key, []).append(axis)
    return list(dimensions.values())


def _product(loader: Loader, axes: Sequence[Axis]) -> Iterator[tuple[Override, ...]]:
    rows = [list(zip(*(_parsed(loader, axis) for axis in dimension), strict=True)) for dimension in _dimensions(axes)]
    for combination in itertools.product(*rows):
        yield tuple(itertools.chain.from_iterable(combination))


def _parsed(loader: Loader, axis: Axis) -> list[Override]:
    values = [loader.parse(text) for text in axis.values]
    if any(isinstance(value.value(), dict | list) for value in values):
        raise ConfigError(f"{axis.key}: a value must be text, a number, true, false or null; sweep a group instead")
    return values


def _is_excluded(
    point: Sequence[Override], pins: Mapping[str, Scalar], exclude: Sequence[Mapping[str, Scalar]]
) -> bool:
    values = {**pins, **overrides_of(point)} if exclude else {}
    return any(entry and all(values[key] == value for key, value in entry.items()) for entry in exclude)
