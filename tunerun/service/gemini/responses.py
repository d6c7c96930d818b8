"""The API's JSON in responses: tuned models, operations, permissions and answers, from the core's rows.

As in proto3's JSON: names in lowerCamelCase, fields that are zero or empty are omitted, 64-bit numbers are strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic.alias_generators import to_camel

from tunerun.job import Snapshot
from tunerun.service.core.catalogue import OfferedModel
from tunerun.service.core.problems import Json
from tunerun.service.core.records import ModelState, PermissionRow, Serving, TunedModelRow
from tunerun.service.gemini.dialect import in_words_of_the_api
from tunerun.service.gemini.wire import MAX_TEMPERATURE

TYPES = "type.googleapis.com/google.ai.generativelanguage.v1beta"

DEFAULT_CONTEXT = 8192
"""The reported token limit of a base model that states none; a client may divide by it."""


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
                completed_percent=100 * steps / row.total_steps,
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
