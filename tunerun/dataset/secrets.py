"""Keys, passwords and e-mail addresses in training data; findings name the kind, never the value."""

from __future__ import annotations

import re

SECRETS = {
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a Google API key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "an OpenAI key": re.compile(r"\bsk-(?:proj-|svcacct-)?[A-Za-z0-9_-]{20,}"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})"),
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a Slack token": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}"),
    "a password": re.compile(
        r"\b(?:password|passwd|pwd|passphrase|secret|api[_-]?key|access[_-]?token)\b[\"']?(?: is\b)?\s*[:=]?\s*[\"']?"
        r"(?=[^\s\"',;]*[0-9])(?=[^\s\"',;]*[A-Za-z])[^\s\"',;]{8,}",
        re.IGNORECASE,
    ),
    "a password in an address": re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@]+@"),
}
"""Patterns from the issuers' documentation; for a password: eight characters or more with letters and digits, after a
word such as `password`. A match is a suspicion and not proof."""

EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]+@(?!example\.)[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b")
"""An e-mail address, except at the example domains, which RFC 2606 reserves."""

_HINTS = {
    "a private key": ("PRIVATE KEY-----",),
    "a Google API key": ("AIza",),
    "an OpenAI key": ("sk-",),
    "a GitHub token": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    "an AWS access key": ("AKIA", "ASIA"),
    "a Slack token": ("xoxa-", "xoxb-", "xoxp-", "xoxr-", "xoxs-"),
    "a Hugging Face token": ("hf_",),
    "a password in an address": ("://",),
}
"""A substring of every match: searching for it first is twenty times as fast as the pattern. A password has none: its
words may be in capitals."""

_WORDS_OF_PASSWORDS = (
    "password", "passwd", "pwd", "passphrase", "secret", "apikey", "api_key", "api-key", "accesstoken", "access_token",
    "access-token",
)  # fmt: skip


def secrets_in(text: str) -> list[str]:
    """Return the kinds of secrets that a text seems to hold, such as "an OpenAI key"."""
    return [kind for kind, pattern in SECRETS.items() if _holds(kind, pattern, text)]


def _holds(kind: str, pattern: re.Pattern[str], text: str) -> bool:
    if kind in _HINTS:
        return any(hint in text for hint in _HINTS[kind]) and pattern.search(text) is not None
    lower = text.lower()
    if len(lower) != len(text):  # places differ, as in a text with a capital I with a dot
        return pattern.search(text) is not None
    # A match begins with its word: trying the pattern there alone is eight times as fast as searching for it.
    for word in _WORDS_OF_PASSWORDS:
        place = lower.find(word)
        while place >= 0:
            if pattern.match(text, place):
                return True
            place = lower.find(word, place + 1)
    return False
