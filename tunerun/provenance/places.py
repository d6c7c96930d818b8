"""Replaces a machine's paths in a record, so that the record does not reveal where it was made."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from tunerun import dotted_keys
from tunerun.redaction import QUERY, USERINFO, redact
from tunerun.stored import section

FILES_OF_ROWS = ("dataset.path", "dataset.validation.path", "dataset.test.path")
"""Keys of a config whose value is the path of a file of rows."""

_FILES = (*FILES_OF_ROWS, "model.source", "model.name")
"""Keys of a config; a path as their value is replaced by the name of its file or folder."""

# A runs folder and a cache do not identify anything that was read: a reader uses those of their own machine.
_DEFAULTS: Mapping[str, str | None] = {"paths.runs": "runs", "paths.cache": None}
_FOLDERS = re.compile(r"(?<![\w}./~)\]])/(?:[^\s/'\"`,;:()<>|]+/)+")
"""The folders of an absolute path in prose, but not the path of a URL or text after an expression of a template."""

_PROGRAM = re.compile(r"^\S*[/\\](?=tunerun(?:\s|$))")
"""The folder of a command's program, which is part of the command if `tunerun` is not on PATH."""


def is_path(text: str) -> bool:
    """Return whether a text can only be a path on a machine, not a name on a hub."""
    return text.startswith(("/", "./", "../", "~")) or "\\" in text


def own_names(paths: Iterable[str]) -> dict[str, str]:
    """Return the name of each file without its folders, or with as many folders as distinguish two files.

    Args:
        paths: of files and folders.
    """
    # Equal names for two data files would turn two points of a sweep into one.
    # A stored interpolation such as `${oc.env:DATA,/home/me/rows.jsonl}` ends with a brace that is not of the name.
    parts = {path: PurePath(path.replace("\\", "/").removesuffix("}" if "/" in path else "")).parts for path in paths}
    names: dict[str, str] = {}
    for path, of_path in parts.items():
        length = 1
        while length < len(of_path) and any(
            other != of_path and other[-length:] == of_path[-length:] for other in parts.values()
        ):
            length += 1
        names[path] = "/".join(part for part in of_path[-length:] if part not in ("/", "..", "."))
    return names


class Places:
    """The places that configs name, with their replacements in a record.

    Args:
        configs: the stored configs of a sweep's trials.
        folders: further folders of the machine with their replacements, such as the home directory and `~`.
    """

    def __init__(self, configs: Sequence[Mapping[str, Any]], folders: Mapping[str, str] | None = None) -> None:
        files = {(key, text) for config in configs for key in _FILES if (text := _text_at(config, key))}
        data = {text for key, text in files if key in FILES_OF_ROWS}
        # A model may be a name on the hub, such as `org/model`, which has to stay as it is.
        others = {text for key, text in files if key not in FILES_OF_ROWS and is_path(text)}
        for config in configs:
            # `file:function`; the last colon, because a path of Windows has one of its own.
            others |= {entry["python"].rpartition(":")[0] for entry in _metric_entries(config, "python")}
            others |= {entry["examples"] for entry in _metric_entries(config, "examples")}
        self._names = own_names(sorted(data | others))
        self._runs = {text for config in configs if (text := _text_at(config, "paths.runs"))}
        self._caches = {text for config in configs if (text := _text_at(config, "paths.cache"))}
        self._uris = {text for config in configs if (text := _text_at(config, "tracking.uri"))}
        self._folders = dict(folders or {})

    @classmethod
    def of_this_machine(cls, configs: Sequence[Mapping[str, Any]], runs: Path) -> Places:
        """Return the places of configs, the current and the home directory, and a runs folder.

        Args:
            configs: the stored configs of a sweep's trials.
            runs: the folder of the ledger.
        """
        folders = {str(runs.absolute()): "runs", str(Path.home()): "~", str(Path.cwd()): "."}
        # In a container the home directory may be `/`: a slash in a sentence has to stay.
        return cls(configs, {folder: name for folder, name in folders.items() if len(PurePath(folder).parts) > 1})

    def name(self, path: str) -> str:
        """Return the name of a file without the machine's folders."""
        return self._names.get(path) or next(iter(own_names([path]).values()))

    @cached_property
    def _patterns(self) -> tuple[list[tuple[re.Pattern[str], str]], list[tuple[re.Pattern[str], str]]]:
        """Patterns with replacements, for the places that configs name and for the other folders of the machine."""
        uris = {uri: portable_uri(uri) or "sqlite:///mlflow.db" for uri in self._uris}
        named = {**dict.fromkeys(self._caches, "cache"), **dict.fromkeys(self._runs, "runs"), **self._names, **uris}
        return _patterns(named), _patterns(self._folders)

    def text(self, text: str) -> str:
        """Return a text with the known places replaced."""
        named, folders = self._patterns
        return _replaced(_replaced(text, named), folders)

    def prose(self, text: str) -> str:
        """Return a message or a traceback with the known places replaced, and any other absolute path by its file."""
        named, folders = self._patterns
        # Home and current directory come last: `~` would keep the folders below it, as in a traceback's site-packages.
        return _replaced(_FOLDERS.sub("", _replaced(text, named)), folders)

    def command(self, text: str) -> str:
        """Return a command with its places replaced as in prose, and the program's path by its name."""
        return _PROGRAM.sub("", self.prose(text))

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of a config with names instead of paths; the folders of results take their defaults."""
        changed = copy.deepcopy(dict(config))
        for key in (*_FILES, *_DEFAULTS, "tracking.uri"):
            if (text := _text_at(config, key)) is not None:
                dotted_keys.put(changed, key, self.value(key, text))
        for entry in _metric_entries(changed, "python"):
            entry["python"] = self.python(entry["python"])
        for entry in _metric_entries(changed, "examples"):
            entry["examples"] = self.name(entry["examples"])
        return changed

    def value(self, key: str, value: Any) -> Any:
        """Return the replaced value of one config key, as `config` does.

        Args:
            key: dotted.
            value: its value in the config.
        """
        if not isinstance(value, str):
            return value
        if key in _DEFAULTS:
            return _DEFAULTS[key]
        if key == "tracking.uri":
            return portable_uri(value)
        return self.name(value) if key in FILES_OF_ROWS or (key in _FILES and is_path(value)) else value

    def python(self, text: str) -> str:
        """Return a metric's `file:function` without the file's folders."""
        file, _, function = text.rpartition(":")
        return f"{self.name(file)}:{function}"

    def model(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a stored base model with the name of its folder instead of a path."""
        return {**values, **{n: self.value(f"model.{n}", values[n]) for n in ("name", "source") if n in values}}


def _patterns(replacements: Mapping[str, str]) -> list[tuple[re.Pattern[str], str]]:
    """Patterns for places, the longest first; relative paths reveal nothing and are omitted."""
    # The longest first, because one place may be inside another, as a file of rows in the home directory. The guards
    # keep `/data` from being replaced in `/data-2` or in `old/data`.
    return [
        (re.compile(rf"(?<![\w/-]){re.escape(place)}(?![\w-])"), replacement)
        for place, replacement in sorted(replacements.items(), key=lambda each: -len(each[0]))
        if place.startswith(("/", "~/", "sqlite:", "file:")) or "\\" in place
    ]


def _replaced(text: str, patterns: Sequence[tuple[re.Pattern[str], str]]) -> str:
    for place, replacement in patterns:
        # `sub` reads a backslash in a replacement as an escape, and a name may have one.
        text = place.sub(replacement.replace("\\", r"\\"), text)
    return text


def portable_uri(uri: str) -> str | None:
    """Return the address of an MLflow server without credentials; None: the address is a path on a machine."""
    # What is left of `sqlite:` and `file:` is a path; the URI of a database may hold a user and a password.
    if urlsplit(uri).scheme not in ("http", "https"):
        return None
    return redact(QUERY.sub(r"\1***", USERINFO.sub(r"\1", uri)))


def _text_at(config: Mapping[str, Any], key: str) -> str | None:
    text = dotted_keys.get(config, key)
    return text if isinstance(text, str) and text else None


def _metric_entries(config: Mapping[str, Any], option: str) -> list[dict[str, Any]]:
    """The entries of a config's metrics that name a file with this option."""
    metrics = section(config, "evaluation").get("metrics") or ()
    return [entry for entry in metrics if isinstance(entry, dict) and isinstance(entry.get(option), str)]
