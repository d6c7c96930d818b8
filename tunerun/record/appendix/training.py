"""The topics on training and selection: base model, hyperparameters, selection, test set."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tunerun import __version__
from tunerun.backends.registry import is_hosted
from tunerun.comparison import labels
from tunerun.comparison.numbers import counted
from tunerun.comparison.results import Outcome
from tunerun.record.appendix.document import AppendixTable, Block, CodeBlock, Paragraph, Topic
from tunerun.record.appendix.material import NOT_RECORDED, Material, words
from tunerun.replicates import SEED

_LOCAL_ENGINE = (
    "The engine trains the adapter with AdamW without weight decay, {schedule}; the loss is the mean negative log "
    "likelihood of the output's tokens. The base model is frozen in {precision}; adapter, optimiser and loss are in "
    "float32."
)
"""As in `tunerun.engine.optimisation`; only for sweeps of this version, because a record names no optimiser."""


def base_model(material: Material) -> Topic:
    """The base model by name and by content, and how it is trained."""
    kinds = {str(trial.settings.backend.get("kind", NOT_RECORDED)) for trial in material.trials}
    is_trained_here = not any(is_hosted(kind) for kind in kinds)
    optimiser = f"Optimiser: {NOT_RECORDED}; it depends on the backend ({words(sorted(kinds))})."
    if is_trained_here and material.document.get("version") == __version__:
        ingredients = [trial.ingredients for trial in material.trials]
        formats = {str(each[name]) for each in ingredients for name in ("precision", "quantization") if each.get(name)}
        is_constant = all(trial.settings.hyperparameters.has_constant_rate for trial in material.trials)
        optimiser = _LOCAL_ENGINE.format(
            schedule="at a constant learning rate" if is_constant else "with the schedule of each trial",
            precision=words(sorted(formats)) or f"a number format that is {NOT_RECORDED}",
        )

    named = dict(material.document.get("models", {}))
    # An earlier version did not record the sweep's models; their names are in the configs as well.
    names = list(dict.fromkeys(named.values())) or material.config_values("model.name")
    local = "; its content is part of every trial's key. A LoRA adapter is trained"
    summary = f"Base model: {words(names) or NOT_RECORDED}{local if is_trained_here else ''}. {optimiser}"
    blocks: list[Block] = [Paragraph(summary)]
    models = material.facts.base_models
    if models:
        rows = tuple(
            (each.name, each.source or NOT_RECORDED, each.revision or each.package or "", each.identity)
            for each in models
        )
        table = AppendixTable(("name", "source", "revision or package", "identity"), rows, wrapped=(1, 2, 3))
        blocks.append(table.without_empty_columns())
        files = tuple((file.name, f"{file.bytes:,}", file.sha256) for each in models for file in each.files)
        if files:
            blocks.append(AppendixTable(("file", "bytes", "SHA-256"), files, wrapped=(2,), numbers=(1,)))
        for model in models:
            if model.chat_format:
                text = f"Around each example, by the chat format of {model.name} (line breaks as \\n):"
                # Quoted, because spaces and line breaks around an example are part of the format.
                parts = [f"{name}: {str(part)!r}" for name, part in model.chat_format.items()]
                blocks += [Paragraph(text), CodeBlock("\n".join(parts))]
    else:
        sources = [
            f"{name}: {value}"
            for name in ("source", "package", "revision")
            for value in material.config_values(f"model.{name}")
            if value is not None
        ]
        sentence = f"{words(sources)}." if sources else ""
        identities = [f"{name}: {identity}" for identity, name in named.items()]
        blocks.append(Paragraph(f"Identity: {words(identities) or NOT_RECORDED}. {sentence}"))
    return Topic("Model", summary, tuple(blocks))


def hyperparameters(material: Material) -> Topic:
    """Every point with its seeds, and the values that all points share."""
    points, trials = material.points, material.trials
    # A seed makes a replicate of a point, not another point.
    varied = [key for key in dict.fromkeys(key for trial in trials for key in trial.overrides) if key != SEED]
    heads = labels.short_names(varied)
    values = {key: list(dict.fromkeys(labels.text(trial.overrides.get(key)) for trial in trials)) for key in varied}
    varying = [f"{key}: {', '.join(values[key])}" for key in varied]
    seeds = sorted({len(members) for members in points})
    per_point = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    summary = (
        f"{counted(len(points), 'point')} with {per_point} seed{'s' * (per_point != '1')} each, "
        f"{counted(len(trials), 'trial')}, all listed."
    )
    summary += f" Varied: {'; '.join(varying)}." if varying else " Nothing was varied."
    rows = tuple(
        (
            str(number),
            *(labels.text(members[0].overrides.get(key)) for key in varied),
            ", ".join(str(member.settings.seed) for member in members),
            ", ".join(str(member.number) for member in members),
        )
        for number, members in enumerate(points)
    )
    # From the config: settings omit a hyperparameter that only a later version has.
    stored = trials[0].config.get("hyperparameters") or vars(trials[0].settings.hyperparameters)
    fixed = {name: value for name, value in stored.items() if f"hyperparameters.{name}" not in varied}
    blocks: list[Block] = [
        Paragraph(summary),
        AppendixTable(("point", *(heads[key] for key in varied), "seeds", "trials"), rows, numbers=(0,)),
        Paragraph(f"The same for all: {_pairs(fixed)}."),
    ]
    pins = dict(material.document.get("pins") or {})
    if pins:
        blocks.append(Paragraph(f"Swept keys that the command line fixed: {_pairs(pins)}."))
    return Topic("Hyperparameters", summary, tuple(blocks))


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {labels.text(value)}" for name, value in values.items())


def selection(material: Material) -> Topic:
    """The measure, the rows and the rule by which a point was chosen."""
    verdict = material.verdict
    decision = verdict.decision
    # The verdict's sentence says why.
    if verdict.metric is None or decision.outcome is Outcome.NONE:
        summary = f"No point was chosen by a test. {verdict.sentence}"
        return Topic("Selection", summary, (Paragraph(summary),))
    units = counted(decision.rows, "row")
    compared = sum(verdict.metric in point.estimates and not point.stopped for point in verdict.points)
    rule = (
        f"Points are compared by {verdict.metric} on the validation set ({units}), {compared} of {len(verdict.points)} "
        "of them; of those that cannot be distinguished from the best, the cheapest that is better than every baseline "
        "is advised."
    )
    tied = f"Points that cannot be distinguished from the best: {words(decision.tied)}." if decision.tied else ""
    summary = f"{rule} {verdict.sentence}"
    return Topic("Selection", summary, (Paragraph(f"{rule} {tied}".strip()), Paragraph(verdict.sentence)))


def test_set(material: Material) -> Topic:
    """The openings of the test set, and for which trials."""
    size = material.sizes("test")
    if not size:
        summary = "There is no test set: reported measures are those on the rows by which points were chosen."
        return Topic("Test set", summary, (Paragraph(summary),))
    # Every opening counts, also those of sweeps that share the set: each is a chance to choose by the test set.
    openings = material.openings
    if not openings:
        summary = f"The test set ({size}) has not been opened: no model has answered its rows."
        return Topic("Test set", summary, (Paragraph(summary),))
    times = []
    for opening in openings:
        trials = f"trial{'s' * (len(opening.points) != 1)} {words(opening.points)}"
        opened_at = datetime.fromtimestamp(opening.opened_at, UTC)
        times.append(f"{opened_at:%Y-%m-%d %H:%M} UTC for {trials} of {opening.sweep}")
    often = "once" if len(openings) == 1 else f"{len(openings)} times"
    summary = f"The test set ({size}) was opened {often}: {words(times)}."
    blocks: list[Block] = [Paragraph(summary)]
    if len(openings) > 1:
        blocks.append(Paragraph("Choices made after the first opening may depend on the test set."))
    if material.test_verdict is not None:
        blocks.append(Paragraph(material.test_verdict.sentence))
    return Topic("Test set", summary, tuple(blocks))
