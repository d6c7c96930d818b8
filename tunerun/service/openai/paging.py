"""Pages of lists: the cursor is the id of the last item of the page before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query

from tunerun.service.core.problems import Json
from tunerun.service.openai.problems import OpenAiError, wrong

MOST = 10_000
"""Items of a page; a greater `limit` gives as many."""

Limit = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
After = Annotated[str, Query(max_length=200)]


def size_of(limit: int | None, default: int) -> int:
    """Return the size of a page."""
    return min(limit or default, MOST)


def page(items: Sequence[Json], size: int) -> Json:
    """A page of a list; the items include one more than it shows, if there is one."""
    return {"object": "list", "data": list(items[:size]), "has_more": len(items) > size}


def not_of_list(after: str) -> OpenAiError:
    """The cursor is not the id of an item of the list."""
    return wrong("after", f"{after[:60]!r} is not an id of this list; give the id of the last item of the page before")
