"""Reads a GenerateContentRequest as a prompt, or refuses it field by field."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from pydantic.alias_generators import to_camel

from tunerun.errors import TemplateError
from tunerun.examples import Conversation, Turn
from tunerun.generation import GenerateOptions, Prompt, prompt_of
from tunerun.service.core.column_template import ColumnTemplate
from tunerun.service.core.problems import invalid
from tunerun.service.core.records import Serving
from tunerun.service.gemini import wire
from tunerun.tuning_guide import MOST_INPUT_CHARACTERS

MAX_STOP_SEQUENCES = 5
"""The API's limit: "The set of character sequences (up to 5)"."""

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
    body: wire.GenerateContent, defaults: Serving, adapter: str | None, template: ColumnTemplate | None = None
) -> Prompt:
    """Return the prompt of a request.

    Args:
        body: the request's body.
        defaults: generation options that apply where the request does not set them.
        adapter: location of the tuned model; None: a base model answers.
        template: the tuned model's template, for user turns that are rows; None: it has none.

    Raises:
        ServiceError: the request is invalid or uses an unsupported feature; names the field.
    """
    if body.tools or body.tool_config or body.cached_content:
        field = "tools" if body.tools else "toolConfig" if body.tool_config else "cachedContent"
        raise invalid(field, "is not offered here; omit it")
    options = _options(body.generation_config or wire.GenerationConfig(), defaults)
    return prompt_of(read_conversation(body.contents, body.system_instruction, template), options, adapter)


def beyond_the_guide(body: wire.GenerateContent, adapter: str | None) -> str | None:
    """Return a warning if a request to a tuned model has more than the API accepts; None: it has not."""
    has_instruction = body.system_instruction is not None and body.system_instruction.parts
    return BEYOND_THE_GUIDE if adapter is not None and (has_instruction or len(body.contents or ()) > 1) else None


def read_conversation(
    contents: Sequence[wire.Content] | None,
    instruction: wire.Content | None = None,
    template: ColumnTemplate | None = None,
) -> Conversation:
    """Return a conversation: the text of the last turn, which is the user's, the turns before it, and a system message.

    Args:
        contents: the turns.
        instruction: the system instruction; None: there is none.
        template: the tuned model's template, for turns of the user that name its columns; None: it has none.

    Raises:
        ServiceError: it is empty, too long or not text only, its turns do not alternate, or the template cannot be
            rendered with a turn that names columns of it.
    """
    if not contents:
        raise invalid("contents", "is empty; send a turn of the user")
    texts = []
    for number, turn in enumerate(contents):
        role, field = ("user", "model")[number % 2], f"contents[{number}]"
        # Content.role: "Useful to set for multi-turn conversations, otherwise can be left blank or unset."
        if turn.role not in ((None, "", "user") if number == 0 else (role,)):
            words = f"must be {role}, not {turn.role!r}: turns of user and model alternate, beginning with user"
            raise invalid(f"{field}.role", words)
        text = _text(turn, f"{field}.parts")
        if not text:
            raise invalid(f"{field}.parts", "hold no text")
        texts.append(text)
    if len(texts) % 2 == 0:
        raise invalid(f"contents[{len(texts) - 1}].role", "must be user: the model answers the last turn")
    system = _text(instruction, "systemInstruction.parts") if instruction is not None else ""
    characters = sum(map(len, [system, *texts]))
    if characters > MOST_INPUT_CHARACTERS:
        words = "has, with the system instruction," if system else "has"
        raise invalid("contents", f"{words} {characters:,} characters, the limit is {MOST_INPUT_CHARACTERS:,}")

    if template is not None:
        for number in range(0, len(texts), 2):
            try:
                texts[number] = template.text_of(texts[number])
            except TemplateError as error:
                columns = ", ".join(template.columns)
                words = f"name columns of the model's template, which reads {columns}, and {'; '.join(error.problems)}"
                raise invalid(f"contents[{number}].parts", words) from error
    return Conversation(texts[-1], system, tuple(map(Turn, texts[:-1:2], texts[1::2])))


def _text(content: wire.Content, field: str) -> str:
    """Return the joined text of all parts."""
    parts = content.parts or ()
    for number, part in enumerate(parts):
        for name in _NOT_TEXT:
            if getattr(part, name) is not None:
                raise invalid(f"{field}[{number}].{to_camel(name)}", "only text can be sent here")
    return "".join(part.text or "" for part in parts)


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
    temperature = defaults.temperature if config.temperature is None else config.temperature
    top_p = defaults.top_p if config.top_p is None else config.top_p
    for name, share, most in (("temperature", temperature, wire.MAX_TEMPERATURE), ("topP", top_p, 1.0)):
        if not 0.0 <= share <= most:
            raise invalid(f"{field}.{name}", f"must be from 0 to {most:g}, not {share:g}")
    top_k = config.top_k if config.top_k is not None else defaults.top_k
    tokens = config.max_output_tokens or defaults.max_output_tokens
    for name, value in (("topK", top_k), ("maxOutputTokens", tokens), ("seed", config.seed or 0)):
        if value < 0:
            raise invalid(f"{field}.{name}", f"must be 0 or more, not {value}")
    # Without a seed each answer is sampled with a random one, as the API documents; greedy answers do not depend on it.
    seed = config.seed if config.seed is not None else secrets.randbelow(2**31) if temperature > 0 else 0
    stops = tuple(stop for stop in config.stop_sequences or () if stop)
    if len(stops) > MAX_STOP_SEQUENCES:
        raise invalid(f"{field}.stopSequences", f"has {len(stops)} sequences; the limit is {MAX_STOP_SEQUENCES}")
    # A topP of 0 too, which keeps the likeliest token alone: "the smallest set of tokens whose probability sum is at
    # least `top_p`". The field is optional in the proto, so a client that sends 0 means it.
    return GenerateOptions(tokens, temperature, seed, top_p, top_k, stops)
