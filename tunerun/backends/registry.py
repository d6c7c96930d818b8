"""The kinds of backend, each a module of its own.

A new kind of this package is a package with the names of `BackendModule`, `conf/backend/KIND.yaml`, and a line here.
Another package's is an entry point of the group `tunerun.backends` that names such a module; a name of this package
cannot be taken by one. Code outside `backends` reads `Capabilities`; it never compares a kind with a name.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Protocol, Union, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema

from tunerun.backends.base import Backend, Capabilities
from tunerun.engine import precision
from tunerun.errors import ConfigError, first_line
from tunerun.interpolation import resolved_section
from tunerun.section import Section

GROUP = "tunerun.backends"

_OWN = {"local": "tunerun.backends.local", "gemini": "tunerun.backends.gemini", "openai": "tunerun.backends.openai"}
"""Imported when a config is first checked; what is expensive is imported by the function that needs it."""

_EXPORTS = ("SECTION", "IS_HOSTED", "capabilities", "open_backend")
"""The names of `BackendModule`."""


class BackendSection(Section):
    """Where jobs run. A field of this type holds the section of any kind; each kind defines its own in its module."""

    model_config = ConfigDict(defer_build=True)

    kind: str

    @classmethod
    def members(cls) -> tuple[type[Section], ...]:
        """Return the sections of all kinds, or for the section of one kind that section alone."""
        return sections() if cls is BackendSection else (cls,)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validate a field of this type as the union of the sections of all kinds, discriminated by `kind`."""
        if cls is not BackendSection:
            return handler(source)
        # Built with the first config that is checked, when every kind's module is imported: hence `defer_build`.
        return handler.generate_schema(Annotated[Union[cls.members()], Field(discriminator="kind")])  # noqa: UP007


class BackendModule(Protocol):
    """The names that a kind's module exports."""

    @property
    def SECTION(self) -> type[BackendSection]:  # noqa: N802 - a constant of a module
        """Its config section, whose field `kind` has the kind as its only choice."""

    @property
    def IS_HOSTED(self) -> bool:  # noqa: N802
        """The value of `Capabilities.is_hosted`, which is the same for every section of the kind."""

    def capabilities(self, section: Any) -> Capabilities:
        """See `capabilities_of`."""
        ...

    def open_backend(self, section: Any, runs: Path, cache: Path) -> Backend:
        """See `open_backend`."""
        ...


def sections() -> tuple[type[BackendSection], ...]:
    """The config section of every kind."""
    return tuple(_module(kind).SECTION for kind in _modules())


def is_hosted(kind: str) -> bool:
    """Whether a kind that a record names trains at a service; True for a kind that this version does not have."""
    return kind not in _modules() or _module(kind).IS_HOSTED


def capabilities_of(section: BackendSection) -> Capabilities:
    """Return what the backend of a config section can do; opens and sends nothing."""
    return _module(section.kind).capabilities(section)


def open_backend(section: BackendSection, runs: Path, cache: Path) -> Backend:
    """Make the backend of a config section; starts and sends nothing yet.

    Args:
        section: of any kind.
        runs: folder of the tuned models of this machine.
        cache: folder of converted base models.
    """
    return _module(section.kind).open_backend(section, runs, cache)


def stored_section(values: Mapping[str, Any], number_format: str = "") -> BackendSection:
    """Read a stored section as one of this version; keys that this version does not know or accept are dropped.

    Args:
        values: the stored section; references to environment variables are resolved in the current environment.
        number_format: in which the models that will answer were trained, such as `float32`. It replaces the precision
            `auto`, so that a GPU does not answer in another format than the CPU trained in. Empty: unknown or
            irrelevant.

    Raises:
        ConfigError: this version has no such kind of backend, or an environment variable is not set.
    """
    values = resolved_section(values, "backend")
    if number_format in precision.WORDS and values.get("precision", "auto") == "auto":
        values = {**values, "precision": precision.WORDS[number_format]}  # left out below where a kind has no such key
    while True:
        try:
            return _section().validate_python(dict(values))
        except ValidationError as error:
            # A location is (kind, key); that of the kind itself is empty.
            wrong = {each["loc"][1] for each in error.errors(include_input=False) if len(each["loc"]) > 1}
            if not wrong & values.keys():
                raise ConfigError(
                    f"backend.kind: the trial was frozen with {values.get('kind')!r}, which this tunerun does not "
                    f"have; it has {', '.join(_modules())}"
                ) from error
            values = {key: value for key, value in values.items() if key not in wrong}


@cache
def _section() -> TypeAdapter[BackendSection]:
    return TypeAdapter(BackendSection)


@cache
def _modules() -> Mapping[str, str]:
    """Return the name of each kind's module."""
    return {**_OWN, **{entry.name: entry.value for entry in entry_points(group=GROUP) if entry.name not in _OWN}}


@cache
def _module(kind: str) -> BackendModule:
    name = _modules()[kind]
    if kind in _OWN:
        return cast(BackendModule, importlib.import_module(name))
    what = f"the backend {kind} of another package ({name})"
    try:
        module = importlib.import_module(name)
    except Exception as error:  # the package's own code runs, and may raise anything
        problem = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(f"{what} cannot be imported: {problem}; repair or uninstall it") from error
    if lacking := [each for each in _EXPORTS if not hasattr(module, each)]:
        raise ConfigError(f"{what} does not define {', '.join(lacking)}; repair or uninstall it")
    # Checked here: pydantic's errors about the union of all sections do not say which package is the cause.
    is_section = isinstance(module.SECTION, type) and issubclass(module.SECTION, BackendSection)
    if not is_section or get_args(module.SECTION.model_fields["kind"].annotation) != (kind,):
        wanted = f"a BackendSection whose field kind is Literal[{kind!r}]"
        raise ConfigError(f"{what}: its SECTION is not {wanted}; repair or uninstall it")
    return cast(BackendModule, module)
