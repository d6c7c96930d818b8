"""What a plan takes from the base model's files: its commit, its context, its end token, its faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.engine.test_model_facts import configured
from tests.experiments import ROWS, overrides, planned, write_rows
from tunerun.compose import load
from tunerun.engine import chat_template, prepared_model
from tunerun.errors import InputError
from tunerun.job import BaseModelRef
from tunerun.ledger import Ledger
from tunerun.planning import plan
from tunerun.planning.sources import load_dataset
from tunerun.runner import run

COMMIT = "a1" * 20


def of(folder: Path) -> list[str]:
    return ["model=huggingface", f"model.name={folder}", "backend.threads=1", "backend.device=cpu"]


def test_long_example_is_refused_before_anything_starts(tiny_folder: Path, tmp_path: Path) -> None:
    """The first run counts tokens as soon as the tokenizer is there and refuses with places; a later plan does at once."""
    options = overrides(tmp_path, *of(tiny_folder))
    write_rows(tmp_path / "rows.jsonl", [*ROWS, {"text_input": "one two " * 60, "output": "3"}])
    said = r"rows\.jsonl:31: \d+ tokens, and the base model takes 128; shorten the row or the template"
    estimated = plan(load(options))
    assert not estimated.tokens_exact
    with pytest.raises(InputError, match=said):
        run(estimated)
    assert not estimated.ledger_path.exists() or not Ledger(estimated.ledger_path).sweeps()
    with pytest.raises(InputError, match=said):
        plan(load(options))
    skipped = plan(load([*options, "dataset.on_bad_row=skip"]))
    assert skipped.tokens_exact
    assert len(skipped.trials[0].training.examples) == len(ROWS)


def test_context_of_the_config_counts_too(tiny_folder: Path, tmp_path: Path) -> None:
    """The smaller of what the config and the files say is the limit."""
    options = [*of(tiny_folder), "model.context_length=20"]
    prepared_model.prepare(BaseModelRef(name="tiny", source=str(tiny_folder)), tmp_path / "cache")
    with pytest.raises(InputError, match=r"tokens, and the base model takes 20; shorten"):
        planned(tmp_path, *options)


def test_control_tokens_of_the_base_model_are_named(tiny_folder: Path, tmp_path: Path) -> None:
    """Once the tokenizer is known, rows that hold the text of one are warned about."""
    options = overrides(tmp_path, *of(tiny_folder))
    write_rows(tmp_path / "rows.jsonl", [*ROWS, {"text_input": "a <|im_end|> b", "output": "c"}])
    assert not any("control token" in line for line in plan(load(options)).warnings)
    prepared_model.prepare(BaseModelRef(name="tiny", source=str(tiny_folder)), tmp_path / "cache")
    (line,) = [line for line in plan(load(options)).warnings if "control token" in line]
    assert f"rows.jsonl:{len(ROWS) + 1}: holds <|im_end|>, a control token of the base model" in line


def test_each_base_model_has_its_own_limit(tiny_folder: Path, tmp_path: Path) -> None:
    """A sweep over base models checks the rows against the context of each."""
    short = Path(shutil.copytree(tiny_folder, tmp_path / "short"))
    configured(max_position_embeddings=16)(short)
    for folder in (tiny_folder, short):
        prepared_model.prepare(BaseModelRef(name="tiny", source=str(folder)), tmp_path / "cache")
    with pytest.raises(InputError, match=r"tokens, and the base model takes 16; shorten"):
        planned(tmp_path, "model=huggingface", "model.name=tiny", f"model.source={tiny_folder},{short}")


def test_the_chat_format_is_part_of_a_key(tiny_folder: Path, tmp_path: Path) -> None:
    """How it is derived, and the date that templates get; the template itself is the base model's content."""
    (trial,) = planned(tmp_path, *of(tiny_folder)).trials
    assert trial.ingredients["chat_format"] == chat_template.IN_KEY
    assert f"{chat_template.TODAY:%Y-%m-%d}" in chat_template.IN_KEY
    other = Path(shutil.copytree(tiny_folder, tmp_path / "other"))
    (other / "chat_template.jinja").write_text((other / "chat_template.jinja").read_text() + " ")
    assert planned(tmp_path, *of(other)).trials[0].key != trial.key


def test_plan_refuses_a_chat_template_that_cannot_be_used(tiny_folder: Path, tmp_path: Path) -> None:
    """Without torch, in one line."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text("{{ raise_exception('only tools') }}")
    with pytest.raises(InputError, match="chat template cannot be used: it fails with TemplateError: only tools"):
        planned(tmp_path, *of(folder))


def test_commit_is_frozen_in_the_plan(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub model's trials carry the commit, in their config and in their key."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--tiny"
    shutil.copytree(tiny_folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    made = planned(tmp_path, "model=huggingface", "model.name=owner/tiny", "seed=0,1")
    assert {trial.config.model.revision for trial in made.trials} == {COMMIT}
    assert {trial.ingredients["model"] for trial in made.trials} == {f"hub:owner/tiny@{COMMIT}"}
    assert made.trials[0].record().config["model"]["revision"] == COMMIT
    named = planned(tmp_path, "model=huggingface", "model.name=owner/tiny", f"model.revision={COMMIT}")
    assert named.trials[0].key == made.trials[0].key


def test_model_without_an_end_token_is_warned_about(tiny_folder: Path, tmp_path: Path) -> None:
    """Its answers cannot end by themselves, and the plan says so."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    assert not any("names no end token" in line for line in planned(tmp_path, *of(folder)).warnings)
    configured(eos_token_id=None)(folder)
    for name in ("generation_config.json", "chat_template.jinja"):
        (folder / name).unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": None, "chat_template": None}))
    assert any("names no end token" in line for line in planned(tmp_path, *of(folder)).warnings)


def test_plan_refuses_an_encoder(tiny_folder: Path, tmp_path: Path) -> None:
    """An encoder is refused without torch, in one line."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    configured(model_type="bert", architectures=["BertForMaskedLM"])(folder)
    with pytest.raises(InputError, match="names the architecture BertForMaskedLM; tunerun tunes causal") as refused:
        planned(tmp_path, *of(folder))
    assert len(refused.value.problems) == 1


def test_experts_without_adapters_are_warned_about(tiny_folder: Path, tmp_path: Path) -> None:
    """A plan for a mixture of experts says what its adapter leaves alone."""
    assert not any("mixture of experts" in line for line in planned(tmp_path, *of(tiny_folder)).warnings)
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    configured(num_local_experts=4)(folder)
    assert any("is a mixture of experts; experts that are" in line for line in planned(tmp_path, *of(folder)).warnings)


def test_data_are_checked_without_the_base_model(tmp_path: Path) -> None:
    """A base model that is not here does not keep rows from being checked; a plan needs it."""
    options = overrides(tmp_path, *of(tmp_path / "missing"))
    loaded = load_dataset(load(options))
    assert len(loaded.training.examples) == len(ROWS)
    assert any("cannot be found" in line and "tokens are estimated" in line for line in loaded.warnings)
    with pytest.raises(InputError, match="cannot be found"):
        plan(load(options))
