"""The API's JSON: requests as pydantic models, and responses.

As in proto3's JSON: names in lowerCamelCase or snake_case, enums by name or number, numbers also as strings, null for
absent fields; responses omit what is zero or empty, and write 64-bit numbers as strings. One object is accepted in
place of a list, as Google's services do. Unknown names are ignored and reported,
see `tunerun.service.routes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel

from tunerun.dataset.characters import is_unicode
from tunerun.job import Snapshot
from tunerun.service.core.catalogue import OfferedModel
from tunerun.service.core.problems import Json
from tunerun.service.core.records import ModelState, PermissionRow, Serving, TunedModelRow
from tunerun.service.gemini.dialect import in_words_of_the_api
from tunerun.service.routes import Ignored, note_ignored

TYPES = "type.googleapis.com/google.ai.generativelanguage.v1beta"

MAX_INT32 = 2**31 - 1
MAX_FLOAT = 3.4e38
"""The largest numbers of the API's types, which have 32 bits. A client could not read a list that has larger ones."""

MAX_TEMPERATURE = 2.0

DEFAULT_CONTEXT = 8192
"""The reported token limit of a base model that states none; a client may divide by it."""

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


# Responses


def message(**values: object) -> Json:
    """Return a message as JSON, without the fields that are zero or empty, as proto3 does."""
    return {to_camel(name): value for name, value in values.items() if value not in (None, "", 0, False, [], {})}


def timestamp(seconds: float | None) -> str | None:
    """Return seconds since 1970 (UTC) in the form of RFC 3339; None stays None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def model(offered: OfferedModel) -> Json:
    """Return a base model as the API's JSON."""
    limit = offered.context_tokens or DEFAULT_CONTEXT
    return _serving(Serving()) | message(
        name=f"models/{offered.name}",
        base_model_id=offered.name,
        version="001",
        display_name=offered.name,
        description=f"{offered.name}, tuned and called on this machine",
        input_token_limit=limit,
        output_token_limit=limit,
        max_temperature=MAX_TEMPERATURE,
        supported_generation_methods=["createTunedModel", "generateContent", "streamGenerateContent", "countTokens"],
    )


def _serving(values: Serving) -> Json:
    # Not by `message`: these fields are optional in the proto, so 0 is a value of its own.
    return {"temperature": values.temperature, "topP": values.top_p, "topK": values.top_k}


def tuned_model(row: TunedModelRow, curve: Sequence[Snapshot]) -> Json:
    """Return a tuned model as the API's JSON."""
    losses = {"validationLoss": row.validation_loss, "baseValidationLoss": row.base_validation_loss}
    source = f"tunedModels/{row.source}" if row.source else None
    base = f"models/{row.base_model}"
    return _serving(row.serving) | message(
        name=f"tunedModels/{row.id}",
        base_model=None if source else base,
        tuned_model_source=message(tuned_model=source, base_model=base) if source else None,
        display_name=row.display_name,
        description=row.description,
        state=row.state.value,
        create_time=timestamp(row.created_at),
        update_time=timestamp(row.updated_at),
        reader_project_numbers=[str(number) for number in row.reader_projects],
        # The losses are not in the API, so they only appear for a job that has held-out examples.
        tuning_task={name: loss for name, loss in losses.items() if loss is not None}
        | message(
            start_time=timestamp(row.started_at),
            complete_time=timestamp(row.completed_at),
            snapshots=[snapshot(s) for s in curve],
            hyperparameters=message(
                epoch_count=row.epoch_count,
                batch_size=row.batch_size,
                # Never the multiplier, also where that was sent: google-generativeai 0.8.6 raises a TypeError on it,
                # in get_tuned_model and, for everyone who may see the model, in list_tuned_models.
                learning_rate=row.learning_rate,
            ),
        ),
    )


def snapshot(one: Snapshot) -> Json:
    """Return a step of a loss curve as the API's JSON."""
    return message(step=one.step, epoch=one.epoch, mean_loss=one.mean_loss, compute_time=timestamp(one.compute_time))


def operation(row: TunedModelRow, curve: Sequence[Snapshot]) -> Json:
    """Return the long-running operation that creates a tuned model, as the API's JSON."""
    steps = curve[-1].step if curve else 0
    name = f"tunedModels/{row.id}"
    answer = message(
        name=f"{name}/operations/{row.operation}",
        metadata={
            "@type": f"{TYPES}.CreateTunedModelMetadata",
            **message(
                tuned_model=name,
                total_steps=row.total_steps,
                completed_steps=steps,
                completed_percent=100 * steps / row.total_steps,  # of `message`: absent until the first step, as 0 is
                snapshots=[snapshot(s) for s in curve],
            ),
        },
        done=row.state is not ModelState.CREATING,
    )
    if row.state is ModelState.FAILED:
        answer["error"] = message(code=row.error_code, message=in_words_of_the_api(row.error_message or ""))
    elif row.state is ModelState.ACTIVE:
        answer["response"] = {"@type": f"{TYPES}.TunedModel", **tuned_model(row, curve)}
    return answer


def permission(row: PermissionRow) -> Json:
    """Return a permission as the API's JSON."""
    return message(
        name=f"tunedModels/{row.tuned_model}/permissions/{row.id}",
        grantee_type=row.grantee.value,
        email_address=row.email,
        role=row.role.value,
    )


def generated(
    text: str,
    name: str,
    *,
    finish: str | None = None,
    finish_message: str | None = None,
    tokens: tuple[int, int] | None = None,
) -> Json:
    """Return an answer, or a part of one, as the API's JSON.

    Args:
        text: the text, which may be empty.
        name: the model that answers.
        finish: why the answer ends here; None: more parts follow.
        finish_message: a caveat about the answer; None: there is none.
        tokens: how many tokens the prompt and the answer have; None: not stated in this part.
    """
    # finishReason: "If empty, the model has not stopped generating tokens."
    candidate = {
        "content": {"role": "model", "parts": [{"text": text}]},  # not by `message`, which would omit an empty text
        **message(finish_reason=finish, finish_message=finish_message),
    }
    usage = (
        message(prompt_token_count=tokens[0], candidates_token_count=tokens[1], total_token_count=sum(tokens))
        if tokens
        else None
    )
    return message(candidates=[candidate], usage_metadata=usage, model_version=name)
