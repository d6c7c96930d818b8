"""Fine-tuning jobs: what is asked for, by which marks a job is ours, and what its answers mean."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

from tunerun.backends.http import Json
from tunerun.errors import InputError
from tunerun.interpolation import resolved
from tunerun.job import Failure, FailureKind, JobState, TuningHyperparameters, TuningRequest

KEY, MODEL, STEPS, EPOCHS = "tunerun_key", "tunerun_model", "tunerun_steps", "tunerun_epochs"
"""Of a job's metadata: the trial's key, the tuned model's id, and the steps and epochs that were planned."""

MAX_SEED = 2**31 - 1
"""OpenAI's (openai 3.57.0, `job_create_params`: 0 to 2,147,483,647)."""

OPTIONAL = ("method", "metadata", "seed")
"""Fields that some services do not know; without `method` the hyperparameters go by the older field of that name."""

_STATES = {
    "validating_files": JobState.QUEUED,
    "queued": JobState.QUEUED,
    "running": JobState.RUNNING,
    "pausing": JobState.RUNNING,
    "paused": JobState.RUNNING,
    "succeeded": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
    "cancelled": JobState.CANCELLED,
    "canceled": JobState.CANCELLED,
}
_REFUSED = ("invalid", "unsafe_file", "exceeded_quota", "insufficient_quota")
_WHO_ACTS = {
    "exceeded_quota": "the account's owner has to raise the quota or add credit",
    "insufficient_quota": "the account's owner has to raise the quota or add credit",
    "invalid_n_examples": "add examples",
}

_log = logging.getLogger(__name__)
_unknown_states: set[str] = set()


def suffix_of(key: str, tuned_model_id: str) -> str:
    """What a job's model is called by us, at most 40 characters (Azure's limit): it says the trial's key."""
    return tuned_model_id if key[:12] in tuned_model_id else f"{tuned_model_id[:27].rstrip('-')}-{key[:12]}"


def is_of(job: Json, key: str, suffix: str) -> bool:
    """Whether a job was created under a key: its metadata say so, or, where a service keeps none, its suffix."""
    metadata = _metadata(job)
    if KEY in metadata:
        return bool(metadata[KEY] == key)
    if suffix in (job.get("user_provided_suffix"), job.get("suffix")):
        return True
    return suffix in str(job.get("fine_tuned_model") or "")


def keeps_metadata(job: Json) -> bool:
    """Whether a job of ours has what was said about it; one of somebody else has not."""
    return KEY in _metadata(job)


def _metadata(job: Json) -> Json:
    found = job.get("metadata")
    return found if isinstance(found, dict) else {}


def body_of(request: TuningRequest, files: Json, refused: Collection[str], *, rate_is_absolute: bool) -> Json:
    """What is asked for.

    Args:
        files: the fields `training_file` and `validation_file`, by id.
        refused: which of `OPTIONAL` are left out.

    Raises:
        InputError: the seed is beyond what the wire takes.
    """
    if request.seed > MAX_SEED:
        raise InputError(f"seed: {request.seed} is above {MAX_SEED}, the most that OpenAI's API takes; choose another")
    given = request.hyperparameters
    hyperparameters = {
        "n_epochs": given.epoch_count,
        "batch_size": given.batch_size,
        "learning_rate_multiplier": _multiplier(given, rate_is_absolute=rate_is_absolute),
    }
    steps = math.ceil(len(request.training) / given.batch_size) * given.epoch_count
    marks = {KEY: request.key, MODEL: request.tuned_model_id, STEPS: str(steps), EPOCHS: str(given.epoch_count)}
    body = {
        "model": resolved(request.model.name),
        **files,
        "suffix": suffix_of(request.key, request.tuned_model_id),
        "seed": request.seed,
        "metadata": marks,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
    }
    if "method" in refused:
        body["hyperparameters"] = hyperparameters
    return {name: value for name, value in body.items() if name not in refused}


def _multiplier(given: TuningHyperparameters, *, rate_is_absolute: bool) -> float:
    """What goes as the multiplier.

    Raises:
        InputError: the learning rate is absolute, and the service multiplies one of its own.
    """
    if rate_is_absolute:
        return given.effective_learning_rate
    if given.learning_rate_multiplier is None:
        raise InputError(
            "hyperparameters.learning_rate: OpenAI's API takes only a multiplier of a rate of the service's own; set "
            "hyperparameters.learning_rate=null and hyperparameters.learning_rate_multiplier"
        )
    return given.learning_rate_multiplier


def state_of(job: Json) -> JobState:
    """The state of a job; one that this version does not know is RUNNING, and a warning says the word once."""
    word = str(job.get("status"))
    if word == "succeeded" and not job.get("fine_tuned_model"):
        return JobState.RUNNING  # it has no name yet by which it could be called
    if word not in _STATES and word not in _unknown_states:
        _unknown_states.add(word)
        _log.warning("backend openai: a job is in the state %r, which is not known; it counts as running", word[:40])
    return _STATES.get(word, JobState.RUNNING)


def tuned_model_name(job: Json) -> str:
    """What we call the tuned model: by the id that was asked for, where the service has kept it."""
    own = _metadata(job).get(MODEL) or job.get("user_provided_suffix") or job.get("suffix") or job["id"]
    return f"tunedModels/{own}"


def epochs_of(job: Json) -> int | None:
    """How many epochs a job has; None: the service has not decided."""
    method = job.get("method")
    of_method = method.get("supervised") if isinstance(method, dict) else None
    for holder in (job, of_method):
        given = holder.get("hyperparameters") if isinstance(holder, dict) else None
        epochs = given.get("n_epochs") if isinstance(given, dict) else None
        if isinstance(epochs, int | float) and epochs >= 1:
            return int(epochs)
    return _count(job, EPOCHS)


def steps_of(job: Json) -> int | None:
    """How many steps were planned; None: the service has not kept it."""
    return _count(job, STEPS)


def _count(job: Json, name: str) -> int | None:
    text = str(_metadata(job).get(name, ""))
    return int(text) if text.isdecimal() and int(text) > 0 else None


def failure_of(job: Json) -> Failure:
    """Why a job failed: by the kind that `tunerun serve` writes in front, else by the service's code and words."""
    error = job.get("error")
    error = error if isinstance(error, dict) else {}
    code = str(error.get("code") or "")
    message = " ".join(str(error.get("message") or "the service gave no reason").split())
    prefix, _, rest = message.partition(": ")
    if prefix in list(FailureKind):
        return Failure(FailureKind(prefix), rest)
    if code in _WHO_ACTS:
        message += f"; {_WHO_ACTS[code]}"
    return Failure(_kind(code, message.lower()), f"{code}: {message}" if code else message)


def _kind(code: str, words: str) -> FailureKind:
    if "memory" in words or code == "out_of_memory":
        return FailureKind.OUT_OF_MEMORY
    if "diverged" in words or "nan" in words.split():
        return FailureKind.DIVERGED
    return FailureKind.INVALID if code.startswith(_REFUSED) else FailureKind.CRASHED
