"""Constrains answers to a JSON schema: which tokens may come next, by llguidance (the extra `json`). No torch.

llguidance was chosen because it refuses schemas that it cannot enforce; xgrammar and outlines accept such schemas and
then violate them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from tunerun.engine import packages
from tunerun.errors import InputError

ANY_OBJECT = '{"type": "object"}'
"""The schema of any JSON object."""

MAX_SCHEMA_CHARACTERS = 40_000
"""Our choice: llguidance's time grows with the square of the number of optional properties. 4,000 of them in 115,000
characters took 8 s (measured 2026-11-26), during which no other prompt was answered."""

REMEMBERED = 16
"""Schemas whose grammars are cached; all answers of a request, and often of a client, have the same schema."""


def check(schema: str) -> None:
    """Check that a schema can be enforced.

    Args:
        schema: as JSON.

    Raises:
        MissingPackageError: llguidance is not installed.
        InputError: the schema is invalid or too long, or has a key that cannot be enforced, which the message names.
    """
    grammar = _grammar(schema)
    from llguidance import LLMatcher

    is_wrong, problems = LLMatcher.validate_grammar_with_warnings(grammar)
    if is_wrong:
        raise _unusable("; ".join(problems))


class JsonGrammars:
    """Makes constraints for one base model's tokens.

    Args:
        tokenizer: of the base model.
        width: of the network's output, in tokens; may be larger than the vocabulary.
        stop_ids: the tokens that end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, width: int, stop_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._width = width
        self._stop_ids = [*stop_ids]
        self._matchers: dict[str, Any] = {}
        self._tokens: Any = None  # an LLTokenizer, made once: 0.5 s of CPU for SmolLM2's 49,152 tokens

    def constraint(self, schema: str) -> JsonConstraint:
        """Return a new constraint for one answer.

        Raises:
            MissingPackageError, InputError: as in `check`; or llguidance cannot read the base model's tokenizer.
        """
        if schema not in self._matchers:
            matcher = self._matcher(schema)
            if len(self._matchers) >= REMEMBERED:  # the oldest one: a dictionary keeps the order of insertion
                del self._matchers[next(iter(self._matchers))]
            self._matchers[schema] = matcher
        return JsonConstraint(self._matchers[schema].deep_copy(), self._width)

    def _matcher(self, schema: str) -> Any:
        grammar = _grammar(schema)
        from llguidance import LLMatcher, LLTokenizer

        if self._tokens is None:
            size = max(self._width, self._tokenizer.get_vocab_size(with_added_tokens=True))
            try:
                self._tokens = LLTokenizer(self._tokenizer.to_str(), n_vocab=size, eos_token=self._stop_ids)
            except ValueError as error:
                raise InputError(
                    f"this base model's answers cannot be held to a JSON schema, because llguidance cannot read its "
                    f"tokenizer ({error}); choose another base model, or ask without a schema"
                ) from error
        return LLMatcher(self._tokens, grammar, log_level=0)


class JsonConstraint:
    """The state of the constraint of one answer.

    Raises:
        InputError: the schema cannot be used.
    """

    def __init__(self, matcher: Any, width: int) -> None:
        self._matcher = matcher
        self._width = width
        self._check()

    @property
    def is_whole(self) -> bool:
        """Whether the answer satisfies the schema and nothing can follow it."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def allowed(self) -> Any:
        """Return which tokens may come next, as a numpy array of booleans, [width].

        Raises:
            InputError: the schema needs more time or memory than llguidance allows for an answer.
        """
        import numpy

        packed = numpy.frombuffer(self._matcher.compute_bitmask(), dtype=numpy.uint8)
        self._check()
        # Some networks have outputs beyond the vocabulary; these have no bit and are not allowed.
        allowed = numpy.zeros(self._width, dtype=bool)
        bits = numpy.unpackbits(packed, bitorder="little")[: self._width].astype(bool)
        allowed[: len(bits)] = bits
        return allowed

    def take(self, token: int) -> None:
        """Advance by the chosen token.

        Raises:
            InputError: as in `allowed`.
        """
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _unusable(self._matcher.get_error())


def _grammar(schema: str) -> str:
    packages.require("llguidance", extra="json", what="an answer that has to satisfy a JSON schema")
    from llguidance import LLMatcher

    if len(schema) > MAX_SCHEMA_CHARACTERS:
        raise InputError(f"the JSON schema has {len(schema):,} characters, the limit is {MAX_SCHEMA_CHARACTERS:,}")
    try:
        # No white space between JSON tokens: weak models would write blanks up to the length limit.
        return str(LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_flexible": False}))
    except ValueError as error:
        raise _unusable(str(error)) from error


def _unusable(problem: str) -> InputError:
    words = " ".join(problem.split())[:500]
    return InputError(f"answers cannot be held to this JSON schema: {words}")
