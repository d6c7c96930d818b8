"""A user of the page without JavaScript: a plain HTTP client that keeps cookies."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import httpx

from tests.engine.tiny_model import EXAMPLES
from tests.rigs.running_service import RunningService
from tunerun.service.core.credentials import TUNING_SCOPE
from tunerun.testing.waiting import wait_until

FOREVER = "1000000"
"""More epochs than a test waits for."""


def table(rows: Sequence[Sequence[str]] = (), header: Sequence[str] = ("text_input", "output")) -> str:
    """Return a CSV file of some rows; empty: the tiny model's examples."""
    text = io.StringIO()
    csv.writer(text).writerows([header, *(rows or [(one.text_input, one.output) for one in EXAMPLES])])
    return text.getvalue()


class Visitor:
    """Calls as a browser does; its key is sent only to sign in."""

    def __init__(self, running: RunningService, secret: str, owner: str) -> None:
        self.service = running.service
        self.secret = secret
        self.owner = owner
        self.http = httpx.Client(base_url=running.address, follow_redirects=True, timeout=60, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.http.close()

    def sign_in(self) -> httpx.Response:
        return self.http.post("/sign-in", data={"key": self.secret})

    def send(self, content: str | bytes, name: str = "rows.csv") -> httpx.Response:
        return self.http.post("/files", files={"file": (name, content)})

    def start(self, content: str | None = None, **typed: str) -> httpx.Response:
        """Upload a file, and start a job with it."""
        response = self.send(table() if content is None else content)
        assert response.status_code == 200, text_of(response)
        return self.submit(response, **typed)

    def submit(self, response: httpx.Response, **typed: str) -> httpx.Response:
        """Start a job from the page that shows a file."""
        form = {"input_column": "text_input", "output_column": "output", "base": "models/tiny"}
        return self.http.post(f"{response.url.path}/tune".replace("/tune/tune", "/tune"), data=form | typed)

    def tuned(self, identifier: str, **typed: str) -> None:
        """Create a tuned model, and wait for it."""
        settings = {"epoch_count": "2", "batch_size": "3", "learning_rate": "0.01"} | typed
        response = self.start(identifier=identifier, **settings)
        assert response.status_code == 200, text_of(response)
        self.finished(identifier)

    def card(self, identifier: str) -> httpx.Response:
        return self.http.get(f"/library/{identifier}")

    def finished(self, identifier: str) -> None:
        wait_until(
            lambda: 'data-state="CREATING"' not in self.card(identifier).text, f"tunedModels/{identifier} is finished"
        )

    def under_way(self, identifier: str) -> None:
        """Wait until its job has taken a step."""
        wait_until(
            lambda: self.http.get("/progress").json()[identifier]["steps"] > 0, f"tunedModels/{identifier} takes a step"
        )

    def delete(self, *identifiers: str) -> None:
        for identifier in identifiers:
            assert self.http.post(f"/library/{identifier}/delete").status_code == 200


@contextmanager
def visiting(running: RunningService, owner: str, scopes: Sequence[str] = (TUNING_SCOPE,)) -> Iterator[Visitor]:
    """A user with a key of their own, who has not signed in."""
    key = running.service.keys.add(owner, scopes)
    with Visitor(running, key.secret, owner) as visitor:
        yield visitor
    if running.service.keys.find(key.secret) is not None:
        running.service.keys.revoke(key.id)


def text_of(response: httpx.Response) -> str:
    """Return the text of a page, without tags and with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", response.text)).split())
