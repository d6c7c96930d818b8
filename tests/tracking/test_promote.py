"""`tunerun promote` against a real store: what is registered, what is refused, and what a second time changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.tracking.adapters import write_adapter
from tests.tracking.content import client, run_of
from tests.tracking.sweeps import Lab, freeze, grid
from tunerun.cli import app
from tunerun.errors import InputError, LimitError, NotFoundError
from tunerun.examples import Example
from tunerun.ledger import Ledger

HELD_OUT = tuple(Example(str(n), str(n + 1)) for n in range(100, 124))
RIGHT = (22, 20)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A finished sweep of two points; the first one is better than the base model."""
    with Ledger(tmp_path / "runs" / "ledger.db") as ledger:
        lab = freeze(ledger, points=grid(2), validation=HELD_OUT)
        for number, right in enumerate(RIGHT):
            folder = tmp_path / "runs" / "tuned_models" / f"t-{number}"
            write_adapter(folder, lab.trials[number].key)
            lab.finish(number, right=right, location=str(folder))
        lab.measure_base()
    return lab


@pytest.fixture
def promote(lab: Lab, uri: str) -> Callable[..., Result]:
    """The command, in this process."""

    def run(*arguments: str) -> Result:
        places = [f"paths.runs={lab.ledger.path.parent}", f"tracking.uri={uri}"]
        return CliRunner().invoke(app, ["promote", *arguments, *places])

    return run


def document(finished: Result) -> dict[str, Any]:
    assert finished.exit_code == 0, finished.output + repr(finished.exception)
    printed = json.loads(finished.stdout)
    assert isinstance(printed, dict)
    return printed


def versions(uri: str) -> list[Any]:
    return sorted(client(uri).search_model_versions("name = 'intents'"), key=lambda each: int(each.version))


def test_the_advised_trial_becomes_a_version_that_says_what_it_is(
    lab: Lab, uri: str, promote: Callable[..., Result]
) -> None:
    """With verdict, card, key, run, alias, and the digest of every file."""
    finished = promote(lab.sweep.id, "--as", "intents", "--require", "better than every baseline")
    assert finished.exit_code == 0, finished.output + repr(finished.exception)
    assert finished.stdout.splitlines()[0] == "intents: version 1 is now champion"
    [version] = versions(uri)
    run = run_of(uri, "trial", 0)
    assert version.run_id == run.info.run_id
    assert version.description.startswith("Use point 0 (learning_rate 0.001, 3 epochs): this trained model is better")
    assert version.tags["tunerun.key"] == lab.trials[0].key
    assert version.tags["tunerun.sweep"] == lab.sweep.id
    assert version.tags["tunerun.verdict"].startswith("Use point 0")
    registered = client(uri).get_registered_model("intents")
    assert registered.aliases == {"champion": 1}
    assert registered.description.startswith("# t-")
    assert "mlflow.pyfunc.load_model('models:/intents@champion')" in registered.description
    [output] = run.outputs.model_outputs
    assert version.source == f"models:/{output.model_id}"
    logged = client(uri).get_logged_model(output.model_id)
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": "intents", "version": 1}]
    files = Path(logged.artifact_location.removeprefix("file://"))
    for line in version.tags["tunerun.files"].splitlines():
        checksum, _, name = line.partition("  ")
        assert hashlib.sha256((files / name).read_bytes()).hexdigest() == checksum, name


def test_the_same_content_is_one_version_and_another_moves_the_alias(
    lab: Lab, uri: str, promote: Callable[..., Result]
) -> None:
    """The version before is kept, and can be named again."""
    named = f"tunedModels/t-{lab.trials[1].key[:8]}"
    first = [document(promote(lab.sweep.id, "--as", "intents", "--json")) for _ in range(2)]
    assert [(each["version"], each["new"], each["before"]) for each in first] == [(1, True, None), (1, False, 1)]
    assert first[1]["sentence"] == "intents: version 1 is champion already"
    second = document(promote(named, "--as", "intents", "--json"))
    assert second["sentence"] == "intents: version 2 is now champion; version 1 was"
    again = document(promote(lab.sweep.id, "--as", "intents", "--json"))
    assert again["sentence"] == "intents: version 1 is now champion; version 2 was"
    assert len(versions(uri)) == 2


def test_a_promotion_that_was_cut_short_is_finished_by_the_next(
    lab: Lab, uri: str, promote: Callable[..., Result]
) -> None:
    """As after a kill before the alias, before the version, and before the last file of the logged model."""
    promote(lab.sweep.id, "--as", "intents")
    store = client(uri)
    store.delete_registered_model_alias("intents", "champion")
    promoted = document(promote(lab.sweep.id, "--as", "intents", "--json"))
    assert (promoted["version"], promoted["new"], promoted["before"]) == (1, False, None)
    store.delete_registered_model_alias("intents", "champion")
    store.delete_model_version("intents", "1")
    [output] = run_of(uri, "trial", 0).outputs.model_outputs
    store.finalize_logged_model(output.model_id, "FAILED")  # as good as one whose files are not all there
    promoted = document(promote(lab.sweep.id, "--as", "intents", "--json"))
    assert (promoted["version"], promoted["new"], promoted["before"]) == (2, True, None)  # MLflow gives no number twice
    assert [version.source for version in versions(uri)] == [f"models:/{output.model_id}"]
    assert str(store.get_logged_model(output.model_id).status) == "READY"
    assert len(store.search_logged_models([run_of(uri, "trial", 0).info.experiment_id])) == len(RIGHT)


def test_a_description_that_a_person_has_written_stays(lab: Lab, uri: str, promote: Callable[..., Result]) -> None:
    """Ours is replaced by a later one of ours."""
    promote(lab.sweep.id, "--as", "intents")
    promote(f"t-{lab.trials[1].key[:8]}", "--as", "intents")
    store = client(uri)
    assert store.get_registered_model("intents").description.startswith(f"# t-{lab.trials[1].key[:8]}")
    store.update_registered_model("intents", "Ours; ask Ada.")
    promote(lab.sweep.id, "--as", "intents")
    assert store.get_registered_model("intents").description == "Ours; ask Ada."


def test_a_condition_that_does_not_hold_refuses_with_the_reason(
    lab: Lab, uri: str, promote: Callable[..., Result]
) -> None:
    """Exit code 3, and nothing is registered."""
    finished = promote(
        lab.sweep.id, "--as", "intents", "--require", "eval/exact_match >= 95 %", "--require", "not tied"
    )
    assert isinstance(finished.exception, LimitError)
    assert finished.exception.exit_code == 3
    message = str(finished.exception)
    assert (
        f"trial 0 of {lab.sweep.id} was not promoted: eval/exact_match >= 95 %: it is 92 %; not tied: point 0"
        in message
    )
    assert "The verdict: Use point 0" in message
    assert client(uri).search_registered_models() == []


def test_a_sweep_without_advice_is_refused_and_its_trial_is_not(
    tmp_path: Path, uri: str, promote: Callable[..., Result]
) -> None:
    """With the verdict's own sentence and exit code 3, as `export --best`; a trial that is named is promoted all the same."""
    with Ledger(tmp_path / "runs" / "ledger.db") as ledger:
        worse = freeze(ledger, "other-00000000", grid(1), name="other", validation=HELD_OUT)
        write_adapter(tmp_path / "runs" / "tuned_models" / "t-9", worse.trials[0].key)
        worse.finish(0, right=0, location=str(tmp_path / "runs" / "tuned_models" / "t-9"))
        worse.measure_base()
    refused = promote("other", "--as", "intents")
    assert isinstance(refused.exception, LimitError)
    assert "no point is advised: Nothing can be decided" in str(refused.exception)
    assert document(promote(f"t-{worse.trials[0].key[:8]}", "--as", "intents", "--json"))["version"] == 1


def test_what_cannot_be_promoted_says_why(lab: Lab, promote: Callable[..., Result]) -> None:
    """An adapter that was changed, names that the registry does not take, a missing name, a tracker that is off."""
    folder = lab.ledger.path.parent / "tuned_models" / "t-0"
    (folder / "adapter_model.safetensors").write_bytes(b"changed")
    changed = promote(lab.sweep.id, "--as", "intents")
    assert isinstance(changed.exception, NotFoundError)
    assert "adapter_model.safetensors has changed since it was made; to make it again: " in str(changed.exception)
    names = promote(lab.sweep.id, "--as", "a/b", "--alias", "v2")
    assert isinstance(names.exception, InputError)
    assert [problem.split(":")[0] for problem in names.exception.problems] == ["--as 'a/b'", "--alias 'v2'"]
    assert str(promote(lab.sweep.id).exception).startswith("--as is missing")
    assert "tracking: none" in str(promote(lab.sweep.id, "--as", "intents", "tracking.kind=none").exception)
