"""Hydra on tunerun's config directories: composes configs, lists values of axes, and finds where a key was written.

Hydra keeps its state in process-wide singletons, so one `Loader` is open at a time, under a lock.

Expansion is exact and fast because Hydra applies value overrides after it has merged the defaults list: the config is
composed once per distinct set of overrides that choose groups, and value overrides are applied to that template with
Hydra's own function, in their order, before interpolations are resolved. Composing took 73 ms, a copy with three
overrides 1.75 ms (Hydra 1.3.8, about 60 keys, measured 2026-11-22).
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, cast

import yaml
from hydra import compose, version
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Glob, Override, OverrideType, ValueType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tunerun import dotted_keys
from tunerun.compose import failures, grammar, source
from tunerun.compose.environment import Marks, with_marks
from tunerun.compose.expansion import FREE, check_expansion
from tunerun.compose.hydra_internals import apply_overrides, open_hydra, register
from tunerun.compose.provenance import Origin, line_of, sets
from tunerun.compose.resolution import Raw, UnresolvedError, resolve
from tunerun.compose.source import GLOBAL_GROUPS, display_path
from tunerun.errors import ConfigError

CONFIG_NAME = "config"
_HYDRA = threading.Lock()


@dataclass(frozen=True)
class _Template:
    """A composed config before value overrides.

    Attributes:
        config: as Hydra composed it; never changed.
        plain: the same as plain values, with its interpolations.
        files: texts of the files that it was composed of.
    """

    config: DictConfig
    plain: Raw
    files: Mapping[Path, str]

    @cached_property
    def interpolations(self) -> int:
        """The number of interpolations in it."""
        return str(self.plain).count("${")


_COMPOSED: OrderedDict[tuple[object, ...], object] = OrderedDict()
"""What this process has made of config files, the oldest first; used under the lock.

Hydra takes 0.09 of the 0.12 s of a load for composing (measured 2026-11-26), and 0.08 s for the defaults list that says
where a value was written (2026-11-27). A notebook, a service or a test loads again and again from the same files.
"""

MAX_COMPOSED = 128
"""Templates and defaults lists kept in `_COMPOSED`."""

_T = TypeVar("_T")


class Loader:
    """Hydra opened on the config directories, in search order; a context manager.

    Args:
        directories: a file of an earlier one hides the file of the same name in a later one.

    Attributes:
        foreign: directories whose `config.yaml` is another program's and not used, with the groups that it lacks.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self.directories = list(directories)
        self.foreign = {d: groups for d in self.directories if (groups := source.missing_groups(d))}
        self._parser = grammar.parser()
        self._templates: dict[tuple[str, ...], _Template] = {}
        self._groups: dict[str, bool] = {}
        self._defaults: dict[tuple[str, ...], Sequence[ResultDefault]] = {}
        self._content: tuple[tuple[str, bytes], ...] | None = None

    def __enter__(self) -> Self:
        _HYDRA.acquire()
        # Hydra refuses to be initialised twice; a program that calls tunerun may have used it.
        GlobalHydra.instance().clear()
        version.setbase("1.3")  # the behaviour of this version, whatever the default of the installed one
        Plugins.instance()  # registers the kinds of config source that a search path may have
        register(source.ConfSource)
        source.ConfSource.files.clear()
        # The first and the last place are those of Hydra's own search path; the user's are in between.
        own = [("tunerun", f"{source.SCHEME}://{directory}") for directory in self.directories]
        self._loader = open_hydra([("hydra", "pkg://hydra.conf"), *own, ("schema", "structured://")])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        GlobalHydra.instance().clear()
        _HYDRA.release()

    @property
    def files(self) -> Mapping[Path, str]:
        """The files that Hydra has read since this loader was opened, with their texts."""
        return dict(source.ConfSource.files)

    @property
    def own_primary(self) -> Path | None:
        """Return the user's directory whose `config.yaml` replaces tunerun's own; None: tunerun's own is used."""
        used = next(d for d in self.directories if d not in self.foreign and (d / source.PRIMARY).is_file())
        return None if used == self.directories[-1] else used

    # Overrides

    def parse(self, text: str) -> Override:
        """Parse one override in Hydra's grammar, extended by `zip(...)`.

        Raises:
            ConfigError: it is not an override.
        """
        return grammar.parse(self._parser, text)

    def is_group(self, key: str) -> bool:
        """Whether a key names a config group."""
        # Looked up for each override of each point, and Hydra looks into every directory.
        if key not in self._groups:
            self._groups[key] = self._loader.repository.group_exists(key)
        return self._groups[key]

    def options(self, group: str) -> list[str]:
        """Return the choices of a config group, those in folders as `folder/name`."""
        # From the repository: the config loader's own methods copy it for each call, which takes 3 ms.
        repository = self._loader.repository
        names = list(repository.get_group_options(group, results_filter=ObjectType.CONFIG))
        for folder in repository.get_group_options(group, results_filter=ObjectType.GROUP):
            names.extend(f"{folder}/{name}" for name in self.options(f"{group}/{folder}"))
        return names

    def options_of_groups(self) -> dict[str, list[str]]:
        """Return the choices of every group in the defaults of the primary config, by the group's name."""
        try:
            listed = self._loader.compute_defaults_list(CONFIG_NAME, [], RunMode.RUN)
        except HydraException:
            return {}  # the problem is in the primary config itself
        # `known_choices` has Hydra's own groups too, such as hydra/launcher.
        named = [group for group in listed.overrides.known_choices if not group.startswith("hydra/")]
        return {group: self.options(group) for group in named if self.is_group(group)}

    def groups(self) -> list[str]:
        """Return the config groups at the top level, without hydra's own."""
        groups = self._loader.repository.get_group_options("", results_filter=ObjectType.GROUP)
        return [group for group in groups if group != "hydra"]

    def elements(self, override: Override, at_most: int, seed: int = 0) -> list[str]:
        """Return the values of a sweeping override, as text that can follow `key=`; at most one more than `at_most`.

        Args:
            seed: for the order of `shuffle(...)`.

        Raises:
            ConfigError: the values cannot be listed, such as those of `interval(...)`.
        """
        if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
            # As in Hydra, * does not match choices in a folder.
            globs, options = cast(Glob, override.value()), self.options(override.key_or_group)
            is_deep = any("/" in pattern for pattern in globs.include)
            return [name for name in globs.filter(options) if is_deep or "/" not in name]
        try:
            return grammar.listed(override, at_most, seed)
        except HydraException as error:
            raise ConfigError(
                f"{override.input_line}: the values of an axis must be listed: 1,2, choice(..), range(..) or zip(..)"
            ) from error

    def is_structural(self, override: Override) -> bool:
        """Whether an override chooses a group, rather than setting a value."""
        # As in Hydra, a dictionary for a group's name sets values of the section: `hyperparameters={batch_size: 2}`.
        return override.package is not None or (
            self.is_group(override.key_or_group) and not isinstance(override.value(), dict)
        )

    # Configs

    def config(self, overrides: Sequence[Override]) -> DictConfig:
        """Compose a config; unknown keys are accepted here, since the schema refuses them with the nearest names.

        Raises:
            ConfigError: Hydra cannot compose it.
        """
        template = self._template(overrides)
        config = copy.deepcopy(template.config)  # overrides are applied in place
        values: list[Override] = []
        for override in overrides:
            if self.is_structural(override):
                continue
            is_set = dotted_keys.has(template.plain, override.key_or_group)
            if override.type is OverrideType.CHANGE and (not is_set or isinstance(override.value(), dict)):
                # A YAML holds only what differs from the schema's defaults, so a key that is missing here may still be
                # valid. The schema refuses unknown keys, with better messages than Hydra's.
                override = copy.copy(override)
                override.type = OverrideType.FORCE_ADD
            values.append(override)
        try:
            apply_overrides(values, config)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(f"command line: {failures.one_line(error)}") from error
        if template.interpolations + sum(str(value.input_line).count("${") for value in values) > FREE:
            check_expansion(cast(Raw, OmegaConf.to_container(config, resolve=False)))
        return config

    def point(self, overrides: Sequence[Override]) -> Raw:
        """Compose a config and resolve it to plain values, which the caller may change.

        Raises:
            ConfigError: Hydra cannot compose it, or an interpolation cannot be resolved.
        """
        return self.point_and_marks(overrides)[0]

    def point_and_marks(self, overrides: Sequence[Override]) -> tuple[Raw, Marks]:
        """As `point`, also returning the interpolations of values that came from the environment.

        Raises:
            ConfigError: Hydra cannot compose it, or an interpolation cannot be resolved.
        """
        try:
            return resolve(self.config(overrides))
        except UnresolvedError as error:
            raise ConfigError(
                [f"{self.origin(overrides, key.split('.'))}: {key}: {reason}" for key, reason in error.reasons.items()]
            ) from error

    def unresolved(self, overrides: Sequence[Override]) -> Raw:
        """As `point`, with interpolations as they were written.

        Raises:
            ConfigError: Hydra cannot compose it.
        """
        return cast(Raw, OmegaConf.to_container(self.config(overrides), resolve=False))

    def _template(self, overrides: Sequence[Override]) -> _Template:
        """Return the config of the group choices, without value overrides; composed once for the same files."""
        structural = self._structural(overrides)

        def composed() -> _Template:
            # Collects the files of this template alone: a later load that takes it from the cache reports them too.
            read = source.ConfSource.files
            before = dict(read)
            read.clear()
            try:
                config = compose(CONFIG_NAME, overrides=list(structural))
            except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
                raise ConfigError(failures.reasons(self, structural, error)) from error
            template = _Template(config, cast(Raw, OmegaConf.to_container(config, resolve=False)), dict(read))
            read.clear()
            read |= before
            return template

        if structural not in self._templates:
            template = self._templates[structural] = self._once_for_files(("template", *structural), composed)
            source.ConfSource.files |= template.files
        return self._templates[structural]

    def _once_for_files(self, key: tuple[str, ...], make: Callable[[], _T]) -> _T:
        """Return what this process has made for a key of the same files before, else make it."""
        if self._content is None:
            # Once for each loader: a load sees the files of one moment.
            self._content = source.content_of(self.directories)
        if not self._content:
            return make()
        if (key, self._content) not in _COMPOSED:
            _COMPOSED[key, self._content] = make()
            if len(_COMPOSED) > MAX_COMPOSED:
                _COMPOSED.popitem(last=False)
        return cast("_T", _COMPOSED[key, self._content])

    def _structural(self, overrides: Sequence[Override]) -> tuple[str, ...]:
        return tuple(str(o.input_line) for o in overrides if self.is_structural(o))

    # Provenance

    def origin(self, overrides: Sequence[Override], location: Sequence[str | int]) -> Origin:
        """Return where the value at a location of the config was written, or the nearest key above it.

        Args:
            overrides: those that the config was composed with.
            location: the parts of the key.
        """
        keys = [str(key) for key in location]
        while keys:
            if any(sets(override, keys) for override in overrides):
                return Origin("command line")
            # The last file in the defaults list that sets a key wins.
            for default in reversed(self._defaults_of(overrides)):
                # The package is the key below which a file's own keys are merged.
                prefix = default.package.split(".") if default.package else []
                file = self._file_of(default.config_path) if keys[: len(prefix)] == prefix else None
                if file is None:
                    continue
                rest = keys[len(prefix) :]
                line = line_of(file.read_text(encoding="utf-8-sig"), rest) if rest else (1 if prefix else None)
                if line is not None:
                    return Origin(f"{display_path(file)}:{line}", file)
            keys.pop()
        return Origin(CONFIG_NAME)

    def misplaced(self, overrides: Sequence[Override]) -> list[str]:
        """Return the problems of experiment files whose keys ended up below the group's name."""
        problems = []
        for default in self._defaults_of(overrides):
            group = (default.config_path or "").partition("/")[0]
            file = self._file_of(default.config_path)
            if group in GLOBAL_GROUPS and file is not None and (default.package or "").split(".")[0] == group:
                problems.append(
                    f"{display_path(file)}:1: has no line '# @package _global_' before its first key, so its keys are "
                    f"set below '{group}'; make that its first line"
                )
        return problems

    def _defaults_of(self, overrides: Sequence[Override]) -> Sequence[ResultDefault]:
        structural = self._structural(overrides)
        if structural not in self._defaults:
            self._defaults[structural] = self._once_for_files(
                ("defaults", *structural),
                lambda: self._loader.compute_defaults_list(CONFIG_NAME, list(structural), RunMode.RUN).defaults,
            )
        return self._defaults[structural]

    def _file_of(self, config_path: str | None) -> Path | None:
        """Return the file of a path in a defaults list; None: hydra's own, or none."""
        directories = self.directories
        if config_path == CONFIG_NAME:
            directories = [d for d in directories if d not in self.foreign]
        return next((f for d in directories if config_path and (f := d / f"{config_path}.yaml").is_file()), None)


def to_yaml(config: DictConfig) -> str:
    """Return a config as YAML, with interpolations resolved where possible."""
    return OmegaConf.to_yaml(OmegaConf.create(with_marks(*resolve(config))))
