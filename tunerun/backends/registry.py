"""The kinds of backend, each a module of its own.

A new kind is a module with `capabilities(section)` and `open_backend(section, runs, cache)`, its config section in
`tunerun.schema`, and a line here. Code outside this package asks `Capabilities`; it never compares a kind with a name.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from pydantic import TypeAdapter, ValidationError

from tunerun import schema
from tunerun.backends.base import Backend, Capabilities
from tunerun.errors import ConfigError
from tunerun.interpolation import resolved_section

_MODULES = {"local": "tunerun.backends.local", "gemini": "tunerun.backends.gemini"}
"""Imported when first used, so that a command pays for the backend that it uses."""


_SECTION: TypeAdapter[schema.Backend] = TypeAdapter(schema.Backend)


class BackendModule(Protocol):
    """What a kind's module offers; `section` is that kind's own config section."""

    def capabilities(self, section: Any) -> Capabilities:
        """See `capabilities_of`."""
        ...

    def open_backend(self, section: Any, runs: Path, cache: Path) -> Backend:
        """See `open_backend`."""
        ...


def capabilities_of(section: schema.Backend) -> Capabilities:
    """What the backend of a config section can do; opens and sends nothing."""
    return _module(section).capabilities(section)


def open_backend(section: schema.Backend, runs: Path, cache: Path) -> Backend:
    """Make the backend that a config section describes; starts and sends nothing yet.

    Args:
        runs: where tuned models are kept that live on this machine.
        cache: where converted base models are kept.
    """
    return _module(section).open_backend(section, runs, cache)


def stored_section(values: Mapping[str, Any]) -> schema.Backend:
    """Today's config section of a stored one: a key that is unknown or has a value of another version is left out.

    What came from the environment comes from the environment of now.

    Raises:
        ConfigError: this version has no such kind of backend, or an environment variable is not set.
    """
    values = resolved_section(values, "backend")
    while True:
        try:
            return _SECTION.validate_python(dict(values))
        except ValidationError as error:
            # A location is (kind, key); that of the kind itself is empty.
            wrong = {each["loc"][1] for each in error.errors(include_input=False) if len(each["loc"]) > 1}
            if not wrong & values.keys():
                raise ConfigError(
                    f"backend.kind: the trial was frozen with {values.get('kind')!r}, which this tunerun does not "
                    f"have; it has {', '.join(_MODULES)}"
                ) from error
            values = {key: value for key, value in values.items() if key not in wrong}


def _module(section: schema.Backend) -> BackendModule:
    return cast(BackendModule, importlib.import_module(_MODULES[section.kind]))


if TYPE_CHECKING:
    from tunerun.backends import gemini, local

    _CONFORM: tuple[BackendModule, ...] = (local, gemini)
