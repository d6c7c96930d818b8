"""The judge calls of a plan: how many, their estimated cost, and notes for the reader of the plan."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunerun.baselines import is_base_model
from tunerun.examples import Example, as_text
from tunerun.judges import prompt
from tunerun.judges.cost import usd_at_most, usd_of
from tunerun.judges.rows import judged_rows
from tunerun.judges.same_model import is_same_model, same
from tunerun.judges.sample import Sample, sample_of
from tunerun.ledger import Ledger, rated_by
from tunerun.metrics import resolve
from tunerun.metrics.judged_metric import JudgedMetric
from tunerun.planning.baselines import PlannedBaseline
from tunerun.planning.trial import Trial

_CHARACTERS_PER_TOKEN = 8
"""Upper bound for the length of an answer, in characters per token: twice that of English text."""


@dataclass(frozen=True)
class PlannedJudge:
    """The planned calls of one judge.

    Attributes:
        metric: the metric that the judge scores.
        calls: maximum number of calls; equal answers are judged once, and judgements in the ledger are reused.
        usd: estimated cost in US dollars; 0 if the price is not known.
        usd_at_most: upper end of the cost in US dollars; 0 if the price is not known.
        sample: answers labelled by people, to measure agreement with the judge; None: there are none.
    """

    metric: JudgedMetric
    calls: int
    usd: float
    usd_at_most: float
    sample: Sample | None

    @property
    def has_unknown_price(self) -> bool:
        """Whether its service may charge for the calls and the price is not configured."""
        return self.calls > 0 and self.metric.has_unknown_price

    def to_json(self) -> dict[str, Any]:
        """Return the planned calls as `plan --json` prints them."""
        return {
            "metric": self.metric.name,
            "model": self.metric.model,
            "base_url": self.metric.base_url,
            "prompt": prompt.VERSION,
            "prompt_sha256": prompt.PROMPT_DIGEST,
            "calls": self.calls,
            "usd": self.usd,
            "usd_at_most": self.usd_at_most,
            "labelled": 0 if self.sample is None else len(self.sample.labels),
        }

    def document(self) -> dict[str, Any]:
        """Return the judge's entry in a sweep's document, with which other versions and machines read its scores."""
        return {
            "model": self.metric.model,
            "identity": self.metric.identity,
            "prompt": str(prompt.VERSION),
            "prompt_sha256": prompt.PROMPT_DIGEST,
            "sample": "" if self.sample is None else self.sample.sha256,
        }


def planned_judges(
    trials: Sequence[Trial], baselines: Sequence[PlannedBaseline], ledger: Path, *, is_repeated: bool = False
) -> tuple[PlannedJudge, ...]:
    """Return the judges of a plan's metrics.

    Args:
        trials: of the plan; not empty.
        baselines: of the plan.
        ledger: path of the ledger, which need not exist.
        is_repeated: whether the plan is a rerun of a record: then no judge is called, and the labelled sample is not
            available.

    Raises:
        InputError: a labelled sample cannot be used.
    """
    metrics = [metric for metric in resolve(trials[0].config.evaluation) if isinstance(metric, JudgedMetric)]
    if not metrics:
        return ()
    if is_repeated:
        return tuple(PlannedJudge(metric, 0, 0.0, 0.0, None) for metric in metrics)
    judges = []
    with ExitStack() as stack:
        opened = stack.enter_context(Ledger.open_read_only(ledger)) if ledger.exists() else None
        for metric in metrics:
            sample = sample_of(metric)
            lengths = list(_lengths(metric, trials, baselines, opened))
            measured = {} if opened is None else opened.agreements([metric.identity])
            # The agreement with a sample is measured once for a judge and the sample's content.
            if sample is not None and (metric.identity, sample.sha256) not in measured:
                items = {each.item: each.characters for each in sample.judged}
                rated = {} if opened is None else opened.ratings(metric.identity, items)
                lengths += [(length, length) for item, length in items.items() if item not in rated]
            usd = sum(usd_of(metric, likely) for likely, _ in lengths)
            usd_limit = sum(usd_at_most(metric, longest) for _, longest in lengths)
            judges.append(PlannedJudge(metric, len(lengths), usd, usd_limit, sample))
    return tuple(judges)


def _lengths(
    metric: JudgedMetric, trials: Sequence[Trial], baselines: Sequence[PlannedBaseline], ledger: Ledger | None
) -> Iterator[tuple[float, float]]:
    """Yield for each call the likely and the maximum number of characters that are judged."""
    by_subject = {each.subject: each for each in baselines}
    # Trials of one key and baselines of several trials are judged once, and so are equal answers.
    counted: set[tuple[str, str, str]] = set()
    counted_items: set[str] = set()
    for trial in trials:
        held_out = trial.validation
        if held_out is None:
            continue
        own = [by_subject[s] for s in trial.baselines if s in by_subject and by_subject[s].problem is None]
        base = next((each.subject for each in own if is_base_model(each.baseline.kind)), None)
        for subject in (trial.key, *(each.subject for each in own)):
            of_key = (subject, held_out.digest, trial.answer_method)
            # A comparison is made with the base model's answers, so those are not compared themselves.
            if of_key in counted or (metric.compares and subject == base):
                continue
            counted.add(of_key)
            answers = of_base = None
            if ledger is not None:
                rated = rated_by(metric.identity, trial.answer_method)
                if ledger.answered_at(subject, held_out.digest, rated) is not None:
                    continue
                answers = ledger.answers(*of_key)
                of_base = None if base is None else ledger.answers(base, held_out.digest, trial.answer_method)
            # Answers of an earlier run are judged as they are; others are assumed to be as long as the expected ones.
            if ledger is None or answers is None or (metric.compares and of_base is None):
                yield from _lengths_without_answers(metric, held_out.examples, trial)
                continue
            rows = judged_rows(metric, held_out.examples, answers.texts, of_base.texts if of_base else None)
            items = {each.item: each.characters for row in rows for each in row if each.item not in counted_items}
            counted_items |= items.keys()
            rated_items = ledger.ratings(metric.identity, items)
            yield from ((length, length) for item, length in items.items() if item not in rated_items)


def _lengths_without_answers(
    metric: JudgedMetric, examples: Sequence[Example], trial: Trial
) -> Iterator[tuple[float, float]]:
    """Yield lengths for answers that do not exist yet: likely as long as the expected ones, at most as allowed."""
    most = trial.config.evaluation.generation.max_output_tokens * _CHARACTERS_PER_TOKEN
    answers = 2 if metric.compares else 1  # a comparison shows two answers, and is made in both orders
    for example in examples:
        fixed = len(as_text(example.input)) + len(example.output)
        yield from [(fixed + answers * len(example.output), fixed + answers * most)] * answers


def notes_on_judges(judges: Sequence[PlannedJudge], trials: Sequence[Trial]) -> Iterator[str]:
    """Yield notes on a plan's judges: what is sent where, missing keys and samples, and self-judging models."""
    for judge in judges:
        metric, key = judge.metric, f"evaluation.metrics.{judge.metric.name}"
        if judge.calls:
            yield (
                f"{key}: inputs, expected answers and answers of held-out examples are sent to the judge "
                f"{metric.model} at {metric.base_url}"
            )
        if judge.calls and metric.key_variable is not None and not os.environ.get(metric.key_variable, "").strip():
            yield (
                f"{key}.key_variable: the environment variable {metric.key_variable} holds no API key, so the judge "
                "cannot be asked; set it, or set key_variable to null where the service takes none"
            )
        if judge.sample is None and not metric.compares and judge.calls:
            yield (
                f"{key}: without a labelled sample it is not known whether the judge agrees with people; name a file "
                "of rows text_input, expected, answer and label in its option examples"
            )
        has_base = all(0 in trial.config.evaluation.baselines.examples for trial in trials)
        if metric.compares and not has_base:
            yield f"{key}: compares with the untuned base model; add 0 to evaluation.baselines.examples"
        names = {trial.config.model.name: trial.config.model for trial in trials}
        for name, model in names.items():
            if is_same_model(metric.model, name, model.source):
                yield f"{key}: {same(metric.model, name)}"


def documents_of(judges: Sequence[PlannedJudge]) -> Mapping[str, Any]:
    """Return the judges' entries in a sweep's document, by the metric's name."""
    return {judge.metric.name: judge.document() for judge in judges}
