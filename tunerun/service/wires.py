"""What the guard and the application ask of a wire; each wire is a package beside this module and a line in `WIRES`."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Protocol

from tunerun.service.core.problems import ServiceError

Scope = MutableMapping[str, Any]


class Wire(Protocol):
    """A service's way of speaking."""

    @property
    def name(self) -> str:
        """Such as `gemini`; in logs and metrics."""
        ...

    def takes(self, scope: Scope) -> bool:
        """Whether a request is of this wire, by its path and its headers; both wires have `/v1/models`."""
        ...

    def secret_of(self, scope: Scope, parameters: Mapping[str, str]) -> str | None:
        """The key that a request was sent with; None: it has none."""
        ...

    def reads_body_itself(self, scope: Scope) -> bool:
        """Whether the guard leaves the body to the route, which reads it as it comes and bounds it: an upload."""
        ...

    def refusal(self, error: ServiceError) -> tuple[int, Mapping[str, Any], Mapping[str, str]]:
        """The status, the body and the headers by which a request is refused."""
        ...
