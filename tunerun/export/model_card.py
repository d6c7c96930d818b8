"""The model card of a tuned model: its description on the hub, in MLflow's registry and in a bundle.

Everything in it comes from the record; what the record lacks is called "not stated". It contains no path of a machine
and no row of the data.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tunerun.comparison import labels, numbers
from tunerun.comparison.columns import measure_title
from tunerun.comparison.results import Measure, TrialResult, Verdict
from tunerun.export.front_matter import front_matter
from tunerun.export.subject import ExportSubject
from tunerun.export.usage import Usage, UsageContext, usage_of
from tunerun.job import TrainedOn
from tunerun.ledger import TrialRecord
from tunerun.markdown import code_block, escaped, table
from tunerun.metrics import Unit
from tunerun.provenance.facts import DataFile

if TYPE_CHECKING:
    from tunerun.record import OpenRecord  # its bundles hold model cards

FILE = "README.md"
"""The file that the hub shows as the model card."""

NOT_STATED = "not stated"

_COMPUTING = ("torch", "transformers", "peft", "tokenizers", "safetensors", "gguf")
"""The packages that a model's answers depend on."""


def model_card(
    record: OpenRecord,
    trial: TrialRecord,
    *,
    format: str = "tunerun",  # noqa: A002 - the command's and the hub's word
    file: str = "",
    checked: str = "",
) -> str:
    """Describe a trial's tuned model as a Hugging Face model card: YAML, then Markdown.

    Args:
        record: of the trial's sweep. The adapter's folder is read if it exists.
        trial: whose tuned model is described.
        format: a key of `usage.USAGES`, which determines the code in the card.
        file: the name of the file, of a format with one file; for `mlflow`, the URI in the registry.
        checked: one sentence on the answers of the written files; empty: they were not asked.

    Raises:
        InputError: the format is unknown; the message lists the formats.
    """
    subject, usage = ExportSubject(record, trial), usage_of(format)
    sections = [
        _head(subject, usage),
        _how_to_call(subject, usage, file, checked),
        _training(subject),
        _evaluation(subject),
        _limits(subject, usage),
        _origin(subject),
    ]
    return front_matter(subject, usage) + "\n" + "\n\n".join(sections) + "\n"


def _head(subject: ExportSubject, usage: Usage) -> str:
    settings, base, hub_name = subject.trial.settings, subject.base, subject.base_on_hub
    varied = labels.label(subject.trial.overrides)
    where = f"[{hub_name}](https://huggingface.co/{hub_name})" if hub_name else f"`{subject.base_name}`"
    lines = [
        f"# {subject.name.rpartition('/')[2]}",
        "",
        (
            f"{where}, tuned by tunerun for the experiment `{settings.name}`, as {usage.title}. It answers inputs of "
            "one form, which its template makes."
        ),
        "",
        f"- Trial {subject.trial.number} of sweep `{subject.record.sweep.id}`"
        + (f": {escaped(varied)}" if varied else ""),
        f"- License of the base model: {base.license or NOT_STATED}",
        f"- License of the training data: {_license_of(subject.data_file('training'))}",
    ]
    return "\n".join(lines)


def _license_of(file: DataFile | None) -> str:
    return NOT_STATED if file is None or file.license is None else file.license


def _how_to_call(subject: ExportSubject, usage: Usage, file: str, checked: str) -> str:
    settings, ledger = subject.trial.settings, subject.record.ledger
    template = settings.template
    chat = None if subject.tuned is None else subject.tuned.chat_format
    examples = ledger.example_set(subject.trial.training).examples
    has_conversations = any(example.is_conversation for example in examples)
    context = UsageContext(
        name=subject.name,
        file=file,
        columns=subject.columns,
        base=subject.base_name,
        revision=subject.base.revision,
        chat=chat,
        generation=settings.generation,
        has_conversations=has_conversations,
    )
    columns = ", ".join(f"`{column}`" for column in subject.columns) or "no columns"
    parts = [
        "## How to call it",
        (
            f"An input is made of a row with {columns} by this Jinja2 template (line breaks are kept as they are), and "
            "nothing else was seen in training:"
        ),
        code_block(template.text_input, "jinja"),
    ]
    if has_conversations and template.system is None:
        parts.append(
            "Before an input, training had the system message and the earlier turns of the row's own conversation."
        )
    elif has_conversations and template.system is not None:
        parts += [
            "Before an input, and before earlier turns where a row has some, training had this system message:",
            code_block(template.system, "jinja"),
        ]
    parts += [
        # Without the option Jinja drops a template's last line break, which training kept.
        "In Python: `jinja2.Environment(keep_trailing_newline=True).from_string(template).render(row)`.",
        "The answers of the training data were made by:",
        code_block(template.output, "jinja"),
        usage.code(context),
    ]
    if chat is not None:
        # As JSON: line breaks and spaces at the ends of these texts are part of the format, and would not be seen.
        around = {"prefix": chat.prefix, "suffix": chat.suffix, "start": chat.start, "end": chat.end}
        parts += [
            (
                "What the model reads is `prefix + input + suffix`; it answers `start + answer + end`. The chat "
                "template of an exported tokenizer gives this:"
            ),
            code_block(json.dumps(around, ensure_ascii=False), "json"),
        ]
    return "\n\n".join([*parts, *([checked] if checked else [])])


def _training(subject: ExportSubject) -> str:
    trial, settings = subject.trial, subject.trial.settings
    hyperparameters = settings.hyperparameters
    without = () if subject.tuned is None else subject.tuned.without_adapter
    values: list[tuple[str, object]] = [
        ("epochs", hyperparameters.epoch_count),
        ("batch size", hyperparameters.batch_size),
        # A config may have a multiplier in place of the rate; other libraries take the rate.
        ("learning rate", hyperparameters.effective_learning_rate),
        ("adapter rank", hyperparameters.adapter_rank),
        ("adapter alpha", hyperparameters.adapter_alpha),
        ("kept epoch", hyperparameters.keep),
        *(
            (name.replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list) else value)
            for name, value in hyperparameters.later.items()
        ),
        ("seed", settings.seed),
        ("optimiser steps", trial.steps),
        ("training tokens, all epochs", trial.tokens),
        ("precision", trial.ingredients.get("precision", NOT_STATED)),
    ]
    written = [[name, f"{value:g}" if isinstance(value, float) else str(value)] for name, value in values]
    sets = []
    for used_for, digest in {"training": trial.training, **trial.held_out}.items():
        examples, file = subject.record.ledger.example_set(digest), subject.data_file(used_for)
        # An earlier version did not record files; the source of the examples is a path, of which the name is enough.
        name = file.name if file is not None else Path(examples.source).name
        sets.append([used_for, name, numbers.counted(len(examples.examples), "row"), digest, _license_of(file)])
    parts = [
        "## Training",
        "Supervised, with the loss on the answers' tokens only, and a LoRA adapter.",
        table(["set", "file", "size", "SHA-256 of its examples", "license"], sets),
        table(["setting", "value"], written),
    ]
    if without:
        names = ", ".join(f"`{name}`" for name in without)
        parts.append(f"Layers without an adapter, which stayed as they were: {names}.")
    return "\n\n".join(parts)


def _evaluation(subject: ExportSubject) -> str:
    verdict, reason = subject.judged
    if verdict is None:
        return f"## Evaluation\n\nThe verdict cannot be computed here: {escaped(reason)}."
    result = subject.result_in(verdict)
    if not _measured(verdict, result):
        return "## Evaluation\n\nIt was not measured on held-out rows."
    # The rows by which a point was chosen flatter it: a reader has to know which set was used for that.
    is_advised = verdict.decision.advised == result.point
    parts = [
        "## Evaluation",
        f"On {numbers.counted(verdict.decision.rows, 'row')} of the validation set, which training did not see"
        + (" and by which the point was chosen:" if is_advised else ":"),
        _measures(verdict, result),
        f"The sweep's verdict: {escaped(verdict.sentence)}",
    ]
    if is_advised:
        parts.append("This model is of the advised point.")
    elif verdict.decision.advised is not None:
        is_tied = result.point in verdict.decision.tied
        tied = ", and is not distinguishable from the best one" if is_tied else ""
        parts.append(f"This model is not of the advised point{tied}.")
    on_test = subject.judged_on_test
    if on_test is not None and _measured(on_test, tested := subject.result_in(on_test)):
        count = len(subject.record.ledger.openings(subject.record.sweep.id))
        times = "once" if count == 1 else f"{count} times"
        parts += [
            f"On {numbers.counted(on_test.decision.rows, 'row')} of the test set, which was opened {times}:",
            _measures(on_test, tested),
            escaped(on_test.sentence),
        ]
    return "\n\n".join(parts)


def _measured(verdict: Verdict, result: TrialResult) -> list[Measure]:
    return [measure for measure in verdict.measures if measure.name in result.metrics]


def _measures(verdict: Verdict, result: TrialResult) -> str:
    """A table of the model's measures with the intervals of its point, and the measures of the baselines."""
    point = verdict.points[result.point]
    confidence = f"{100 * (1 - verdict.decision.alpha):g} % interval"
    is_replicated = len(point.trials) > 1
    head = ["measure", "this model", f"{confidence}{' (of all seeds)' if is_replicated else ''}"]
    head += [baseline.name for baseline in verdict.baselines]
    body = []
    for measure in _measured(verdict, result):
        estimate, count = point.estimates.get(measure.name), verdict.decision.rows
        interval = numbers.UNKNOWN
        if estimate is not None:
            interval = numbers.interval(estimate.low, estimate.high, measure.unit, count)
            interval += " %" if measure.unit is Unit.SHARE and interval != numbers.UNKNOWN else ""
        others = [
            numbers.measure(baseline.metrics.get(measure.name), measure.unit, count) for baseline in verdict.baselines
        ]
        value = numbers.measure(result.metrics[measure.name], measure.unit, count)
        body.append([measure_title(measure), value, interval, *others])
    return table(head, body)


def _limits(subject: ExportSubject, usage: Usage) -> str:
    base = subject.base
    lines = [
        (
            "It was tuned and measured on inputs of the template above alone; what it answers to other inputs, in "
            "other languages or in longer conversations was not measured."
        ),
        "Bias and harmful answers of the base model were not measured and are likely to remain.",
    ]
    if base.identity.startswith("gguf:") and subject.base_on_hub is not None:
        # The hub has other weights than the file: those from which the file was made.
        carried = f" in the package {base.package}" if base.package else ""
        differs = f": on the weights of {subject.base_on_hub} on the hub single answers can differ"
        lines.append(
            f"It was trained on the GGUF file{carried} with SHA-256 `{base.identity.rpartition(':')[2]}`, which may be "
            f"quantised{differs if usage.needs_base else ''}."
        )
    if usage.needs_base and subject.base_on_hub is None:
        lines.append(f"It needs the base model with the identity `{base.identity}`, which has no name on the hub.")
    # The verdict's notes are limits too, such as one seed for each point.
    verdict, _reason = subject.judged
    lines += [] if verdict is None else [escaped(note) for note in verdict.notes]
    return "\n".join(["## Limits", "", *(f"- {line}" for line in lines)])


def _origin(subject: ExportSubject) -> str:
    record, job = subject.record, subject.job
    environment, code = record.facts.environment, record.sweep.document.get("code") or {}
    trained_on = TrainedOn() if job is None or job.trained_on is None else job.trained_on
    # An engine may have run elsewhere, with other packages than the process that planned: its own are the model's.
    installed = {**environment.packages, **trained_on.packages}
    packages = {name: installed[name] for name in _COMPUTING if name in installed}
    finished = None if job is None or job.finished_at is None else datetime.fromtimestamp(job.finished_at, UTC)
    commit = code.get("commit")
    weights = None if job is None or job.tuned_model is None else job.tuned_model.weights
    processor = environment.processor  # of the machine that ran the sweep, unless the engine recorded its own
    if trained_on.processor:
        threads = f", {numbers.counted(trained_on.threads, 'thread')}" if trained_on.threads else ""
        processor = f"{trained_on.processor}{threads}"
    values = [
        ("tunerun", str(record.sweep.document.get("version", NOT_STATED))),
        ("key of the trial", subject.trial.key),
        ("base model", subject.base.identity or NOT_STATED),
        ("SHA-256 of the adapter", weights or NOT_STATED),
        ("tuned on", NOT_STATED if finished is None else f"{finished:%Y-%m-%d}"),
        ("code of the project", f"{commit}{' with changes' if code.get('dirty') else ''}" if commit else NOT_STATED),
        ("Python", environment.python or NOT_STATED),
        ("system", environment.system or NOT_STATED),
        ("processor", processor or NOT_STATED),
        ("packages", ", ".join(f"{name} {version}" for name, version in packages.items()) or NOT_STATED),
    ]
    return "## Origin\n\n" + table(["what", "value"], [list(pair) for pair in values])
