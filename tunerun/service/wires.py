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
        """Whether a request is of this wire, by its path, query and headers, which may be malformed; never raises."""
        ...

    def secret_of(self, scope: Scope, parameters: Mapping[str, str]) -> str | None:
        """Return the key of a request; None: it has none.

        A key in the query is removed from `scope["query_string"]`, so that no route and no log has it.

        Args:
            scope: the request.
            parameters: the parameters of its query.

        Raises:
            ServiceError: keys contradict each other, or there is none and the wire says how to send one.
        """
        ...

    def reads_body_itself(self, scope: Scope) -> bool:
        """Whether the route reads the body itself, as it arrives and with a limit of its own, as an upload does."""
        ...

    def refusal(self, error: ServiceError) -> tuple[int, Mapping[str, Any], Mapping[str, str]]:
        """Return the status, the body and the headers of the response to a refused request."""
        ...


# OpenAI's first: both have `/v1/models`, which Google's clients call with headers or parameters of their own.
WIRES: tuple[Wire, ...] = (OPENAI, GEMINI)
"""The first wire whose `takes` is true handles a request. Requests of no wire get the last one's error envelope."""


def wire_taking(scope: Scope) -> Wire | None:
    """Return the wire of a request; None: it is for the page or a probe, or its path does not exist."""
    return next((wire for wire in WIRES if wire.takes(scope)), None)


def refusal(scope: Scope, error: ServiceError) -> tuple[int, Mapping[str, Any], Mapping[str, str]]:
    """Return the status, body and headers of a refusal, as the request's wire writes it."""
    # The middleware has looked it up; a path of no wire has none.
    wire: Wire = scope["state"].get("wire") or WIRES[-1]
    return wire.refusal(error)
