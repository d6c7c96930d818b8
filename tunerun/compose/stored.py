"""A stored config that has to act again: its interpolations are resolved from the environment of now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tunerun.errors import ConfigError

_SENT = "${oc."

Value = TypeVar("Value")


def from_environment(section: Value, name: str) -> Value:
    """A part of a stored config with the values that its interpolations have in the environment now.

    Only texts that begin an interpolation of a resolver are looked at; a prompt template never is, for it holds none.

    Args:
        section: plain values. name: of the part, for errors.

    Raises:
        ConfigError: an environment variable is not set any more; names the key and the variable.
    """
    problems: list[str] = []
    resolved = _resolved(section, name, problems)
    if problems:
        raise ConfigError(problems)
    found: Value = resolved
    return found


def _resolved(node: Any, place: str, problems: list[str]) -> Any:
    if isinstance(node, Mapping):
        return {key: _resolved(value, f"{place}.{key}", problems) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_resolved(value, f"{place}.{index}", problems) for index, value in enumerate(node)]
    if not isinstance(node, str) or _SENT not in node:
        return node
    try:
        return OmegaConf.to_container(OmegaConf.create({"value": node}), resolve=True)["value"]  # type: ignore[index,call-overload]
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].partition("raised while resolving interpolation: ")[2].strip("\"'")
        problems.append(f"{place}: {node}: {reason or 'cannot be resolved'}; set the variable as it was for the run")
        return node
