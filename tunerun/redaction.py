"""Masks secrets in text before it is stored, logged or printed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache

USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s'\"]*@")
QUERY = re.compile(r"([?&](?:key|api_key|token|access_token|password)=)[^&\s'\"]+", re.IGNORECASE)
_KEY_SHAPES = re.compile(r"\b(?:AIza[\w-]{30,}|sk-[\w-]{20,}|hf_\w{20,}|ya29\.[\w.-]{20,})")
_SECRET_NAMES = re.compile(r"PASS|SECRET|TOKEN|KEY|CRED|(?:^|_)(?:PWD|PAT)(?:_|\d|$)")
"""Words of a variable's name, in any position; PWD and PAT only as whole words, for PATH is not a secret."""
_NO_SECRETS = ("PWD",)
"""The shell's own: the current directory."""
_MIN_SECRET_CHARACTERS = 8
"""A shorter value, such as `yes`, would mask parts of ordinary words."""
_ASSIGNMENT = re.compile(
    r"""([\w.-]*(?:pass|secret|token|key|cred|pwd|pat(?![a-z]))[\w.-]*["']?[ \t]*[:=][ \t]*+)"""
    r"""(?!["']?(?:\$\{|[-+.\d]+["']?[ \t]*(?:#.*)?$|null\b|true\b|false\b|\s*$|\{\{))[^\n]+""",
    re.IGNORECASE | re.MULTILINE,
)
"""`name: value` and `name = value`; interpolations, numbers, booleans and templates are not secrets."""
MASK = "***"


def redact(text: str) -> str:
    """Return a text with its secrets masked.

    Masked are user and password in URLs, tokens in their queries, what has the shape of a well-known API key, the
    value of every environment variable whose name says that it is a secret (PASS, PWD, PAT, SECRET, TOKEN, KEY or CRED
    in any position), and of every variable that a config has read by `${oc.env:...}`; values of 8 characters or more.
    This is the second line of defence: a stored config holds the interpolation.
    """
    # Whole values first: a pattern that masks a part of one would leave the rest readable.
    for value in _secrets_of(tuple(os.environ.items()), frozenset(_read_by_configs)):
        text = text.replace(value, MASK)
    text = USERINFO.sub(rf"\1{MASK}@", text)
    return _KEY_SHAPES.sub(MASK, QUERY.sub(rf"\1{MASK}", text))


def redact_assignments(text: str) -> str:
    """Return source text, such as a diff, with the values of assignments to names that sound secret masked."""
    return _ASSIGNMENT.sub(rf"\1{MASK}", text)


_read_by_configs: set[str] = set()


def remember(variables: Iterable[str]) -> None:
    """Mask the values of these environment variables too, whatever their names."""
    _read_by_configs.update(variables)


@lru_cache(maxsize=1)
def _secrets_of(environment: tuple[tuple[str, str], ...], read: frozenset[str]) -> list[str]:
    """Return the values to mask; cached until the environment changes, since one MLflow run has fifty texts to search.

    Longest first: masking a value that is part of a longer one would leave the rest of the longer one readable.
    """
    values = {
        value
        for name, value in environment
        if len(value) >= _MIN_SECRET_CHARACTERS
        and name not in _NO_SECRETS
        and (name in read or _SECRET_NAMES.search(name.upper()))
    }
    return sorted(values, key=len, reverse=True)
