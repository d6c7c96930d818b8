"""Names are derived from a row's key, and can be parsed."""

from __future__ import annotations

import pytest

from tests.service.openai.rows import EPOCHS, KEY, row
from tunerun.service.openai import names


def test_the_name_of_a_model_is_parsed() -> None:
    """It has the base model, the organization, the suffix and the start of the key, in OpenAI's format."""
    name = names.model_name(row())
    assert name == "ft:tiny:tunerun:router:01234567"
    assert names.read_model_name(name) == ("01234567", None)
    assert KEY.startswith("01234567")
    assert names.read_model_name(names.model_name(row(), 40)) == ("01234567", 40)


def test_a_name_without_a_suffix_has_an_empty_part() -> None:
    """As at OpenAI, whose clients count the parts."""
    assert names.model_name(row(suffix="")) == "ft:tiny:tunerun::01234567"
    assert names.read_model_name("ft:tiny:tunerun::01234567") == ("01234567", None)


def test_a_model_of_a_sweep_has_a_name_of_the_same_format() -> None:
    """The digest of its name takes the key's place."""
    name = names.model_name(row(key="tunedModels/support-1", suffix=""))
    assert names.read_model_name(name) is not None


@pytest.mark.parametrize(
    "text",
    [
        "tiny",
        "ft:tiny",
        "ft:tiny:acme:router:01234567",
        "ft:tiny:tunerun:router:0123456",
        "ft:tiny:tunerun:router:01234567:ckpt-step-",
        "ft:tiny:tunerun:router:01234567:ckpt-step-1:x",
    ],
)
def test_other_names_are_not_parsed(text: str) -> None:
    """Names of base models and of other organizations, and truncated names."""
    assert names.read_model_name(text) is None


def test_ids_are_parsed() -> None:
    """Ids of jobs, result files and checkpoints, each by its own function only."""
    job, result = names.job_id(row()), names.result_file_id(row())
    assert KEY.startswith(names.read_job_id(job) or "none")
    assert KEY.startswith(names.read_result_file_id(result) or "none")
    assert names.read_job_id(result) is None
    assert names.read_result_file_id("file-u0123456789abcdef0123456") is None
    ids = [names.checkpoint_id(row(), epoch.epoch) for epoch in EPOCHS]
    assert [names.read_checkpoint_id(row(), each) for each in ids] == [1, 2, 3]
    assert names.read_checkpoint_id(row(key="f" * 64), ids[0]) is None


@pytest.mark.parametrize(
    ("suffix", "slug"), [("Router", "router"), ("kiln_ai.12", "kiln-ai-12"), ("  ü--x  ", "x"), ("___", "")]
)
def test_a_suffix_becomes_a_slug(suffix: str, slug: str) -> None:
    """Lower case letters, digits and dashes, as in OpenAI's names."""
    assert names.slug(suffix) == slug
