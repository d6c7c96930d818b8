"""Which judgements make up the score of an answer, and what score they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tunerun.baselines import is_base_model
from tunerun.examples import Example, as_text
from tunerun.judges.prompt import Judged, Rating
from tunerun.ledger import BaselineRecord, Ledger, SweepRecord, rated_by
from tunerun.metrics.judged_metric import JudgedMetric

TIE = Rating(0.5, "the same text as the base model's answer")
"""The rating of equal answers, for which no judge is asked."""


@dataclass(frozen=True)
class JudgedSubject:
    """A model's answers to a held-out set, which are to be judged.

    Attributes:
        key: of the answers in the ledger. name: for people.
        held_out: digest of the set. asked: how the answers were obtained.
        base: the subject of the untuned base model that it is compared with; None: there is none.
    """

    key: str
    name: str
    held_out: str
    asked: str
    base: str | None


def subjects_of(ledger: Ledger, sweep: SweepRecord) -> list[JudgedSubject]:
    """Return the models of a sweep with every held-out set that they may have answered, each once."""
    baselines = {each.subject: each for each in ledger.baselines(sweep.id)}
    subjects: dict[tuple[str, str, str], JudgedSubject] = {}
    for record in ledger.trials(sweep.id):
        base = base_of([baselines[subject] for subject in record.baselines if subject in baselines])
        named = [(record.key, f"trial {record.number}")]
        named += [(s, f"the baseline {baselines[s].name}") for s in record.baselines if s in baselines]
        for digest in record.held_out.values():
            for key, name in named:
                subjects.setdefault((key, digest, record.asked), JudgedSubject(key, name, digest, record.asked, base))
    return list(subjects.values())


def base_of(baselines: Sequence[BaselineRecord]) -> str | None:
    """Return the subject of the untuned base model among the baselines of a trial; None: it is not among them."""
    return next((each.subject for each in baselines if is_base_model(each.kind)), None)


def judged_rows(
    metric: JudgedMetric, examples: Sequence[Example], answers: Sequence[str], base: Sequence[str] | None
) -> Iterator[tuple[Judged, ...]]:
    """Yield for each row what has to be judged.

    Args:
        metric: whether it compares decides how many judgements a row needs.
        examples, answers: of the same rows.
        base: the answers of the untuned base model, if the metric compares.

    Yields:
        One judgement for a score, two for a comparison, and none where both answers are the same text.
    """
    for place, (example, answer) in enumerate(zip(examples, answers, strict=True)):
        if not metric.compares:
            yield (Judged(as_text(example.input), example.output, answer),)
        elif base is None or answer == base[place]:
            yield ()
        else:
            judged = Judged(as_text(example.input), example.output, answer, base[place])
            yield judged, judged.turned()  # judges favour a position, so both orders are asked (arXiv:2305.17926)


def rating_of(judged: Sequence[Judged], by_item: Mapping[str, Rating]) -> Rating | None:
    """Combine the judgements of a row.

    Args:
        judged: from `judged_rows`; empty where both answers are the same.
        by_item: ratings by `Judged.item`.

    Returns:
        The rating; in a comparison an answer is better only where both orders say so. None: a judgement is missing.
    """
    ratings = [by_item.get(each.item) for each in judged]
    if not judged:
        return TIE
    first = ratings[0]
    if first is None or len(ratings) == 1:
        return first
    second = ratings[1]
    if second is None:
        return None
    if first.score is None or second.score is None:
        return Rating(None, f"A/B: {first.reason} B/A: {second.reason}")
    # Judges favour a position, so a preference that changes with the order is a tie (arXiv:2305.17926).
    turned = 1 - second.score
    score = first.score if first.score == turned and first.score in (0, 1) else 0.5
    return Rating(score, f"A/B: {first.reason} B/A: {second.reason}")


def is_rated(ledger: Ledger, metric: JudgedMetric, subject: JudgedSubject) -> bool:
    """Return whether the ledger has every judgement of a subject's answers."""
    return ledger.answered_at(subject.key, subject.held_out, rated_by(metric.identity, subject.asked)) is not None
