"""What differs between two records, by real ledgers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.record.recorded import RATE, TRAINING, VALIDATION, Recorded, written
from tunerun.cli import app, tables
from tunerun.errors import InputError, NotFoundError
from tunerun.job import TemplateText, TrainedOn
from tunerun.provenance import BaseModelFacts, ConfigFile, Environment, Facts, FileFacts
from tunerun.record import open_record
from tunerun.record.difference import RecordDifference, difference
from tunerun.record.difference.rows import RowsDifference

A, B = "support-1a2b3c4d", "support-5e6f7a8b"
FACTS = Facts(
    Environment("3.11.7", "", "Xeon", ("avx2", "amx"), 2, packages={"torch": "2.4.0", "peft": "0.12", "old": "1"}),
    (ConfigFile("experiment/support.yaml", "conf", "seed: 0\nname: support\n"), ConfigFile("a.yaml", "conf", "x: 1\n")),
    (),
    (BaseModelFacts("smollm2-135m", "gguf:x", files=(FileFacts("model.gguf", "a" * 64, 10),)),),
)


def compared(folder: Path, a: Recorded, b: Recorded) -> RecordDifference:
    """The difference of two sweeps, each in a ledger of its own."""
    written(folder / "a", A, a)
    written(folder / "b", B, b)
    with open_record(A, runs=folder / "a") as one, open_record(B, runs=folder / "b") as other:
        return difference(one, other)


def values(diff: RecordDifference, title: str) -> dict[str, tuple[Any, Any, str]]:
    """The values of a section, by name."""
    section = next(each for each in diff.sections if each.title == title)
    return {value.name: (value.a, value.b, value.note) for value in section.values}


def lines(diff: RecordDifference, title: str) -> list[str]:
    """The lines of a section."""
    return list(next(each for each in diff.sections if each.title == title).lines)


def test_the_same_content_is_the_same_in_another_ledger(tmp_path: Path) -> None:
    """Two sweeps of other names with the same trials and results differ in nothing that is recorded."""
    diff = compared(tmp_path, Recorded(facts=FACTS), Recorded(facts=FACTS))
    assert [section.title for section in diff.sections if not section.is_same] == []
    assert diff.key_sentence == "the keys are the same"
    assert diff.to_json()["key"] == {"same": True, "because": []}


def test_values_of_the_config_are_side_by_side_and_marked_where_the_key_has_them(tmp_path: Path) -> None:
    """A learning rate is marked as part of the key; a name is not."""
    diff = compared(tmp_path, Recorded(), Recorded(points=({RATE: 0.002},), name="other"))
    assert values(diff, "config") == {RATE: (0.001, 0.002, "in the key"), "name": ("support", "other", "")}
    assert diff.key_sentence == "the keys differ because of: learning_rate"


def test_rows_are_added_removed_and_changed(tmp_path: Path) -> None:
    """An input with another output is one changed row; counts come first, then the first few rows."""
    changed = [("0", "zero"), *TRAINING[2:], ("50", "51")]
    diff = compared(tmp_path, Recorded(), Recorded(training=changed))
    assert lines(diff, "rows") == [
        "training: 12 rows: 1 added, 1 removed, 1 changed, 10 the same",
        "  ! 0 -> 1 | zero",
        "  - 1 -> 2",
        "  + 50 -> 51",
    ]
    assert diff.key_sentence == "the keys differ because of: training rows"


def test_another_order_of_the_same_rows_is_reported(tmp_path: Path) -> None:
    """Another order is reported, because the key depends on it."""
    diff = compared(tmp_path, Recorded(), Recorded(validation=VALIDATION[::-1]))
    assert lines(diff, "rows") == ["validation: 24 rows: 24 the same in another order"]
    assert diff.key_sentence == "the keys differ because of: validation rows"


def test_a_template_is_a_patch_and_its_rows_are_the_same_rows(tmp_path: Path) -> None:
    """Answers are compared row by row although every input differs."""
    template = TemplateText("Count.\n{{ text_input }}", "{{ output }}")
    diff = compared(tmp_path, Recorded(), Recorded(template=template, right=19))
    assert lines(diff, "template") == [
        "--- A/text_input",
        "+++ B/text_input",
        "@@ -1 +1,2 @@",
        "+Count.",
        " {{ text_input }}",
    ]
    assert lines(diff, "rows")[0] == "training: all 12 rows have another input (by the template) and the same output"
    assert "answers (validation): 23 of 24 equal" in lines(diff, "results")
    assert "template.text_input" not in values(diff, "config")
    reasons = "training rows (by the template), validation rows (by the template)"
    assert diff.key_sentence == f"the keys differ because of: {reasons}"


def test_files_packages_and_the_machine_are_compared(tmp_path: Path) -> None:
    """The difference has patches of YAML files and code, packages, and files of the base model."""
    facts = Facts(
        Environment("3.12.1", "", "Xeon", ("avx2",), 2, packages={"torch": "2.5.0", "peft": "0.12", "new": "3"}),
        (ConfigFile("experiment/support.yaml", "conf", "seed: 1\nname: support\n"), FACTS.config_files[1]),
        (),
        (BaseModelFacts("smollm2-135m", "gguf:x", files=(FileFacts("model.gguf", "b" * 64, 10),)),),
    )
    code = {"commit": "fedcba", "branch": "main", "dirty": True, "changed": ["x"], "diff": "+seed: 1"}
    places = [TrainedOn("cpu", "Xeon", "AVX512", threads) for threads in (2, 4)]
    diff = compared(
        tmp_path,
        Recorded(facts=FACTS, trained_on=places[0]),
        Recorded(facts=facts, document={"code": code}, trained_on=places[1]),
    )
    environment = {name: both[:2] for name, both in values(diff, "environment").items()}
    assert environment == {
        "python": ("3.11.7", "3.12.1"),
        "instructions": ("amx", None),
        "package new": (None, "3"),
        "package old": ("1", None),
        "package torch": ("2.4.0", "2.5.0"),
        "trained on: threads": (2, 4),
    }
    assert values(diff, "base model") == {"file model.gguf": ("a" * 64, "b" * 64, "")}
    assert lines(diff, "YAML files")[3:5] == ["-seed: 0", "+seed: 1"]
    assert values(diff, "code")["commit"][:2] == ("0123456789abcdef", "fedcba")
    assert "+seed: 1" in "\n".join(lines(diff, "code"))
    assert diff.key_sentence == "the keys are the same"


def test_results_compare_answers_losses_and_bits(tmp_path: Path) -> None:
    """Trials with the same key are compared by measures, verdict, answers, losses and adapters."""
    diff = compared(tmp_path, Recorded(), Recorded(right=3, first_loss=2.5, bits="other"))
    results = values(diff, "results")
    assert results["eval/exact_match"][:2] == (20 / 24, 3 / 24)
    assert results["verdict (validation)"][0].startswith("Use point 0")
    assert len(results["adapter"][0]) == len(results["adapter"][1]) == 64
    printed = lines(diff, "results")
    assert printed[0].startswith("training loss: 0 of 15 steps equal; first at step 1: 2 | 2.5; largest difference 0.5")
    assert printed[1:5] == ["answers (validation): 7 of 24 equal", "  103 (expected 104)", "    A 104", "    B ?"]
    assert diff.to_json()["sections"]["results"]["trials"][0]["answers"]["validation"]["equal"] == 7


def test_what_is_not_recorded_is_not_called_the_same(tmp_path: Path) -> None:
    """Facts that an earlier version did not record are called not recorded."""
    diff = compared(tmp_path, Recorded(facts=FACTS), Recorded())
    sections = {section.title: section for section in diff.sections}
    assert sections["environment"].summary == "environment: not recorded in B"
    assert sections["YAML files"].to_json()["same"] is None
    assert sections["base model"].summary == "base model: the same (its files: not recorded in B)"


def test_results_of_many_trials_are_summed_and_the_first_few_shown(tmp_path: Path) -> None:
    """Totals of answers and adapters come first, then three trials; `--json` has every trial."""
    points = [{RATE: 0.001 * (n + 1)} for n in range(5)]
    diff = compared(tmp_path, Recorded(points=points), Recorded(points=points, right=19, bits="other"))
    printed = lines(diff, "results")
    assert printed[:3] == [
        "answers (validation), all trials: 115 of 120 equal",
        "adapters: 0 of 5 pairs have the same bits",
        "trial 0:",
    ]
    assert printed[-1] == "... and 2 more trials with other answers or losses; --json has all of them"
    assert len(diff.to_json()["sections"]["results"]["trials"]) == 5


def test_a_metric_that_is_not_known_here_leaves_the_rest_of_the_results(tmp_path: Path) -> None:
    """Answers and losses are compared, and the verdict says why it cannot be computed."""
    diff = compared(tmp_path, Recorded(metric="of_a_later_version"), Recorded(right=12))
    results = values(diff, "results")
    assert "cannot be computed" in results["verdict (validation)"][0]
    assert results["eval/exact_match"][:2] == (None, 0.5)
    assert "answers (validation): 16 of 24 equal" in lines(diff, "results")


def test_trials_are_paired_by_key_then_by_point_and_the_others_are_listed(tmp_path: Path) -> None:
    """Trials with the same key are paired wherever they are in the sweeps."""
    a = Recorded(points=[{RATE: 0.001}, {RATE: 0.002}, {RATE: 0.003}])
    b = Recorded(points=[{RATE: 0.002}, {RATE: 0.001}, {RATE: 0.004}, {RATE: 0.005}])
    diff = compared(tmp_path, a, b)
    assert [(pair.a.number, pair.b.number) for pair in diff.pairing.pairs] == [(0, 1), (1, 0)]
    assert lines(diff, "trials") == [
        "only in A: trial 2 (learning_rate 0.003)",
        "only in B: trial 2 (learning_rate 0.004), trial 3 (learning_rate 0.005)",
    ]


def test_values_that_differ_in_some_trials_name_these(tmp_path: Path) -> None:
    """A change that several trials share is one line with their names."""
    rates = [{RATE: 0.001}, {RATE: 0.002, "seed": 1}]
    diff = compared(tmp_path, Recorded(points=rates), Recorded(points=rates, training=TRAINING[:8]))
    assert "training: 12 and 8 rows: 4 removed, 8 the same" in lines(diff, "rows")
    other = compared(tmp_path / "other", Recorded(points=rates), Recorded(points=[rates[0], {RATE: 0.002, "seed": 2}]))
    section = next(each for each in other.sections if each.title == "config")
    assert [(value.name, value.where) for value in section.values] == [("seed", "trial 1")]
    assert other.key_sentence == "the keys of 1 of 2 trials differ because of: seed"


def test_a_trial_and_a_sweep_of_several_cannot_be_compared(tmp_path: Path) -> None:
    """The message says what can be compared; a sweep with one trial is compared like a trial."""
    trials = written(tmp_path / "runs", A, Recorded(points=[{RATE: 0.001}, {RATE: 0.002}]))
    written(tmp_path / "runs", B, Recorded(name="single"))
    name = f"tunedModels/t-{trials[1].key[:8]}"
    with (
        open_record(name, runs=tmp_path / "runs") as trial,
        open_record(A, runs=tmp_path / "runs") as sweep,
        pytest.raises(InputError, match=r"is one trial, and sweep support-1a2b3c4d in .* has 2: compare"),
    ):
        difference(trial, sweep)
    with open_record(name, runs=tmp_path / "runs") as trial, open_record(B, runs=tmp_path / "runs") as sweep:
        assert difference(trial, sweep).key_sentence == "the keys differ because of: learning_rate"


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (40, {f"{RATE} (in the key)", "A 0.001", "B 0.002"}),
        (200, {f"{RATE} 0.001 0.002 in the key"}),
    ],
)
def test_the_command_prints_every_section_and_ends_with_the_key(
    tmp_path: Path, width: int, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values are in columns if there is room; control characters of a row are escaped; the exit code is 0."""
    monkeypatch.setattr(tables.out, "width", width)
    written(tmp_path, A, Recorded())
    written(tmp_path, B, Recorded(points=({RATE: 0.002},), training=[("\x1b[31m", "[bold]"), *TRAINING], name="b"))
    finished = CliRunner().invoke(app, ["diff", A, B, "--runs", str(tmp_path)])
    assert finished.exit_code == 0, finished.stderr
    printed = finished.stdout.splitlines()
    assert printed[-1] == "the keys differ because of: training rows, learning_rate"
    assert "template: the same" in printed
    assert "\x1b[31m" not in finished.stdout
    assert "    + \\x1b[31m -> [bold]" in printed
    assert expected <= {" ".join(line.split()) for line in printed}


def test_the_command_prints_one_document(tmp_path: Path) -> None:
    """`--json` has every section, and a wrong reference is an error with exit code 2."""
    written(tmp_path, A, Recorded())
    document = json.loads(CliRunner().invoke(app, ["diff", A, A, "--runs", str(tmp_path), "--json"]).stdout)
    assert document["pairs"] == [{"a": 0, "b": 0, "same_key": True}]
    assert document["sections"]["rows"] == {"same": True, "values": [], "sets": []}
    refused = CliRunner().invoke(app, ["diff", A, "nothing", "--runs", str(tmp_path)])
    assert isinstance(refused.exception, NotFoundError)
    assert refused.exception.exit_code == 2


_ROWS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz")), max_size=12)


@given(_ROWS, _ROWS)
def test_every_row_is_counted_once(a: list[tuple[str, str]], b: list[tuple[str, str]]) -> None:
    """Same, removed and changed rows are all of A; same, added and changed rows are all of B."""
    diff = RowsDifference.of(a, b)
    if not diff.is_rendered:
        assert diff.same + len(diff.removed) + len(diff.changed) == len(a)
        assert diff.same + len(diff.added) + len(diff.changed) == len(b)
        assert not {text for text, _ in diff.added} & {text for text, _ in diff.removed}
    back = RowsDifference.of(b, a)
    assert (len(back.added), len(back.removed), back.same) == (len(diff.removed), len(diff.added), diff.same)
