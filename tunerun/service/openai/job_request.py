"""The request to create a fine-tuning job."""

from __future__ import annotations

import sys
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, StrictInt, StrictStr

from tunerun.service.openai import names
from tunerun.service.openai.hyperparameters import AUTO
from tunerun.service.openai.method import LenientObject
from tunerun.service.openai.problems import wrong

MAX_PAIRS, MAX_PAIR_NAME, MAX_PAIR_VALUE = 16, 64, 512
"""Limits of `metadata`, as the SDK documents them."""

MAX_SEED = 2**31 - 1
"""The largest seed, whether given or generated."""

SUPERVISED = "supervised"


def _number_or_auto(value: Any) -> Any:
    # By hand, since pydantic reports an error for each member of a union; bool is an int in Python, and an integer of
    # 400 digits raises an OverflowError wherever it meets a float.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == AUTO or isinstance(value, float) or (is_number and abs(value) <= sys.float_info.max):
        return value
    raise ValueError("must be a number or 'auto'")


Hyperparameter = Annotated[Any, PlainValidator(_number_or_auto, json_schema_input_type=float | Literal["auto"])]


class SupervisedHyperparameters(LenientObject):
    """The hyperparameters of a supervised job; omitted ones are `auto`."""

    _prefix: ClassVar[str] = "hyperparameters."

    n_epochs: Hyperparameter = None
    batch_size: Hyperparameter = None
    learning_rate_multiplier: Hyperparameter = None


class Supervised(LenientObject):
    """The settings of supervised fine-tuning."""

    _prefix: ClassVar[str] = "method.supervised."

    hyperparameters: SupervisedHyperparameters | None = None


class TuningMethod(LenientObject):
    """The method; only `supervised` is supported."""

    _prefix: ClassVar[str] = "method."

    type: StrictStr
    supervised: Supervised | None = None
    dpo: Any = None
    reinforcement: Any = None


class CreateJob(LenientObject):
    """The body of `POST /v1/fine_tuning/jobs`."""

    model: StrictStr
    training_file: StrictStr
    validation_file: StrictStr | None = None
    suffix: Annotated[StrictStr, Field(max_length=names.MAX_SUFFIX)] | None = None
    seed: Annotated[StrictInt, Field(ge=0, le=MAX_SEED)] | None = None
    metadata: (
        Annotated[
            dict[
                Annotated[StrictStr, Field(max_length=MAX_PAIR_NAME)],
                Annotated[StrictStr, Field(max_length=MAX_PAIR_VALUE)],
            ],
            Field(max_length=MAX_PAIRS),
        ]
        | None
    ) = None
    integrations: list[Any] | None = None
    method: TuningMethod | None = None
    # The SDK marks it as deprecated, but LiteLLM (1.110, always, even empty), DSPy and Kiln send it.
    hyperparameters: SupervisedHyperparameters | None = None

    def settings(self) -> tuple[SupervisedHyperparameters, str]:
        """Return the hyperparameters, and their path in the request.

        Raises:
            OpenAiError: the method is not supported, or the request has two sets of hyperparameters or integrations.
        """
        if self.integrations:
            raise wrong("integrations", "are not supported; omit them")
        if self.method is None:
            return self.hyperparameters or SupervisedHyperparameters(), "hyperparameters"
        if self.method.type != SUPERVISED:
            raise wrong("method.type", f"{self.method.type[:60]!r} is not supported; use {SUPERVISED!r}")
        for name in ("dpo", "reinforcement"):
            if getattr(self.method, name) is not None:
                raise wrong(f"method.{name}", f"does not apply to the method {SUPERVISED!r}; omit it")
        # Our choice, as OpenAI's behaviour is not documented: one of the two would be ignored silently.
        if self.hyperparameters is not None:
            raise wrong(
                "hyperparameters",
                "is deprecated and cannot be combined with method; use method.supervised.hyperparameters only",
            )
        hyperparameters = self.method.supervised.hyperparameters if self.method.supervised else None
        return hyperparameters or SupervisedHyperparameters(), "method.supervised.hyperparameters"

    def slug(self) -> str:
        """Return the suffix in the form for the model's name; empty: the request has none.

        Raises:
            OpenAiError: it has no character that is allowed in a name.
        """
        slug = names.slug(self.suffix or "")
        if self.suffix and not slug:
            raise wrong("suffix", f"{self.suffix!r} has neither a letter from a to z nor a digit; include at least one")
        return slug
