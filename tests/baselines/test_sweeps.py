"""Baselines of whole sweeps: planned, frozen, asked once, and paid for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.experiments import HELD_OUT, planned, write_rows
from tests.scripted import run_on
from tunerun.cli.plan_tables import plan_table
from tunerun.dataset import TokenLimit, load_examples
from tunerun.errors import InputError, LimitError, NoTurnsError
from tunerun.examples import Example, Input
from tunerun.generation import GenerateOptions
from tunerun.job import BaseModelRef, TunedModel
from tunerun.ledger import Ledger
from tunerun.planning import Plan
from tunerun.planning.baselines import Group, planned_baselines
from tunerun.schema import DatasetSection, HeldOut, Template
from tunerun.template import PromptTemplate
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

RATE = "hyperparameters.learning_rate=0.001,0.002"
TEMPLATES = "template.text_input='{{ text_input }}','Q: {{ text_input }}'"
BASE = ["base", "base+4", "base+4 text"]


def names(plan: Plan) -> list[str]:
    return [baseline.name for baseline in plan.baselines]


def service() -> ScriptedService:
    """A service whose tuned models are right, and whose base model is where it sees examples as turns."""

    def bare(model: BaseModelRef | TunedModel, text: str) -> str:
        return str(int(text.split()[-1]) + 1) if isinstance(model, TunedModel) else "?"

    def behind_turns(_model: BaseModelRef | TunedModel, text: str, _examples: tuple[Example, ...]) -> str:
        return str(int(text) + 1)

    return ScriptedService(answers=bare, answers_after=behind_turns)


def test_replicates_share_their_baselines(tmp_path: Path) -> None:
    """Trials of all seeds and settings are compared with the same three baselines."""
    plan = planned(tmp_path, RATE, "sweep.replicates=3")
    assert names(plan) == BASE
    assert {trial.baselines for trial in plan.trials} == {tuple(baseline.subject for baseline in plan.baselines)}
    assert all(baseline.trials == tuple(range(6)) for baseline in plan.baselines)


def test_limits_share_their_baselines(tmp_path: Path) -> None:
    """A learning curve has one draw: that of its largest training set, whatever order the limits have."""
    up, down = (
        planned(tmp_path, f"dataset.limit={limits}", "hyperparameters.batch_size=2") for limits in ("2,20", "20,2")
    )
    assert names(up) == BASE
    assert {baseline.subject for baseline in up.baselines} == {baseline.subject for baseline in down.baselines}


def test_examples_are_held_out_of_no_trial(tmp_path: Path) -> None:
    """Where trials differ in their test set, no example is a row of any of them."""
    drawn = next(each.baseline.document()["examples"] for each in planned(tmp_path).baselines if each.name == "base+4")
    tests = [write_rows(tmp_path / f"test-{n}.jsonl", [row]) for n, row in enumerate([HELD_OUT[0], drawn[0]])]
    plan = planned(tmp_path, f"dataset.test.path={tests[0]},{tests[1]}", "hyperparameters.batch_size=2")
    (few_shot,) = [each for each in plan.baselines if each.name == "base+4"]
    assert few_shot.problem is None
    assert drawn[0] not in few_shot.baseline.document()["examples"]


def test_each_template_has_its_own_baselines(tmp_path: Path) -> None:
    """Two templates have two base models to beat, each with examples in its own words, named by their number."""
    plan = planned(tmp_path, TEMPLATES, "seed=0,1")
    assert names(plan) == [f"{name}-{group}" for group in (0, 1) for name in BASE]
    assert [baseline.trials for baseline in plan.baselines] == [(0, 1)] * 3 + [(2, 3)] * 3
    documents = {baseline.name: baseline.record().document for baseline in plan.baselines}
    outputs = [[example["output"] for example in documents[f"base+4-{group}"]["examples"]] for group in (0, 1)]
    assert outputs[0] == outputs[1]


def test_a_majority_that_two_templates_share_is_one(tmp_path: Path) -> None:
    """Inputs rendered in two ways have the same answers, so the majority answer is one baseline of all trials."""
    rows = [{"text_input": str(n), "output": "even" if n % 3 else "odd"} for n in range(30)]
    labels = [f"dataset.path={write_rows(tmp_path / 'labels.jsonl', rows)}"]
    labels += [
        f"dataset.validation.path={write_rows(tmp_path / 'held.jsonl', [{'text_input': '99', 'output': 'odd'}])}"
    ]
    plan = planned(tmp_path, *labels, TEMPLATES)
    assert names(plan) == ["base-0", "base+4-0", "base+4 text-0", "majority", *(f"{name}-1" for name in BASE)]
    majority = next(baseline for baseline in plan.baselines if baseline.name == "majority")
    assert (majority.trials, majority.tokens) == ((0, 1), 0)
    assert majority.record().document["answer"] == "even"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("evaluation.baselines.examples=[0]", ["base"]),
        ("evaluation.baselines.examples=[2]", ["base+2", "base+2 text"]),
        ("evaluation.baselines.examples=[]", []),
        ("evaluation=none", ["base"]),
        ("dataset.validation.path=null", ["base"]),
    ],
)
def test_the_config_says_which_baselines_there_are(tmp_path: Path, more: str, expected: list[str]) -> None:
    """Without answers to compare, the base model remains for its validation loss."""
    assert names(planned(tmp_path, more)) == expected


@pytest.mark.parametrize("examples", ["[0, 0]", "[-1]"])
def test_numbers_of_examples_are_checked(tmp_path: Path, examples: str) -> None:
    """A number must not be repeated or negative."""
    with pytest.raises(InputError, match=r"evaluation\.baselines\.examples"):
        planned(tmp_path, f"evaluation.baselines.examples={examples}")


def test_a_run_freezes_its_baselines_and_asks_each_once(tmp_path: Path) -> None:
    """Every baseline answers every held-out row once, under its subject, whatever the number of trials is."""
    scripted = service()
    plan = planned(tmp_path, RATE, "sweep.replicates=2")
    result = run_on(scripted, plan)
    assert scripted.generated == len(HELD_OUT) * (len(plan.trials) + len(BASE))
    with Ledger.open_read_only(plan.ledger_path) as ledger:
        records = ledger.baselines(plan.sweep)
        trial = ledger.trials(plan.sweep)[0]
        answers = [ledger.answers(subject, trial.held_out["validation"], trial.asked) for subject in trial.baselines]
    assert [record.name for record in records] == BASE
    assert tuple(record.subject for record in records) == trial.baselines
    assert [answer.texts[0] if answer else None for answer in answers] == ["?", "102", "?"]
    assert result.verdict.is_complete


def test_sampled_answers_of_a_baseline_do_not_depend_on_the_trial(tmp_path: Path) -> None:
    """A tuned model samples with its trial's seed, a baseline with that of the split, which all trials share."""
    seeds: dict[bool, set[int]] = {True: set(), False: set()}

    class Remembers(ScriptedBackend):
        def generate(
            self,
            model: BaseModelRef | TunedModel,
            inputs: Sequence[Input],
            options: GenerateOptions,
            examples: Sequence[Example] = (),
        ) -> list[str]:
            seeds[isinstance(model, TunedModel)].add(options.seed)
            return super().generate(model, inputs, options, examples)

    sampled = ("evaluation.generation.temperature=1", "dataset.split_seed=9", "seed=3,4")
    run_on(service(), planned(tmp_path, *sampled), Remembers)
    assert seeds == {True: {3, 4}, False: {9}}


def test_a_later_sweep_asks_nothing_again(tmp_path: Path) -> None:
    """Another sweep of the same base model, template and held-out set finds the answers, and its plan says so."""
    scripted = service()
    run_on(scripted, planned(tmp_path))
    before = scripted.generated
    later = planned(tmp_path, "hyperparameters.epoch_count=3,4")
    assert [(baseline.tokens, baseline.is_answered) for baseline in later.baselines] == [(0, True)] * 3
    run_on(scripted, later)
    assert scripted.generated == before + 2 * len(HELD_OUT)


def test_more_examples_on_a_finished_sweep_train_nothing_again(tmp_path: Path) -> None:
    """A further baseline is asked; finished trials and answered baselines stay as they are."""
    scripted = service()
    run_on(scripted, planned(tmp_path))
    before = (len(scripted.submitted), scripted.generated)
    plan = planned(tmp_path, "evaluation.baselines.examples=[0,4,8]")
    assert [baseline.is_answered for baseline in plan.baselines] == [True, True, True, False, False]
    run_on(scripted, plan)
    assert (len(scripted.submitted), scripted.generated) == (before[0], before[1] + 2 * len(HELD_OUT))


def test_a_baseline_that_could_not_be_asked_is_asked_by_the_next_run(tmp_path: Path) -> None:
    """An answer that a service lacks costs that baseline alone, and the next run asks for it."""
    scripted = service()
    working = scripted.answers_after

    def broken(*_: object) -> str:
        raise LookupError("too long")

    scripted.answers_after = broken
    plan = planned(tmp_path)
    run_on(scripted, plan)
    with Ledger.open_read_only(plan.ledger_path) as ledger:
        trial = ledger.trials(plan.sweep)[0]
        held_out = trial.held_out["validation"]
        answered = [ledger.answered_at(subject, held_out, trial.asked) is not None for subject in trial.baselines]
    assert answered == [True, False, True]
    scripted.answers_after = working
    run_on(scripted, planned(tmp_path))
    with Ledger.open_read_only(plan.ledger_path) as ledger:
        assert ledger.answered_at(trial.baselines[1], held_out, trial.asked) is not None


def test_too_few_training_rows_leave_the_baseline_out(tmp_path: Path) -> None:
    """The plan names the omitted baseline and the reason; it is frozen with the reason, and never asked."""
    scripted = service()
    plan = planned(tmp_path, "dataset.limit=3", "hyperparameters.batch_size=3")
    (warning,) = [text for text in plan.warnings if "base+4 is omitted" in text]
    assert re.search(r"has 3 different examples .* asks for 4", warning)
    run_on(scripted, plan)
    assert scripted.generated == 2 * len(HELD_OUT)
    with Ledger.open_read_only(plan.ledger_path) as ledger:
        problems = [record.document["problem"] for record in ledger.baselines(plan.sweep)]
    assert [problem is None for problem in problems] == [True, False, False]


def test_tokens_of_baselines_count_toward_the_budget(tmp_path: Path) -> None:
    """The tokens of prompts and answers are part of `budget.max_tokens`, before a run and when it continues."""
    plan = planned(tmp_path)
    training, of_baselines = plan.cost(plan.trials, at_most=True).tokens, sum(b.tokens for b in plan.baselines)
    assert plan.baseline_tokens == of_baselines > 0
    factor = 1 if plan.tokens_exact else 2
    enough = training + of_baselines * factor
    with pytest.raises(LimitError, match=r"budget\.max_tokens"):
        planned(tmp_path, f"budget.max_tokens={enough - 1}").check()
    within = planned(tmp_path, f"budget.max_tokens={enough}")
    within.check()
    run_on(service(), within)
    again = planned(tmp_path, f"budget.max_tokens={enough}")
    assert again.baseline_tokens == of_baselines
    again.check()


def test_the_plan_shows_its_baselines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The printed plan names the baselines and their tokens; its JSON has one entry each."""
    plan = planned(tmp_path)
    plan_table(plan)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Baselines: base, base+4, base+4 text; {plan.baseline_tokens:,} tokens of prompts and answers" in printed
    assert [entry["name"] for entry in plan.to_json()["baselines"]] == BASE
    assert {key for entry in plan.to_json()["baselines"] for key in entry} == {
        "name", "kind", "trials", "tokens", "done", "problem"
    }  # fmt: skip


class ACharacterATurn:
    """Counts a token for each character, and two for each turn."""

    exact = True

    def count(self, example: Example) -> int:
        return self.count_input(example.text_input) + len(example.output)

    def count_all(self, examples: Sequence[Example]) -> list[int]:
        return [self.count(example) for example in examples]

    def count_input(self, asked: Input, examples: Sequence[Example] = ()) -> int:
        if len(examples) > 2:
            raise NoTurnsError("three turns are too many")
        return len(str(asked)) + sum(2 + self.count(example) for example in examples)

    def control_tokens_in(self, _text: str) -> list[str]:
        return []


def test_prompts_that_do_not_fit_leave_their_baseline_out(tmp_path: Path) -> None:
    """The plan finds prompts longer than the base model takes, and chat formats without room for turns."""
    rows = write_rows(tmp_path / "rows.jsonl", [{"text_input": f"row {n}", "output": "yes"} for n in range(9)])
    held = write_rows(
        tmp_path / "held.jsonl", [{"text_input": "short", "output": "no"}, {"text_input": "x" * 20, "output": "no"}]
    )
    dataset = DatasetSection(path=str(rows), validation=HeldOut(path=str(held)))
    loaded = load_examples(
        dataset, PromptTemplate(Template()), max_input_characters=None, max_output_characters=None, draws=4
    )
    counter = ACharacterATurn()
    limit = TokenLimit(50, exact=True, count_all=counter.count_all)
    group = Group(BaseModelRef("tiny", "folder"), {"model": "files:1"}, loaded, counter, limit)
    group.add(0, loaded, (0, 1, 2, 3), ("asked",))
    by_name = {baseline.name: baseline for baseline in planned_baselines([group], set())}
    problems = {name: baseline.problem for name, baseline in by_name.items()}
    assert [name for name, problem in problems.items() if problem is None] == [
        "base",
        "base+1",
        "base+1 text",
        "base+2",
        "base+2 text",
        "majority",
    ]
    assert problems["base+3"] == "three turns are too many"
    assert "its longest prompt and answer have" in str(problems["base+3 text"])
    assert by_name["base"].tokens == len("short") + 20 + 2 * len("no")
    assert by_name["base+1"].tokens == by_name["base"].tokens + 2 * (2 + len("row 1") + len("yes"))


def test_losses_and_choices_are_asked_of_baselines_too(tmp_path: Path) -> None:
    """A metric of losses asks every baseline that has them; choices are asked behind the same examples."""
    rows = [{"text_input": str(n), "output": "even" if n % 3 else "odd"} for n in range(30)]
    held = [{"text_input": "98", "output": "even"}, {"text_input": "99", "output": "odd"}]
    made = planned(
        tmp_path,
        f"dataset.path={write_rows(tmp_path / 'labels.jsonl', rows)}",
        f"dataset.validation.path={write_rows(tmp_path / 'held.jsonl', held)}",
        "evaluation.metrics=[exact_match, answer_loss]",
        "evaluation.choices=auto",
    )
    script = ScriptedService(answers=lambda *_: "?", answers_after=lambda *_: "odd")
    run_on(script, made)
    with Ledger.open_read_only(made.ledger_path) as ledger:
        answered = ledger.answers_of_sweep(made.sweep)
    held_out = made.trials[0].held_out["validation"].digest
    values = {
        each.name: [
            answered[each.subject, held_out, method].values
            for method in made.trials[0].methods
            if (each.subject, held_out, method) in answered
        ]
        for each in made.baselines
    }
    assert values == {
        "base": [("even", "even"), (1.0, 1.0)],
        "base+4": [("odd", "odd"), (1.0, 0.0)],
        "base+4 text": [("even", "even"), (1.0, 1.0)],
        "majority": [("even", "even")],
    }
