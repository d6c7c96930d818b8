"""A client of a judge: calls to a chat model, adapted to the fields that its service accepts."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from tunerun.backends.http import JsonService
from tunerun.backends.openai.refusals import refusal
from tunerun.engine.token_counter import CHARACTERS_PER_TOKEN
from tunerun.errors import AccessError, BackendError, StatusError
from tunerun.judges import prompt
from tunerun.judges.prompt import Judged, Rating
from tunerun.metrics.judged_metric import JudgedMetric

_REFUSALS = (400, 413, 422)
"""Statuses with which services refuse a field or the text that is judged, rather than the caller."""

_OPTIONAL = ("response_format", "seed", "temperature")
"""Fields that some services or models refuse, the most often refused first; a judge works without them."""


@dataclass(frozen=True, repr=False)
class _Key:
    """The API key in an environment variable, read for each call; never shown."""

    variable: str | None
    metric: str

    def headers(self) -> dict[str, str]:
        """Return the key's header; nothing if the service takes no key.

        Raises:
            AccessError: the variable is not set, or cannot hold a key.
        """
        if self.variable is None:
            return {}
        key = os.environ.get(self.variable, "").strip()
        where = f"evaluation.metrics.{self.metric}.key_variable"
        if not key:
            raise AccessError(
                f"{where}: the environment variable {self.variable} holds no API key; set it, or set {where} to null "
                "where the judge's service takes none"
            )
        if not key.isascii() or not key.isprintable():
            raise AccessError(f"{where}: what {self.variable} holds cannot be an API key; set it again")
        return {"authorization": f"Bearer {key}"}


class JudgeClient:
    """A judge that can be asked from several threads at once.

    Args:
        metric: the configured metric, with the model, its address and the rubric.
    """

    def __init__(self, metric: JudgedMetric) -> None:
        self._metric = metric
        key = _Key(metric.key_variable, metric.name)
        advice = {
            401: f"the key is missing or wrong: set evaluation.metrics.{metric.name}.key_variable to the name of an "
            "environment variable that contains a valid one",
            402: "payment is required: the account's owner has to add credit or raise the limit",
            403: "the key does not give access to this model: ask its owner for access, or choose another model",
        }
        self._service = JsonService(
            metric.base_url,
            key,
            metric.connect_timeout_s,
            metric.read_timeout_s,
            partial(refusal, advice=advice),
        )
        self._lock = threading.Lock()
        # What the service refused is learnt once and left out of every later call, whichever thread makes it.
        self._left_out: set[str] = set()
        self._limit = "max_tokens"
        self._has_answered = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._service.close()

    def rate(self, judged: Judged) -> Rating:
        """Ask for a judgement; once more if the reply cannot be read.

        Returns:
            A rating; without a score if the second reply cannot be read either, or the service refuses this one prompt
            after it has answered others.

        Raises:
            AccessError: the key is missing or refused.
            UnavailableError: the service does not answer.
            BackendError: the service refuses every call, such as those for a model that it does not have.
        """
        messages = prompt.messages(judged, self._metric.rubric, self._metric.bounds)
        try:
            reply, usd = self._reply(messages, judged, seed=0)
            rating = prompt.read(reply, judged, self._metric.bounds)
            if rating.score is None:
                reply, more = self._reply(prompt.again(messages, reply), judged, seed=1)
                usd += more
                rating = prompt.read(reply, judged, self._metric.bounds)
        except StatusError as error:
            # A filter of contents or a length limit refuses one prompt, and the other rows are still worth judging. A
            # service that has never answered is set up wrongly, and every row would fail the same way.
            if error.status not in _REFUSALS or not self._has_answered:
                raise
            return Rating(None, str(error)[: prompt.MOST_REASON])
        self._has_answered = True
        return Rating(rating.score, rating.reason, usd)

    def _reply(self, messages: list[dict[str, str]], judged: Judged, seed: int) -> tuple[str, float]:
        """The text of a reply and its cost in US dollars."""
        schema = {"name": "judgement", "schema": prompt.schema(judged, self._metric.bounds), "strict": True}
        optional: dict[str, Any] = {
            "temperature": 0,
            "seed": seed,  # another one for the second try, so that it can differ from the first
            "response_format": {"type": "json_schema", "json_schema": schema},
        }
        while True:
            with self._lock:
                left_out, limit = frozenset(self._left_out), self._limit
            body = {
                "model": self._metric.model,
                "messages": messages,
                limit: self._metric.max_output_tokens,
                **{name: value for name, value in optional.items() if name not in left_out},
            }
            try:
                answer = self._service.repeat("/chat/completions", body)
                break
            except StatusError as error:
                if error.status not in _REFUSALS or not self._adapt(str(error), left_out, limit):
                    raise
        text = _text(answer)
        return text, self._usd(answer, messages, text)

    def _adapt(self, words: str, left_out: frozenset[str], limit: str) -> bool:
        """Leave out the field that a refusal names, for this and all later calls.

        Returns:
            Whether something was changed, so that the call is worth repeating.
        """
        with self._lock:
            if (left_out, limit) != (frozenset(self._left_out), self._limit):
                return True  # another thread has adapted it meanwhile
            # OpenAI's reasoning models refuse `max_tokens` and name its successor, which other services do not know.
            if "max_completion_tokens" in words and limit == "max_tokens":
                self._limit = "max_completion_tokens"
                return True
            named = [name for name in _OPTIONAL if name in words and name not in left_out]
            if "json_schema" in words and "response_format" not in left_out:
                named = ["response_format"]
            # A refusal that names no field is taken to be about the schema, once: its wording differs between servers.
            is_first = not self._has_answered and "response_format" not in left_out
            field = named[0] if named else "response_format" if is_first else None
            if field is not None:
                self._left_out.add(field)
            return field is not None

    def _usd(self, answer: dict[str, Any], messages: list[dict[str, str]], reply: str) -> float:
        """The cost of a call, by the service's count of tokens, or by an estimate where it reports none."""
        if self._metric.price is None:
            return 0.0
        usage = answer.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        characters = sum(len(message["content"]) for message in messages)
        counts = (usage.get("prompt_tokens"), characters), (usage.get("completion_tokens"), len(reply))
        tokens = [
            count if isinstance(count, int) and count >= 0 else length / CHARACTERS_PER_TOKEN
            for count, length in counts
        ]
        return self._metric.price.usd(*tokens)


def _text(answer: dict[str, Any]) -> str:
    """The text of the first choice; empty if the model said nothing.

    Raises:
        BackendError: the answer is not one of a chat model.
    """
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BackendError("the judge's service answered without choices; does base_url end in /v1 of a chat service?")
    message = choices[0].get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):  # some gateways split the text into parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
