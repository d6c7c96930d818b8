"""Replaces a machine's paths in a record, so that the record does not reveal where it was made."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from tunerun.redaction import QUERY, USERINFO, redact
from tunerun.stored import section

_FILES = ("dataset.path", "dataset.validation.path", "dataset.test.path", "model.source", "model.name")
"""Keys of a config whose value becomes the file's or folder's own name, where it is a path."""

_DATA = _FILES[:3]
_DEFAULTS: Mapping[str, str | None] = {"paths.runs": "runs", "paths.cache": None}
_FOLDERS = re.compile(r"(?<![\w}./~)\]])/(?:[^\s/'\"`,;:()<>|]+/)+")
"""The folders of an absolute path in prose; not the path of a URL, and not what follows a template's expression."""

_PROGRAM = re.compile(r"^\S*[/\\](?=tunerun(?:\s|$))")
"""Where a command's program is installed: what `tunerun` is called by where it is not on PATH."""


def is_path(text: str) -> bool:
    """Whether a text can only be a place on a machine, and not a name on a hub."""
    return text.startswith(("/", "./", "../", "~")) or "\\" in text


def own_names(paths: Iterable[str]) -> dict[str, str]:
    """Return the name of each file without its folders, or with as many of them as distinguish two files.

    Two data files that were called alike would make two points of a sweep one.
    """
    # The last brace of `${oc.env:DATA,/home/me/rows.jsonl}`, an interpolation that is stored, ends no name.
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
    """The places that configs name, and what a record says instead.

    Args:
        configs: the stored configs of a sweep's trials.
        folders: further folders of the machine with their replacements, such as the home directory and `~`.
    """

    def __init__(self, configs: Sequence[Mapping[str, Any]], folders: Mapping[str, str] | None = None) -> None:
        files = {(key, text) for config in configs for key in _FILES if (text := _text_at(config, key))}
        data = {text for key, text in files if key in _DATA}
        others = {text for key, text in files if key not in _DATA and is_path(text)}
        self._names = own_names(sorted(data | others | {file for config in configs for file in _metric_files(config)}))
        self._runs = {text for config in configs if (text := _text_at(config, "paths.runs"))}
        self._caches = {text for config in configs if (text := _text_at(config, "paths.cache"))}
        self._uris = {text for config in configs if (text := _text_at(config, "tracking.uri"))}
        self._folders = dict(folders or {})

    @classmethod
    def of_this_machine(cls, configs: Sequence[Mapping[str, Any]], runs: Path) -> Places:
        """The same with the folders of this process and of a ledger."""
        folders = {str(runs.absolute()): "runs", str(Path.home()): "~", str(Path.cwd()): "."}
        return cls(configs, {folder: name for folder, name in folders.items() if len(PurePath(folder).parts) > 1})

    def name(self, path: str) -> str:
        """What a file of a config is called."""
        return self._names.get(path) or next(iter(own_names([path]).values()))

    @cached_property
    def _known(self) -> dict[str, str]:
        """The replacement of each place that configs name."""
        uris = {uri: portable_uri(uri) or "sqlite:///mlflow.db" for uri in self._uris}
        return {**dict.fromkeys(self._caches, "cache"), **dict.fromkeys(self._runs, "runs"), **self._names, **uris}

    @cached_property
    def _patterns(self) -> tuple[list[tuple[re.Pattern[str], str]], list[tuple[re.Pattern[str], str]]]:
        return _patterns(self._known), _patterns(self._folders)

    def text(self, text: str) -> str:
        """A text without the places that are known."""
        known, folders = self._patterns
        return _replaced(_replaced(text, known), folders)

    def prose(self, text: str) -> str:
        """A message or a traceback without the folders of any absolute path."""
        known, folders = self._patterns
        return _replaced(_FOLDERS.sub("", _replaced(text, known)), folders)

    def command(self, text: str) -> str:
        """A command by the program's name, without the folders of any absolute path."""
        return _PROGRAM.sub("", self.prose(text))

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config whose files are named without their folders; folders of results take their defaults."""
        changed = copy.deepcopy(dict(config))
        for key in (*_FILES, *_DEFAULTS, "tracking.uri"):
            if (text := _text_at(config, key)) is not None:
                part, name = _holder(changed, key)
                part[name] = self.value(key, text)
        for entry in _metric_entries(changed, "python"):
            entry["python"] = self.python(entry["python"])
        for entry in _metric_entries(changed, "examples"):
            entry["examples"] = self.name(entry["examples"])
        return changed

    def value(self, key: str, value: Any) -> Any:
        """The value of a dotted key of a config, as in `config`."""
        if not isinstance(value, str):
            return value
        if key in _DEFAULTS:
            return _DEFAULTS[key]
        if key == "tracking.uri":
            return portable_uri(value)
        return self.name(value) if key in _DATA or (key in _FILES and is_path(value)) else value

    def python(self, text: str) -> str:
        """A metric's `file:function`, with the file's own name."""
        file, _, function = text.rpartition(":")
        return f"{self.name(file)}:{function}"

    def model(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A base model as it is stored, with its folder's own name."""
        return {**values, **{n: self.value(f"model.{n}", values[n]) for n in ("name", "source") if n in values}}


def _patterns(known: Mapping[str, str]) -> list[tuple[re.Pattern[str], str]]:
    """What to look for, the longest first; a relative path says nothing of the machine."""
    return [
        (re.compile(rf"(?<![\w/-]){re.escape(place)}(?![\w-])"), replacement)
        for place, replacement in sorted(known.items(), key=lambda each: -len(each[0]))
        if place.startswith(("/", "~/", "sqlite:", "file:")) or "\\" in place
    ]


def _replaced(text: str, patterns: Sequence[tuple[re.Pattern[str], str]]) -> str:
    for place, replacement in patterns:
        text = place.sub(replacement.replace("\\", r"\\"), text)
    return text


def portable_uri(uri: str) -> str | None:
    """An MLflow address without credentials; None: it is a place on a machine."""
    if urlsplit(uri).scheme not in ("http", "https"):
        return None
    return redact(QUERY.sub(r"\1***", USERINFO.sub(r"\1", uri)))


def _holder(config: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    *sections, name = key.split(".")
    part = config
    for each in sections:
        part = part[each]
    return part, name


def _text_at(config: Mapping[str, Any], key: str) -> str | None:
    *sections, name = key.split(".")
    part = config
    for each in sections:
        part = section(part, each)
    text = part.get(name)
    return text if isinstance(text, str) and text else None


def _metric_entries(config: Mapping[str, Any], option: str) -> list[dict[str, Any]]:
    """Entries of metrics that name a file by an option."""
    metrics = section(config, "evaluation").get("metrics") or ()
    return [entry for entry in metrics if isinstance(entry, dict) and isinstance(entry.get(option), str)]


def _metric_files(config: Mapping[str, Any]) -> list[str]:
    code = [entry["python"].rpartition(":")[0] for entry in _metric_entries(config, "python")]
    return code + [entry["examples"] for entry in _metric_entries(config, "examples")]
