"""Lists of the API: AIP-160 filters, page sizes and page tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Query

from tunerun.digest import digest
from tunerun.service.core.credentials import Key
from tunerun.service.core.library import Library
from tunerun.service.core.problems import invalid
from tunerun.service.core.records import Listing, Role, TunedModelRow
from tunerun.service.gemini import wire

PAGE, MAX_PAGE = 10, 1000
"""The API's default and limit of a page (ListTunedModelsRequest of v1beta)."""

MAX_FILTER_WORDS = 20  # our choice: each is a search through the names and descriptions of all visible models

_FILTERS = {
    "owner:me": (Role.OWNER, False),
    "writers:me": (Role.WRITER, False),
    "readers:me": (Role.READER, False),
    "readers:everyone": (Role.READER, True),
}
_WORDS = re.compile(r'"[^"]*"|\S+')
_FIELD = re.compile(r"-?[A-Za-z_][\w.]*(:|=|!=|<|>)[^\s]")
"""A restriction as AIP-160 writes one: a field, an operator and a value."""


PageSize = Annotated[int, Query(alias="pageSize", ge=-(2**31), le=wire.MAX_INT32)]
PageToken = Annotated[str, Query(alias="pageToken")]


@dataclass(frozen=True)
class Page:
    """A page of a list, and the token of the next one; empty: it is the last."""

    models: Sequence[TunedModelRow]
    next_token: str


def read_page(library: Library, caller: Key, size: int, token: str, text: str) -> Page:
    """Return a page of the tuned models that the caller may read.

    Args:
        library: the tuned models.
        caller: the key of the request.
        size: the most tuned models of the page; 0: 10.
        token: `next_token` of the previous page; empty: this is the first.
        text: the filter; empty: all.

    Raises:
        ServiceError: size, token or filter is invalid.
    """
    most = page_size_of(size)
    # Binds a token to its list. The API requires all other parameters to be the same: with another filter the token
    # would skip models.
    query = digest([caller.owner, text])[:8]
    # Numbers of 18 digits fit SQLite's integers, which have 64 bits.
    number, _, of = token.partition(".")
    if token and (not number.isdecimal() or len(number) > 18 or of != query):
        raise invalid(
            "pageToken", "is not a token of this list; take nextPageToken of the page before, with the same filter"
        )
    rows = library.listed(_listing(caller, text, int(number or 0)), most + 1)  # one more says whether a page follows
    return Page(rows[:most], f"{rows[most - 1].number}.{query}" if len(rows) > most else "")


def page_size_of(size: int) -> int:
    """Return the effective size of a page: 10 for 0, and at most 1000.

    Raises:
        ServiceError: the size is negative.
    """
    if size < 0:
        raise invalid("pageSize", f"must be 0 or more, not {size}")
    return min(size or PAGE, MAX_PAGE)


def position(token: str, count: int) -> int:
    """Return the position at which a token's page begins, in a list that is paged by position.

    Args:
        token: the token; empty: the first page.
        count: the length of the list.

    Raises:
        ServiceError: the token is not one of the list.
    """
    if not token:
        return 0
    if not (token.isascii() and token.isdecimal() and len(token) < 9 and int(token) <= count):
        raise invalid("pageToken", "is not a token of this list; take nextPageToken of the page before")
    return int(token)


def _listing(caller: Key, text: str, after: int) -> Listing:
    """Parse a filter: the restrictions of the API, and words to search for."""
    role, everyone, words = Role.READER, False, []
    terms = _WORDS.findall(text)
    if len(terms) > MAX_FILTER_WORDS:
        raise invalid("filter", f"has {len(terms):,} words; at most {MAX_FILTER_WORDS} are looked for")
    for word in terms:
        if word.lower() in _FILTERS:
            role, everyone = _FILTERS[word.lower()]
        elif _FIELD.match(word):
            allowed = ", ".join(_FILTERS)
            raise invalid("filter", f'{word[:60]} is unknown; there is {allowed}, and words; a quoted "a:b" is a word')
        else:
            words.append(word.strip('"'))
    return Listing(caller.owner, tuple(words), role, everyone, after=after)
