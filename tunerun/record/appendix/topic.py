"""A subject on which the questions of several checklists are answered from the record."""

from __future__ import annotations

from dataclasses import dataclass

from tunerun.record.appendix.document import Block


@dataclass(frozen=True)
class Topic:
    """What a record says on one subject.

    Attributes:
        summary: one or a few sentences with numbers: what a checklist's answer quotes.
        blocks: the whole of it.
    """

    title: str
    summary: str
    blocks: tuple[Block, ...]
