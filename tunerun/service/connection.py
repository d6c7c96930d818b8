"""A connection that is closed if no request arrives on it; all private names of uvicorn that tunerun uses are here.

uvicorn has no setting for this (its `timeout_keep_alive` starts only after the first response), so a client that sends
nothing, or half a header, could hold a descriptor for ever. Read in uvicorn 0.54: `H11Protocol` with `cycle`
(the current request, whose `response_complete` says whether it was answered), `on_response_complete`, `loop` and
`transport`. `test_a_connection_without_a_request_is_closed` fails if a later version changes them.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """One connection of a client, which may send several requests.

    Attributes:
        header_timeout_s: seconds until a request's headers have to be complete.
    """

    header_timeout_s: float = 30.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base does
        """Start the timeout of the first request."""
        super().connection_made(transport)
        self._await_request()

    def on_response_complete(self) -> None:
        """Start the timeout of the next request."""
        super().on_response_complete()
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        def close_if_idle() -> None:
            # The timer of a request also runs while it is answered, and a stream may take longer than the timeout.
            is_answering = bool(self.cycle) and not self.cycle.response_complete
            if not is_answering:
                self.transport.close()

        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self.header_timeout_s, close_if_idle)
