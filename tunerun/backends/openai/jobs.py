"""Fine-tuning jobs on the wire: builds requests, recognises our jobs, and interprets responses."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

from tunerun.backends import hosted
from tunerun.backends.http import Json
from tunerun.backends.openai.files import IDENTIFIER
from tunerun.errors import InputError, UnavailableError
from tunerun.interpolation import resolved
from tunerun.job import Failure, FailureKind, JobState, TuningRequest

KEY, MODEL, STEPS, EPOCHS = "tunerun_key", "tunerun_model", "tunerun_steps", "tunerun_epochs"
"""Metadata keys of a job: the trial's key, the tuned model's id, and the planned steps and epochs."""

MAX_SEED = 2**31 - 1
"""OpenAI's limit (openai 3.57.0, `job_create_params`: 0 to 2,147,483,647)."""

OPTIONAL = ("method", "metadata", "seed")
"""Fields that some services do not know. Without `method`, the older field `hyperparameters` is sent."""

# OpenAI's client lists six (openai 3.57.0, `fine_tuning_job`). Its API reference and Azure also have pausing and paused
# (read 2026-11-22); compatible servers spell cancelled in either way.
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
    """Return the suffix for a job's model, which has the start of the trial's key."""
    # It is the second mark of a job: gateways such as LiteLLM drop metadata. At most 40 characters, Azure's limit (read
    # 2026-11-22); OpenAI's is 64.
    return tuned_model_id if key[:12] in tuned_model_id else f"{tuned_model_id[:27].rstrip('-')}-{key[:12]}"


def is_of(job: Json, key: str, suffix: str) -> bool:
    """Whether a job was created for a key, by its metadata, or by its suffix if the service does not keep metadata.

    Args:
        job: a job as the service returns it.
        key: the trial's key.
        suffix: the result of `suffix_of`.
    """
    metadata = _metadata(job)
    if KEY in metadata:
        return bool(metadata[KEY] == key)
    if suffix in (job.get("user_provided_suffix"), job.get("suffix")):
        return True
    return suffix in str(job.get("fine_tuned_model") or "")


def keeps_metadata(job: Json) -> bool:
    """Whether a job has the metadata that every job of ours is created with."""
    return KEY in _metadata(job)


def identifier_of(job: Json) -> str:
    """Return the id of a job.

    Raises:
        UnavailableError: it has none, so the answer came from something else than the service.
    """
    identifier = str(job.get("id", ""))
    if not IDENTIFIER.fullmatch(identifier):
        raise UnavailableError("a job of the service has no id; is backend.base_url an address of OpenAI's API?")
    return identifier


def _metadata(job: Json) -> Json:
    metadata = job.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def body_of(request: TuningRequest, files: Json, refused: Collection[str], *, rate_is_absolute: bool) -> Json:
    """Build the body of the request that creates a job.

    Args:
        request: the job.
        files: the fields `training_file` and `validation_file` with file ids.
        refused: fields of `OPTIONAL` to omit.
        rate_is_absolute: see `Host.rate_is_absolute`.

    Raises:
        InputError: the seed or the learning rate cannot be expressed on this wire.
    """
    if request.seed > MAX_SEED:
        raise InputError(f"seed: {request.seed} is above {MAX_SEED}, the limit of OpenAI's API; choose a smaller one")
    tuning = request.hyperparameters
    rate = tuning.effective_learning_rate if rate_is_absolute else tuning.learning_rate_multiplier
    if rate is None:
        raise InputError(
            "hyperparameters.learning_rate: OpenAI's API takes only a multiplier of a rate of the service's own; set "
            "hyperparameters.learning_rate=null and hyperparameters.learning_rate_multiplier"
        )
    hyperparameters = {
        "n_epochs": tuning.epoch_count,
        "batch_size": tuning.batch_size,
        "learning_rate_multiplier": rate,
    }
    steps = math.ceil(len(request.training) / tuning.batch_size) * tuning.epoch_count
    marks = {KEY: request.key, MODEL: request.tuned_model_id, STEPS: str(steps), EPOCHS: str(tuning.epoch_count)}
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


def state_of(job: Json) -> JobState:
    """Return the state of a job. An unknown state counts as RUNNING; each is logged once as a warning."""
    word = str(job.get("status"))
    if word == "succeeded" and not job.get("fine_tuned_model"):
        return JobState.RUNNING  # without the tuned model's name it could not be called yet
    # The list of states is open: a host may add its own, and a job that it still runs must not count as failed or lost.
    if word not in _STATES and word not in _unknown_states:
        _unknown_states.add(word)
        _log.warning("backend openai: a job is in the unknown state %r; it counts as running", word[:40])
    return _STATES.get(word, JobState.RUNNING)


def tuned_model_name(job: Json) -> str:
    """Return tunerun's name of the tuned model, with the requested id if the job's metadata have it."""
    own = _metadata(job).get(MODEL) or job.get("user_provided_suffix") or job.get("suffix") or job["id"]
    return f"tunedModels/{own}"


def epochs_of(job: Json) -> int | None:
    """Return a job's number of epochs; None: the service has not chosen it yet."""
    method = job.get("method")
    of_method = method.get("supervised") if isinstance(method, dict) else None
    for holder in (job, of_method):
        hyperparameters = holder.get("hyperparameters") if isinstance(holder, dict) else None
        epochs = hyperparameters.get("n_epochs") if isinstance(hyperparameters, dict) else None
        if isinstance(epochs, int | float) and epochs >= 1:
            return int(epochs)
    return _count(job, EPOCHS)


def steps_of(job: Json) -> int | None:
    """Return the planned number of steps; None: the job's metadata do not have it."""
    return _count(job, STEPS)


def _count(job: Json, name: str) -> int | None:
    text = str(_metadata(job).get(name, ""))
    return int(text) if text.isdecimal() and int(text) > 0 else None


def failure_of(job: Json) -> Failure:
    """Return why a job failed."""
    error = job.get("error")
    error = error if isinstance(error, dict) else {}
    code = str(error.get("code") or "")
    # OpenAI validates files after the create, so what it refuses arrives as a failed job.
    otherwise = FailureKind.INVALID if code.startswith(_REFUSED) else FailureKind.CRASHED
    return hosted.failure_of(error.get("message"), code, otherwise=otherwise, advice=_WHO_ACTS.get(code, ""))
