"""What a plan takes from the base model's files: its commit, its context, its end token, its faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.engine.test_model_facts import configured
from tests.experiments import ROWS, overrides, planned, write_rows
from tunerun.compose import load
from tunerun.engine import base_model
from tunerun.errors import InputError
from tunerun.job import BaseModelRef
from tunerun.ledger import Ledger
from tunerun.planning import plan
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
    base_model.prepare(BaseModelRef(name="tiny", source=str(tiny_folder)), tmp_path / "cache")
    with pytest.raises(InputError, match=r"tokens, and the base model takes 20; shorten"):
        planned(tmp_path, *options)


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
