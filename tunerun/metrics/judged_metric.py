"""The base class of metrics whose scores a chat model gives."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tunerun.digest import digest
from tunerun.errors import MetricError
from tunerun.judges import prompt
from tunerun.metrics.base import FloatArray, MetricModel

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_INTERPOLATION = "${"
"""Start of an interpolation in a stored config."""


class JudgePrice(BaseModel):
    """The price of a judge's service."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    usd_per_million_input_tokens: float = Field(ge=0, description="US dollars per million tokens of prompts.")
    usd_per_million_output_tokens: float = Field(ge=0, description="US dollars per million tokens of replies.")
    source: str = Field(min_length=1, description="Where the price was read.")
    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$", description="When it was read, as 2026-11-26.")

    def usd(self, input_tokens: float, output_tokens: float) -> float:
        """Return the cost of some tokens in US dollars."""
        millions = input_tokens * self.usd_per_million_input_tokens, output_tokens * self.usd_per_million_output_tokens
        return sum(millions) / 1e6


class JudgedMetric(MetricModel):
    """A metric whose scores a chat model gives, at any service that speaks OpenAI's chat API.

    A run asks the judge and records its judgements in the ledger; readers of the ledger never ask it, so `rows` cannot
    be called (see `tunerun.comparison.knowledge`).
    """

    base_url: str = Field(
        description="Address of the judge's service, with its /v1: https, or http to this machine; it gets the inputs, "
        "expected answers and answers of held-out examples."
    )
    model: str = Field(min_length=1, description="The judge, by the name that its service has for it.")
    key_variable: str | None = Field(
        "OPENAI_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds the API key; null: the service takes none.",
    )
    rubric: str = Field(min_length=1, description="What makes an answer good, in words for the judge.")
    max_output_tokens: int = Field(
        512, ge=16, description="Longest reply of the judge, in tokens; a model that reasons first needs more."
    )
    max_in_flight: int = Field(4, ge=1, le=64, description="Answers that are judged at once.")
    connect_timeout_s: float = Field(10.0, gt=0, description="Seconds to wait for a connection.")
    read_timeout_s: float = Field(120.0, gt=0, description="Seconds to wait for each part of a reply.")
    price: JudgePrice | None = Field(
        None, description="Of judging, for the plan and budget.max_usd; null: not known, or this machine's own."
    )

    compares: ClassVar[bool] = False
    """Whether an answer is compared with that of the untuned base model."""

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        # A stored config keeps an interpolation as it was written; the address that it gave is not in the record.
        if value.startswith(_INTERPOLATION):
            return value
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an address such as http://127.0.0.1:8000/v1 or https://api.openai.com/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must hold no user, password or query; the API key is named by key_variable")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError("must be https, because held-out examples are sent there; http is for this machine only")
        return value.rstrip("/")

    @property
    def bounds(self) -> tuple[int, int]:
        """The lowest and the highest score."""
        return (0, 1)

    @property
    def labelled(self) -> str | None:
        """The file of answers that people have scored; None: there is none."""
        return None

    @property
    def identity(self) -> str:
        """A digest of everything that decides a judgement: prompt, model, rubric and scale."""
        # Not the address: one model may move to another service or port, and its judgements stay valid.
        return digest([prompt.PROMPT_DIGEST, self.name, self.model, self.rubric, list(self.bounds)])

    @property
    def has_unknown_price(self) -> bool:
        """Whether its service may charge, and the price is not configured."""
        return self.price is None and urlsplit(self.base_url).hostname not in _LOOPBACK

    @property
    def description(self) -> str:
        """The judge's model and prompt, which readers of its scores need."""
        return f"{self.model}, prompt {prompt.VERSION} (sha256 {prompt.PROMPT_DIGEST[:12]})"

    def rows(self, expected: object, answers: object) -> FloatArray:  # noqa: ARG002 - the contract's
        """Refuse: a judge's scores are in the ledger and are not computed from texts.

        Raises:
            MetricError: always.
        """
        raise MetricError(f"evaluation.metrics.{self.name}: a judge scores answers; their scores are in the ledger")

    def value(self, means: FloatArray) -> FloatArray:
        """Return the mean of the scores."""
        return means[..., 0]
