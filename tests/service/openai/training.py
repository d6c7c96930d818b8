"""Training files and jobs of the tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.engine.tiny_model import EXAMPLES
from tunerun.examples import Example
from tunerun.testing.waiting import wait_until

FINISHED = ("succeeded", "failed", "cancelled")
LONG = 1_000_000
"""Epochs of a job that does not end by itself."""


def messages(example: Example) -> dict[str, Any]:
    """Return a row in OpenAI's format."""
    said = [{"role": "user", "content": example.text_input}, {"role": "assistant", "content": example.output}]
    return {"messages": said}


def jsonl(rows: Sequence[Any] = tuple(map(messages, EXAMPLES))) -> bytes:
    """Return rows as JSON lines; a text becomes a line unchanged."""
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode()


def hyperparameters(**values: Any) -> dict[str, Any]:
    """Return a method that trains the tiny model in a moment, unless `values` say otherwise."""
    settings = {"n_epochs": 2, "batch_size": 3, "learning_rate_multiplier": 10} | values
    return {"type": "supervised", "supervised": {"hyperparameters": settings}}


def created(client: OpenAI, training_file: str, **values: Any) -> FineTuningJob:
    """Create a job on the tiny model."""
    request: dict[str, Any] = {"model": "tiny", "training_file": training_file, "method": hyperparameters()} | values
    return client.fine_tuning.jobs.create(**request)


def ended(client: OpenAI, job_id: str) -> FineTuningJob:
    """Wait for a job, and return it."""
    wait_until(lambda: client.fine_tuning.jobs.retrieve(job_id).status in FINISHED, f"{job_id} has ended")
    return client.fine_tuning.jobs.retrieve(job_id)


def underway(client: OpenAI, job_id: str, steps: int = 2) -> None:
    """Wait until a job has taken some steps."""

    def taken() -> bool:
        newest = client.fine_tuning.jobs.list_events(job_id, limit=1).data[0]
        return newest.type == "metrics" and int(newest.message.split()[1].split("/")[0]) >= steps

    wait_until(taken, f"{job_id} has taken {steps} steps")
