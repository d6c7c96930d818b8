"""Resolves a composed config to plain values; reports interpolations that cannot be resolved or grow too large."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from tunerun.compose.environment import Marks, marks_of, reading
from tunerun.compose.validation import missing_keys
from tunerun.errors import ConfigError, first_line
from tunerun.redaction import remember

Raw = dict[str, Any]


class UnresolvedError(Exception):
    """Interpolations cannot be resolved; holds the reasons by dotted key."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self.reasons = reasons
        super().__init__(reasons)


def resolve(config: DictConfig) -> tuple[Raw, Marks]:
    """Return the config as plain values, and the interpolations of values that came from the environment.

    Raises:
        ConfigError: a value that an interpolation reads is missing.
        UnresolvedError: interpolations that cannot be resolved.
    """
    with reading() as read:
        raw = _container(config)
    if not read.variables:
        return raw, {}
    remember(read.variables)  # their values are redacted from now on, wherever they appear
    with reading(gives_text=True):
        return raw, marks_of(raw, _texts(config, raw))


def _container(config: DictConfig) -> Raw:
    try:
        return cast(Raw, OmegaConf.to_container(config, resolve=True))
    except InterpolationToMissingValueError as error:
        unresolved = cast(Raw, OmegaConf.to_container(config, resolve=False))
        raise ConfigError(
            [f"{'.'.join(key)}: is missing; give it a value" for key in missing_keys(unresolved)]
        ) from error
    except (OmegaConfBaseException, RecursionError) as error:
        reasons = dict(_reasons(config))
        raise UnresolvedError(
            reasons or {str(getattr(error, "full_key", None) or "config"): first_line(error)}
        ) from error


def _reasons(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield every key whose interpolation cannot be resolved, with the reason."""
    for key in _leaves(cast(Raw, OmegaConf.to_container(config, resolve=False))):
        try:
            OmegaConf.select(config, key, throw_on_missing=False)
        except RecursionError:
            yield key, "its interpolation leads back to itself; give it a value"
        except OmegaConfBaseException as error:
            yield key, _reason(first_line(error))


def _reason(text: str) -> str:
    """Return why an interpolation cannot be resolved, and what to do."""
    reason = text.partition("raised while resolving interpolation: ")[2].strip("\"'") or text
    if found := re.fullmatch(r"Environment variable '(.*)' not found", reason):
        name = found[1]
        return f"the environment variable {name} is not set; set it, or give a default: ${{oc.env:{name},VALUE}}"
    if found := re.fullmatch(r"Unsupported interpolation type (\w+)", reason):
        return f"{reason}; write ${{oc.{found[1]}:...}}" if found[1] in ("env", "decode", "select") else reason
    if reason.startswith("Recursive"):
        return "its interpolation leads back to itself; give it a value"
    if "Interpolation key" in reason:
        return f"{reason}; write the whole dotted key, such as ${{hyperparameters.epoch_count}}"
    return reason


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of texts with an interpolation."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{prefix}[{index}]")
    elif isinstance(node, str) and "${" in node:
        yield prefix


def _texts(config: DictConfig, raw: Raw) -> Any:
    """Return the config resolved with `oc.env` returning its own text; keys that cannot be resolved so, as written."""
    try:
        return OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, RecursionError):
        written = cast(Raw, OmegaConf.to_container(config, resolve=False))
        return {key: value if value == raw.get(key) else written[key] for key, value in written.items()}
