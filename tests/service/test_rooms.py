"""The rooms of the service: which of them may import which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tunerun.service

ROOT = Path(tunerun.service.__file__).parent
OUTSIDE_THE_CORE = (
    "gemini",
    "openai",
    "page",
    "app",
    "middleware",
    "origins",
    "wires",
    "routes",
    "server",
    "connection",
)


def imported(room: str) -> set[str]:
    """The rooms of the service that the modules of one import."""
    rooms = set()
    for path in (ROOT / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tunerun.service"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                rooms |= {name.removeprefix("tunerun.service.").partition(".")[0] for name in names}
    return rooms - {room}


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("core", OUTSIDE_THE_CORE),
        ("gemini", ("openai", "page", "app", "middleware")),
        ("openai", ("gemini", "page", "app")),
    ],
)
def test_the_core_imports_no_wire_and_no_wire_imports_another(room: str, forbidden: tuple[str, ...]) -> None:
    """So that a wire can be added or removed without changes to the others."""
    assert imported(room).isdisjoint(forbidden)
