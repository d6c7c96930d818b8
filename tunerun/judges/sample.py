"""Answers that people have scored, with which a judge's agreement is measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tunerun.dataset.reading import read_rows
from tunerun.errors import ConfigError, DatasetError
from tunerun.judges.prompt import Judged
from tunerun.metrics.judged_metric import JudgedMetric

_COLUMNS = ("text_input", "expected", "answer", "label")
_MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Sample:
    """A labelled sample.

    Attributes:
        sha256: of the file's bytes.
        labels: a person's score of each answer.
    """

    sha256: str
    judged: tuple[Judged, ...]
    labels: tuple[int, ...]


def sample_of(metric: JudgedMetric) -> Sample | None:
    """Read a judge's labelled sample; None: it has none.

    Raises:
        ConfigError: the file cannot be read.
        DatasetError: rows cannot be used; names each with its line, up to twenty.
    """
    if metric.labelled is None:
        return None
    path, key = Path(metric.labelled), f"evaluation.metrics.{metric.name}.examples"
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror or error}") from error
    low, high = metric.bounds
    judged, labels, problems = [], [], []
    for row in read_rows(path):
        cells = [row.columns.get(name) for name in _COLUMNS]
        if missing := [name for name, cell in zip(_COLUMNS, cells, strict=True) if cell is None]:
            problems.append(f"{key}: {row.place}: lacks {', '.join(missing)}; a row has {', '.join(_COLUMNS)}")
            continue
        text = str(cells[3]).strip()  # a CSV file has texts where a JSONL file has numbers
        label = int(text) if text.removeprefix("-").isdecimal() else None
        if label is None or not low <= label <= high:
            problems.append(f"{key}: {row.place}: label must be a whole number from {low} to {high}")
            continue
        judged.append(Judged(*map(str, cells[:3])))
        labels.append(label)
    if not problems and not judged:
        problems = [f"{key}: {path}: has no rows"]
    if problems:
        raise DatasetError(problems[:_MOST_PROBLEMS])
    return Sample(sha256, tuple(judged), tuple(labels))
