"""The appendix of a sweep: facts by subject, the checklists' questions with their answers, and open questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from tunerun.comparison.numbers import counted
from tunerun.record.appendix import computing, data, measuring, training
from tunerun.record.appendix.checklists import CHECKLISTS, Checklist
from tunerun.record.appendix.document import (
    Appendix,
    AppendixSection,
    AppendixTable,
    Block,
    Bullets,
    Paragraph,
    Topic,
)
from tunerun.record.appendix.material import Material
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
"""Name of a subject, as in `checklists` -> the function that describes it; in the order of the appendix."""


def appendix(record: OpenRecord) -> Appendix:
    """Describe a sweep for the reviewers of a paper.

    Args:
        record: of the sweep; for the record of a trial, its whole sweep is described.

    Raises:
        ConfigError: this version does not know the metric that decides, or the metric's file is missing or has changed.
    """
    # Each subject is described once: the questions of two checklists quote the same summary and number.
    material = Material(record)
    topics = {name: describe(material) for name, describe in TOPICS.items()}
    numbers = {name: place for place, name in enumerate(topics, start=1)}
    sections = [AppendixSection(f"{numbers[name]}. {topic.title}", topic.blocks) for name, topic in topics.items()]
    # Before the sections of the checklists are made, because each of them refers to the last one.
    open_number = len(sections) + len(CHECKLISTS) + 1
    answered = [
        _answered(checklist, f"{len(sections) + place}.", topics, numbers, open_number)
        for place, checklist in enumerate(CHECKLISTS, start=1)
    ]
    open_blocks: list[Block] = [Paragraph("These questions are for the authors; a record of runs cannot answer them.")]
    for checklist in CHECKLISTS:
        rows = tuple((each.number, each.title, each.left) for each in checklist.questions if not each.topics)
        open_blocks.append(AppendixTable((checklist.name, "question", "why"), rows, wrapped=(1, 2)))
    unanswered = AppendixSection(f"{open_number}. What the record cannot answer", tuple(open_blocks))
    sweep = record.sweep
    introduction = (
        f"Sweep {sweep.id} of the experiment {sweep.experiment}, planned on "
        f"{datetime.fromtimestamp(sweep.created_at, UTC):%Y-%m-%d} (UTC): {counted(len(material.trials), 'trial')}. "
        "Everything below is from its record; what it does not contain is called not recorded or not stated. "
        "Questions of checklists are quoted; their answers name the sections with the details."
    )
    return Appendix(
        f"Reproducibility appendix: {sweep.experiment}",
        sweep.id,
        (Paragraph(introduction),),
        (*sections, *answered, unanswered),
    )


def _answered(
    checklist: Checklist, number: str, topics: Mapping[str, Topic], numbers: Mapping[str, int], open_number: int
) -> AppendixSection:
    """The section of a checklist: the questions that the record answers, each with its facts.

    Args:
        checklist: with all of its questions.
        number: of the section.
        topics: what the record says on each subject.
        numbers: numbers of the subjects' sections.
        open_number: number of the section with the questions that no record can answer.
    """
    answered = [question for question in checklist.questions if question.topics]
    count = f"{len(answered)} of {counted(len(checklist.questions), 'question')}"
    source = Paragraph(
        f"Source: {checklist.source}. The record answers {count}, some of them in part; section {open_number} has the "
        "others."
    )
    sections = []
    for question in answered:
        lines = [f"{topics[name].summary} (Section {numbers[name]}.)" for name in question.topics]
        if question.left:
            # An answer in part must not look like a whole one.
            lines.append(f"For the authors to add: {question.left[:1].lower()}{question.left[1:]}")
        quoted = (Paragraph(f"“{question.text}”"),) if question.text else ()
        sections.append(AppendixSection(f"{question.number} {question.title}", (*quoted, Bullets(tuple(lines)))))
    return AppendixSection(f"{number} {checklist.name}", (source,), tuple(sections))
