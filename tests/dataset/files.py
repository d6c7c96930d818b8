"""Files of rows for tests, and the examples that they give."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tunerun.dataset import LoadedDataset, TokenLimit, load_examples
from tunerun.errors import DatasetError
from tunerun.schema import DatasetSection, Template
from tunerun.template import PromptTemplate


def numbers(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows of a number and the next one."""
    return [{"text_input": str(n), "output": str(n + 1)} for n in range(start, start + count)]


def written(file: Path, rows: Iterable[Any]) -> str:
    """Write one row a line, and return the file's path as a config has it."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def load(
    path: str | Path,
    *,
    template: Template | None = None,
    limits: tuple[int | None, int | None] = (None, None),
    tokens: TokenLimit | None = None,
    draws: int = 0,
    **settings: Any,
) -> LoadedDataset:
    """Return the examples of a file; `settings` are those of the dataset's section."""
    return load_examples(
        DatasetSection(path=str(path), **settings),
        PromptTemplate(template or Template()),
        max_input_characters=limits[0],
        max_output_characters=limits[1],
        tokens=tokens,
        draws=draws,
    )


def problems_of(path: str | Path, **settings: Any) -> list[str]:
    """Return the problems for which a file is refused; arguments as `load`."""
    with pytest.raises(DatasetError, match="; ") as refused:
        load(path, **settings)
    return list(refused.value.problems)
