"""JSON on stdout, one document a command."""

from __future__ import annotations

import json
import sys


def print_json(document: object) -> None:
    """Print a document that other programs read."""
    # NaN and Infinity are not JSON, so that other parsers would refuse the whole document.
    sys.stdout.write(json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n")
