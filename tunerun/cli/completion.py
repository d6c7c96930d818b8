"""Shell completion of overrides, for bash, zsh and fish."""

from __future__ import annotations

import os
import shlex

import typer

from tunerun.errors import TunerunError


class _Rest(str):
    """The value after the `=` of an override.

    Bash splits an override into key, `=` and value, and completes the last of these words. Typer keeps only completions
    that begin with that word, which is the `=` itself if nothing follows it; so this text begins with everything.
    """

    __slots__ = ()

    def startswith(self, *_: object) -> bool:
        return True


def complete_override(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return completions of the override being typed; empty if the config cannot be read."""
    from tunerun.compose import completions

    key = _key_that_bash_split_off()
    text = incomplete if key is None else f"{key}={'' if incomplete == '=' else incomplete}"
    try:
        completed = completions(text, ctx.params.get("config_dir"))
    except TunerunError:  # a message would be printed into the line that is being typed
        return []
    return completed if key is None else [_Rest(each.partition("=")[2]) for each in completed]


def _key_that_bash_split_off() -> str | None:
    """Return the key before the `=` at the cursor, if bash has split them into words; None: it has not."""
    if not os.environ.get("_TUNERUN_COMPLETE", "").endswith("bash"):
        return None
    try:
        words = shlex.split(os.environ.get("COMP_WORDS", ""))
        current = int(os.environ.get("COMP_CWORD", "0"))
    except ValueError:
        return None
    for position in (current, current - 1):  # at the `=` itself, or in the value after it
        if 1 < position < len(words) and words[position] == "=":
            return words[position - 1]
    return None
