"""Lists of the API: AIP-160 filters, page sizes and page tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tunerun.digest import digest
from tunerun.service.core.credentials import Key
from tunerun.service.core.library import Library
from tunerun.service.core.problems import invalid
from tunerun.service.core.records import Listing, Role, TunedModelRow

PAGE, MAX_PAGE = 10, 1000
MAX_FILTER_WORDS = 20

_FILTERS = {
    "owner:me": (Role.OWNER, False),
    "writers:me": (Role.WRITER, False),
    "readers:me": (Role.READER, False),
    "readers:everyone": (Role.READER, True),
}
_WORDS = re.compile(r'"[^"]*"|\S+')
_FIELD = re.compile(r"-?[A-Za-z_][\w.]*(:|=|!=|<|>)[^\s]")
"""A restriction as AIP-160 writes one: a field, an operator and a value."""


@dataclass(frozen=True)
class Page:
    """A page of a list, and the token of the next one; empty: it is the last."""

    models: Sequence[TunedModelRow]
    next_token: str


def read_page(library: Library, caller: Key, size: int, token: str, text: str) -> Page:
    """Return a page of the tuned models that the caller may read.

    Args:
        size: at most so many; 0: 10.
        token: of the page before.
        text: the filter.

    Raises:
        ServiceError: size, token or filter is wrong.
    """
    most = page_size_of(size)
    shown = digest([caller.owner, text])[:8]
    rows = library.listed(_listing(caller, text, _after(token, shown)), most + 1)
    rest = f"{rows[most - 1].number}.{shown}" if len(rows) > most else ""
    return Page(rows[:most], rest)


def page_size_of(size: int) -> int:
    """Return the size of a page.

    Raises:
        ServiceError: it is negative.
    """
    if size < 0:
        raise invalid("pageSize", f"must be 0 or more, not {size}")
    return min(size or PAGE, MAX_PAGE)


def position(token: str, count: int) -> int:
    """Return the position at which a token's page begins.

    Args:
        count: how many the list holds.

    Raises:
        ServiceError: it is not a token of the list.
    """
    if not token:
        return 0
    if not (token.isascii() and token.isdecimal() and len(token) < 9 and int(token) <= count):
        raise invalid("pageToken", "is not a token of this list; take nextPageToken of the page before")
    return int(token)


def _listing(caller: Key, text: str, after: int) -> Listing:
    role, everyone, words = Role.READER, False, []
    given = _WORDS.findall(text)
    if len(given) > MAX_FILTER_WORDS:
        raise invalid("filter", f"has {len(given):,} words; at most {MAX_FILTER_WORDS} are looked for")
    for word in given:
        if word.lower() in _FILTERS:
            role, everyone = _FILTERS[word.lower()]
        elif _FIELD.match(word):
            known = ", ".join(_FILTERS)
            raise invalid("filter", f'{word[:60]} is unknown; there is {known}, and words; a quoted "a:b" is a word')
        else:
            words.append(word.strip('"'))
    return Listing(caller.owner, tuple(words), role, everyone, after=after)


def _after(token: str, shown: str) -> int:
    if not token:
        return 0
    number, _, of = token.partition(".")
    if not number.isdecimal() or len(number) > 18 or of != shown:
        raise invalid(
            "pageToken", "is not a token of this list; take nextPageToken of the page before, with the same filter"
        )
    return int(number)
