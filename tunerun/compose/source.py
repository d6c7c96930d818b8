"""Reads the YAML files of conf directories within limits of size; errors name the file and the line."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import yaml
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tunerun.compose.grammar import MAX_DEPTH
from tunerun.compose.hydra_internals import FileSource
from tunerun.errors import ConfigError, first_line

SCHEME = "tunerun"
PRIMARY = "config.yaml"

GLOBAL_GROUPS = ("experiment", "debug", "local")
"""Groups whose files set keys of all others."""

MAX_BYTES = 1_000_000
"""Largest YAML file: OmegaConf reads about 200 kB a second (measured 2026-11-26)."""

MAX_VALUES = 20_000
"""Most values of a YAML file with aliases expanded; 50 characters of text count as one. A second of OmegaConf."""

MAX_FOLDERS = 200
"""Most folders of all conf directories in which `content_of` looks; tunerun's own have 12."""

_CHARACTERS_A_VALUE = 50
_REQUIRED = ("dataset", "model", "backend")
"""Groups in the defaults of every `config.yaml` that is meant for tunerun."""

_YAML = "tag:yaml.org,2002:"
# Tags of plain values alone: !!timestamp and !!binary, for example, have no form in JSON.
_TAGS = {"!", *(_YAML + kind for kind in ("str", "int", "float", "bool", "null", "map", "seq"))}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ConfSource(FileSource):
    """A conf directory for Hydra's search path: `tunerun://DIRECTORY`.

    Attributes:
        files: texts of the files that were read, of all directories, since it was last cleared.
    """

    # Hydra makes the sources itself, one for each directory, so what they read is kept on the class.
    files: ClassVar[dict[Path, str]] = {}

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self._has_foreign_primary = bool(missing_groups(Path(self.path)))

    @staticmethod
    def scheme() -> str:
        """Return the scheme of a search path."""
        return SCHEME

    def is_config(self, config_path: str) -> bool:
        """Whether the directory has this file; False for a `config.yaml` of another program."""
        is_foreign = self._has_foreign_primary and self.file_name(config_path) == PRIMARY
        return not is_foreign and super().is_config(config_path)

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file within the limits.

        Raises:
            ConfigError: it cannot be used; names the file and the line.
        """
        file = Path(self.path, self.file_name(config_path))
        text = self.files[file] = read_yaml(file)
        try:
            # Hydra finds the header only in the first 512 characters, which a licence can fill, and not after a byte
            # order mark.
            header = self.header(text)
            config = OmegaConf.load(io.StringIO(text))
        except yaml.YAMLError as error:
            raise ConfigError(_no_yaml(file, error)) from error
        except (OmegaConfBaseException, ValueError, OSError) as error:
            raise ConfigError(f"{display_path(file)}: cannot be read as a config: {first_line(error)}") from error
        if not isinstance(config, DictConfig):
            raise ConfigError(f"{display_path(file)}:1: holds a list; write a mapping of keys to values")
        return ConfigResult(config=config, path=f"{SCHEME}://{self.path}", provider=str(self.provider), header=header)


def missing_groups(directory: Path) -> list[str]:
    """Return the groups that a directory's `config.yaml` lacks, so that it belongs to another program; empty: ours.

    A `conf/config.yaml` of another Hydra application in the current directory would replace tunerun's own.
    """
    file = directory / PRIMARY
    try:
        named = _named_in_defaults(file) if file.is_file() else _REQUIRED
    except (ConfigError, yaml.YAMLError):
        return []  # reported when it is read
    return [group for group in _REQUIRED if group not in named]


def content_of(directories: Sequence[Path]) -> tuple[tuple[str, bytes], ...]:
    """Return what composing depends on: every YAML of the directories with the digest of its bytes.

    Empty if composing may depend on something else, or if reading all files would take longer than composing, as in a
    directory that holds more than config.
    """
    digests: list[tuple[str, bytes]] = []
    folders = 0
    for directory in directories:
        for folder, _, names in os.walk(directory, followlinks=True):
            if (folders := folders + 1) > MAX_FOLDERS:
                return ()
            for name in sorted(name for name in names if name.endswith(".yaml")):
                file = Path(folder, name)
                try:
                    content = file.read_bytes()
                except OSError:
                    return ()  # composing says what is wrong
                # A resolver such as oc.env reads what the digests do not cover.
                if len(content) > MAX_BYTES or b"oc." in content:
                    return ()
                digests.append((str(file), hashlib.sha256(content).digest()))
    return tuple(digests)


def undoes_experiments(directory: Path) -> bool:
    """Whether a directory's `config.yaml` sets its own values after those of the experiment."""
    named = _named_in_defaults(directory / PRIMARY)
    return "experiment" in named and ("_self_" not in named or named.index("_self_") > named.index("experiment"))


def _named_in_defaults(file: Path) -> Sequence[str]:
    """Return the entries of a file's defaults list, in order: groups, and `_self_`."""
    document = yaml.load(read_yaml(file), Loader=_LOADER)  # noqa: S506 - a safe loader
    defaults = document.get("defaults") if isinstance(document, dict) else None
    entries = [key for entry in defaults or () for key in (entry if isinstance(entry, dict) else [entry])]
    return [str(entry).split()[-1].split("@")[0].strip("/") for entry in entries if str(entry).strip()]


def read_yaml(file: Path) -> str:
    """Return the text of a YAML file within the limits, without its byte order mark.

    Raises:
        ConfigError: it is not UTF-8, is not YAML, or would expand to more than the limits allow.
    """
    try:
        content = file.read_bytes()
        # A byte order mark would hide the header, `# @package _global_`, from Hydra.
        text = content.decode("utf-8-sig") if len(content) <= MAX_BYTES else ""
    except UnicodeDecodeError as error:
        raise ConfigError(f"{display_path(file)}: is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{display_path(file)}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{display_path(file)}: {len(content):,} bytes; a YAML of at most {MAX_BYTES:,} is read")
    try:
        _check_bounds(text, file)
    except yaml.YAMLError as error:
        raise ConfigError(_no_yaml(file, error)) from error
    return text


def _no_yaml(file: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f":{mark.line + 1}" if mark else ""
    line = file.read_text(encoding="utf-8-sig").splitlines()[mark.line : mark.line + 1] if mark else []
    braces = line and re.search(r"[{\[].*(?<![\"'\w])\$\{", line[0])
    hint = '; quote an interpolation inside braces or brackets: "${...}"' if braces else ""
    return f"{display_path(file)}{place}: is not YAML: {getattr(error, 'problem', None) or first_line(error)}{hint}"


def _check_bounds(text: str, file: Path) -> None:
    """Refuse a YAML that expands to too many values, or has tags that are not read.

    Raises:
        ConfigError: names the file and the line.
    """
    # Counted from the parser's events, in which an alias is one event: nine levels of ten aliases are less than a
    # kilobyte of YAML and a billion values.
    sizes = [0]
    names: list[str | None] = []
    anchors: dict[str, int] = {}
    for event in yaml.parse(text, Loader=_LOADER):
        place = f"{display_path(file)}:{event.start_mark.line + 1 if event.start_mark else 1}"
        if (tag := getattr(event, "tag", None)) and tag not in _TAGS:
            raise ConfigError(f"{place}: the tag {tag.replace(_YAML, '!!')} is not read; write plain values")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in names:
                raise ConfigError(
                    f"{place}: the alias *{event.anchor} is inside the value that it refers to; remove it"
                )
            sizes[-1] += anchors.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1 + len(event.value) // _CHARACTERS_A_VALUE
            sizes[-1] += size
            if event.anchor:
                anchors[event.anchor] = size
        elif isinstance(event, yaml.CollectionStartEvent):
            sizes.append(1)
            names.append(event.anchor)
            if len(names) > MAX_DEPTH:
                raise ConfigError(f"{place}: collections are nested more than {MAX_DEPTH} deep; flatten them")
        elif isinstance(event, yaml.CollectionEndEvent):
            size = sizes.pop()
            sizes[-1] += size
            if name := names.pop():
                anchors[name] = size
        if sizes[-1] > MAX_VALUES:
            raise ConfigError(f"{place}: expands to more than {MAX_VALUES:,} values; shorten it, or use fewer aliases")


def display_path(file: Path) -> str:
    """Return a file's path for messages: relative if it is below the current directory."""
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file)
