"""One point of a sweep, ready to run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from tunerun.backends.base import Capabilities
from tunerun.digest import digest
from tunerun.job import BaseModelRef, ExampleSet, TuningRequest
from tunerun.ledger import TrialRecord
from tunerun.redaction import redact
from tunerun.schema import Scalar, TrialConfig

_MAX_ID = 40
_KEY_DIGITS = 12
_MIN_REPLACED = 4
"""Characters from which a text of the environment is replaced inside of another one; shorter ones are in every word."""


@dataclass(frozen=True)
class Trial:
    """One point of the sweep, ready to run.

    Attributes:
        key: the content hash of everything that can change the result, 64 hexadecimal digits.
        baselines: the subjects that it is compared with; trials share them whose base model, held-out examples and
            template are the same.
        asked: digest of how answers are obtained.
        ways: how its tuned model and its baselines answer, as the ledger keys answers.
        choices: the answers that a model chooses from; empty: it generates.
        held_out: the examples kept out of training, by name: `validation`, `test`.
        capabilities: of its backend.
        tokens: training tokens over all epochs, prompts included.
        steps: optimiser steps.
        ingredients: what the key hashes.
        seconds: how long it will train alone, from what the ledger has seen of its base model on its backend; None:
            nothing.
        same_as: the number of an earlier trial with the same key; None: there is none.
        prefix_of: the number of a trial that has everything in common with it but which epochs it is given, of as many
            or more, where the backend trains both once (`job.in_common`); None: there is none.
        done: whether a job of this key has succeeded already.
        failed: whether its last job failed by a fault of its own, and so is not run again by itself.
        environment: by dotted key, the interpolations of texts that came from the environment.
        point: the number of its point; trials that differ in their seed alone share it.
        rerun: of a rerun, what tells its tuned model from that of the trial that it repeats.
    """

    number: int
    key: str
    baselines: tuple[str, ...]
    asked: str
    overrides: Mapping[str, Scalar]
    config: TrialConfig
    capabilities: Capabilities
    training: ExampleSet
    held_out: Mapping[str, ExampleSet]
    tokens: int
    steps: int
    ingredients: Mapping[str, Any]
    seconds: float | None
    same_as: int | None
    done: bool
    failed: bool
    prefix_of: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    point: int = 0
    ways: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    rerun: str = ""

    @property
    def validation(self) -> ExampleSet | None:
        """The held-out examples to choose by; None: there are none."""
        return self.held_out.get("validation")

    @property
    def first(self) -> int:
        """The number of the first trial with this key, which may be its own: they are one job."""
        return self.number if self.same_as is None else self.same_as

    @property
    def training_run(self) -> int:
        """The number of the trial whose training run serves it, which may be its own."""
        return self.first if self.prefix_of is None else self.prefix_of

    @property
    def usd(self) -> float:
        """What tuning it alone costs, in US dollars; 0 where the base model has no price."""
        price = self.config.model.price
        return 0.0 if price is None else self.tokens * price.usd_per_million_tokens / 1e6

    @property
    def has_unknown_price(self) -> bool:
        """Whether a service may charge for it, and the price is not configured."""
        return self.capabilities.has_prices and self.config.model.price is None

    @property
    def base_model(self) -> BaseModelRef:
        """Its base model, as it is stored: what came from the environment is resolved where the model is looked for."""
        return self.config.model.reference(self.environment)

    def request(self) -> TuningRequest:
        """What a backend is asked to do for this trial."""
        return TuningRequest(
            key=self.key,
            # A service that still has the first tuned model would answer with it instead of training again.
            tuned_model_id=tuned_model_id(self.config.name, digest([self.key, self.rerun]) if self.rerun else self.key),
            model=self.base_model,
            hyperparameters=self.config.hyperparameters.for_tuning(),
            seed=self.config.seed,
            template=self.config.template.as_text(),
            training=self.training.examples,
            validation=self.validation.examples if self.validation else (),
            base_identity=None if self.capabilities.is_hosted else self.ingredients["model"],
            precision=self.capabilities.precision,
        )

    def record(self) -> TrialRecord:
        """The trial as the ledger freezes it: what came from the environment is the interpolation that gave it."""
        config = self.config.model_dump(mode="json")
        for key, text in self.environment.items():
            _set(config, key.split("."), text)
        if isinstance(uri := config["tracking"]["uri"], str):
            config["tracking"]["uri"] = redact(uri)
        return TrialRecord(
            number=self.number,
            key=self.key,
            baselines=self.baselines,
            asked=self.asked,
            training=self.training.digest,
            held_out={name: examples.digest for name, examples in self.held_out.items()},
            tokens=self.tokens,
            steps=self.steps,
            overrides=self.overrides,
            config=config,
            ingredients=self.as_stored(self.ingredients),
        )

    def as_stored(self, value: Any) -> Any:
        """JSON values in which texts from the environment are the interpolations that gave them."""
        if not self.environment:
            return value
        given: dict[str, str] = {}
        for key, text in self.environment.items():
            if found := _value_at(self.config, key.split(".")):
                given[found] = text
                if "${oc." in (name := PurePath(text).name):
                    given[PurePath(found).name] = name  # findings and names of data sets have the file's name alone
        return _hidden(value, sorted(given.items(), key=lambda entry: len(entry[0]), reverse=True))


def _set(config: Any, location: Sequence[str], text: str) -> None:
    node = config
    for part in location[:-1]:
        node = node[int(part)] if isinstance(node, list) else node.get(part)
        if not isinstance(node, dict | list):
            return
    if isinstance(node, list):
        node[int(location[-1])] = text
    else:
        node[location[-1]] = text


def _value_at(section: Any, location: Sequence[str]) -> str | None:
    node = section
    for part in location:
        node = node[int(part)] if isinstance(node, list | tuple) else getattr(node, part, None)
    return node if isinstance(node, str) else None


def _hidden(value: Any, given: Sequence[tuple[str, str]]) -> Any:
    if isinstance(value, Mapping):
        # A key that is a plain word is our own: a base model's folder may be called `model`.
        return {
            key if str(key).isidentifier() else _hidden(key, given): _hidden(item, given) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_hidden(item, given) for item in value]
    if isinstance(value, str):
        for found, text in given:
            value = value.replace(found, text) if len(found) >= _MIN_REPLACED or value == found else value
    return value


def tuned_model_id(experiment: str, key: str) -> str:
    """The id of a trial's tuned model: the experiment's name and the first digits of the key.

    It matches `[a-z]([a-z0-9-]{0,38}[a-z0-9])?`, the Gemini API's rule (v1beta `tunedModels.create`).
    """
    slug = re.sub(r"[^a-z0-9]+", "-", experiment)[: _MAX_ID - _KEY_DIGITS - 1].strip("-")
    return f"{slug}-{key[:_KEY_DIGITS]}"
