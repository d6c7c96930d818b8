"""What is left out of text before it is stored, logged or shown."""

from __future__ import annotations

import os
import re
from functools import lru_cache

USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s'\"]*@")
QUERY = re.compile(r"([?&](?:key|api_key|token|access_token|password)=)[^&\s'\"]+", re.IGNORECASE)
_KEY_SHAPES = re.compile(r"\b(?:AIza[\w-]{30,}|sk-[\w-]{20,}|hf_\w{20,}|ya29\.[\w.-]{20,})")
_SECRET_NAMES = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS)$")
_MIN_SECRET_CHARACTERS = 8
MASK = "***"


def redact(text: str) -> str:
    """Text without what must not leave this machine.

    Masked are user and password in URLs, tokens in their queries, what has the shape of a well-known API key, and the
    value of every environment variable whose name says that it is a secret (`..._API_KEY`, `..._TOKEN`, `..._SECRET`,
    `..._PASSWORD`). This is the second line of defence: keys come from the environment and are in no config.
    """
    for value in _environment_secrets():
        text = text.replace(value, MASK)
    text = USERINFO.sub(rf"\1{MASK}@", text)
    return _KEY_SHAPES.sub(MASK, QUERY.sub(rf"\1{MASK}", text))


def _environment_secrets() -> list[str]:
    return _secrets_of(tuple(os.environ.items()))


@lru_cache(maxsize=1)
def _secrets_of(environment: tuple[tuple[str, str], ...]) -> list[str]:
    """Looked for again when the environment has changed: a run of MLflow has fifty texts to look through."""
    return [
        value
        for name, value in environment
        if len(value) >= _MIN_SECRET_CHARACTERS and _SECRET_NAMES.search(name.upper())
    ]
