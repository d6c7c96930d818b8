"""The kinds of baseline: what they ask, what they answer, and what their subjects hash."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tunerun.baselines import Baseline, Setting, baselines_of, is_base_model, restored
from tunerun.digest import digest
from tunerun.engine.token_counter import EstimatedCounter
from tunerun.examples import Example
from tunerun.generation import GenerateOptions
from tunerun.job import BaseModelRef, TunedModel
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

MODEL = BaseModelRef("tiny", "folder")
IDENTITY = {"model": "files:1", "chat_format": None, "validation": "v", "backend": {"kind": "scripted", "address": ""}}
LABELS = tuple(Example(f"text {n}", label) for n, label in enumerate(["good", "bad", "bad", "good", "ugly", "bad"]))
OPTIONS = GenerateOptions()


def setting(**changes: object) -> Setting:
    made = Setting(MODEL, IDENTITY, LABELS, LABELS, ("good", "bad"), (0, 2))
    return replace(made, **changes)  # type: ignore[arg-type]


def named(name: str, **changes: object) -> Baseline:
    return next(each for each in baselines_of(setting(**changes)) if each.name == name)


def asked_of(baseline: Baseline, inputs: Sequence[str], reply: str = "x") -> tuple[list[str], list[tuple[str, int]]]:
    """Return the answers, and of each prompt its text and the number of turns before it."""
    prompts: list[tuple[str, int]] = []

    def answer(_model: BaseModelRef | TunedModel, text: str, examples: tuple[Example, ...] = ()) -> str:
        prompts.append((text, len(examples)))
        return reply

    backend = ScriptedBackend(ScriptedService(answers=answer, answers_after=answer))
    asks = baseline.asks(inputs, OPTIONS)
    if isinstance(asks, list):
        return asks, prompts
    return baseline.read(backend.generate(asks.model, asks.inputs, asks.options, asks.examples)), prompts


def test_the_table_has_the_base_model_both_forms_and_the_majority() -> None:
    """The bare base model, each number of examples as turns and as text, and the majority answer, in this order."""
    made = baselines_of(setting(counts=(3, 0, 1)))
    assert [each.name for each in made] == ["base", "base+1", "base+1 text", "base+3", "base+3 text", "majority"]
    assert [is_base_model(each.kind) for each in made] == [True, False, False, False, False, False]
    assert len({each.subject for each in made}) == len(made)
    assert [each.name for each in baselines_of(setting(counts=()))] == ["majority"]


def test_the_base_models_subject_is_the_one_of_earlier_versions() -> None:
    """Its subject hashes the same content, so that its answers in an old ledger are reused."""
    assert named("base").subject == digest(IDENTITY)


def test_examples_are_turns_or_one_text() -> None:
    """As turns they come before the input; as text each is its input, a line break, its output and an empty line."""
    _, prompts = asked_of(named("base"), ["q"])
    assert prompts == [("q", 0)]
    _, prompts = asked_of(named("base+2"), ["q"])
    assert prompts == [("q", 2)]
    _, prompts = asked_of(named("base+2 text"), ["q"])
    assert prompts == [("text 0\ngood\n\ntext 1\nbad\n\nq", 0)]


@pytest.mark.parametrize(
    ("name", "reply", "answer"),
    [
        ("base+2 text", "good\n\ntext 9\nbad", "good"),
        ("base+2 text", "\n\ngood", "good"),
        ("base+2", "good\n\ntext 9\nbad", "good\n\ntext 9\nbad"),
        ("base", "good\n\nand more", "good\n\nand more"),
    ],
)
def test_an_answer_to_a_text_ends_where_the_model_invents_a_question(name: str, reply: str, answer: str) -> None:
    """Behind examples as text, what follows an empty line is not part of the answer; other answers are taken whole."""
    assert asked_of(named(name), ["q"], reply)[0] == [answer]


def test_outputs_with_empty_lines_leave_answers_whole() -> None:
    """Where an example's own output has an empty line, an answer is not cut at one."""
    drawn = (Example("a", "one\n\ntwo"), Example("b", "three"))
    assert asked_of(named("base+2 text", drawn=drawn), ["q"], "x\n\ny")[0] == ["x\n\ny"]


def test_choices_and_losses_are_asked_behind_the_examples_too() -> None:
    """Each way of asking has the examples before the input."""
    prompts: list[tuple[str, int]] = []

    def answer(_model: BaseModelRef | TunedModel, text: str, examples: tuple[Example, ...] = ()) -> str:
        prompts.append((text.rpartition("\n")[2], len(examples)))
        return "bad"

    backend = ScriptedBackend(ScriptedService(answers=answer, answers_after=answer))
    for name in ("base", "base+2", "base+2 text"):
        baseline = named(name)
        assert baseline.choose(backend, ["q"], ["good", "bad"]) == ["bad"]
        assert baseline.losses(backend, [Example("q", "bad")]) == [0.0]
    assert prompts == [("q", 0), ("q", 0), ("q", 2), ("q", 2), ("q", 0), ("q", 0)]


def test_the_majority_answer_asks_no_model() -> None:
    """The most frequent training output is the answer to everything, and no model is asked."""
    majority = named("majority")
    answers, prompts = asked_of(majority, ["a", "b"])
    assert (answers, prompts) == (["bad", "bad"], [])
    assert majority.extra_tokens(EstimatedCounter()) is None
    assert not majority.measures_losses


def test_the_majority_answer_is_offered_where_an_output_repeats() -> None:
    """Outputs that are all different have no majority; of equally frequent ones the first in the alphabet counts."""
    different = tuple(Example(str(n), str(n)) for n in range(9))
    assert "majority" not in [each.name for each in baselines_of(setting(training=different))]
    tied = named("majority", training=LABELS[:4])
    assert asked_of(tied, ["a"])[0] == ["bad"]


def test_a_subject_follows_from_what_can_change_the_answers() -> None:
    """Other examples, another form, base model or held-out set give another subject; equal ones give the same."""
    assert named("base+2").subject == named("base+2").subject
    assert named("base+2").subject != named("base+2", drawn=LABELS[2:]).subject
    assert named("base+2").subject != named("base+2", identity={**IDENTITY, "validation": "w"}).subject
    assert named("majority").subject == named("majority", identity={**IDENTITY, "model": "other"}).subject
    assert named("majority").subject != named("majority", expected=("bad",)).subject


def test_too_few_examples_are_a_problem_of_that_baseline_alone() -> None:
    """A baseline that needs more examples than the training set has is left out, with the reason."""
    made = baselines_of(setting(drawn=LABELS[:3], counts=(0, 2, 8, 9)))
    problems = {each.name: each.problem for each in made}
    assert [name for name, problem in problems.items() if problem] == ["base+8", "base+8 text", "base+9", "base+9 text"]
    assert "has 3 different examples that are not held out" in str(problems["base+8"])
    assert len({each.subject for each in made}) == len(made)


def test_a_frozen_baseline_is_asked_again_as_it_was() -> None:
    """The document of each kind restores a baseline with the same answers."""
    for baseline in baselines_of(setting()):
        document = json.loads(json.dumps(baseline.document()))
        assert restored(baseline.kind, baseline.subject, document) == baseline
    assert restored("of a later version", "s", {"answer": "x"}) is None
    assert restored("base", "s", {}) is None
