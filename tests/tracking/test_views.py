"""What MLflow shows of a sweep without a click: its view, the experiment's note, and links between what was measured."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.service.browser import CHROMIUM, DRIVER, MISSING, Browser, driver
from tests.tracking.content import artifact_json, client, content, experiment_tags, run_of
from tests.tracking.served import free_port, server
from tests.tracking.sweeps import Lab, SyncedSweep, complete, freeze, grid, synced_sweep
from tunerun.examples import Example
from tunerun.ledger import Ledger, Mark
from tunerun.tracking import Tracker

ROWS = [Example(f"{n} + 1", str(n + 1)) for n in range(24)]
SEEDS = [{"hyperparameters.learning_rate": rate, "seed": seed} for rate in (0.001, 0.0001) for seed in (0, 1)]


def two_points(ledger: Ledger) -> Lab:
    """Two points of two seeds: one that is better than the base model, and one that knows nothing."""
    lab = freeze(ledger, points=SEEDS, validation=ROWS)
    for number, right in enumerate((20, 22, 0, 0)):
        lab.finish(number, right)
    lab.measure_base()
    return lab


@pytest.fixture
def replicates(ledger: Ledger) -> Lab:
    """Two points of two seeds, for a test that writes."""
    return two_points(ledger)


@pytest.fixture(scope="module")
def synced_replicates(made_store: Path, tmp_path_factory: pytest.TempPathFactory) -> SyncedSweep:
    """The same, shown in MLflow: shared, so no test may write to the ledger or the store."""
    return synced_sweep(tmp_path_factory.mktemp("replicates"), made_store, two_points)


def synced(lab: Lab, uri: str) -> Tracker:
    tracker = Tracker(lab.ledger.path, uri)
    assert tracker.sync().problem is None
    return tracker


def tags_of_experiment(uri: str, experiment: str = "1") -> dict[str, str]:
    tags: dict[str, str] = client(uri).get_experiment(experiment).tags
    return tags


def view(uri: str, key: str) -> dict[str, Any]:
    """A view as MLflow's page reads it."""
    shared = json.loads(tags_of_experiment(uri)[f"mlflow.sharedViewState.{key}"])
    packed = base64.b64decode(shared["state"].removeprefix("deflate;"))
    state: dict[str, Any] = json.loads(zlib.decompress(packed))
    return state


def test_the_view_has_what_the_sweep_varies_and_what_decides(synced_replicates: SyncedSweep) -> None:
    """Columns, order, filter, charts and the grouping of seeds are inside the view, and the link only names it."""
    uri, key = synced_replicates.uri, synced_replicates.lab.sweep.id
    state = view(uri, key)
    assert state["selectedColumns"] == [
        "metrics.`eval/exact_match`", "tags.`tunerun.advised`", "tags.`tunerun.tied`", "params.`learning_rate`",
        "metrics.`validation/loss`", "tags.`tunerun.state`",
    ]  # fmt: skip
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`eval/exact_match`", False)
    assert state["searchFilter"] == f"tags.`tunerun.sweep.{key}` != ''"
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "tunerun.point"}]
    assert state["compareRunCharts"][0]["metricKey"] == "eval/exact_match"
    assert view(uri, f"{key}-answers")["groupBy"] is None
    assert tags_of_experiment(uri)["mlflow.experiment.primaryMetric.name"] == "eval/exact_match"
    with Ledger.open_read_only(synced_replicates.lab.ledger.path) as ledger:
        link = Tracker(ledger.path, uri).link(ledger, key, "eval/exact_match")
    assert link == f"#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey={key}"


def test_a_sweep_without_replicates_is_not_grouped(lab: Lab, uri: str) -> None:
    """A row for each trial, and charts of the curves only where there are some."""
    synced(lab, uri)
    waiting = view(uri, lab.sweep.id)
    assert waiting["groupBy"] is None
    assert {chart["type"] for chart in waiting["compareRunCharts"]} <= {"BAR", "PARALLEL", "SCATTER"}
    complete(lab)
    synced(lab, uri)
    lines = [chart for chart in view(uri, lab.sweep.id)["compareRunCharts"] if chart["type"] == "LINE"]
    assert [chart["metricKey"] for chart in lines] == ["train/epoch_mean_loss", "train/mean_loss"]


def test_before_mlflow_has_the_view_the_link_sorts_by_what_decides(lab: Lab, uri: str) -> None:
    """A link to a view that is not there would open an error; the plain one is sorted."""
    tracker = synced(lab, uri)
    subject = f"{lab.sweep.id}/sweep/"
    mark = lab.ledger.mark(tracker.name, subject)
    assert mark is not None
    document = {part: value for part, value in mark.document.items() if part != "view"}
    lab.ledger.set_mark(tracker.name, subject, Mark(mark.run_id, document))
    link = tracker.link(lab.ledger, lab.sweep.id, "validation/loss", ascending=True)
    order = "orderByKey=metrics.%60validation/loss%60&orderByAsc=true"
    assert link == f"#/experiments/1/runs?workflowType=machine_learning&{order}"


def test_runs_say_where_the_verdict_puts_them(synced_replicates: SyncedSweep) -> None:
    """Replicates share their point; the advised point and those tied with it are tags; a baseline is its own point."""
    every, key = content(synced_replicates.uri), synced_replicates.lab.sweep.id
    tags = [every[key, "trial", str(number)]["tags"] for number in range(4)]
    assert [t["tunerun.point"] for t in tags] == ["p0 lr=0.001", "p0 lr=0.001", "p1 lr=0.0001", "p1 lr=0.0001"]
    assert [(t["tunerun.advised"], t["tunerun.tied"]) for t in tags] == [("yes", "yes")] * 2 + [("", "")] * 2
    baseline = every[key, "baseline", synced_replicates.lab.trials[0].baselines[0]]
    assert baseline["tags"]["tunerun.point"] == "base"
    assert set(baseline["points"]) == {"eval/exact_match", "validation/loss"}
    sweep = every[key, "sweep", ""]
    assert (sweep["tags"]["tunerun.outcome"], sweep["tags"]["tunerun.advised"]) == ("better", "point 0")
    assert sweep["points"]["verdict/exact_match"][0][2] == pytest.approx(20 / 24)
    assert {"report.html", "loss.png", "trials.json"} <= set(sweep["artifacts"])


def test_measures_are_linked_to_the_model_and_the_held_out_set(synced_replicates: SyncedSweep) -> None:
    """The logged model's own page says on which data set each metric was measured."""
    [output] = run_of(synced_replicates.uri, "trial", 0).outputs.model_outputs
    linked = {m.key: m.dataset_name for m in client(synced_replicates.uri).get_logged_model(output.model_id).metrics}
    assert linked == {
        "eval/exact_match": "held_out", "validation/loss": "held_out", "tokens/train": None, "train/seconds": None,
    }  # fmt: skip


def test_the_second_column_of_the_answers_is_the_answer(synced_replicates: SyncedSweep) -> None:
    """MLflow groups tables by their first column and compares the second."""
    run = run_of(synced_replicates.uri, "trial", 0)
    table = artifact_json(run, "predictions.json")
    assert table["columns"] == ["text_input", "answer", "expected", "exact_match"]
    assert (table["data"][0], table["data"][23]) == (["0 + 1", "1", "1", 1.0], ["23 + 1", "?", "24", 0.0])
    named = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert named == [{"path": "predictions.json", "type": "table"}]


def test_the_note_has_the_newest_sentence_first_and_every_sweep_below(replicates: Lab, uri: str) -> None:
    """The experiment's note begins with the verdict and has no table; earlier sweeps follow with their links."""
    synced(replicates, uri)
    first = tags_of_experiment(uri)["mlflow.note.content"]
    assert first.startswith("**Use point 0 (learning_rate 0.001): over 2 seeds it is better than the base model (")
    assert "|" not in first
    assert "compareRunsMode=ARTIFACT&viewStateShareKey=next-number-1a2b3c4d-answers" in first
    assert "/artifacts/report.html)" in first
    later = freeze(replicates.ledger, "next-number-2", grid(2), created_at=replicates.sweep.created_at + 86_400)
    Tracker(replicates.ledger.path, uri).sync([later.sweep.id])
    note = tags_of_experiment(uri)["mlflow.note.content"]
    head, _, rest = note.partition("**Earlier sweeps**")
    assert head.startswith("**So far, with 2 of 2 trials unfinished")
    assert "viewStateShareKey=next-number-1a2b3c4d): Use point 0" in rest


def test_a_note_that_a_person_wrote_stays(lab: Lab, uri: str) -> None:
    """A note of the experiment is written over only while it is tunerun's own."""
    synced(lab, uri)
    client(uri).set_experiment_tag("1", "mlflow.note.content", "ours: see the wiki")
    complete(lab)
    synced(lab, uri)
    assert tags_of_experiment(uri)["mlflow.note.content"] == "ours: see the wiki"
    client(uri).set_experiment_tag("1", "mlflow.note.content", "")
    lab.start(2)
    synced(lab, uri)
    assert tags_of_experiment(uri)["mlflow.note.content"].startswith("**")


def test_a_store_of_an_earlier_tunerun_gets_what_is_new(replicates: Lab, uri: str) -> None:
    """What an older version had sent stays, and the next replay adds views, notes, tags and links."""
    tracker = synced(replicates, uri)
    before, tags = content(uri), experiment_tags(uri)
    for key in tags_of_experiment(uri):
        if key.startswith("mlflow."):
            client(uri).delete_experiment_tag("1", key)
    for subject, mark in replicates.ledger.marks(tracker.name, "").items():
        parts = ("experiment", "name", "params", "inputs", "points", "artifacts", "model", "state")
        kept = {part: mark.document[part] for part in parts if part in mark.document}
        replicates.ledger.set_mark(tracker.name, subject, Mark(mark.run_id, {**kept, "seen": "of an older version"}))
    synced(replicates, uri)
    assert content(uri) == before
    assert experiment_tags(uri) == tags


def test_an_opened_test_set_is_shown_apart(ledger: Ledger, uri: str) -> None:
    """Answers to the test set are `test/...`, with a table and an input of their own."""
    lab = freeze(ledger, points=grid(1), validation=ROWS, test=[Example("100 + 1", "101")] * 2)
    lab.finish(0, right=20)
    synced(lab, uri)
    trial = lab.trials[0]
    ledger.open_test(lab.sweep.id, [0], 1_760_000_000.0)
    ledger.record_answers(trial.key, trial.held_out["test"], trial.asked, ["101", "?"])
    synced(lab, uri)
    run = run_of(uri, "trial", 0)
    assert {k: v for k, v in run.data.metrics.items() if "exact" in k} == {
        "eval/exact_match": pytest.approx(20 / 24), "test/exact_match": 0.5,
    }  # fmt: skip
    assert len(artifact_json(run, "test_predictions.json")["data"]) == 2
    assert [i.tags[0].value for i in run.inputs.dataset_inputs] == ["training", "validation", "testing"]


@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason=MISSING)
def test_the_printed_link_shows_the_verdict_in_a_browser(replicates: Lab, uri: str, tmp_path: Path) -> None:
    """In a real Chromium the link opens the list with the sentence, metrics, params and the grouped points."""
    tracker = synced(replicates, uri)
    with server(uri, port := free_port()), driver(tmp_path / "profile") as chrome:
        browser = Browser(chrome, f"http://127.0.0.1:{port}")
        browser.be_wide(1440)
        browser.open(f"/{tracker.link(replicates.ledger, replicates.sweep.id)}")
        for text in ("Use point 0", "Group: p0 lr=0.001", "0.8", "tunerun.advised", "yes"):
            browser.until(lambda: text in str(browser.script("return document.body.innerText")), text)  # noqa: B023
