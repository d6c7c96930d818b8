"""Reads a GenerateContentRequest as a prompt, or refuses it field by field."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from pydantic.alias_generators import to_camel

from tunerun.errors import TemplateError
from tunerun.job import Conversation, GenerateOptions, Prompt, Turn, prompt_of
from tunerun.service.core.columns import ColumnTemplate
from tunerun.service.core.problems import invalid
from tunerun.service.core.records import Serving
from tunerun.service.gemini import wire
from tunerun.service.gemini.tuning_request import MAX_INPUT_CHARACTERS

MAX_STOP_SEQUENCES = 5
TEXT = "text/plain"

BEYOND_THE_GUIDE = (
    "the Gemini API's tuned models take neither a system instruction nor chat history (its tuning guide, 2025-04-28); "
    "this service gives both to the model, which answers best to what is like its training examples"
)
"""A warning: tuned models answer conversations here, as chat clients send them from the second message on."""

_NOT_TEXT = (
    "inline_data", "file_data", "function_call", "function_response", "executable_code", "code_execution_result",
    "video_metadata",
)  # fmt: skip
_NOT_OFFERED = {
    "response_schema": "JSON mode is not supported; omit it",
    "response_json_schema": "JSON mode is not supported; omit it",
    "response_json_schema_ordered": "JSON mode is not supported; omit it",
    "presence_penalty": "is not offered here; omit it",
    "frequency_penalty": "is not offered here; omit it",
    "response_logprobs": "is not offered here; omit it",
    "logprobs": "is not offered here; omit it",
    "speech_config": "only text is answered here",
    "image_config": "only text is answered here",
}


def read_prompt(
    asked: wire.GenerateContent, defaults: Serving, adapter: str | None, template: ColumnTemplate | None = None
) -> Prompt:
    """Return the prompt of a request.

    Args:
        defaults: generation options that apply where the request does not set them.
        adapter: location of the tuned model; None: a base model answers.
        template: the tuned model's template, for user turns that are rows; None: it has none.

    Raises:
        ServiceError: the request is invalid or uses an unsupported feature; names the field.
    """
    if asked.tools or asked.tool_config or asked.cached_content:
        field = "tools" if asked.tools else "toolConfig" if asked.tool_config else "cachedContent"
        raise invalid(field, "is not offered here; omit it")
    options = _options(asked.generation_config or wire.GenerationConfig(), defaults)
    return prompt_of(read_conversation(asked.contents, asked.system_instruction, template), options, adapter)


def beyond_the_guide(asked: wire.GenerateContent, adapter: str | None) -> str | None:
    """Return a warning where a request gives a tuned model more than the API accepts; None: it does not."""
    has_instruction = asked.system_instruction is not None and asked.system_instruction.parts
    return BEYOND_THE_GUIDE if adapter is not None and (has_instruction or len(asked.contents or ()) > 1) else None


def read_conversation(
    contents: Sequence[wire.Content] | None,
    instruction: wire.Content | None = None,
    template: ColumnTemplate | None = None,
) -> Conversation:
    """The text of a conversation's last turn, which is the user's, the turns before it, and the system instruction.

    Args:
        template: of a tuned model, for turns of the user that name its columns; None: it has none.

    Raises:
        ServiceError: it is empty, too long, its turns do not alternate, or it holds something else than text; or a turn
            names columns of the template that it cannot be rendered with.
    """
    field = "contents"
    if not contents:
        raise invalid(field, "is empty; send a turn of the user")
    texts = []
    for number, turn in enumerate(contents):
        expected = ("user", "model")[number % 2]
        if turn.role not in ((None, "", "user") if number == 0 else (expected,)):
            raise invalid(
                f"{field}[{number}].role",
                f"must be {expected}, not {turn.role!r}: turns of user and model alternate, beginning with user",
            )
        texts.append(_turn_text(turn, f"{field}[{number}].parts"))
    if len(texts) % 2 == 0:
        raise invalid(f"{field}[{len(texts) - 1}].role", "must be user: the model answers the last turn")
    system = _joined(instruction, "systemInstruction.parts") if instruction is not None else ""
    characters = sum(map(len, [system, *texts]))
    if characters > MAX_INPUT_CHARACTERS:
        words = "has, with the system instruction," if system else "has"
        raise invalid(field, f"{words} {characters:,} characters, the limit is {MAX_INPUT_CHARACTERS:,}")
    if template is not None:
        texts[::2] = [_rendered(text, f"{field}[{2 * n}].parts", template) for n, text in enumerate(texts[::2])]
    return Conversation(texts[-1], system, tuple(map(Turn, texts[:-1:2], texts[1::2])))


def _joined(content: wire.Content, field: str) -> str:
    return "".join(_text(part, f"{field}[{number}]") for number, part in enumerate(content.parts or ()))


def _turn_text(turn: wire.Content, field: str) -> str:
    text = _joined(turn, field)
    if not text:
        raise invalid(field, "hold no text")
    return text


def _rendered(text: str, field: str, template: ColumnTemplate) -> str:
    try:
        return template.text_of(text)
    except TemplateError as error:
        columns = ", ".join(template.columns)
        words = f"name columns of the model's template, which reads {columns}, and {'; '.join(error.problems)}"
        raise invalid(field, words) from error


def _text(part: wire.ContentPart, field: str) -> str:
    for name in _NOT_TEXT:
        if getattr(part, name) is not None:
            raise invalid(f"{field}.{to_camel(name)}", "only text can be sent here")
    return part.text or ""


def _options(config: wire.GenerationConfig, defaults: Serving) -> GenerateOptions:
    field = "generationConfig"
    for name, text in _NOT_OFFERED.items():
        if getattr(config, name):
            raise invalid(f"{field}.{to_camel(name)}", text)
    if config.response_mime_type not in (None, "", TEXT):
        raise invalid(f"{field}.responseMimeType", f"must be {TEXT}: there is no JSON mode here")
    if any(modality not in ("TEXT", 1) for modality in config.response_modalities or ()):
        raise invalid(f"{field}.responseModalities", "only TEXT is answered here")
    if (config.candidate_count or 1) != 1:
        raise invalid(f"{field}.candidateCount", f"must be 1, not {config.candidate_count}")
    hottest = wire.MAX_TEMPERATURE
    temperature = _between(config.temperature, defaults.temperature, (0.0, hottest), f"{field}.temperature")
    top_p = _between(config.top_p, defaults.top_p, (0.0, 1.0), f"{field}.topP")
    top_k = config.top_k if config.top_k is not None else defaults.top_k
    tokens = config.max_output_tokens or defaults.max_output_tokens
    for name, value in (("topK", top_k), ("maxOutputTokens", tokens), ("seed", config.seed or 0)):
        if value < 0:
            raise invalid(f"{field}.{name}", f"must be 0 or more, not {value}")
    # Without a seed each answer is sampled with a random one, as the API documents; greedy answers do not depend on it.
    seed = config.seed if config.seed is not None else secrets.randbelow(2**31) if temperature > 0 else 0
    return GenerateOptions(tokens, temperature, seed, top_p or 1.0, top_k, _stops(config))


def _between(given: float | None, otherwise: float, limits: tuple[float, float], field: str) -> float:
    value = otherwise if given is None else given
    least, most = limits
    if not least <= value <= most:
        raise invalid(field, f"must be from {least:g} to {most:g}, not {value:g}")
    return value


def _stops(config: wire.GenerationConfig) -> tuple[str, ...]:
    stops = tuple(stop for stop in config.stop_sequences or () if stop)
    if len(stops) > MAX_STOP_SEQUENCES:
        raise invalid("generationConfig.stopSequences", f"{len(stops)} of them; at most {MAX_STOP_SEQUENCES} are taken")
    return stops
