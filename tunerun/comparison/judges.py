"""Notes of a comparison about its judges: which they are, how well they agree with people, what is missing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from tunerun.comparison import numbers
from tunerun.comparison.sentences import listed_words
from tunerun.judges import prompt
from tunerun.judges.prompt import Rating
from tunerun.judges.same_model import is_same_model, same
from tunerun.ledger import Ledger, TrialRecord
from tunerun.metrics import Metric, Unit
from tunerun.metrics.judged_metric import JudgedMetric
from tunerun.stored import section

MOST_NAMED = 5
"""Maximum number of models without judgements that are named one by one."""


def identities_of(metrics: Sequence[Metric], document: Mapping[str, Any]) -> dict[str, str]:
    """Return the identity of each judge by its metric's name.

    An identity contains the prompt's version. The frozen one is used, so that a later version of this program still
    finds the judgements that an earlier one paid for.

    Args:
        document: of a sweep; empty: the judges as they are now.
    """
    frozen = section(document, "judges")
    judged = [metric for metric in metrics if isinstance(metric, JudgedMetric)]
    return {each.name: str(section(frozen, each.name).get("identity") or each.identity) for each in judged}


def scores_of(texts: Sequence[str]) -> list[float]:
    """Return the scores in a judge's replies about a subject's answers; NaN where no score could be read."""
    ratings = (Rating.of_text(text).score for text in texts)
    return [float("nan") if score is None else score for score in ratings]


def notes(
    metric: JudgedMetric,
    ledger: Ledger,
    frozen: Mapping[str, Any],
    records: Sequence[TrialRecord],
    *,
    unreadable: int,
    rows: int,
    unjudged: Collection[str],
) -> Iterator[str]:
    """Yield one sentence for each fact that a reader of a judge's scores needs.

    Args:
        frozen: what the sweep's document says about this judge; empty: it was not frozen with the sweep.
        records: trials whose models it judges.
        unreadable: number of rows for which some model has no readable judgement. rows: of the held-out set.
        unjudged: names of models that have answered and are not judged yet.
    """
    # What was frozen with the sweep, because a later version's prompt is not the one that made these scores.
    version = str(frozen.get("prompt", prompt.VERSION)), str(frozen.get("prompt_sha256", prompt.PROMPT_DIGEST))[:12]
    scale = "" if metric.compares else f", scale {metric.bounds[0]} to {metric.bounds[1]}"
    named = f"{metric.name}: the judge is {metric.model} (prompt {version[0]}, sha256 {version[1]}{scale})"
    yield f"{named}; {_agreement(metric, ledger, frozen)}."
    yield from self_preference(metric, records)
    if unreadable:
        yield (
            f"{metric.name}: {numbers.counted(unreadable, 'held-out row')} of {rows:,} left out for every model: the "
            "judge gave no readable score for some answer to them, twice."
        )
    if unjudged:
        few = len(unjudged) <= MOST_NAMED
        which = listed_words(sorted(unjudged)) if few else f"{len(unjudged)} models"
        advice = (
            "they are not in the record" if ledger.is_restored else "run the same command again, or tunerun compare"
        )
        yield f"{metric.name}: the judge's scores of {which} are missing; {advice}."


def _agreement(metric: JudgedMetric, ledger: Ledger, frozen: Mapping[str, Any]) -> str:
    """How well a judge agrees with people, in words."""
    # By identity and not by name: the agreement was measured with one prompt, model, rubric and scale.
    identity = str(frozen.get("identity") or metric.identity)
    agreements = ledger.agreements([identity])
    sample = str(frozen.get("sample") or "")
    agreement = agreements.get((identity, sample)) or (next(iter(agreements.values()), None) if not frozen else None)
    if agreement is None:
        if metric.labelled is not None:
            return "its agreement with the labelled sample is not measured yet"
        how = "" if metric.compares else f"; name a labelled sample in the option examples of {metric.name}"
        return f"WARNING: whether it agrees with people is not known, so its scores prove nothing by themselves{how}"
    unread = f", {agreement['unreadable']} of them unreadable" if agreement.get("unreadable") else ""
    kappa = agreement.get("kappa")
    pairs, answers = int(agreement["pairs"]), numbers.counted(int(agreement["rows"]), "answer")
    exact, within = (numbers.measure(float(agreement[name]), Unit.SHARE, pairs) for name in ("exact", "within_one"))
    shares = f"of {answers} that people scored{unread} it scored {exact} the same and {within} within 1; "
    if kappa is None:
        return f"{shares}weighted kappa is not defined, because one side gave the same score to every answer"
    interval = "" if agreement.get("low") is None else f" ({agreement['low']:.2f} to {agreement['high']:.2f})"
    return f"{shares}quadratically weighted kappa {kappa:.2f}{interval}"


def self_preference(metric: JudgedMetric, records: Sequence[TrialRecord]) -> Iterator[str]:
    """Yield a warning for each base model that is the judge itself."""
    # Models prefer their own answers (arXiv:2404.13076); a service may call the same model by its source's name.
    for name in dict.fromkeys(record.settings.model for record in records):
        source = next(str(section(r.config, "model").get("source", "")) for r in records if r.settings.model == name)
        if is_same_model(metric.model, name, source):
            yield f"{metric.name}: {same(metric.model, name)}."
