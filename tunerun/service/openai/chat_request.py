"""Converts a chat completion request into prompts, or refuses it with the name of the invalid field."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from tunerun.engine import json_grammar
from tunerun.errors import InputError, TemplateError
from tunerun.examples import Example
from tunerun.generation import Prompt
from tunerun.service.core.column_template import ColumnTemplate
from tunerun.service.core.model_calls import ServedModel
from tunerun.service.openai.method import LenientObject
from tunerun.service.openai.problems import wrong
from tunerun.service.openai.sampling import Int32, Sampling, check_texts, not_offered
from tunerun.service.routes import Ignored

MAX_MESSAGES = 1000
MAX_TOP_LOGPROBS = 20
"""OpenAI's own limit."""

# LangChain and Vercel's AI SDK send `developer` for models whose names begin with o1.
_SYSTEM = ("system", "developer")

_CONTENT = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}, {"type": "null"}]}
"""Parsed by hand, because pydantic reports an error for each member of a union."""


class ChatMessage(LenientObject):
    """A message of a conversation."""

    role: str
    content: Annotated[Any, WithJsonSchema(_CONTENT)] = None
    name: Ignored = None
    refusal: Ignored = None
    annotations: Ignored = None
    audio: Any = None
    tool_calls: list[Any] | None = None
    function_call: Any = None


class JsonSchema(LenientObject):
    """The JSON schema that an answer has to conform to."""

    name: str | None = None
    description: Ignored = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")  # `schema` is a method of pydantic's
    strict: Ignored = None  # every schema is enforced, token by token


class ResponseFormat(LenientObject):
    """The required format of an answer."""

    type: str
    json_schema: JsonSchema | None = None


class ChatCompletion(Sampling):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Int32 | None = None
    logprobs: bool = False
    top_logprobs: Int32 | None = None
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[Any] | None = None
    audio: Any = None
    web_search_options: Any = None
    parallel_tool_calls: Ignored = None
    prediction: Ignored = None
    metadata: Ignored = None
    moderation: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    reasoning_effort: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None
    verbosity: Ignored = None


def read_prompts(body: ChatCompletion, model: ServedModel) -> list[Prompt]:
    """Return the prompts of a request, one for each answer.

    Args:
        body: the body of the request.
        model: the model, whose template and defaults apply.

    Raises:
        ServiceError: the request is invalid or uses an unsupported feature; names the field.
    """
    body.check_offered()
    for name in ("tools", "functions", "audio", "web_search_options"):
        if getattr(body, name):
            raise not_offered(name, "tool calls are not supported" if name in ("tools", "functions") else "")
    for name in ("tool_choice", "function_call"):  # these two values change nothing without tools
        if getattr(body, name) not in (None, "none", "auto"):
            raise not_offered(name, "tool calls are not supported")
    if any(modality != "text" for modality in body.modalities or ()):
        raise wrong("modalities", "only text output is supported")

    options = body.options(model.defaults, body.max_completion_tokens)
    if body.top_logprobs is not None and not body.logprobs:
        raise wrong("top_logprobs", "needs logprobs to be true")
    if not 0 <= (body.top_logprobs or 0) <= MAX_TOP_LOGPROBS:
        raise wrong("top_logprobs", f"must be from 0 to {MAX_TOP_LOGPROBS}, not {body.top_logprobs}")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    options = replace(options, logprobs=logprobs, json_schema=_json_schema(body.response_format))

    # The answers differ in their seeds alone, so the messages are converted once.
    prompt = replace(_conversation(body.messages, model.template), adapter=model.adapter)
    return [replace(prompt, options=replace(options, seed=options.seed + number)) for number in range(body.n)]


def _json_schema(response_format: ResponseFormat | None) -> str | None:
    """Return the JSON schema of the answers; None: any text."""
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
        schema = json_grammar.ANY_OBJECT
    elif response_format.type == "json_schema":
        if response_format.json_schema is None or response_format.json_schema.schema_ is None:
            raise wrong("response_format.json_schema.schema", "is missing; give the JSON schema of the answer")
        schema = json.dumps(response_format.json_schema.schema_)
    else:
        kind = response_format.type[:40]
        raise wrong("response_format.type", f"must be text, json_object or json_schema, not {kind!r}")
    # Refused rather than ignored: the SDK's `parse` raises pydantic's ValidationError on free text, far from its cause.
    try:
        json_grammar.check(schema)
    except InputError as error:
        raise wrong("response_format", str(error)) from error
    return schema


def _conversation(messages: Sequence[ChatMessage], template: ColumnTemplate | None) -> Prompt:
    """Convert messages into a prompt: the user's last message, with what precedes it.

    Consecutive messages of one role are joined with a line break, as in training rows.
    """
    contents = [_text(message, number) for number, message in enumerate(messages)]
    check_texts({f"messages[{number}].content": text for number, text in enumerate(contents)})

    # One system message, then pairs of turns, as in training rows.
    first = next((number for number, one in enumerate(messages) if one.role not in _SYSTEM), len(messages))
    system = "\n".join(text for text in contents[:first] if text)
    turns: list[str] = []
    for role, group in groupby(range(first, len(messages)), key=lambda number: messages[number].role):
        numbers = [*group]
        field, expected = f"messages[{numbers[0]}]", ("user", "assistant")[len(turns) % 2]
        if role != expected:
            order = "system messages come first, then messages of user and assistant take turns, beginning with user"
            raise wrong(f"{field}.role", f"must be {expected}, not {role[:40]!r}: {order}")
        text = "\n".join(contents[number] for number in numbers)
        if template is not None and expected == "user":
            try:
                text = template.text_of(text)
            except TemplateError as error:
                columns, why = ", ".join(template.columns), "; ".join(error.problems)
                words = f"names columns of the model's template, which reads {columns}, and {why}"
                raise wrong(f"{field}.content", words) from error
        turns.append(text)
    if len(turns) % 2 == 0:
        raise wrong(f"messages[{len(messages) - 1}].role", "must be user: the model answers the last message")
    return Prompt(turns[-1], examples=tuple(map(Example, turns[:-1:2], turns[1::2])), system=system)


def _text(message: ChatMessage, number: int) -> str:
    """Return the content of a message as one text; refuse whatever is not text."""
    field = f"messages[{number}]"
    if message.role in ("tool", "function"):
        raise wrong(f"{field}.role", f"{message.role} is not supported: tool calls are not available")
    for name in ("tool_calls", "function_call", "audio"):
        if getattr(message, name):
            raise wrong(f"{field}.{name}", "is not supported; send text only")
    if message.content is None:
        raise wrong(f"{field}.content", "contains no text")
    if isinstance(message.content, str):
        return message.content
    if not isinstance(message.content, list):
        raise wrong(f"{field}.content", "must be a text or a list of parts")

    # Joined without a separator: no client says that there is one between the parts of a message.
    texts = []
    for place, part in enumerate(message.content):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            words = f"must be a part of type text, with a text, not {str(kind)[:40]!r}"
            raise wrong(f"{field}.content[{place}]", words)
        texts.append(part["text"])
    return "".join(texts)
