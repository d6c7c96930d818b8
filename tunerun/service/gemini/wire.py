"""The messages of the API's requests, as pydantic models.

As in proto3's JSON: names in lowerCamelCase or snake_case, enums by name or number, numbers also as strings, null for
absent fields. One object is accepted in place of a list, as Google's services do. Unknown names are ignored and
reported, see `tunerun.service.routes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from tunerun.dataset.characters import is_unicode
from tunerun.service.routes import Ignored, note_ignored

MAX_INT32 = 2**31 - 1
MAX_FLOAT = 3.4e38
"""The largest numbers of the API's types, which have 32 bits. A client could not read a list that has larger ones."""

MAX_TEMPERATURE = 2.0

_ROLES = ("ROLE_UNSPECIFIED", "OWNER", "WRITER", "READER")
_GRANTEES = ("GRANTEE_TYPE_UNSPECIFIED", "USER", "GROUP", "EVERYONE")


def _named(names: Sequence[str]) -> BeforeValidator:
    """Accept an enum's number in place of its name."""
    # google-generativeai (0.8.6) sends numbers: `$alt=json;enum-encoding=int`.

    def name(value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
            return names[value]
        return value

    return BeforeValidator(name, json_schema_input_type=str | int)


Int32 = Annotated[int, Field(ge=-(2**31), le=MAX_INT32)]
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Float = Annotated[float, Field(ge=-MAX_FLOAT, le=MAX_FLOAT)]

MAX_EXAMPLES = 200_000
"""The most examples of a request. 4 MiB of examples as short as "1" and "2" are more, but no model learns from them."""

MAX_PARTS = 1000
"""The most turns of a conversation, and parts of a turn."""

T = TypeVar("T")


def _listed(value: object) -> object:
    return value if value is None or isinstance(value, list) else [value]


# fail_fast: pydantic would otherwise collect an error for each item of a long list.
Several = Annotated[list[T], Field(fail_fast=True, max_length=MAX_PARTS), BeforeValidator(_listed)]
"""A list; a single object is accepted in place of a list of one."""


class GeminiMessage(BaseModel):
    """A message of the API, in a request.

    A class whose name in the API exists elsewhere in tunerun has another one; its `title` is the API's, for clients.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )
    _known: ClassVar[frozenset[str]]

    @classmethod
    def __pydantic_init_subclass__(cls, **_options: Any) -> None:
        """Collect the names of the fields, in both spellings."""
        cls._known = frozenset(cls.model_fields) | {to_camel(name) for name in cls.model_fields}

    @model_validator(mode="before")
    @classmethod
    def _note_ignored(cls, value: object) -> object:
        if isinstance(value, dict) and not value.keys() <= cls._known:
            note_ignored(f"{cls.model_config.get('title') or cls.__name__}.", value, cls._known)
        return value

    @field_validator("*")
    @classmethod
    def _unicode(cls, value: object) -> object:
        """Refuse an unpaired surrogate, which JSON can escape: it cannot be stored or sent."""
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not is_unicode(text):
                raise ValueError("contains an unpaired surrogate, which is not valid Unicode")
        return value


class TuningExample(GeminiMessage):
    """An input and the output to learn."""

    text_input: str | None = None
    output: str | None = None


class TuningExamples(GeminiMessage):
    """The training examples of an inline dataset."""

    examples: (
        Annotated[list[TuningExample], Field(fail_fast=True, max_length=MAX_EXAMPLES), BeforeValidator(_listed)] | None
    ) = None


class Dataset(GeminiMessage):
    """The training data of a model."""

    examples: TuningExamples | None = None


class GeminiHyperparameters(GeminiMessage, title="Hyperparameters"):
    """Hyperparameters; missing ones get their defaults, and so do an epochCount and a batchSize of 0."""

    learning_rate: Float | None = None
    learning_rate_multiplier: Float | None = None
    epoch_count: Int32 | None = None
    batch_size: Int32 | None = None


class TuningTask(GeminiMessage):
    """A tuning job."""

    start_time: Ignored = None
    complete_time: Ignored = None
    snapshots: Ignored = None
    training_data: Dataset | None = None
    validation_data: Dataset | None = None  # not in the API: held-out examples, on which the loss is measured
    validation_loss: Ignored = None
    base_validation_loss: Ignored = None
    hyperparameters: GeminiHyperparameters | None = None


class TunedModelSource(GeminiMessage):
    """A tuned model to start from."""

    tuned_model: str | None = None
    base_model: Ignored = None


class GeminiTunedModel(GeminiMessage, title="TunedModel"):
    """A tuned model to create, or the changes of one."""

    tuned_model_source: TunedModelSource | None = None
    base_model: str | None = None
    name: Ignored = None
    display_name: str | None = None
    description: str | None = None
    temperature: Float | None = None
    top_p: Float | None = None
    top_k: Int32 | None = None
    state: Ignored = None
    create_time: Ignored = None
    update_time: Ignored = None
    tuning_task: TuningTask | None = None
    reader_project_numbers: Several[Int64] | None = None


class Permission(GeminiMessage):
    """A permission for a tuned model."""

    name: Ignored = None
    grantee_type: Annotated[str | None, _named(_GRANTEES)] = None
    email_address: str | None = None
    role: Annotated[str | None, _named(_ROLES)] = None


class TransferOwnership(GeminiMessage):
    """The body of `transferOwnership`."""

    name: Ignored = None
    email_address: str | None = None


class CancelOperation(GeminiMessage, title="Cancel"):
    """The body of `cancel`, which has no fields."""

    name: Ignored = None


class ContentPart(GeminiMessage, title="Part"):
    """A part of a turn; only text can be used here."""

    text: str | None = None
    thought: Ignored = None
    inline_data: Any = None
    file_data: Any = None
    function_call: Any = None
    function_response: Any = None
    executable_code: Any = None
    code_execution_result: Any = None
    video_metadata: Any = None


class Content(GeminiMessage):
    """A turn of a conversation."""

    role: str | None = None
    parts: Several[ContentPart] | None = None


class GenerationConfig(GeminiMessage):
    """Options of an answer."""

    candidate_count: Int32 | None = None
    stop_sequences: Several[str] | None = None
    max_output_tokens: Int32 | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int32 | None = None
    seed: Int32 | None = None
    response_mime_type: str | None = None
    response_schema: Any = None
    response_json_schema: Any = None
    response_json_schema_ordered: Any = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_logprobs: bool | None = None
    logprobs: Int32 | None = None
    enable_enhanced_civic_answers: Ignored = None
    response_modalities: Several[Any] | None = None
    speech_config: Any = None
    thinking_config: Ignored = None
    image_config: Any = None
    media_resolution: Ignored = None


class GenerateContent(GeminiMessage):
    """The body of `generateContent`."""

    model: Ignored = None
    system_instruction: Content | None = None
    contents: Several[Content] | None = None
    tools: Several[Any] | None = None
    tool_config: Any = None
    safety_settings: Ignored = None
    generation_config: GenerationConfig | None = None
    cached_content: str | None = None


class CountTokens(GeminiMessage):
    """A prompt whose tokens are to be counted."""

    model: Ignored = None
    contents: Several[Content] | None = None
    generate_content_request: GenerateContent | None = None
