"""Web pages of other origins: none may call the service, unless the operator allows its origin."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from tests.rigs.running_service import RunningService
from tunerun.errors import ConfigError
from tunerun.service.middleware import Middleware
from tunerun.service.origins import Origins

PAGE = "https://app.example.org"
WIRES = ["/v1/chat/completions", "/v1/models", "/v1beta/models"]


def ask(
    running: RunningService, origins: Sequence[str], requests: Sequence[tuple[str, str, dict[str, str]]]
) -> list[httpx.Response]:
    """Answers of the running service, behind a middleware that allows origins."""
    service = running.service
    middleware: Any = Middleware(service.application()._app, service.keys, service.metrics, origins=Origins(origins))

    async def answers() -> list[httpx.Response]:
        transport = httpx.ASGITransport(middleware)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
            return [await http.request(method, path, headers=headers) for method, path, headers in requests]

    return asyncio.run(answers())


def preflight(origin: str) -> dict[str, str]:
    """What a browser sends before OpenAI's client asks."""
    return {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-lang",
    }


def test_an_allowed_origin_may_call_both_wires_but_not_the_page(running: RunningService) -> None:
    """In preflights, answers and refusals; without cookies, and cached separately for each origin."""
    own = {"origin": PAGE}
    requests = [("OPTIONS", path, preflight(PAGE)) for path in WIRES] + [("POST", path, own) for path in WIRES]
    responses = ask(running, [PAGE, "http://localhost:5173"], [*requests, ("GET", "/", own), ("GET", "/healthz", own)])
    assert [response.status_code for response in responses[:6]] == [204] * 3 + [401] * 3
    for response in responses[:6]:
        assert response.headers["access-control-allow-origin"] == PAGE
        assert response.headers["vary"] == "origin"
        assert "access-control-allow-credentials" not in response.headers
    assert responses[0].headers["access-control-allow-headers"] == "authorization,content-type,x-stainless-lang"
    assert not any("access-control-allow-origin" in response.headers for response in responses[6:])


@pytest.mark.parametrize("origins", [(), (PAGE,)])
def test_other_origins_get_nothing(running: RunningService, origins: tuple[str, ...]) -> None:
    """By default no origin is allowed; a name that only begins like an allowed one is another origin."""
    others = ("https://evil.example", f"{PAGE}.evil.example", "null")
    requests = [("OPTIONS", WIRES[0], preflight(other)) for other in others]
    for response in ask(running, origins, [*requests, *(("GET", WIRES[1], {"origin": other}) for other in others)]):
        assert response.status_code == 401
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "wrong", ["*", "null", "app.example.org", "https://app.example.org/", "HTTPS://App.example.org"]
)
def test_an_invalid_origin_is_refused(wrong: str) -> None:
    """All of them at once; `*` would open the service to every page."""
    with pytest.raises(ConfigError, match=r"--allow-origin .*name each") as caught:
        Origins([wrong, PAGE, f"{wrong}/x"])
    assert len(caught.value.problems) == 2
