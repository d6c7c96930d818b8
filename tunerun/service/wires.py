"""The interface of a wire to the middleware and the application; each is a package and a line in `WIRES`."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Protocol

from tunerun.service.core.problems import ServiceError
from tunerun.service.gemini.dialect import GEMINI
from tunerun.service.openai.wire import OPENAI

Scope = MutableMapping[str, Any]


class Wire(Protocol):
    """An API that the service speaks; shared by all threads and tasks, so it keeps nothing of a request."""

    @property
    def name(self) -> str:
        """Its name in logs and metrics, such as `gemini`."""
        ...

    def takes(self, scope: Scope) -> bool:
        """Whether a request is of this wire, by its path, query and headers, which may be malformed; raises nothing."""
        ...

    def secret_of(self, scope: Scope, parameters: Mapping[str, str]) -> str | None:
        """The key that a request was sent with; None: it has none.

        A key in the query is removed from `scope["query_string"]`, so that no route and no log sees it.

        Raises:
            ServiceError: keys contradict each other, or there is none and the wire says how to send one.
        """
        ...

    def reads_body_itself(self, scope: Scope) -> bool:
        """Whether the route reads the body itself, as it arrives and with a limit of its own: an upload."""
        ...

    def refusal(self, error: ServiceError) -> tuple[int, Mapping[str, Any], Mapping[str, str]]:
        """The status, the body and the headers by which a request is refused."""
        ...


WIRES: tuple[Wire, ...] = (OPENAI, GEMINI)
"""The first that takes a request handles it. The last one's envelope refuses requests that none takes."""


def wire_taking(scope: Scope) -> Wire | None:
    """The wire that a request is of; None: it is the page's, a probe's, or nothing's."""
    return next((wire for wire in WIRES if wire.takes(scope)), None)


def refusal(scope: Scope, error: ServiceError) -> tuple[int, Mapping[str, Any], Mapping[str, str]]:
    """The status, body and headers of a refusal, as the request's wire writes it."""
    wire: Wire = scope["state"].get("wire") or WIRES[-1]
    return wire.refusal(error)
