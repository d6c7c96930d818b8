"""The base models that the service offers, by their names on the wire."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunerun.engine import base_model
from tunerun.engine.token_counter import TokenCounter, token_counter
from tunerun.errors import ConfigError
from tunerun.job import BaseModelRef

# A part of URLs: without a slash, without the colon before a method (`models/x:generateContent`), and never `..`.
WIRE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
"""Valid names of a base model: NAME in `models/NAME`."""


@dataclass(frozen=True)
class OfferedModel:
    """A base model, ready to tune and to answer.

    Attributes:
        model: where its weights come from.
        counter: counts tokens as the model does, chat format included.
        context_tokens: limit for a prompt and its answer together; None: the model states no limit.
    """

    model: BaseModelRef
    counter: TokenCounter
    context_tokens: int | None

    @property
    def name(self) -> str:
        """The name, without `models/`."""
        return self.model.name


class Catalogue:
    """All base models of the service.

    Args:
        models: the base models in the order in which they are listed; already prepared.
        cache: the cache directory of base models.

    Raises:
        ConfigError: two base models have the same name.
        BaseModelError: a base model cannot be found.
    """

    def __init__(self, models: Sequence[BaseModelRef], cache: Path) -> None:
        self.offered: dict[str, OfferedModel] = {}
        for model in models:
            # The smaller of the limits in the config and in the model's own files.
            limit = base_model.find(model, cache).context_tokens(model)
            self.offered[model.name] = OfferedModel(model, token_counter(model, cache), limit)
        if len(self.offered) < len(models):
            raise ConfigError("--model: two base models have the same name; give each its own")

    def find(self, name: str) -> OfferedModel | None:
        """Return a base model by its name, with or without `models/`; None: it is not offered."""
        return self.offered.get(name.removeprefix("models/"))
