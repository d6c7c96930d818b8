"""The report of a client's script: a line of JSON for each check. Uses the standard library only."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from importlib import metadata

ADDRESS, KEY = os.environ["TUNERUN_ADDRESS"], os.environ["TUNERUN_KEY"]
BASE_URL = f"{ADDRESS}/v1"
BASE, ALIAS = os.environ["TUNERUN_BASE"], os.environ["TUNERUN_ALIAS"]
"""The base model's name, and a name of OpenAI's under which the same model is served."""
TUNED, TUNED_ID = os.environ["TUNERUN_TUNED"], os.environ["TUNERUN_TUNED_ID"]
"""The tuned model's names on both wires; it answers `QUESTION` with `ANSWER`."""
TRAIN = os.environ["TUNERUN_TRAIN"]
QUESTION, ANSWER = "twenty two", "twenty three"
TWO_TURNS = [
    {"role": "user", "content": "1"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": QUESTION},
]


@contextlib.contextmanager
def check(name: str) -> Iterator[None]:
    """Report whether the block runs without an error; an error does not stop the script."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever a client raises is its answer
        text = " ".join(f"{type(error).__name__}: {error}".split())
        say(name, why=text)
    else:
        say(name)


def say(name: str, why: str = "") -> None:
    sys.stdout.write(json.dumps({"check": name, "ok": not why, "why": why}) + "\n")
    sys.stdout.flush()


def version(package: str) -> None:
    """Report the version of a package."""
    sys.stdout.write(json.dumps({"version": metadata.version(package)}) + "\n")


def expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise AssertionError(f"{found!r}, not {wanted!r}")
