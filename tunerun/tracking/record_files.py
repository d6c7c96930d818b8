"""The files of a sweep's record, as artifacts of its own run: what is needed to run it again, anywhere."""

from __future__ import annotations

from tunerun.ledger import Ledger, SweepRecord
from tunerun.tracking.image import Content, Part


def examples_file(digest: str) -> str:
    """Where the record has a set of examples."""
    return f"examples/{digest}.jsonl.gz"


def record_files(_ledger: Ledger, _sweep: SweepRecord, *, with_results: bool) -> dict[str, Part[Content]]:  # noqa: ARG001
    """The files by their names among the artifacts.

    Args:
        with_results: also what came out.
    """
    return {}
