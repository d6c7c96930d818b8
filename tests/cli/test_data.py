"""`tunerun data check`, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import tunerun

pytestmark = pytest.mark.process

ROWS = "question,answer\na b c,d\na b c,d\n"


def _checked(*overrides: str) -> tuple[int, Any, str]:
    """The exit code of `data check --json`, its document, and what it prints on stderr."""
    finished = tunerun("data", "check", "--json", *overrides)
    return finished.returncode, json.loads(finished.stdout), finished.stderr


def test_check_without_a_template(tmp_path: Path) -> None:
    """If the template does not fit, the errors name one that does, and the checks use it; exit code 2."""
    path = tmp_path / "rows.csv"
    path.write_text(ROWS)
    code, document, errors = _checked(f"dataset.path={path}")
    assert code == 2
    assert "no row has the column 'output'" in document["errors"][0]["text"]
    assert {warning["check"] for warning in document["warnings"]} == {"duplicate", "advice"}
    assert 'write template: {text_input: "{{ question }}", output: "{{ answer }}"}' in errors
    line = 'template={text_input: "{{ question }}", output: "{{ answer }}"}'
    code, document, _ = _checked(f"dataset.path={path}", line)
    assert (code, document["errors"]) == (0, [])


def test_check_of_rows_that_no_template_helps(tmp_path: Path) -> None:
    """If the rows themselves are wrong, only errors are printed."""
    path = tmp_path / "rows.csv"
    path.write_text(ROWS + "e,\n")
    code, document, _ = _checked(f"dataset.path={path}")
    assert code == 2
    assert document["warnings"] == []


def test_check_of_conversations(tmp_path: Path) -> None:
    """The summary counts turns, learned answers and system messages; rows of one turn have no such line."""
    path = tmp_path / "rows.jsonl"
    turns = [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in turns]
    messages[2]["weight"] = 0
    path.write_text(json.dumps({"messages": messages}) + '\n{"text_input": "e", "output": "f"}\n')
    code, document, _ = _checked(f"dataset.path={path}")
    assert (code, document["training"]) == (
        0,
        {"examples": 2, "conversations": 1, "system_messages": 1, "turns": 3, "learned_answers": 2},
    )
    printed = " ".join(tunerun("data", "check", f"dataset.path={path}").stdout.split())
    assert "training: 1 example with several turns, 2 of 3 answers learned; 1 system message" in printed
    assert "2 training examples: " in printed


def test_an_unknown_format_of_an_export_is_named() -> None:
    """The message lists the formats, and nothing is written."""
    finished = tunerun("data", "export", "--format", "other", "experiment=next_number")
    message = "error: --format other: choose one of gemini, vertex, openai, together, messages\n"
    assert (finished.returncode, finished.stderr) == (2, message)
    assert not Path("export").exists()
