"""The backend `gemini` with the service: the contract, and equal results to the embedded engine's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tunerun
from tests.engine.tiny_model import EXAMPLES, HELD_OUT, request_of
from tests.rigs.running_service import RunningService
from tests.service.client import Client
from tunerun.backends.gemini import GeminiBackend, GeminiSection
from tunerun.errors import AccessError, StatusError
from tunerun.job import BaseModelRef, TuningRequest
from tunerun.ledger import Ledger
from tunerun.runner import SweepResult
from tunerun.service.app import Settings
from tunerun.testing.backend_contract import BackendContract

MODEL = BaseModelRef(name="tiny", source="models/tiny")


class ServedPlace:
    """A service with the tiny base model."""

    missing_model = BaseModelRef(name="missing-model", source="models/missing-model")

    def __init__(self, running: RunningService) -> None:
        self._running = running

    def open(self) -> GeminiBackend:
        return GeminiBackend(GeminiSection(kind="gemini", base_url=self._running.address, max_in_flight=4))

    def request(self, digit: str) -> TuningRequest:
        return request_of(MODEL, key=digit, validation=HELD_OUT)

    def long_request(self, digit: str) -> TuningRequest:
        return request_of(MODEL, key=digit, epoch_count=1_000_000)


@pytest.fixture(scope="class")
def serving(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    own = Settings(tmp_path_factory.mktemp("own") / "state", settings.models, settings.cache, device="cpu", threads=1)
    with RunningService(own) as serving, pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEMINI_API_KEY", serving.key.secret)
        yield serving


class TestContract(BackendContract):
    """The backend keeps the contract with a service that really tunes."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, serving: RunningService) -> ServedPlace:
        return ServedPlace(serving)


def rows_in(folder: Path) -> list[str]:
    """Training and held-out rows in files, and the overrides that name them."""
    for name, examples in (("rows", EXAMPLES), ("held_out", HELD_OUT)):
        rows = [{"text_input": one.text_input, "output": one.output} for one in examples]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return [
        "name=both",
        "tracking=none",
        f"dataset.path={folder / 'rows.json'}",
        f"dataset.validation.path={folder / 'held_out.json'}",
        "hyperparameters.batch_size=3",
        "hyperparameters.epoch_count=2,40",
        "hyperparameters.learning_rate=null",
        "hyperparameters.learning_rate_multiplier=10",
        "evaluation.generation.max_output_tokens=8",
    ]


def found_of(runs: Path, result: SweepResult) -> dict[tuple[int, int, float], Any]:
    """Losses by step and on the held-out examples, and the answers to these, of each trial and of the base model."""
    with Ledger(runs / "ledger.db") as ledger:
        results: dict[tuple[int, int, float], Any] = {}
        for trial in ledger.trials(result.verdict.sweep.id):
            job = ledger.job(trial.key)
            assert job is not None
            curve = [(s.step, s.epoch, s.mean_loss) for s in ledger.snapshots(job.id)]
            assert trial.validation is not None
            subjects = (trial.key, trial.baselines[0])
            answers = [ledger.answers(subject, trial.validation, trial.asked) for subject in subjects]
            assert None not in answers
            texts = [each.texts for each in answers if each is not None]
            point = (
                trial.config["seed"],
                *(trial.config["hyperparameters"][name] for name in ("epoch_count", "learning_rate_multiplier")),
            )
            results[point] = (curve, job.metrics["validation/loss"], texts)
        return results


def test_an_experiment_gives_the_same_here_and_on_both_wires(
    tiny: BaseModelRef, running: RunningService, engine_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unchanged but for `backend=`: equal losses at every step, equal answers of tuned models and base model.

    Batch size, epochs and learning rate go over both wires, the seed over OpenAI's alone: the Gemini API has no word
    for it, and the service takes 0.
    """
    for name in ("GEMINI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, running.key.secret)
    common = rows_in(tmp_path)
    there = ["backend.poll_interval_s=0.05"]
    places = {
        "here": [
            "seed=0,3",
            "backend.device=cpu",
            "backend.threads=1",
            "backend.packing=off",  # the service's jobs share no pass
            f"model.source={tiny.source}",
            f"paths.cache={engine_cache}",
        ],
        "gemini": ["backend=gemini", f"backend.base_url={running.address}", *there],
        "openai": ["seed=0,3", "backend=openai", f"backend.base_url={running.address}/v1", *there],
    }
    results = {}
    for place, own in places.items():
        runs = tmp_path / place
        overrides = [*common, "model=huggingface", "model.name=tiny", *own, f"paths.runs={runs}"]
        result = tunerun.run(tunerun.plan(tunerun.load(overrides)))
        assert result.exit_code == 0
        results[place] = found_of(runs, result)
    assert len(results["here"]) == 4
    assert results["openai"] == results["here"]
    assert results["gemini"] == {point: of for point, of in results["here"].items() if point[0] == 0}
    with Client(running.address, running.key.secret) as client:
        for model in client.good("GET", "/tunedModels", pageSize=100)["tunedModels"]:
            client.good("DELETE", f"/{model['name']}")


def test_an_id_of_another_owner_is_refused(
    running: RunningService, monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    """A create with the id of a tuned model that the caller may not see is refused, because the id is taken."""
    request = request_of(MODEL, key="8")
    with ServedPlace(running).open() as backend:
        monkeypatch.setenv("GEMINI_API_KEY", running.key.secret)
        backend.submit(request)
        key = running.service.keys.add("other@localhost", running.key.scopes)
        monkeypatch.setenv("GEMINI_API_KEY", key.secret)
        with pytest.raises(StatusError, match=r"409 ALREADY_EXISTS: .* exists already; choose another id"):
            backend.submit(request)
        running.service.keys.revoke(key.id)
    client.good("DELETE", f"/tunedModels/{request.tuned_model_id}")


@pytest.mark.parametrize(
    ("owner", "scopes", "words"),
    [
        (None, (), "backend.api_key_env"),
        ("other@localhost", (), "backend.oauth"),
    ],
)
def test_a_refused_key_is_an_access_error_with_advice(
    running: RunningService,
    monkeypatch: pytest.MonkeyPatch,
    client: Client,
    owner: str | None,
    scopes: tuple[str, ...],
    words: str,
) -> None:
    """An invalid key and a key without the scope have different messages."""
    request = request_of(MODEL, key="9")
    with ServedPlace(running).open() as backend:
        monkeypatch.setenv("GEMINI_API_KEY", running.key.secret)
        backend.submit(request)
        key = running.service.keys.add(owner, scopes) if owner else None
        monkeypatch.setenv("GEMINI_API_KEY", key.secret if key else "a-planted-key")
        with pytest.raises(AccessError, match=words) as caught:
            backend.submit(request)
        assert (key.secret if key else "a-planted-key") not in str(caught.value)
        if key:
            running.service.keys.revoke(key.id)
    client.good("DELETE", f"/tunedModels/{request.tuned_model_id}")
