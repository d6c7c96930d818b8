"""One point of a sweep, ready to run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from tunerun import dotted_keys
from tunerun.backends.base import Capabilities
from tunerun.digest import digest
from tunerun.examples import ExampleSet
from tunerun.job import BaseModelRef, Scalar, TuningRequest
from tunerun.ledger import TrialRecord
from tunerun.redaction import redact
from tunerun.schema import TrialConfig

_MAX_ID = 40  # the Gemini API's limit; see `tuned_model_id`
_KEY_DIGITS = 12
_MIN_REPLACED = 4
"""Minimum length at which a text from the environment is replaced inside other texts; shorter ones occur by chance."""


@dataclass(frozen=True)
class Trial:
    """One point of the sweep, ready to run.

    Attributes:
        number: its number in the sweep, from 0.
        key: content hash of everything that can change the result, 64 hexadecimal digits.
        baselines: subjects of the baselines it is compared with; trials with the same base model, held-out examples and
            template share them.
        answer_method: digest of how answers are obtained; in the ledger `asked`.
        overrides: the swept keys and their values.
        config: the config of its point.
        capabilities: of its backend.
        training: the training examples.
        held_out: the held-out examples by name: `validation`, `test`.
        tokens: training tokens over all epochs, including prompts.
        steps: optimiser steps.
        ingredients: what the key hashes.
        seconds: estimated training time when trained alone, from earlier jobs of its base model on its backend; None:
            there are none.
        same_as: number of an earlier trial with the same key; None: there is none.
        done: whether a job of this key has succeeded.
        failed: whether its last job failed for a reason of its own, so that it runs again only on request.
        prefix_of: number of the trial whose training run produces this one on its way: it differs only in the epochs,
            has at least as many, and the backend trains exact prefixes (`job.in_common`); None: there is none.
        environment: interpolations of texts that came from environment variables, by dotted key.
        point: number of its point; trials that differ only in their seed share it.
        methods: how its tuned model and its baselines answer, as the ledger keys answers: `answer_method`, `LOSSES`.
        choices: the answers a model chooses from; empty: it generates text.
        rerun: distinguishes a rerun's tuned model from that of the trial it repeats; empty: not a rerun.
    """

    number: int
    key: str
    answer_method: str
    overrides: Mapping[str, Scalar]
    config: TrialConfig
    capabilities: Capabilities
    training: ExampleSet
    held_out: Mapping[str, ExampleSet]
    tokens: int
    steps: int
    ingredients: Mapping[str, Any]
    seconds: float | None
    done: bool
    failed: bool
    environment: Mapping[str, str] = field(default_factory=dict)
    methods: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    rerun: str = ""
    # Relations to the other trials of the plan, set when all of them are made.
    point: int = 0
    baselines: tuple[str, ...] = ()
    same_as: int | None = None
    prefix_of: int | None = None

    @property
    def validation(self) -> ExampleSet | None:
        """The held-out examples that trials are compared on; None: there are none."""
        return self.held_out.get("validation")

    @property
    def first(self) -> int:
        """The number of the first trial with this key, possibly its own: trials with equal keys are one job."""
        return self.number if self.same_as is None else self.same_as

    @property
    def training_run(self) -> int:
        """The number of the trial whose training run produces this one's tuned model, possibly its own."""
        return self.first if self.prefix_of is None else self.prefix_of

    @property
    def usd(self) -> float:
        """The price of tuning it alone, in US dollars; 0 if the base model has no configured price."""
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
        """Return the tuning request that is submitted to a backend."""
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
            # The backend refuses to train if the files have changed since they were planned.
            base_identity=None if self.capabilities.is_hosted else self.ingredients["model"],
            precision=self.capabilities.precision,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the trial as `plan --json` prints it."""
        return {
            "number": self.number,
            "point": self.point,
            "key": self.key,
            "overrides": dict(self.overrides),
            "examples": len(self.training.examples),
            "tokens": self.tokens,
            "steps": self.steps,
            "seconds": self.seconds,
            "usd": self.usd,
            "same_as": self.same_as,
            "prefix_of": self.prefix_of,
            "training_run": self.training_run,
            "done": self.done,
        }

    def record(self) -> TrialRecord:
        """Return the trial as the ledger freezes it, with interpolations instead of values from the environment."""
        config = self.config.model_dump(mode="json")
        for key, text in self.environment.items():
            if dotted_keys.has(config, key):  # a metric without options is stored as its name alone
                dotted_keys.put(config, key, text)
        # A password that was written into the URI itself is not from the environment, and not stored either.
        if isinstance(uri := config["tracking"]["uri"], str):
            config["tracking"]["uri"] = redact(uri)
        return TrialRecord(
            number=self.number,
            key=self.key,
            baselines=self.baselines,
            asked=self.answer_method,
            training=self.training.digest,
            held_out={name: examples.digest for name, examples in self.held_out.items()},
            tokens=self.tokens,
            steps=self.steps,
            overrides=self.overrides,
            config=config,
            ingredients=self.as_stored(self.ingredients),
        )

    def as_stored(self, value: Any) -> Any:
        """Return JSON values with each text from the environment replaced by the interpolation that produced it."""
        if not self.environment:
            return value
        replacements: dict[str, str] = {}
        for key, text in self.environment.items():
            if isinstance(resolved := dotted_keys.get(self.config, key), str) and resolved:
                replacements[resolved] = text
                if "${oc." in (name := PurePath(text).name):
                    # Findings and names of datasets hold the name of a file alone.
                    replacements[PurePath(resolved).name] = name
        # Longest first, so that a text that contains another one is replaced as a whole.
        return _hidden(value, sorted(replacements.items(), key=lambda entry: len(entry[0]), reverse=True))


def _hidden(value: Any, replacements: Sequence[tuple[str, str]]) -> Any:
    if isinstance(value, Mapping):
        # A key that is a plain word is one of ours: a base model's folder may be called `model`.
        return {
            key if str(key).isidentifier() else _hidden(key, replacements): _hidden(item, replacements)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_hidden(item, replacements) for item in value]
    if isinstance(value, str):
        for resolved, text in replacements:
            value = value.replace(resolved, text) if len(resolved) >= _MIN_REPLACED or value == resolved else value
    return value


def tuned_model_id(experiment: str, key: str) -> str:
    """Return the id of a trial's tuned model: the experiment's name and the first digits of the key.

    It matches `[a-z]([a-z0-9-]{0,38}[a-z0-9])?`, the Gemini API's rule (v1beta `tunedModels.create`).
    """
    slug = re.sub(r"[^a-z0-9]+", "-", experiment)[: _MAX_ID - _KEY_DIGITS - 1].strip("-")
    return f"{slug}-{key[:_KEY_DIGITS]}"
