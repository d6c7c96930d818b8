"""The service against its own OpenAPI document: no request gives a 5xx or an undocumented status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import status_code_conformance

from tests.rigs.running_service import RunningService
from tests.service.client import Client
from tunerun.service.gemini.dialect import VERSIONS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

METHODS = 22
"""Of the API, in each version."""

EXAMPLES = 8
"""Requests that are made up for each method."""


def send_all(operation: Any, send: Callable[[Any], None]) -> None:
    """Make up requests for a method, those that its schema allows and those that it does not."""

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode)))
    def each(case: Any) -> None:
        send(case)

    each()


def is_openai(operation: Any) -> bool:
    """Whether an operation is of the other wire, which shares a version."""
    return "openai" in operation.definition.raw["tags"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_response_has_a_documented_status(version: str, running: RunningService, client: Client) -> None:
    """Random and malformed requests to every method, with existing and missing names, by a caller with all rights."""
    name = f"fuzzed-{version}"
    there = {"model": "tiny", "tuned_model": name}
    statuses: Counter[int] = Counter()

    def send(case: Any) -> None:
        if sum(statuses.values()) % 3:
            case.path_parameters = {k: there.get(k, v) for k, v in (case.path_parameters or {}).items()}
        response = case.call(headers={"x-goog-api-key": running.key.secret}, timeout=30)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=[not_a_server_error, status_code_conformance])

    document: Any = schemathesis.openapi.from_url(f"{running.address}/openapi.json")
    operations = [operation.ok() for operation in document.get_all_operations()]
    ours = [
        operation for operation in operations if operation.path.startswith(f"/{version}/") and not is_openai(operation)
    ]
    assert len(ours) == METHODS
    for operation in ours:
        if client.call("GET", f"/tunedModels/{name}").status_code != 200:
            running.service.state.delete(name)  # given away, where the method before did that
            client.tuned(name)
        there["operation"] = client.operation(name)["name"].rpartition("/")[2]
        send_all(operation, send)
    client.call("DELETE", f"/tunedModels/{name}")
    assert sum(statuses.values()) >= METHODS * EXAMPLES / 2
    assert statuses[200] > EXAMPLES
