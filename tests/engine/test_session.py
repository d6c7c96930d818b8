"""A session: its reports on calls and on the pack that they interrupt."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.tiny_model import request_of
from tunerun.engine import messages
from tunerun.engine.session import Session
from tunerun.engine.settings import EngineSettings
from tunerun.generation import GenerateOptions, Prompt
from tunerun.job import BaseModelRef, JobState

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def test_a_job_is_cancelled_during_a_call(tiny: BaseModelRef, tmp_path: Path) -> None:
    """It ends between two passes of the call, and the pack's other job continues."""
    reports: list[messages.Report] = []

    def report(one: messages.Report) -> None:
        reports.append(one)
        if isinstance(one, messages.Piece):
            session.cancel(messages.Cancel("2"))

    session = Session(report, tmp_path / "cache", EngineSettings("cpu", 1))
    jobs = [messages.PackedJob(key, request_of(tiny, key=key, epoch_count=9)) for key in "12"]
    session.train(messages.Train(tuple(jobs), str(tmp_path)))
    session.step()
    prompt = Prompt("1", GenerateOptions(max_output_tokens=20, temperature=2.0))
    session.execute(messages.Generate(tiny, (prompt,), stream=True, id="a"))
    kinds = [type(one) for one in reports]
    ended = next(one for one in reports if isinstance(one, messages.JobEnded))
    assert (ended.job, ended.state) == ("2", JobState.CANCELLED)
    assert kinds.index(messages.Piece) < kinds.index(messages.JobEnded) < kinds.index(messages.Answers)
    session.cancel(messages.Cancel("1"))
    session.execute(messages.MeasureLosses(tiny, (("1", ("2",)),)))
    assert [one.job for one in reports if isinstance(one, messages.JobEnded)] == ["2", "1"]
    assert not session.is_training
    assert isinstance(reports[-1], messages.Measured)
