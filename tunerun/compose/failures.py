"""Explains why Hydra cannot compose a config: its own messages give neither the line nor the fix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.errors import MissingConfigException

from tunerun.compose.source import GLOBAL_GROUPS, PRIMARY, display_path, read_yaml
from tunerun.errors import did_you_mean, first_line

if TYPE_CHECKING:
    from tunerun.compose.loader import Loader

_ENTRY = re.compile(r"(?P<override>override\s+)?(?:optional\s+)?(?P<slash>/?)(?P<group>[^@]+)(?P<package>@\S+)?")


def reasons(loader: Loader, overrides: Sequence[str], error: Exception) -> list[str]:
    """Return why a config cannot be composed, with the file, the line and the fix where they can be found.

    Args:
        loader: an open one, of the same config directories.
        overrides: those that choose groups.
        error: what Hydra raised.
    """
    # The files of experiments that the overrides name, and of `local`, which the primary config names.
    named = [text.lstrip("+").partition("=") for text in overrides]
    chosen = [(group, choice) for group, _, choice in named if group in GLOBAL_GROUPS]
    places = [(d / group, choice) for group, choice in [*chosen, ("local", "default")] for d in loader.directories]
    files = [file for folder, choice in places if (file := folder / f"{choice}.yaml").is_file()]

    if lines := list(_wrong_entries(files, loader.options_of_groups())):
        return lines
    if isinstance(error, MissingConfigException):
        return [_missing_choice(loader, error)]
    # The shape of each section is that of the config without the overrides, whose files are the suspects.
    if overrides and files:
        base = loader.unresolved(())
        if lines := [line for file in files for line in _misshapen(file, base)]:
            return lines
    group = re.search(r"Could not override '(\w+)'", str(error))
    if group is not None and loader.own_primary is not None and loader.is_group(group[1]):
        place, why = display_path(loader.own_primary / PRIMARY), "and is used instead of tunerun's own"
        return [f"{place}: has no {group[1]} in its defaults, {why}; add `- {group[1]}: null` after `- _self_`"]
    return [f"the config cannot be composed: {one_line(error)}"]


def _wrong_entries(files: Sequence[Path], options: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the problems of the defaults lists of files that set keys of all groups.

    Args:
        options: the choices of each group, by its name.
    """
    for file in files:
        document = yaml.compose(read_yaml(file))
        entries = document.value if isinstance(document, yaml.MappingNode) else ()
        defaults = next((value for key, value in entries if key.value == "defaults"), None)
        if defaults is not None and not isinstance(defaults, yaml.SequenceNode):
            place = f"{display_path(file)}:{defaults.start_mark.line + 1}"
            yield f"{place}: defaults: must be a list; begin each entry with '- '"
            continue
        for node in defaults.value if defaults is not None else ():
            if isinstance(node, yaml.MappingNode) and len(node.value) == 1:
                key, value = node.value[0]
                choice = value.value if isinstance(value, yaml.ScalarNode) else "..."
                if problem := _problem(key.value, choice, options):
                    yield f"{display_path(file)}:{key.start_mark.line + 1}: defaults: {problem}"


def _problem(entry: str, choice: str, options: Mapping[str, Sequence[str]]) -> str | None:
    """Return the problem of a line `- entry: choice`; None: none that can be seen here."""
    parts = _ENTRY.fullmatch(entry.strip())
    if parts is None:
        return None
    group = parts["group"].strip()
    wanted = f"- override /{group}: {choice}"
    if group not in options:
        hint = did_you_mean(group, list(options))
        is_local = not parts["override"] and not parts["slash"]
        return None if is_local and not hint else f"no group {group!r}; {hint or 'groups: ' + ', '.join(options)}"
    if parts["override"] and not (parts["slash"] and not parts["package"]):
        return f"`{entry}` names no group of config.yaml; write `{wanted}`"
    if not parts["override"] and not parts["package"]:
        return f"{group} is chosen in config.yaml already; write `{wanted}`"
    return None


def _missing_choice(loader: Loader, error: MissingConfigException) -> str:
    """Return a line for a choice of a defaults list that no directory has: its place, and the nearest choices."""
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    options = loader.options(group) if group else []
    if not options:
        return f"the config cannot be composed: {first_line(error)}"
    # Hydra names the choice but not the file that chose it, so every YAML is searched for the entry.
    entry = re.compile(rf"(?:^|/|\s){re.escape(group)}(?:@[\w.]+)?\s*:.*\b{re.escape(choice)}\b")
    for file in (file for directory in loader.directories for file in sorted(directory.rglob("*.yaml"))):
        for number, line in enumerate(file.read_bytes().decode("utf-8", "replace").splitlines(), start=1):
            if entry.search(line):
                return f"{display_path(file)}:{number}: {no_choice(group, choice, options)}"
    return no_choice(group, choice, options)


def no_choice(group: str, choice: str, options: Sequence[str]) -> str:
    """Return a line for an unknown choice of a group, with the nearest choices.

    Args:
        group: its name.
        choice: as it was written.
        options: the choices of the group.
    """
    hint = did_you_mean(choice, options)
    return f"{group}: no choice {choice!r};{f' {hint}' if hint else ''} choices: {', '.join(options)}"


def _misshapen(file: Path, base: Mapping[str, Any]) -> Iterator[str]:
    """Yield the places where a file has a list instead of a mapping, or the other way round.

    Args:
        base: the config without the file.
    """

    def walk(node: yaml.Node, values: Any, key: str) -> Iterator[str]:
        place = f"{display_path(file)}:{node.start_mark.line + 1}: {key}"
        if isinstance(values, Mapping) and isinstance(node, yaml.SequenceNode):
            yield f"{place}: must be a mapping of keys to values"
        elif isinstance(values, list) and isinstance(node, yaml.MappingNode):
            yield f"{place}: must be a list; begin each entry with '- '"
        elif isinstance(values, Mapping) and isinstance(node, yaml.MappingNode):
            for name, below in node.value:
                yield from walk(below, values.get(name.value), f"{key}.{name.value}" if key else name.value)

    document = yaml.compose(read_yaml(file))
    if document is not None:
        yield from walk(document, base, "")


def one_line(error: Exception) -> str:
    """Return the message of an error and of its cause as one line."""
    parts = [str(error), *([str(error.__cause__)] if error.__cause__ else [])]
    return "; ".join(line.strip() for part in parts for line in part.splitlines() if line.strip())
