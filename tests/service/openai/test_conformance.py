"""Every operation of the wire through OpenAI's own client in strict mode, without unknown fields."""

from __future__ import annotations

from typing import Any

import pytest
from openai import OpenAI

from tests.service.openai.conformance import JOBS, Conformance
from tests.service.openai.training import LONG, created, ended, hyperparameters, jsonl, underway


def test_every_operation_returns_the_sdks_type(
    sdk: OpenAI, lenient: OpenAI, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files, jobs, models and completions; prints the table of operations and fields."""
    conformance = Conformance()
    model = _jobs(sdk, lenient, conformance)
    for name in ("tiny", model, f"{model}:ckpt-step-3"):
        _answers(sdk, lenient, conformance, name)
    _models(sdk, conformance, model)
    with capsys.disabled():
        print(f"\n{conformance.table()}")  # noqa: T201 - to be read
    assert not conformance.missing


def _jobs(sdk: OpenAI, lenient: OpenAI, conformance: Conformance) -> str:
    """Call the operations on files and jobs; returns the tuned model's name."""
    jobs = sdk.fine_tuning.jobs
    training = conformance.of("files.create", sdk.files.create(file=("train.jsonl", jsonl()), purpose="fine-tune"))
    held_out = sdk.files.create(
        file=("held-out.jsonl", jsonl()), purpose="fine-tune",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )  # fmt: skip
    conformance.of("files.list", next(iter(sdk.files.list(limit=1))))
    conformance.of("files.retrieve", sdk.files.retrieve(training.id))
    assert conformance.of("files.content", sdk.files.content(training.id)).read() == jsonl()
    job = conformance.of(
        f"{JOBS}.create",
        created(sdk, training.id, validation_file=held_out.id, suffix="Router", metadata={"team": "a"}, seed=7),
    )
    conformance.of("files.delete", sdk.files.delete(training.id))
    job = conformance.of(f"{JOBS}.retrieve", ended(sdk, job.id))
    assert job.status == "succeeded"
    conformance.of(f"{JOBS}.list", next(iter(jobs.list(metadata={"team": "a"}))))
    for event in jobs.list_events(job.id):
        conformance.of(f"{JOBS}.list_events", event)
    for checkpoint in jobs.checkpoints.list(job.id):
        conformance.of(f"{JOBS}.checkpoints.list", checkpoint)
    assert sdk.files.content(job.result_files[0]).text.startswith("step,train_loss")
    conformance.of("files.retrieve", sdk.files.retrieve(job.result_files[0]))
    long = created(sdk, held_out.id, method=hyperparameters(n_epochs=LONG))
    underway(sdk, long.id)
    # The SDK's own list of states has no paused.
    conformance.of(f"{JOBS}.pause", lenient.fine_tuning.jobs.pause(long.id))
    conformance.of(f"{JOBS}.resume", jobs.resume(long.id))
    conformance.of(f"{JOBS}.cancel", jobs.cancel(long.id))
    assert job.fine_tuned_model is not None
    return job.fine_tuned_model


def _answers(sdk: OpenAI, lenient: OpenAI, conformance: Conformance, model: str) -> None:
    """Call completions with every optional part of a response."""
    said: Any = [{"role": "user", "content": "1"}]
    request: dict[str, Any] = {"model": model, "max_tokens": 4}
    with_usage: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chat = sdk.chat.completions
    conformance.of("chat.completions.create", chat.create(**request, messages=said, logprobs=True, top_logprobs=1))
    for chunk in chat.create(**request, messages=said, logprobs=True, **with_usage):
        conformance.of("chat.completions.create (stream)", chunk)
    conformance.of("completions.create", sdk.completions.create(**request, prompt="1", logprobs=1))
    # Lenient, because the SDK's type of a part has no place for "not ended".
    for part in lenient.completions.create(**request, prompt="1", **with_usage):
        conformance.of("completions.create (stream)", part)


def _models(sdk: OpenAI, conformance: Conformance, model: str) -> None:
    assert {"tiny", model} <= {conformance.of("models.list", one).id for one in sdk.models.list()}
    assert conformance.of("models.retrieve", sdk.models.retrieve(model)).id == model
    assert conformance.of("models.delete", sdk.models.delete(model)).deleted
