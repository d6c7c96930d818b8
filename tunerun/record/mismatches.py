"""Explains how a planned rerun differs from its record, in words for messages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from tunerun.engine.base_model import cache_folder
from tunerun.examples import ExampleSet, as_text
from tunerun.ledger import TrialRecord
from tunerun.planning import Plan, Trial
from tunerun.planning.changes import differences
from tunerun.planning.facts import facts_of
from tunerun.provenance import BaseModelFacts
from tunerun.record.sources import OpenRecord
from tunerun.record.verification import quoted
from tunerun.stored import section

_AS_NEW = "this tunerun can run it as a new experiment with the record as its parent: --set name=ANOTHER_NAME"

_INGREDIENTS = {
    "format": "the format of keys",
    "training": "the training examples",
    "validation": "the validation examples",
    "model": "the content of the base model",
    "chat_format": "the chat format of this tunerun",
    "turns": "how this tunerun writes conversations",
    "seed": "the seed",
    "backend.kind": "the kind of backend",
    "backend.address": "the address of the backend",
    "precision": "the precision",
    "quantization": "the quantization of the base model",
    "round": "how often the sweep was restarted with --fresh",
}
"""Ingredients of a key in words for messages; hyperparameters are named by their config keys."""


def mismatches(record: OpenRecord, trials: Sequence[TrialRecord], new_plan: Plan) -> Iterator[str]:
    """Yield why trials of a plan are not the recorded ones, or would be scored by other code, one line each.

    Args:
        record: of the sweep.
        trials: the recorded trials, in the order of the plan's.
        new_plan: the plan of the rerun.
    """
    # The code of a metric is in no key, because it changes scores and not the model.
    recorded = section(record.sweep.document, "metrics")
    for name, file in new_plan.document["metrics"].items():
        if file["sha256"] != (before := section(recorded, name).get("sha256", "")):
            yield (
                f"evaluation.metrics: {name}: {file['python']} is other code than was recorded (sha256 {before[:8]} -> "
                f"{file['sha256'][:8]}); it does not run"
            )
    for old, new in zip(trials, new_plan.trials, strict=True):
        stored = new.record()
        if old.key != new.key:
            yield from _key_differences(record, old, new, new_plan)
        # A key hashes neither the test set nor how models are asked, so that both can change without training again.
        elif (test := new.held_out.get("test")) is not None and test.digest != old.held_out.get("test"):
            yield _other_rows(record, "test", old.held_out.get("test"), test)
        elif stored.asked != old.asked:
            yield (
                f"trial {old.number}: models would be asked differently than recorded: evaluation.generation or "
                "evaluation.choices have another meaning in this version of tunerun"
            )


def missing_baselines(record: OpenRecord, trials: Sequence[TrialRecord], new_plan: Plan) -> Iterator[str]:
    """Yield a note if recorded baselines are missing, such as the majority answer of a larger trial not repeated.

    Args:
        record: of the sweep.
        trials: the recorded trials that are run again.
        new_plan: the plan of the rerun.
    """
    # A subject is a digest of all that can change the answers: the majority of other training rows is another baseline.
    names = {each.subject: each.name for each in record.ledger.baselines(record.sweep.id)}
    planned = {each.subject for each in new_plan.baselines}
    missing = dict.fromkeys(names.get(s, s) for t in trials for s in t.baselines if s not in planned)
    if missing:
        yield (
            f"baselines: {', '.join(missing)} of the record is not among those of the rerun, which are "
            f"{', '.join(each.name for each in new_plan.baselines)}"
        )


def _key_differences(record: OpenRecord, old: TrialRecord, new: Trial, new_plan: Plan) -> Iterator[str]:
    """Yield why a trial has another key, by the ingredients that differ."""
    if not old.ingredients:
        yield (
            f"trial {old.number}: its key differs ({old.key[:8]} -> {new.key[:8]}), and the version of tunerun that "
            f"wrote the ledger did not record a key's ingredients; {_AS_NEW}"
        )
        return
    for each in differences(old.ingredients, new.record().ingredients):
        if each.name in ("training", "validation"):
            yield _other_rows(record, each.name, each.old, new.training if each.name == "training" else new.validation)
        elif each.name == "model":
            # The files of a base model are hashed here only now that the identities differ: it takes a while.
            here = facts_of(new_plan.experiment, [new], cache_folder(new_plan.experiment.paths.cache))
            old_model, new_model = (
                next((model for model in facts.base_models if model.identity == identity), None)
                for facts, identity in ((record.facts, each.old), (here, each.new))
            )
            where = _other_files(old_model, new_model)
            yield f"{_INGREDIENTS['model']} {new.config.model.name} differs{where}: {each.old} -> {each.new}"
        else:
            what = _INGREDIENTS.get(each.name, f"hyperparameters.{each.name}")
            advice = f"; {_AS_NEW}" if each.name == "format" else ""
            yield f"trial {old.number}: {what} differs: {each.old} -> {each.new}{advice}"


def _other_files(old: BaseModelFacts | None, new: BaseModelFacts | None) -> str:
    """Which files of a base model have other content, or which package another version; empty: not known."""
    if old is None or new is None:
        return ""
    if old.package != new.package:
        return f" ({old.package or 'no package'} -> {new.package or 'no package'})"
    before, now = ({file.name: file.sha256 for file in model.files} for model in (old, new))
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return f" in {', '.join(names)}" if names and before and now else ""


def _other_rows(record: OpenRecord, name: str, old: str | None, new: ExampleSet | None) -> str:
    """Describe where a set of examples differs from the recorded one, which is named by its digest."""
    if old is None or new is None:
        sides = ["none" if each is None else "some" for each in (old, new)]
        return f"{name} examples: the record has {sides[0]}, and the rerun {sides[1]}"
    before, now = record.ledger.example_set(old).examples, new.examples
    # The first one that differs is enough to find the row; where all of the shorter set agree, it is the row after it.
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False))
    row = sum(1 for _ in same)
    texts = [
        quoted(f"{as_text(each[row].input)} => {each[row].output}") if row < len(each) else "none"
        for each in (before, now)
    ]
    counts = "" if len(before) == len(now) else f" ({len(before):,} -> {len(now):,})"
    return f"{name} examples differ from the recorded ones{counts}, first in example {row + 1}: {' -> '.join(texts)}"
