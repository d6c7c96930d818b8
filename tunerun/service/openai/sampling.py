"""Generation options that chat and legacy completions share."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from tunerun.generation import GenerateOptions
from tunerun.service.core.problems import ServiceError
from tunerun.service.core.records import Serving
from tunerun.service.openai.method import LenientObject
from tunerun.service.openai.problems import wrong
from tunerun.service.routes import Ignored

MAX_TEMPERATURE = 2.0
MAX_STOPS = 4
"""OpenAI's limits."""

MAX_CHOICES = 128
"""The most answers to one request; OpenAI's limit of `n`."""

MAX_CHARACTERS = 1_000_000
"""Limit for all texts of a request: above any base model's context, and small enough to tokenise at once."""

Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}
"""A text or a list of texts; parsed by hand, because pydantic reports an error for each member of a union."""


class StreamOptions(LenientObject):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: Ignored = None


class Sampling(LenientObject):
    """Fields that both kinds of completions have."""

    model: str
    n: Int32 = 1
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: Int32 | None = None
    stop: Annotated[Any, WithJsonSchema(TEXTS)] = None
    seed: Int64 | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None
    user: Ignored = None

    def check_offered(self) -> None:
        """Refuse unsupported fields.

        Raises:
            ServiceError: the request has an unsupported field; names it.
        """
        for name in ("frequency_penalty", "presence_penalty"):
            if getattr(self, name):
                raise not_offered(name, "the only valid value is 0")
        if self.logit_bias:
            raise not_offered("logit_bias")

    def options(self, serving: Serving, most: int | None = None) -> GenerateOptions:
        """Return the generation options of the answers.

        Args:
            serving: the model's defaults.
            most: token limit from a field other than `max_tokens`; None: there is none.

        Raises:
            ServiceError: a value is out of range; names the field.
        """
        if not 1 <= self.n <= MAX_CHOICES:
            raise wrong("n", f"must be from 1 to {MAX_CHOICES}, not {self.n}")
        temperature = _between("temperature", self.temperature, serving.temperature, MAX_TEMPERATURE)
        top_p = _between("top_p", self.top_p, serving.top_p, 1.0)
        limits = {"max_tokens": self.max_tokens, "max_completion_tokens": most}
        for name, limit in limits.items():
            if limit is not None and limit < 1:
                raise wrong(name, f"must be 1 or more, not {limit}")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
            raise wrong("stop", "must be a text or a list of texts")
        if len(stops) > MAX_STOPS:
            raise wrong("stop", f"has {len(stops)} sequences; the limit is {MAX_STOPS}")

        # Without a seed each answer is sampled with a random one, as at OpenAI; greedy answers do not depend on it.
        seed = self.seed if self.seed is not None else secrets.randbelow(2**31) if temperature > 0 else 0
        return GenerateOptions(
            # A request may have both limits, of which the smaller one counts; OpenAI refuses them together.
            max_output_tokens=min(filter(None, limits.values()), default=serving.max_output_tokens),
            temperature=temperature,
            seed=seed,
            top_p=top_p,  # 0 too, which keeps the likeliest token alone: "the tokens with top_p probability mass"
            top_k=serving.top_k,
            stop_sequences=tuple(text for text in stops if text),
        )


def not_offered(field: str, why: str = "") -> ServiceError:
    """Return the error for an unsupported field.

    Args:
        field: the field.
        why: reason or advice; empty: to omit the field.
    """
    return wrong(field, f"is not supported; {why or 'omit it'}", "unsupported_parameter")


def check_texts(texts: Mapping[str, str]) -> None:
    """Check the total length of a request's texts.

    Args:
        texts: the texts by their fields.

    Raises:
        ServiceError: they are too long.
    """
    characters = sum(map(len, texts.values()))
    if characters > MAX_CHARACTERS:
        field = next(iter(texts)).partition("[")[0]
        raise wrong(field, f"has {characters:,} characters, the limit is {MAX_CHARACTERS:,}")


def _between(name: str, value: float | None, default: float, most: float) -> float:
    value = default if value is None else value
    if not 0 <= value <= most:
        raise wrong(name, f"must be from 0 to {most:g}, not {value:g}")
    return value
