"""A sweep as portable files, and the ledger that is made of them again."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.comparison.sweeps import EPOCHS, Frozen, Trained, frozen
from tests.tracking.sweeps import freeze
from tunerun.cli import app
from tunerun.comparison import judge
from tunerun.comparison.renderers.document import document
from tunerun.comparison.table import ComparisonTable
from tunerun.errors import LedgerError, RecordError
from tunerun.examples import Example, ExampleSet
from tunerun.job import (
    BaseModelRef,
    EpochLoss,
    Failure,
    FailureKind,
    JobRef,
    JobState,
    JobStatus,
    Snapshot,
    TemplateText,
    TrainedOn,
    TunedModel,
    TuningHyperparameters,
    TuningRequest,
)
from tunerun.ledger import LOSSES, Ledger, SweepRecord, TrialRecord
from tunerun.ledger.portable import EXAMPLES, RECORD, RESULTS, plan_files, portable_files, results_file
from tunerun.ledger.restoring import MAX_SET_BYTES, restored

TRIALS = [
    Trained("1" * 20 + "0" * 4, test="1" * 22 + "00", losses=[0.5 + n / 100 for n in range(24)]),
    Trained("1" * 6 + "0" * 18, overrides={EPOCHS: 3, "seed": 1}),
    Trained(state=JobState.FAILED, overrides={EPOCHS: 7}),
    Trained(state=JobState.PLANNED, overrides={EPOCHS: 9}),
]


@pytest.fixture
def sweep(tmp_path: Path) -> Frozen:
    """A sweep with everything that a ledger can hold of one, openings by another sweep included."""
    made = frozen(tmp_path / "made", TRIALS, {"base": "0" * 24, "majority": None}, clusters=[n // 2 for n in range(24)])
    made.ledger.open_test(made.sweep.id, [0], 1_760_000_100.0)
    frozen(tmp_path / "made", TRIALS[:1], sweep_id="support-99999999", ledger=made.ledger)
    made.ledger.open_test("support-99999999", [0], 1_760_000_200.0)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def everything(ledger: Ledger, sweep: SweepRecord) -> list[Any]:
    """What readers ask a ledger for."""
    keys = [trial.key for trial in ledger.trials(sweep.id)]
    sets = {digest for t in ledger.trials(sweep.id) for digest in (t.training, *t.held_out.values())}
    return [
        [(s.id, s.experiment, s.created_at, dict(s.document)) for s in ledger.sweeps() if s.id == sweep.id],
        [vars(t) | {"config": dict(t.config), "ingredients": dict(t.ingredients)} for t in ledger.trials(sweep.id)],
        [vars(b) | {"document": dict(b.document)} for b in ledger.baselines(sweep.id)],
        [ledger.example_set(digest) for digest in sorted(sets)],
        [ledger.jobs(key) for key in keys],
        ledger.curves(sweep.id),
        ledger.validation_curves(sweep.id),
        ledger.answers_of_sweep(sweep.id),
        ledger.openings(sweep.id),
        ledger.progress(sweep.id),
        ledger.spending(sweep.id),
    ]


def test_a_restored_ledger_is_the_same_to_every_reader(sweep: Frozen, tmp_path: Path) -> None:
    """Trials, examples, jobs, curves, answers, openings and the whole verdict, on both held-out sets."""
    portable_files(sweep.ledger, sweep.sweep, tmp_path / "record")
    assert restored(tmp_path / "record", tmp_path / "made2" / "ledger.db") == sweep.sweep.id
    with Ledger.open_read_only(tmp_path / "made2" / "ledger.db") as ledger:
        (again,) = ledger.sweeps()
        assert everything(ledger, again) == everything(sweep.ledger, sweep.sweep)
        assert len(ledger.openings(again.id)) == 2
        for held_out in ("validation", "test"):
            now, before = judge(ledger, again, held_out=held_out), judge(sweep.ledger, sweep.sweep, held_out=held_out)
            assert document(ComparisonTable.of(now)) == document(ComparisonTable.of(before))


def test_the_same_sweep_gives_the_same_bytes_also_from_what_was_restored(sweep: Frozen, tmp_path: Path) -> None:
    """No time, no folder and no order of the machine is in them."""
    names = portable_files(sweep.ledger, sweep.sweep, tmp_path / "a")
    restored(tmp_path / "a", tmp_path / "elsewhere" / "ledger.db")
    with Ledger.open_read_only(tmp_path / "elsewhere" / "ledger.db") as ledger:
        assert portable_files(ledger, sweep.sweep, tmp_path / "b") == names
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(contents(tmp_path / "a")) == sorted(names)


def test_a_curve_that_diverged_is_kept(tmp_path: Path) -> None:
    """JSON has no number for an infinite loss; it comes out of the record as it went in."""
    made = frozen(tmp_path / "made", [Trained(state=JobState.RUNNING)], {"base": None})
    (job,) = made.ledger.last_jobs(made.sweep.id).values()
    diverged = JobStatus(JobState.RUNNING, (Snapshot(90, 9, math.inf, 2e9),), validation=(EpochLoss(9, math.inf),))
    made.ledger.record(job.id, diverged)
    portable_files(made.ledger, made.sweep, tmp_path / "record")
    assert json.loads(gzip.decompress((tmp_path / "record" / RESULTS).read_bytes()), parse_constant=pytest.fail)
    restored(tmp_path / "record", tmp_path / "again" / "ledger.db")
    with Ledger.open_read_only(tmp_path / "again" / "ledger.db") as ledger:
        assert ledger.snapshots(job.id)[-1] == Snapshot(90, 9, math.inf, 2e9)
        assert ledger.epoch_losses(job.id) == [EpochLoss(9, math.inf)]


def test_answers_to_another_sweeps_test_set_are_left_out(sweep: Frozen, tmp_path: Path) -> None:
    """A trial's key does not hold the test set, so another sweep may have asked its model other rows."""
    sweep.ledger.record_answers(sweep.trials[0].key, "another set", sweep.trials[0].asked, ["yes"] * 3)
    portable_files(sweep.ledger, sweep.sweep, tmp_path / "record")
    assert b"another set" not in gzip.decompress((tmp_path / "record" / RESULTS).read_bytes())
    earlier = {
        "subject": sweep.trials[0].key,
        "held_out": "another set",
        "asked": "a",
        "created_at": 1.0,
        "values": ["yes"],
    }
    changed_results(lambda document: document["answers"].append(earlier))(tmp_path / "record")
    restored(tmp_path / "record", tmp_path / "again" / "ledger.db")
    with Ledger.open_read_only(tmp_path / "again" / "ledger.db") as ledger:
        assert len(judge(ledger, ledger.sweeps()[0]).points) == len(TRIALS)
        assert "another set" not in {held_out for _, held_out, _ in ledger.answers_of_sweep(sweep.sweep.id)}


def test_what_is_planned_does_not_change_when_results_come(tmp_path: Path) -> None:
    """Before the first job there are no results and no file of them; each set is there once."""
    made = frozen(tmp_path / "made", [Trained(state=JobState.PLANNED)] * 3, {"base": None})
    assert results_file(made.ledger, made.sweep, tmp_path / "a") is None
    plan_files(made.ledger, made.sweep, tmp_path / "a")
    before = contents(tmp_path / "a")
    assert len(before) == 1 + 3  # training, validation, test
    trial = made.trials[0]
    made.ledger.record_answers(trial.key, trial.held_out["validation"], LOSSES, [1.5] * 24)
    assert results_file(made.ledger, made.sweep, tmp_path / "a") == RESULTS
    plan_files(made.ledger, made.sweep, tmp_path / "a")
    assert {name: content for name, content in contents(tmp_path / "a").items() if name != RESULTS} == before
    restored(tmp_path / "a", tmp_path / "ledger.db")
    with Ledger.open_read_only(tmp_path / "ledger.db") as ledger:
        answers = ledger.answers(trial.key, trial.held_out["validation"], LOSSES)
        assert answers is not None
        assert answers.losses == (1.5,) * 24


def with_paths(tmp_path: Path) -> tuple[Ledger, SweepRecord]:
    """A sweep whose config, messages and jobs are full of places of a machine."""
    home, runs = tmp_path / "ann" / "study", tmp_path / "ann" / "study" / "runs"
    ledger = Ledger(runs / "ledger.db")
    sets = [ExampleSet(hashlib.sha256(name).hexdigest(), f"{home}/{name.decode()}/rows.jsonl", (Example("/a/b", "c"),))
            for name in (b"one", b"two")]  # fmt: skip
    trials = [
        TrialRecord(
            number=number, key=f"k{number}", baselines=(), asked="a", training=each.digest, held_out={}, tokens=1,
            steps=1, overrides={"dataset.path": each.source},
            config={
                "name": "x",
                "dataset": {"path": each.source, "validation": {"path": "${oc.env:DATA}/held.jsonl"}},
                "template": {"text_input": "/help/{{ text_input }}", "output": "{{ output }}/home/ann"},
                "model": {"name": f"{home}/models/tiny", "source": f"{home}/models/tiny"},
                "paths": {"runs": str(runs), "cache": f"{home}/cache"},
                "tracking": {"uri": "http://ann:pass@mlflow.example/?token=abcdefgh"},
                "evaluation": {"metrics": ["exact_match", {"name": "mine", "python": f"{home}/score.py:score"}]},
            },
        )
        for number, each in enumerate(sets)
    ]  # fmt: skip
    document = {
        "command": f"{home}/.venv/bin/tunerun run dataset.path={home}/one/rows.jsonl template.output='{{{{ a }}}}/b/c'",
        "warnings": [f"{home}/one/rows.jsonl:3: a row is empty", f"{home}/unknown/place.yaml: not used"],
        "models": {"folder:sha256:1": f"{home}/models/tiny"},
        "metrics": {"mine": {"python": f"{home}/score.py:score", "sha256": "0"}},
        "facts": {
            "config_files": [{"path": "x.yaml", "origin": "conf", "text": f"dataset:\n  path: {home}/one/rows.jsonl\n"}]
        },
    }
    sweep = SweepRecord("x-1", "x", 1.0, document)
    ledger.freeze(sweep, trials, sets)
    model = BaseModelRef("tiny", f"{home}/models/tiny")
    request = TuningRequest("k0", "x-k0", model, TuningHyperparameters(), 0, TemplateText(), sets[0].examples)
    for status in (
        JobStatus(
            JobState.FAILED, failure=Failure(FailureKind.LOST, "lost", f'File "{home}/.venv/torch/nn.py", line 3')
        ),
        JobStatus(
            JobState.SUCCEEDED,
            tuned_model=TunedModel("tunedModels/x-k0", model, str(runs / "tuned_models" / "x-k0"), "w"),
            trained_on=TrainedOn("cpu", "EPYC", "AVX512", 2, "", "2.4.1+cpu", {"torch": "2.4.1"}),
        ),
    ):
        job = ledger.intend(request, "local", 1, sweep="x-1")
        ledger.submitted(job.id, JobRef("local", "x-k0.1"))
        ledger.record(job.id, status)
    return ledger, sweep


def test_no_place_of_the_machine_is_in_the_files(tmp_path: Path) -> None:
    """Paths of configs, messages and tracebacks become names; what a model is given stays as it was."""
    ledger, sweep = with_paths(tmp_path)
    portable_files(ledger, sweep, tmp_path / "record")
    whole = b"".join(
        gzip.decompress(content) if name.endswith(".gz") else content
        for name, content in contents(tmp_path / "record").items()
    )
    assert str(tmp_path).encode() not in whole
    assert b"pass" not in whole
    assert b"abcdefgh" not in whole
    restored(tmp_path / "record", tmp_path / "again" / "ledger.db")
    with Ledger.open_read_only(tmp_path / "again" / "ledger.db") as again:
        first, second = again.trials("x-1")
        assert [t.overrides["dataset.path"] for t in (first, second)] == ["one/rows.jsonl", "two/rows.jsonl"]
        assert first.config["dataset"] == {"path": "one/rows.jsonl", "validation": {"path": "held.jsonl"}}
        assert first.config["template"] == ledger.trials("x-1")[0].config["template"]
        assert first.config["model"] == {"name": "tiny", "source": "tiny"}
        assert first.config["paths"] == {"runs": "runs", "cache": None}
        assert first.config["tracking"] == {"uri": "http://mlflow.example/?token=***"}
        assert first.config["evaluation"]["metrics"][1]["python"] == "score.py:score"
        assert again.sweeps()[0].document["warnings"] == ["one/rows.jsonl:3: a row is empty", "place.yaml: not used"]
        assert again.sweeps()[0].command == "tunerun run dataset.path=one/rows.jsonl template.output='{{ a }}/b/c'"
        failed, job = again.jobs("k0")
        assert failed.failure is not None
        assert failed.failure.traceback == 'File "nn.py", line 3'
        assert job.trained_on == TrainedOn("cpu", "EPYC", "AVX512", 2, "", "2.4.1+cpu", {"torch": "2.4.1"})
        assert job.tuned_model is not None
        assert job.tuned_model.folder == tmp_path / "again" / "tuned_models" / "x-k0"
    ledger.close()


@pytest.mark.parametrize(
    ("typed", "portable"),
    [
        ("../../elsewhere/.venv/bin/tunerun run experiment=a", "tunerun run experiment=a"),
        (".venv/bin/tunerun run experiment=a", "tunerun run experiment=a"),
        ("python -m tunerun run experiment=a", "python -m tunerun run experiment=a"),
        ("tunerun run dataset.path=data/tunerun", "tunerun run dataset.path=data/tunerun"),
    ],
)
def test_a_command_names_the_program_wherever_it_was_installed(tmp_path: Path, typed: str, portable: str) -> None:
    """Where it is not on PATH the ledger has its path, which is nothing to others."""
    made = frozen(tmp_path / "made", [Trained("1" * 24)])
    sweep = replace(made.sweep, document={**made.sweep.document, "command": typed})
    plan_files(made.ledger, sweep, tmp_path / "record")
    assert json.loads((tmp_path / "record" / RECORD).read_text())["sweep"]["document"]["command"] == portable


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change what `record.json` says."""

    def act(folder: Path) -> None:
        document = json.loads((folder / RECORD).read_text())
        change(document)
        (folder / RECORD).write_text(json.dumps(document))

    return act


def changed_results(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change what `results.json.gz` says."""

    def act(folder: Path) -> None:
        document = json.loads(gzip.decompress((folder / RESULTS).read_bytes()))
        change(document)
        (folder / RESULTS).write_bytes(gzip.compress(json.dumps(document).encode()))

    return act


def of_config(name: str, value: Any) -> Callable[[Path], None]:
    """Change a section of the first trial's config."""
    return changed(lambda document: document["trials"][0]["config"].update({name: value}))


def first_set(folder: Path) -> Path:
    return min((folder / EXAMPLES).iterdir())


def with_set(content: bytes, size: int | None = None) -> Callable[[Path], None]:
    """Put other content into the first set, with the digest that it has."""

    def act(folder: Path) -> None:
        file = first_set(folder)
        file.write_bytes(content)

        def change(document: dict[str, Any]) -> None:
            of_set = document["examples"][file.name.partition(".")[0]]
            of_set["sha256"] = hashlib.sha256(content).hexdigest()
            of_set["bytes"] = of_set["bytes"] if size is None else size

        changed(change)(folder)

    return act


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.gz"
    first_set(folder).rename(outside)
    first = sorted(contents(folder))
    assert first
    (folder / EXAMPLES / hashlib.sha256().hexdigest()).touch()
    missing = set(json.loads((folder / RECORD).read_text())["examples"]) - {
        file.name.partition(".")[0] for file in (folder / EXAMPLES).iterdir()
    }
    (folder / EXAMPLES / f"{missing.pop()}.jsonl.gz").symlink_to(outside)


def rename_set(document: dict[str, Any]) -> None:
    each = next(iter(document["examples"].values()))
    each["file"] = "../../etc/passwd"


BOMB = gzip.compress(b'{"text_input": "' + b"0" * 50_000_000)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / RECORD).unlink(), r"record\.json: is missing"),
        (lambda f: (f / RECORD).write_text("{"), r"record\.json: .*JSON"),
        (lambda f: (f / RECORD).write_text("[" * 100_000), r"record\.json: .*JSON"),
        (changed(lambda d: d.update(format=2)), r"written by a newer tunerun \(format 2, this one knows 1\); update tunerun"),
        (changed(lambda d: d.pop("trials")), r"record\.json: trials: Field required"),
        (changed(lambda d: d["trials"][0].update(number="1")), r"record\.json: trials\.0\.number: Input should be"),
        (changed(lambda d: d["trials"][0].update(tokens=2**70)), "a value that a ledger cannot store"),
        (changed(lambda d: d["sweep"].update(id="../x")), r"sweep\.id or sweep\.experiment is not a name"),
        (changed(rename_set), r"must be a digest, with the file examples/<digest>\.jsonl\.gz"),
        (changed(lambda d: d["examples"].clear()), "trials use sets that are missing"),
        (changed(lambda d: d["trials"][0]["config"]["evaluation"].update(metrics=[{"name": "x", "python": "../x.py:f"}])),
         "the file of a metric is outside the record"),
        (of_config("template", [1]), r"record\.json: trials\.0\.config\.template: Input should be an object"),
        (of_config("template", {"output": 1}), r"trials\.0\.config\.template\.output: Input should be a valid string"),
        (of_config("dataset", {"limit": "many"}), r"trials\.0\.config\.dataset\.limit: Input should be a valid integer"),
        (of_config("model", {"name": ["a"]}), r"trials\.0\.config\.model\.name: Input should be a valid string"),
        (of_config("evaluation", {"generation": {"temperature": "hot"}}), r"evaluation\.generation\.temperature: Input"),
        (of_config("evaluation", {"alpha": 1.5}), r"trials\.0\.config\.evaluation\.alpha: Input should be less than 1"),
        (of_config("evaluation", {"metrics": 3}), r"trials\.0\.config\.evaluation\.metrics: Input should be a valid"),
        (of_config("evaluation", {"metrics": [None]}), r"config\.evaluation\.metrics\.0: must be the name of a metric"),
        (changed(lambda d: d["sweep"]["document"].update(facts={"data_files": [3]})), r"sweep\.document\.facts\.data_files"),
        (changed(lambda d: d["sweep"]["document"].update(held_out_rows=None)), r"sweep\.document\.held_out_rows: Input"),
        (changed(lambda d: next(iter(d["sweep"]["document"]["clusters"].values())).pop()), "not have one cluster for each row"),
        (lambda f: first_set(f).unlink(), r"\.jsonl\.gz: is missing"),
        (lambda f: first_set(f).write_bytes(first_set(f).read_bytes()[:-9]), r"its content does not match the SHA-256 in record\.json"),
        (link_out, "leads out of its folder"),
        (with_set(BOMB), "has more than the [0-9,]+ bytes that are expected"),
        (with_set(BOMB, MAX_SET_BYTES + 1), "at most 1,000,000,000 are read"),
        (with_set(b"not gzip"), "is damaged"),
        (with_set(gzip.compress(b'{"text_input": 1, "output": ""}\n')), r"jsonl\.gz:1: text_input and output must be"),
        (with_set(gzip.compress(b"[]\n")), r"jsonl\.gz:1: is not an example"),
        (with_set(gzip.compress(b"")), "has 0 examples, and record.json says"),
        (changed_results(lambda d: d.update(sweep="other-1")), "belongs to the sweep 'other-1'"),
        (changed_results(lambda d: d["jobs"][0].update(key="k")), "has the key 'k', which no trial has"),
        (changed_results(lambda d: d["jobs"][0]["tuned_model"].update(location="/etc")), "location is outside the record"),
        (changed_results(lambda d: d["jobs"][0]["tuned_model"].update(folder="tuned_models/../../x")), "not in tuned_models/"),
        (changed_results(lambda d: d["jobs"][0].update(reference={"backend": 1})), "backend: Input should be"),
        (changed_results(lambda d: d["jobs"][0].update(snapshots=[[1, 2**70, 0.1, 0.1]])), "a value that a ledger cannot store"),
        (changed_results(lambda d: d["jobs"][0].update(trained_on={"threads": math.inf})), "a value that a ledger cannot store"),
        (changed_results(lambda d: d["answers"][0].update(subject="k")), "answers of 'k', which is not in the plan"),
        (changed_results(lambda d: d["answers"][0]["values"].pop()), r"answers of '\w+': 23 for the 24 rows of the set"),
        (changed_results(lambda d: d["answers"][0].update(asked=LOSSES)), r"answers of '\w+': losses must be numbers"),
        (lambda f: (f / RESULTS).write_bytes(gzip.compress(b"{}")[:-5]), r"results\.json\.gz: is damaged"),
    ],
)  # fmt: skip
def test_what_is_damaged_or_hostile_is_refused_in_words(
    sweep: Frozen, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    """The file is named, nothing outside the folder is read, and no ledger is left behind."""
    portable_files(sweep.ledger, sweep.sweep, tmp_path / "record")
    damage(tmp_path / "record")
    with pytest.raises(RecordError, match=message):
        restored(tmp_path / "record", tmp_path / "again" / "ledger.db")
    assert not list(tmp_path.glob("again/*"))


def test_what_a_later_version_adds_is_ignored(sweep: Frozen, tmp_path: Path) -> None:
    """Unknown keys are left out, at every level of types of our own."""
    portable_files(sweep.ledger, sweep.sweep, tmp_path / "record")
    changed(lambda d: [each.update(later=1) for each in (d, d["sweep"], *d["trials"], *d["examples"].values())])(
        tmp_path / "record"
    )
    changed_results(lambda d: [each.update(later=1) for each in (d, *d["jobs"], *d["answers"])])(tmp_path / "record")
    restored(tmp_path / "record", tmp_path / "again.db")
    with Ledger.open_read_only(tmp_path / "again.db") as ledger:
        assert everything(ledger, sweep.sweep)[4:] == everything(sweep.ledger, sweep.sweep)[4:]


def test_a_ledger_that_is_there_is_not_written_to(sweep: Frozen, tmp_path: Path) -> None:
    """Restoring adds nothing to a project's own ledger."""
    portable_files(sweep.ledger, sweep.sweep, tmp_path / "record")
    before = sweep.ledger.path.read_bytes()
    with pytest.raises(LedgerError, match="exists already"):
        restored(tmp_path / "record", sweep.ledger.path)
    assert sweep.ledger.path.read_bytes() == before


def test_commands_read_a_restored_ledger(
    sweep: Frozen, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`compare` and `status` give what they gave of the first one."""
    portable_files(sweep.ledger, sweep.sweep, tmp_path / "record")
    restored(tmp_path / "record", tmp_path / "again" / "ledger.db")
    monkeypatch.chdir(tmp_path)
    documents = []
    for runs in ("made", "again"):
        for command in ("compare", "status"):
            with pytest.raises(SystemExit) as ended:
                app([command, "--sweep", sweep.sweep.id, f"paths.runs={runs}", "--json"])
            assert ended.value.code in (0, 1)
            documents.append(json.loads(capsys.readouterr().out))
    assert documents[:2] == documents[2:]


def test_rows_come_out_as_they_went_in_whatever_is_in_them(tmp_path: Path) -> None:
    """Texts that look like what is between two texts, quotes, backslashes, line ends and nothing at all."""
    texts = ["", ",", '","', "],[", '"],["', "\\", '\\"', "\n\r\u2028", "zwölf 🙂", "]]", "[["]
    with Ledger(tmp_path / "made" / "ledger.db") as ledger:
        lab = freeze(ledger, rows=texts)
        portable_files(ledger, lab.sweep, tmp_path / "record")
        before = ledger.example_set(lab.trials[0].training)
    restored(tmp_path / "record", tmp_path / "again" / "ledger.db")
    with Ledger.open_read_only(tmp_path / "again" / "ledger.db") as ledger:
        assert ledger.example_set(lab.trials[0].training).examples == before.examples
