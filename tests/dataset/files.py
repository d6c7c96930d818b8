"""Files of rows for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_json_lines(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """One row a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file
