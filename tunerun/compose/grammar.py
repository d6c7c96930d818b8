"""Hydra's override grammar with tunerun's own functions: ranges in decimal, paired axes, seeded shuffles."""

from __future__ import annotations

import inspect
import math
import random
import re
from copy import copy
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, Sweep
from hydra.errors import HydraException

from tunerun.compose.hydra_internals import element_text, parsed_value
from tunerun.errors import ConfigError

MAX_POINTS = 100_000
"""Most points of a sweep, and values of an axis. More must be a mistake: at a second each they would take a day."""

MAX_CHARACTERS = 50_000
"""Longest override: Hydra's parser takes 50 to 80 microseconds a character (measured 2026-11-26)."""

MAX_ITEMS = 2_000
"""Most items of the lists in one override: Hydra's parser is quadratic in them, 1.6 s for 2,500 (2026-11-26)."""

MAX_DEPTH = 50
"""Deepest nesting of brackets in an override and of collections in a YAML file; the parsers' recursion ends at 200."""

_ZIP = "zip"
_OPENING, _CLOSING = "[{(", "]})"
_QUOTES = "'\""


class _RefusedError(ValueError):
    """A function of the grammar refuses its arguments; the text holds no value of the config but numbers."""


def parser() -> OverridesParser:
    """Return Hydra's parser of overrides with our own `range`, `zip` and `shuffle`."""
    functions = create_functions()
    for name, function in (("range", _range), (_ZIP, _zip), ("shuffle", _shuffle)):
        functions.functions[name] = function
        functions.definitions[name] = inspect.signature(function, eval_str=True)  # hydra compares types, not names
    return OverridesParser(functions)


def parse(parser_: OverridesParser, text: str) -> Override:
    """Parse one override.

    Raises:
        ConfigError: it is not an override, or too large.
    """
    key = repr(text.partition("=")[0][:100] or "=")  # messages show the key alone: the value may be a secret
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            f"{key}: {len(text):,} characters; at most {MAX_CHARACTERS:,} are allowed; put it into a YAML"
        )
    depth, items = _extent(text)  # before parsing, which would take too long or exhaust the stack
    if depth > MAX_DEPTH:
        raise ConfigError(f"{key}: brackets are nested {depth} deep; at most {MAX_DEPTH} are allowed")
    if items > MAX_ITEMS:
        raise ConfigError(f"{key}: a list of {items:,} items; at most {MAX_ITEMS:,} are allowed; put it into a YAML")
    try:
        parsed = parser_.parse_overrides([text])[0]
        if not parsed.key_or_group:
            raise HydraException("it has no key")
        # Hydra takes `[choice(1,2)]` as one value, and the config would hold its object for a sweep.
        if _holds_a_sweep(parsed_value(parsed)):
            raise ConfigError(f"{key}: choice(..), range(..) and the like cannot be inside another value")
        return parsed
    except HydraException as error:
        if isinstance(error.__cause__, _RefusedError):
            raise ConfigError(f"{text}: {error.__cause__}") from error
        if unknown := re.search(r"Unknown function '(\w+)'", str(error)):
            functions = ", ".join(sorted(parser_.functions.definitions))
            raise ConfigError(f"{key}: unknown function {unknown[1]}; functions: {functions}") from error
        advice = "and quote a value that has spaces, commas, braces or letters beyond ASCII: 'key=\"two words\"'"
        if "=" not in text:
            advice = "such as experiment=NAME or dataset.path=FILE"
        # Hydra's own message prints the whole override, whose value may be a secret.
        raise ConfigError(f"{key}: this is not an override in Hydra's grammar; write key=value, {advice}") from error
    except RecursionError as error:
        raise ConfigError(f"{key}: is nested too deeply; put it into a YAML") from error


def is_zipped(override: Override) -> bool:
    """Whether an axis was written with `zip(...)`."""
    return _ZIP in getattr(override.value(), "tags", ())


def listed(override: Override, at_most: int, seed: int) -> list[str]:
    """Return the values of a sweeping override, as text that can follow `key=`.

    Args:
        at_most: a limit; if there are more values, one more than this is returned.
        seed: for `shuffle(...)`, so that a sweep has the same order at each load.

    Raises:
        HydraException: the values cannot be listed, such as those of `interval(...)`.
    """
    sweep = override.value()
    if not isinstance(sweep, ChoiceSweep):
        raise HydraException("only choices can be listed")
    values = sweep.list[: at_most + 1]
    if sweep.shuffle:
        # The same permutation for every axis of one length: zipped axes keep their pairs.
        random.Random(seed).shuffle(values)
    return list(map(element_text, values))


def _zip(*args: str | int | float | bool) -> ChoiceSweep:
    """The function `zip`: values that advance together with those of every other zipped axis."""
    if not args:
        raise _RefusedError("zip() has no values")
    return ChoiceSweep(list=list(args), tags={_ZIP})


def _range(start: int | float, stop: int | float | None = None, step: int | float = 1) -> ChoiceSweep:
    """The function `range`, in decimal arithmetic: Hydra's own gives 0.00030000000000000003 after 0.0002."""
    first, last = (0, start) if stop is None else (start, stop)
    bounds = [Decimal(repr(bound)) for bound in (first, last, step)]
    if not all(bound.is_finite() for bound in bounds):
        raise _RefusedError("the bounds and the step of range(..) must be finite numbers")
    begin, end, by = bounds
    if not by:
        raise _RefusedError("the step of range(..) must not be 0")
    count = max(0, math.ceil((end - begin) / by))
    if count > MAX_POINTS:
        raise _RefusedError(f"more than {MAX_POINTS:,} values; shorten the axis")
    # As in Python and Hydra, a range of whole numbers has whole numbers.
    is_whole = all(isinstance(bound, int) for bound in (first, last, step))
    values = [begin + by * position for position in range(count)]
    return ChoiceSweep(list=[int(value) if is_whole else float(value) for value in values])


def _shuffle(*args: Any, sweep: ChoiceSweep | None = None) -> ChoiceSweep:
    """The function `shuffle`: mark an axis; its values are shuffled when they are listed, since that needs the seed."""
    axis = args[0] if sweep is None and len(args) == 1 else sweep
    if isinstance(axis, ChoiceSweep):
        shuffled = copy(axis)
        shuffled.list = list(axis.list)
    elif len(args) > 1:
        shuffled = ChoiceSweep(list=list(args), simple_form=True)
    else:
        raise _RefusedError("shuffle(..) takes the values of an axis: shuffle(1,2,3) or shuffle(range(1,9))")
    shuffled.shuffle = True
    return shuffled


def _holds_a_sweep(value: Any) -> bool:
    """Whether a value, list or dictionary contains a sweep."""
    inner = value.list if isinstance(value, ChoiceSweep) else value
    if isinstance(inner, dict):
        inner = list(inner.values())
    return isinstance(inner, list) and any(isinstance(each, Sweep | Glob) or _holds_a_sweep(each) for each in inner)


def _extent(text: str) -> tuple[int, int]:
    """Return how deep brackets are nested in an override, and how many items its lists have, outside of quotes."""
    open_brackets: list[str] = []
    deepest = items = 0
    quote = ""
    for before, character in zip(f" {text}", text, strict=False):
        if quote:
            quote = "" if character == quote and before != "\\" else quote
        elif character in _QUOTES:
            quote = character
        elif character in _OPENING:
            open_brackets.append(character)
            deepest = max(deepest, len(open_brackets))
        elif character in _CLOSING and open_brackets:
            open_brackets.pop()
        elif character == "," and open_brackets and open_brackets[-1] == "[":
            items += 1
    return deepest, items + 1
