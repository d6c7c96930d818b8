"""Resolves a composed config to plain values; reports interpolations that cannot be resolved or grow too large."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from tunerun import dotted_keys
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
        try:
            raw = cast(Raw, OmegaConf.to_container(config, resolve=True))
        except InterpolationToMissingValueError as error:
            # OmegaConf names the first value; a reader wants all that have to be given.
            missing = missing_keys(cast(Raw, OmegaConf.to_container(config, resolve=False)))
            raise ConfigError([f"{'.'.join(key)}: is missing; give it a value" for key in missing]) from error
        except (OmegaConfBaseException, RecursionError) as error:
            reasons = dict(_reasons(config))
            key = str(getattr(error, "full_key", None) or "config")
            raise UnresolvedError(reasons or {key: first_line(error)}) from error
    if not read.variables:
        return raw, {}
    remember(read.variables)  # their values are redacted from now on, wherever they appear
    with reading(gives_text=True):
        try:
            texts = OmegaConf.to_container(config, resolve=True)
        except (OmegaConfBaseException, RecursionError):
            # A text cannot name a key where the value does, as in `${a.${oc.env:NAME}}`: such keys stay as written.
            written = cast(Raw, OmegaConf.to_container(config, resolve=False))
            texts = {key: value if value == raw.get(key) else written[key] for key, value in written.items()}
        return raw, marks_of(raw, texts)


def _reasons(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield every key whose interpolation cannot be resolved, with the reason and what to do."""
    # OmegaConf stops at the first one, so each is resolved on its own.
    for location, text in dotted_keys.texts(OmegaConf.to_container(config, resolve=False)):
        if "${" not in text:
            continue
        key = ".".join(map(str, location))
        try:
            OmegaConf.select(config, key, throw_on_missing=False)
        except RecursionError:
            yield key, "its interpolation leads back to itself; give it a value"
        except OmegaConfBaseException as error:
            message = first_line(error)
            reason = message.partition("raised while resolving interpolation: ")[2].strip("\"'") or message
            if variable := re.fullmatch(r"Environment variable '(.*)' not found", reason):
                name = variable[1]
                reason = (
                    f"the environment variable {name} is not set; set it, or give a default: ${{oc.env:{name},VALUE}}"
                )
            elif resolver := re.fullmatch(r"Unsupported interpolation type (env|decode|select)", reason):
                reason += f"; write ${{oc.{resolver[1]}:...}}"
            elif reason.startswith("Recursive"):
                reason = "its interpolation leads back to itself; give it a value"
            elif "Interpolation key" in reason:
                reason += "; write the whole dotted key, such as ${hyperparameters.epoch_count}"
            yield key, reason
