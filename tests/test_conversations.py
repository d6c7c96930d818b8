"""A sweep on conversations, from the plan to the record: what is asked, kept, compared and shown of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.experiments import overrides
from tests.troubled import run_with
from tunerun import example_json
from tunerun.compose import load
from tunerun.errors import InputError
from tunerun.examples import Conversation, Example, Turn, as_text
from tunerun.job import BaseModelRef, TunedModel
from tunerun.ledger import Ledger
from tunerun.ledger.portable import EXAMPLES, portable_files
from tunerun.ledger.restoring import restored
from tunerun.planning import Plan, plan
from tunerun.record.difference.rows import RowsDifference, rows_of
from tunerun.runner import SweepResult
from tunerun.testing.scripted import ScriptedBackend, ScriptedService
from tunerun.tracking.answers import scored_answers
from tunerun.tracking.run_projection import FrozenSweep

pytestmark = pytest.mark.process

SYSTEM = {"role": "system", "content": "Count on."}


def rows_from(first: int, last: int) -> list[dict[str, Any]]:
    """Two turns a row, of which in every third the first is not learned; numbers of one row are in no other."""
    rows = []
    for n in range(first, last, 10):
        said = [("user", str(n)), ("assistant", str(n + 1)), ("user", "and then?"), ("assistant", str(n + 2))]
        messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in said]
        if n % 3 == 0:
            messages[1]["weight"] = 0
        rows.append({"messages": [SYSTEM, *messages]})
    return rows


def in_files(folder: Path, *more: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    changed = overrides(folder, *more)
    for name, rows in (("rows", rows_from(0, 120)), ("held_out", rows_from(1000, 1060))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return changed


def planned(folder: Path, *more: str) -> Plan:
    return plan(load(in_files(folder, *more)))


@dataclass
class Done:
    plan: Plan
    result: SweepResult
    asked: list[tuple[str, Conversation]]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A sweep whose tuned model reads the whole conversation; the base model repeats the last message."""
    asked: list[tuple[str, Conversation]] = []

    def answers(model: BaseModelRef | TunedModel, conversation: Conversation) -> str:
        asked.append((model.name, conversation))
        last = int(conversation.earlier[-1].output)
        return str(last + 1) if isinstance(model, TunedModel) else conversation.text_input

    made = planned(tmp_path_factory.mktemp("sweep"))
    result = run_with(ScriptedBackend(ScriptedService(answers_conversation=answers)), made)
    return Done(made, result, asked)


@pytest.fixture
def ledger(done: Done) -> Iterator[Ledger]:
    with Ledger.open_read_only(done.plan.ledger_path) as opened:
        yield opened


def test_every_model_is_asked_with_what_is_before_the_last_message(done: Done) -> None:
    """System message and earlier turns go with each held-out input, and examples come between the two."""
    assert done.result.verdict.trials[0].metrics["eval/exact_match"] == 1.0
    expected = Conversation("and then?", "Count on.", (Turn("1000", "1001"),))
    tuned = [asked for name, asked in done.asked if name.startswith("tunedModels/")]
    assert tuned[0] == expected
    behind_turns = next(asked for _, asked in done.asked if len(asked.earlier) > 2)
    assert len(behind_turns.earlier) == 4 * 2 + 1
    assert (behind_turns.system, behind_turns.earlier[-1]) == (expected.system, expected.earlier[0])
    behind_text = next(asked for _, asked in done.asked if "\n\n" in asked.earlier[0].text_input)
    assert behind_text.earlier[0].text_input.endswith("\n\n1000")
    assert behind_text.earlier[0].text_input.count("and then?") == 4


def test_the_ledger_keeps_whole_conversations(done: Done, ledger: Ledger) -> None:
    """What was frozen is what was planned, under the digest that says so."""
    trial = done.plan.trials[0]
    kept = ledger.example_set(trial.training.digest)
    assert kept.examples == trial.training.examples
    assert example_json.digest_of_examples(kept.examples) == trial.training.digest
    assert {turn.is_learned for example in kept.examples for turn in example.earlier} == {True, False}


def test_a_record_can_be_carried_and_restored(done: Done, ledger: Ledger, tmp_path: Path) -> None:
    """The portable form has a line for each example, with its conversation, and gives the same ledger again."""
    sweep = ledger.sweeps()[0]
    portable_files(ledger, sweep, tmp_path / "files")
    digest = done.plan.trials[0].training.digest
    with gzip.open(tmp_path / "files" / EXAMPLES / f"{digest}.jsonl.gz", "rt") as file:
        first = json.loads(file.readline())
    assert first == done.plan.trials[0].training.examples[0].document
    assert restored(tmp_path / "files", tmp_path / "again" / "ledger.db") == sweep.id
    with Ledger.open_read_only(tmp_path / "again" / "ledger.db") as again:
        assert again.example_set(digest).examples == ledger.example_set(digest).examples


def test_tables_show_the_conversation_as_text(ledger: Ledger) -> None:
    """MLflow's table of answers, whose first column says which rows belong together, tells rows apart."""
    sweep = ledger.sweeps()[0]
    trial = ledger.trials(sweep.id)[0]
    shown = scored_answers(ledger, FrozenSweep(ledger, sweep.id), trial.key, trial, "validation")
    assert shown is not None
    assert shown.text_inputs[0] == "system: Count on.\nuser: 1000\nassistant: 1001\nuser: and then?"
    assert len(set(shown.text_inputs)) == len(shown.text_inputs)


def test_a_difference_of_one_turn_is_a_difference_of_rows(done: Done) -> None:
    """Weights, system messages and earlier turns count; a weight of 0 is shown."""
    examples = done.plan.trials[0].training
    before = rows_of(examples)
    first = examples.examples[0]
    assert as_text(first.input).startswith("system: Count on.\nuser: 0\nassistant (weight 0): 1\n")
    learned = Example(first.text_input, first.output, first.system, (Turn("0", "1"),))
    found = RowsDifference.of(before, [(as_text(learned.input), learned.output), *before[1:]])
    assert (found.same, len(found.added), len(found.removed)) == (len(before) - 1, 1, 1)


def test_what_is_said_before_is_in_the_key(tmp_path: Path) -> None:
    """Another system message or another weight of an earlier answer is another trial; the backend's way too."""
    made = planned(tmp_path / "a")
    others = [planned(tmp_path / "b", "template.system='Count down.'"), planned(tmp_path / "a", "template.system=''")]
    (rows := rows_from(0, 120))[0]["messages"][2].pop("weight")
    changed = in_files(tmp_path / "c")
    (tmp_path / "c" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    others.append(plan(load(changed)))
    assert len({one.trials[0].key for one in (made, *others)}) == 4
    assert made.trials[0].ingredients["turns"] == 2
    assert made.trials[0].tokens > others[1].trials[0].tokens


def test_a_backend_that_trains_on_one_turn_refuses_in_the_plan(tmp_path: Path) -> None:
    """Both sets are named, with their counts and what to do, before anything starts."""
    with pytest.raises(InputError) as caught:
        planned(tmp_path, "backend=gemini", "backend.base_url=http://127.0.0.1:9", "model.name=gemini-1.5-flash-001")
    refused = [problem for problem in caught.value.problems if "the backend gemini trains on one input" in problem]
    assert [problem.partition(": ")[2].partition(" have ")[0] for problem in refused] == [
        "12 of 12 training examples",
        "6 of 6 validation examples",
    ]
