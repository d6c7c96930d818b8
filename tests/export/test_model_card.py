"""The model card: what the hub reads of it, and what a person does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from tests.comparison.sweeps import Frozen, Trained, frozen
from tunerun.errors import InputError
from tunerun.export import model_card
from tunerun.provenance import Facts
from tunerun.provenance.facts import SECTION, BaseModelFacts, DataFile, Environment
from tunerun.record import OpenRecord

GOOD, POOR = "1" * 22 + "0" * 2, "0" * 24
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
FACTS = Facts(
    environment=Environment(python="3.11.7", system="Linux 6.1", packages={"torch": "2.13.0", "pip": "25"}),
    data_files=(DataFile("rows.jsonl", "a" * 64, 100, used_for=("training", "validation"), license="CC-BY-4.0"),),
    base_models=(BaseModelFacts("smollm2-135m", "hub:x@y", HUB_NAME, revision="c" * 40, license="Apache-2.0"),),
)


def record_of(lab: Frozen, facts: Facts | None = None) -> OpenRecord:
    document = {**lab.sweep.document, **({} if facts is None else {SECTION: facts.to_json()})}
    return OpenRecord(lab.ledger, replace(lab.sweep, document=document), None, "a test")


def head_of(text: str) -> Any:
    """What the hub's own reader makes of a card's head."""
    return ModelCard(text).data


def test_the_hub_reads_the_front_matter(tmp_path: Path) -> None:
    """The hub's own parser reads license, base model, library and measures."""
    lab = frozen(tmp_path, [Trained(GOOD, test=GOOD)], {"base": POOR})
    lab.ledger.open_test(lab.sweep.id, [0], 1_760_000_000.0)
    text = model_card(record_of(lab, FACTS), lab.trials[0], format="adapter")
    data = head_of(text)
    assert (data.license, data.base_model, data.library_name) == ("apache-2.0", HUB_NAME, "peft")
    assert data.tags == ["lora", "supervised-fine-tuning", "tunerun"]
    results = data.eval_results
    assert results is not None
    assert [(each.metric_type, each.metric_value, each.dataset_split) for each in results] == [
        ("exact_match", pytest.approx(22 / 24), "validation"),
        ("exact_match", pytest.approx(22 / 24), "test"),
    ]


def test_the_card_shows_the_record(tmp_path: Path) -> None:
    """The card has template, digests, intervals, verdict, versions and key, but no row and no path."""
    lab = frozen(tmp_path, [Trained(GOOD)], {"base": POOR})
    text = model_card(record_of(lab, FACTS), lab.trials[0], format="merged")
    assert "{{ text_input }}" in text
    assert f"| training | rows.jsonl | 1 row | {lab.trials[0].training} | CC-BY-4.0 |" in text
    assert "| exact match | 92 % | 74 to 98 % | 0 % |" in text
    assert "The sweep's verdict: Use point 0" in text
    assert "| packages | torch 2.13.0 |" in text
    assert lab.trials[0].key in text
    assert str(tmp_path) not in text
    assert "validation 0" not in text


def test_what_is_not_recorded_is_not_guessed(tmp_path: Path) -> None:
    """What an earlier version did not record is called not stated."""
    lab = frozen(tmp_path, [Trained(POOR)], {"base": POOR})
    text = model_card(record_of(lab), lab.trials[0])
    assert "License of the base model: not stated" in text
    assert "| packages | not stated |" in text
    data = head_of(text)
    assert (data.license, data.base_model) == (None, None)
    assert "The sweep's verdict: " in text
    assert "advised point" not in text


def test_a_license_that_the_hub_does_not_list_keeps_its_name(tmp_path: Path) -> None:
    """The license is `other`, with its own name in `license_name`."""
    lab = frozen(tmp_path, [Trained(GOOD)], {"base": POOR})
    own = replace(FACTS, base_models=(replace(FACTS.base_models[0], license="ACME Internal v2"),))
    data = head_of(model_card(record_of(lab, own), lab.trials[0]))
    assert (data.license, data.license_name) == ("other", "acme-internal-v2")


def test_a_folder_whose_path_looks_like_a_name_is_not_on_the_hub(tmp_path: Path) -> None:
    """`models/tiny` of the machine is called `tiny`, and nothing links to the hub."""
    lab = frozen(tmp_path, [Trained(GOOD)], {"base": POOR})
    own = replace(FACTS, base_models=(BaseModelFacts("smollm2-135m", "folder:sha256:ab", "models/tiny"),))
    text = model_card(record_of(lab, own), lab.trials[0], format="adapter")
    assert head_of(text).base_model is None
    assert "from_pretrained('tiny')" in text
    assert "models/tiny" not in text


def test_an_unknown_form_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    """The message lists the known forms."""
    lab = frozen(tmp_path, [Trained(GOOD)], {"base": POOR})
    with pytest.raises(InputError, match="'onnx' is not a form of a tuned model; choose one of merged, adapter, gguf"):
        model_card(record_of(lab), lab.trials[0], format="onnx")
