"""The appendix of a sweep: facts by subject, the checklists' questions with their answers, and open questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from tunerun.comparison.numbers import counted
from tunerun.record.appendix import computing, data, measuring, training
from tunerun.record.appendix.checklists import CHECKLISTS, Checklist
from tunerun.record.appendix.document import Appendix, AppendixSection, AppendixTable, Block, Bullets, Paragraph
from tunerun.record.appendix.material import Material
from tunerun.record.appendix.topic import Topic
from tunerun.record.sources import OpenRecord

TOPICS: Mapping[str, Callable[[Material], Topic]] = {
    "data": data.data,
    "outcome": data.outcome,
    "splits": data.splits,
    "leaks": data.leaks,
    "preprocessing": data.preprocessing,
    "exclusions": data.exclusions,
    "base_model": training.base_model,
    "hyperparameters": training.hyperparameters,
    "selection": training.selection,
    "test_set": training.test_set,
    "metrics": measuring.metrics,
    "baselines": measuring.baselines,
    "uncertainty": measuring.uncertainty,
    "results": measuring.results,
    "limits": measuring.limits,
    "compute": computing.compute,
    "environment": computing.environment,
    "code": computing.code,
    "licenses": computing.licenses,
    "rerun": computing.rerun,
}
"""Name of a subject, as checklists name it -> what the record says on it; in the order of the appendix."""


def appendix(record: OpenRecord) -> Appendix:
    """The reproducibility appendix of a sweep.

    Args:
        record: a sweep; of a trial its whole sweep is described.

    Raises:
        ConfigError: the metric that decides is not known to this version, or its file is gone or has changed.
    """
    material = Material(record)
    topics = {name: describe(material) for name, describe in TOPICS.items()}
    numbers = {name: place for place, name in enumerate(topics, start=1)}
    sections = [AppendixSection(f"{numbers[name]}. {topic.title}", topic.blocks) for name, topic in topics.items()]
    open_number = len(sections) + len(CHECKLISTS) + 1
    checklists = [
        _answered(checklist, f"{len(sections) + place}.", topics, numbers, open_number)
        for place, checklist in enumerate(CHECKLISTS, start=1)
    ]
    unanswered = AppendixSection(f"{open_number}. What the record cannot answer", tuple(_open(CHECKLISTS)))
    sweep = record.sweep
    frozen = datetime.fromtimestamp(sweep.created_at, UTC)
    introduction = (
        f"Sweep {sweep.id} of the experiment {sweep.experiment}, planned on {frozen:%Y-%m-%d} (UTC): "
        f"{counted(len(material.trials), 'trial')}. Everything below is from its record; what the record does not hold "
        "is called not recorded or not stated. Questions of checklists are quoted; their answers name the sections "
        "with the details."
    )
    return Appendix(
        f"Reproducibility appendix: {sweep.experiment}",
        sweep.id,
        (Paragraph(introduction),),
        (*sections, *checklists, unanswered),
    )


def _answered(
    checklist: Checklist, number: str, topics: Mapping[str, Topic], numbers: Mapping[str, int], open_number: int
) -> AppendixSection:
    """The questions that the record answers, each with its facts."""
    answered = [question for question in checklist.questions if question.topics]
    count = f"{len(answered)} of {counted(len(checklist.questions), 'question')}"
    blocks: list[Block] = [
        Paragraph(
            f"Source: {checklist.source}. The record answers {count}, some of them in part; section {open_number} has "
            "the others."
        )
    ]
    sections = []
    for question in answered:
        facts = tuple(f"{topics[name].summary} (Section {numbers[name]}.)" for name in question.topics)
        added = (f"For the authors to add: {_lower(question.left)}",) if question.left else ()
        quoted = (Paragraph(f"“{question.text}”"),) if question.text else ()
        sections.append(AppendixSection(f"{question.number} {question.title}", (*quoted, Bullets((*facts, *added)))))
    return AppendixSection(f"{number} {checklist.name}", tuple(blocks), tuple(sections))


def _open(checklists: tuple[Checklist, ...]) -> Iterator[Block]:
    yield Paragraph("These questions are for the authors; a record of runs holds nothing on them.")
    for checklist in checklists:
        rows = tuple((each.number, each.title, each.left) for each in checklist.questions if not each.topics)
        yield AppendixTable((checklist.name, "question", "why"), rows, wrapped=(1, 2))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
