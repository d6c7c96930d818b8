"""Every private name of Hydra that tunerun uses, as read in Hydra 1.3.8 with OmegaConf 2.3.1.

Hydra's public `compose` starts from one directory and a new process-wide state. A search path of several directories,
a source of files with limits, and value overrides that are applied to a config composed before need the names below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig


def open_hydra(search_path: Sequence[tuple[str, str]]) -> ConfigLoaderImpl:
    """Start Hydra in this process; its state is global, so that one may be open at a time.

    Args:
        search_path: provider and URL of each place with config files, the first one preferred.
    """
    path = ConfigSearchPathImpl()
    for provider, url in search_path:
        path.append(provider, url)
    hydra = Hydra.create_main_hydra2(task_name="tunerun", config_search_path=path)
    return cast(ConfigLoaderImpl, hydra.config_loader)


def apply_overrides(overrides: Sequence[Override], config: DictConfig) -> None:
    """Apply value overrides to a composed config, in place, as Hydra does after it has merged the defaults list.

    Raises:
        HydraException, OmegaConfBaseException: a value does not fit.
    """
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)


def register(source: type[ConfigSource]) -> None:
    """Register a kind of config source by its scheme; the same one may be registered again."""
    SourcesRegistry.instance().register(source)


class FileSource(FileConfigSource):
    """A directory of YAML files on the search path."""

    def file_name(self, config_path: str) -> str:
        """Return the name of a config's file, with its ending."""
        name: str = self._normalize_file_name(config_path)
        return name

    def header(self, text: str) -> dict[str, str | None]:
        """Return the entries of the header of a file, such as `# @package _global_`."""
        entries: dict[str, str | None] = self._get_header_dict(text)
        return entries


def parsed_value(override: Override) -> Any:
    """Return an override's value as the parser leaves it: sweeps inside of lists are still there."""
    return override._value


def element_text(value: Any) -> str:
    """Return a value as text that can follow `key=`, quoted where the grammar needs it."""
    return Override._get_value_element_as_str(value)
