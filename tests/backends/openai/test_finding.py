"""Jobs are found again after a lost response and by a later process, and polled in few requests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.backends.openai.place import JOBS, OpenAIPlace
from tests.rigs.http_service import Fault
from tests.rigs.openai_service import OpenAIService, Script, once
from tunerun.errors import AmbiguousError, UnavailableError
from tunerun.job import (
    JobState,
)


@pytest.mark.thorough
@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("keeps_metadata", [True, False])
def test_a_create_whose_response_is_lost_is_looked_up(applied: bool, keeps_metadata: bool) -> None:
    """Whether it took effect or not, there is one job in the end, also where only the suffix identifies it."""
    script = once(Fault(0, applied=applied), "POST", JOBS, keeps_metadata=keeps_metadata)
    with OpenAIService(script) as service:
        place = OpenAIPlace(service)
        with place.open() as backend:
            if not applied:
                with pytest.raises(AmbiguousError, match="it is unknown whether it took effect"):
                    backend.submit(place.request("1"))
            ref = backend.submit(place.request("1"))
            assert backend.poll([ref])[ref].state is JobState.SUCCEEDED
        with place.open() as later:
            assert later.find(place.request("1").key, "tiny-1") == ref
            assert later.find("2" * 64, "tiny-1") is None
        assert service.created == ["tiny-1"]


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_error_on_create_is_not_repeated_blindly(status: int) -> None:
    """One POST; a job is looked up before the next."""
    with OpenAIService(once(Fault(status), "POST", JOBS)) as service, OpenAIPlace(service).open() as backend:
        with pytest.raises((AmbiguousError, UnavailableError)):
            backend.submit(OpenAIPlace(service).request("1"))
        assert len([each for each in service.requests if (each.method, each.path) == ("POST", JOBS)]) == 1


@pytest.mark.parametrize("filters", [True, False])
def test_a_job_is_found_among_many(filters: bool) -> None:
    """Also where the service ignores the filter by metadata."""
    with OpenAIService(Script(filters=filters)) as service, OpenAIPlace(service).open() as backend:
        refs = {digit: backend.submit(OpenAIPlace(service).request(digit)) for digit in "1234567"}
        with OpenAIPlace(service).open() as later:
            assert {digit: later.find(digit * 64, f"tiny-{digit}") for digit in refs} == refs
            assert later.find("8" * 64, "tiny-8") is None


@pytest.mark.thorough
@pytest.mark.parametrize(("jobs", "requests"), [(2, 2), (40, 1), (250, 3)])
def test_many_jobs_are_one_request_a_page(jobs: int, requests: int) -> None:
    """Few are requested one by one, many are listed."""
    with OpenAIService(Script(steps_per_look=0)) as service, OpenAIPlace(service).open() as backend:
        first = OpenAIPlace(service).request("1")
        refs = [backend.submit(replace(first, key=f"{number:064}")) for number in range(jobs)]
        before = len(service.requests)
        statuses = backend.poll(refs)
        assert {status.state for status in statuses.values()} == {JobState.QUEUED}
        assert len(service.requests) - before == requests
