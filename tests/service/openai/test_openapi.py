"""The OpenAI wire under random requests from the service's OpenAPI document."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import status_code_conformance

from tests.rigs.running_service import RunningService
from tests.service.test_openapi import EXAMPLES, is_openai, send_all

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ANSWERING = {"/v1/chat/completions", "/v1/completions"}


def test_random_requests_get_documented_responses(running: RunningService) -> None:
    """Valid and malformed ones to every operation: no 5xx, no undocumented status, and every error in the envelope."""
    statuses: Counter[int] = Counter()
    keys = {"authorization": f"Bearer {running.key.secret}", "api-key": running.key.secret}

    def send(case: Any) -> None:
        if isinstance(case.body, dict) and case.path in ANSWERING and sum(statuses.values()) % 3:
            case.body |= {"model": "tiny", "max_tokens": 2, "n": 1}
            if sum(statuses.values()) % 3 == 1:
                fields = "model", "max_tokens", "n", "logprobs", "stream", "temperature", "seed", "user"
                case.body = {name: value for name, value in case.body.items() if name in fields}
                case.body |= {"prompt": "1", "messages": [{"role": "user", "content": "1"}]}
        response = case.call(headers=keys, timeout=30)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=[not_a_server_error, status_code_conformance])
        assert response.headers["x-request-id"]
        if response.status_code >= 400:
            assert response.json()["error"].keys() == {"message", "type", "param", "code"}

    document: Any = schemathesis.openapi.from_url(f"{running.address}/openapi.json")
    ours = [operation for each in document.get_all_operations() if is_openai(operation := each.ok())]
    assert {operation.path for operation in ours} >= ANSWERING
    for operation in ours:
        send_all(operation, send)
    assert sum(statuses.values()) >= len(ours) * EXAMPLES / 2
    assert statuses[200]
