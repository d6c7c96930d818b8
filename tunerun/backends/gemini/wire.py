"""Requests and answers of the Gemini API's tuning methods, and what they say in tunerun's own types."""

from __future__ import annotations

import re
from datetime import datetime

from tunerun.backends.http import Json
from tunerun.examples import Conversation
from tunerun.interpolation import resolved
from tunerun.job import BaseModelRef, Snapshot, TuningRequest

_KEY = re.compile(r"tunerun\.key=([0-9a-f]+)")
"""The trial's key in a tuned model's description. A TunedModel has no labels, and its id has at most 40 characters."""


def contents_of(conversation: Conversation) -> Json:
    """Return the fields of a `generateContent` request (v1beta) that carry a conversation."""
    turns = [each for turn in conversation.earlier for each in (("user", turn.text_input), ("model", turn.output))]
    turns.append(("user", conversation.text_input))
    contents = [{"role": role, "parts": [{"text": text}]} for role, text in turns]
    system: Json = {"systemInstruction": {"parts": [{"text": conversation.system}]}} if conversation.system else {}
    return {"contents": contents, **system}


def key_of(tuned_model: Json) -> str | None:
    """Return the key that a tuned model was created under; None: it was not created by tunerun."""
    key = _KEY.search(str(tuned_model.get("description", "")))
    return None if key is None else key[1]


def wire_name(model: BaseModelRef) -> str:
    """Return the resource name of a base model."""
    return f"models/{resolved(model.name)}"


def can_tune(model: Json) -> bool:
    """Whether the service offers to tune a base model."""
    return "createTunedModel" in model.get("supportedGenerationMethods", ())


def body_of(request: TuningRequest) -> Json:
    """Return the body of a `tunedModels.create` request."""
    hyperparameters = request.hyperparameters
    # One of the two: they are a oneof of the v1beta proto, and what a service answers to both is not documented.
    rate = (
        {"learningRate": hyperparameters.learning_rate}
        if hyperparameters.learning_rate is not None
        else {"learningRateMultiplier": hyperparameters.learning_rate_multiplier}
    )
    examples = [{"textInput": example.text_input, "output": example.output} for example in request.training]
    held_out = [{"textInput": example.text_input, "output": example.output} for example in request.validation]
    return {
        "displayName": request.tuned_model_id,
        "description": f"tunerun.key={request.key}",
        "baseModel": wire_name(request.model),
        "tuningTask": {
            "hyperparameters": {
                "epochCount": hyperparameters.epoch_count,
                "batchSize": hyperparameters.batch_size,
                **rate,
            },
            "trainingData": {"examples": {"examples": examples}},
            # Not in Google's API: `tunerun serve` measures the loss of these examples after training.
            **({"validationData": {"examples": {"examples": held_out}}} if held_out else {}),
        },
    }


def snapshots_of(task: Json) -> list[Snapshot]:
    """Return the loss curve by step, each step once."""
    # Proto3's JSON omits fields that are zero, hence the defaults.
    by_step = {
        int(snapshot.get("step", 0)): Snapshot(
            step=int(snapshot.get("step", 0)),
            epoch=int(snapshot.get("epoch", 0)),
            mean_loss=float(snapshot.get("meanLoss", 0.0)),
            compute_time=_seconds(snapshot.get("computeTime")) or 0.0,
        )
        for snapshot in task.get("snapshots", ())
    }
    return [by_step[step] for step in sorted(by_step)]


def metrics_of(task: Json) -> dict[str, float]:
    """Return what a finished tuning task measured, by the names of `JobStatus.metrics`."""
    start, end = _seconds(task.get("startTime")), _seconds(task.get("completeTime"))
    metrics = {} if start is None or end is None or end <= start else {"train/seconds": end - start}
    # Fields of `tunerun serve`; Google's tasks do not have them.
    losses = {"validation/loss": task.get("validationLoss"), "validation/base_loss": task.get("baseValidationLoss")}
    return metrics | {name: float(loss) for name, loss in losses.items() if loss is not None}


def _seconds(time: object) -> float | None:
    """Return a time in RFC 3339 as seconds since 1970 (UTC); None: there is none."""
    return None if not isinstance(time, str) else datetime.fromisoformat(time).timestamp()


def text_of(answer: Json) -> str:
    """Return the text of the first candidate; empty where the service blocked the answer."""
    candidates = answer.get("candidates") or [{}]
    parts = candidates[0].get("content", {}).get("parts", ())
    return "".join(str(part.get("text", "")) for part in parts)
