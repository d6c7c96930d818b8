"""What a plan checks of the service."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from tests.experiments import planned
from tunerun.errors import InputError, LimitError

OWN = ("backend=openai", "backend.base_url=http://127.0.0.1:1/v1")
MULTIPLIER = ("hyperparameters.learning_rate=null", "hyperparameters.learning_rate_multiplier=1")


def test_a_plan_refuses_an_absolute_learning_rate_and_names_the_multiplier(tmp_path: Path) -> None:
    """For every value of a sweep; a multiplier is planned."""
    with pytest.raises(
        InputError, match=r"0\.002 is absolute.*ours would be 2, .*learning_rate_multiplier=2"
    ) as caught:
        planned(tmp_path, *OWN, "hyperparameters.learning_rate=0.002,0.0005")
    assert "learning_rate_multiplier=0.5" in str(caught.value)
    (trial,) = planned(tmp_path, *OWN, *MULTIPLIER).trials
    assert trial.config.hyperparameters.effective_learning_rate == 0.001


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("hyperparameters.keep=best", "keep: best is not possible"),
        ("hyperparameters.adapter_rank=4,8", r"sweep\.axes\.hyperparameters\.adapter_rank: the backend openai"),
    ],
)
def test_a_plan_refuses_what_the_service_lacks(tmp_path: Path, override: str, words: str) -> None:
    """Nothing is sent."""
    with pytest.raises(InputError, match=words):
        planned(tmp_path, *OWN, *MULTIPLIER, override)


def test_a_plan_checks_limits_and_dates_of_the_service(tmp_path: Path) -> None:
    """Too few examples, base models that are or soon will be retired, and Azure's deployments."""
    at_openai = ("backend=openai", *MULTIPLIER, "model=gpt-4o-mini-2024-07-18")
    with pytest.raises(LimitError, match="5 training examples; the backend openai takes at least 10"):
        planned(tmp_path, *at_openai, "dataset.limit=5", "model.retires_on=null")
    with pytest.raises(InputError, match="was retired on 2024-01-01"):
        planned(tmp_path, *at_openai, "model.retires_on=2024-01-01")
    soon = (date.today() + timedelta(days=30)).isoformat()
    plan = planned(tmp_path, *at_openai, f"model.retires_on={soon}")
    assert any(f"retires on {soon} (30 days from now)" in warning for warning in plan.warnings)
    assert any("2027-01-06" in warning for warning in plan.warnings)
    azure = ("backend.base_url=https://mine.openai.azure.com", "backend.api_version=2024-10-21")
    plan = planned(tmp_path, *at_openai, *azure, "model.retires_on=null")
    assert any("deploy each tuned model" in warning for warning in plan.warnings)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://example.org/v1", r"backend\.base_url: must be https"),
        ("https://user:planted@example.org/v1", r"backend\.base_url: must not contain a user"),
        ("example.org", r"backend\.base_url: must be an address"),
    ],
)
def test_an_address_that_could_expose_the_key_is_refused(tmp_path: Path, address: str, words: str) -> None:
    """Plain http is allowed to this machine only; the message does not repeat a password."""
    with pytest.raises(InputError, match=words) as caught:
        planned(tmp_path, "backend=openai", f"backend.base_url={address}", *MULTIPLIER)
    assert "planted" not in str(caught.value)
