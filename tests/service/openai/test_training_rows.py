"""The rows of a fine-tuning file are read in parts, and invalid ones are named by their lines."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pytest

from tests.engine.tiny_model import EXAMPLES
from tests.service.openai.training import jsonl, messages
from tunerun.examples import Example, Turn
from tunerun.service.core.problems import ServiceError
from tunerun.service.openai import training_rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


LONG = tuple(Example(f"{number} " + "x" * 50_000, "y") for number in range(50))
"""Rows of a file that is read in three parts."""


def test_rows_become_examples_in_their_order(path: Path) -> None:
    """Also across the parts in which a file is read."""
    path.write_bytes(jsonl([*map(messages, LONG)]).rstrip(b"\n"))
    assert training_rows.check(path, "a.jsonl") == len(LONG)
    assert training_rows.read(path, "a.jsonl") == LONG


def test_a_conversation_is_an_example_of_several_turns(path: Path) -> None:
    """With its system message, and the weights of its answers."""
    said = [("system", "Be brief."), ("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4")]
    row = {"messages": [{"role": role, "content": text} for role, text in said]}
    row["messages"][2]["weight"] = 0  # type: ignore[assignment]
    path.write_bytes(jsonl([row]))
    assert training_rows.check(path, "a.jsonl") == 1
    expected = Example("3", "4", "Be brief.", (Turn("1", "2", is_learned=False),))
    assert training_rows.read(path, "a.jsonl") == (expected,)


def test_an_invalid_row_is_named_by_its_line_in_any_part(path: Path) -> None:
    """Lines are counted from the beginning of the file."""
    rows = [*map(messages, LONG)]
    path.write_bytes(jsonl([*rows, "{broken", *rows]) + b"\xff\n")
    with pytest.raises(ServiceError) as refused:
        training_rows.check(path, "a.jsonl")
    assert "a.jsonl:51: " in refused.value.message
    assert "a.jsonl:102: is not UTF-8" in refused.value.message


def test_a_line_without_end_is_refused(path: Path) -> None:
    """Its beginning is read only, so that it does not fill the memory."""
    path.write_bytes(jsonl() + b'{"messages": "' + b"x" * 2**24)
    with pytest.raises(ServiceError, match=r"a\.jsonl:8: has more than 16,777,216 bytes"):
        training_rows.check(path, "a.jsonl")


@pytest.mark.slow
def test_checking_a_file_does_not_load_it_whole(path: Path) -> None:
    """Twenty megabytes are checked with less memory than that."""
    row = jsonl([messages(EXAMPLES[2])])
    long = jsonl([{"messages": [{"role": "user", "content": "x" * 5000}, {"role": "assistant", "content": "y"}]}])
    path.write_bytes(row + long * 4000)
    size = path.stat().st_size
    assert size > 20_000_000
    gc.set_threshold(700, 10, 10)  # Python's own, which a command that another test has run in this process raises
    tracemalloc.start()
    try:
        assert training_rows.check(path, "a.jsonl") == 4001
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < size
