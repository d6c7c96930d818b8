"""A promoted model answers as `tunerun predict` does: loaded in Python, and behind MLflow's own server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pandas
import pytest
from typer.testing import CliRunner

import tunerun
from tests.engine import tiny_model
from tests.experiments import overrides
from tests.tracking.served import free_port
from tunerun.cli import app
from tunerun.testing.waiting import wait_until

READY_WITHIN_S = 240.0
"""It imports mlflow twice: 90 s at a load of 16 (reference/mlflow_more.md, 1)."""

TEMPLATE = "{{ text_input }}{% if tone %} ({{ tone }}){% endif %}"
ROWS: list[dict[str, Any]] = [
    {"text_input": "3"},
    {"text_input": "ninety nine", "tone": "dry"},
    {"text_input": "8", "tone": None},
]


def promoted(*arguments: str) -> dict[str, Any]:
    finished = CliRunner().invoke(app, ["promote", *arguments, "--json"])
    assert finished.exit_code == 0, finished.output + repr(finished.exception)
    printed = json.loads(finished.stdout)
    assert isinstance(printed, dict)
    return printed


@contextmanager
def served(model: str, uri: str, log: Path) -> Iterator[str]:
    """`mlflow models serve` in a process of its own, and its address."""
    port = free_port()
    folder = Path(sys.executable).parent
    command = [str(folder / "mlflow"), "models", "serve", "-m", model, "--env-manager", "local"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "MLFLOW_TRACKING_URI": uri, "PATH": f"{folder}:{os.environ['PATH']}"},
        )
    try:
        wait_until(
            lambda: process.poll() is not None or _is_up(port), "mlflow models serve answers", timeout_s=READY_WITHIN_S
        )
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ping").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
def test_it_answers_as_predict_does(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By reference behind the server and with the base model inside in Python: the same answers to the same rows."""
    tiny = tiny_model.build(tmp_path / "models" / "tiny")
    options = ["model=huggingface", f"model.name={tiny}", "backend.threads=1", "backend.device=cpu"]
    options += [
        f"template.text_input='{TEMPLATE}'",
        "hyperparameters.epoch_count=1",
        "evaluation.baselines.examples=[]",
    ]
    options += ["evaluation.generation.max_output_tokens=4", "tracking=mlflow", f"tracking.uri={uri}"]
    result = tunerun.run(tunerun.plan(tunerun.load([o for o in overrides(tmp_path, *options) if o != "tracking=none"])))
    [trial] = result.verdict.trials
    assert trial.tuned_model is not None
    name, runs = trial.tuned_model.name, tmp_path / "runs"
    expected = list(tunerun.predict(name, ROWS, runs=runs).outputs)
    places = [f"paths.runs={runs}", f"tracking.uri={uri}"]
    assert promoted(name, "--as", "numbers", *places)["version"] == 1
    with served("models:/numbers@champion", uri, tmp_path / "served.txt") as address:
        with ThreadPoolExecutor(2) as callers:  # of which one has to wait for the other
            body = {"dataframe_records": ROWS}
            calls = [callers.submit(httpx.post, address, json=body, timeout=READY_WITHIN_S) for _ in range(2)]
        assert [call.result().json() for call in calls] == [{"predictions": expected}] * 2
        refused = httpx.post(address, json={"dataframe_records": [{"text_input": None}]}, timeout=READY_WITHIN_S)
    assert refused.status_code == 400
    assert "row 1: template.text_input prints 'text_input', which is null" in refused.json()["message"]
    assert "Traceback" not in refused.text
    assert ".py" not in refused.text
    assert promoted(name, "--as", "numbers", "--with-base", *places)["version"] == 2
    tiny.rename(tmp_path / "gone")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    import mlflow

    model = mlflow.pyfunc.load_model("models:/numbers@champion")
    assert model.predict(pandas.DataFrame(ROWS)) == expected
