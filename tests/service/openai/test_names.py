"""Names are made of a row's key, and lead back to it."""

from __future__ import annotations

import pytest

from tests.service.openai.rows import EPOCHS, KEY, row
from tunerun.service.openai import names


def test_a_models_name_leads_back_to_its_row() -> None:
    """Base model, organization, suffix and the beginning of its key, as OpenAI writes them."""
    name = names.model_name(row())
    assert name == "ft:tiny:tunerun:router:01234567"
    assert names.read_model_name(name) == names.ModelName("tiny", "router", "01234567")
    assert KEY.startswith("01234567")
    assert names.read_model_name(names.model_name(row(), 40)) == names.ModelName("tiny", "router", "01234567", 40)


def test_a_name_without_a_suffix_has_an_empty_part() -> None:
    """As OpenAI's has, whose readers count the parts."""
    assert names.model_name(row(suffix="")) == "ft:tiny:tunerun::01234567"
    assert names.read_model_name("ft:tiny:tunerun::01234567") == names.ModelName("tiny", "", "01234567")


def test_a_sweeps_model_has_a_name_of_the_same_form() -> None:
    """Its key is a name, whose digest takes the key's place."""
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
def test_other_names_are_of_no_tuned_model(text: str) -> None:
    """Base models, other organizations' models, and what is cut off."""
    assert names.read_model_name(text) is None


def test_ids_lead_back_to_their_rows() -> None:
    """Of jobs, result files and checkpoints; those of one kind are none of another."""
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
