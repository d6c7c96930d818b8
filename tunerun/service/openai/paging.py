"""Pages of lists; the cursor is the id of the last item of the previous page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query

from tunerun.service.core.problems import Json
from tunerun.service.openai.problems import OpenAiError, wrong

MOST = 10_000
"""The most items of a page; a greater `limit` is reduced to it."""

Limit = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
After = Annotated[str, Query(max_length=200)]


def size_of(limit: int | None, default: int) -> int:
    """Return the size of a page, from the request's limit and the default."""
    return min(limit or default, MOST)


def page(items: Sequence[Json], size: int) -> Json:
    """Return a page of a list as the wire's JSON.

    Args:
        items: the items of the page, plus one more if there is a next page.
        size: the size of the page.
    """
    return {"object": "list", "data": list(items[:size]), "has_more": len(items) > size}


def not_of_list(after: str) -> OpenAiError:
    """Return the error for a cursor that is not the id of an item of the list."""
    return wrong("after", f"{after[:60]!r} is not an id in this list; send the id of the previous page's last item")
