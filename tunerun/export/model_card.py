"""The model card of a tuned model: its description on the hub, in MLflow's registry and in a bundle.

Everything in it comes from the record: what the record lacks is called "not stated", and nothing is guessed. It holds
no path of a machine and no row of the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tunerun.comparison import labels, numbers
from tunerun.comparison.columns import measure_title
from tunerun.comparison.results import Measure, TrialResult, Verdict
from tunerun.export.front_matter import front_matter
from tunerun.export.subject import ExportSubject
from tunerun.export.usage import Call, Usage, usage_of
from tunerun.job import TrainedOn
from tunerun.ledger import TrialRecord
from tunerun.markdown import escaped, table
from tunerun.metrics import Unit
from tunerun.provenance.facts import DataFile, Environment

if TYPE_CHECKING:
    from tunerun.record import OpenRecord  # its bundles hold model cards

FILE = "README.md"
"""What the hub shows as a model card."""

NOT_STATED = "not stated"

_COMPUTING = ("torch", "transformers", "peft", "tokenizers", "safetensors", "gguf")
"""The packages that decide what a model answers."""


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
        record: of the trial's sweep. The adapter's folder is read where it is there, and need not be.
        format: in which form the model is handed on, as `usage.USAGES` has them: it decides the code that is shown.
        file: of a form that is one file its name, of `mlflow` the URI in the registry.
        checked: what was found when the files were asked, one sentence; empty: they were not.

    Raises:
        InputError: the form is unknown; lists them.
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
    template = subject.trial.settings.template
    columns = ", ".join(f"`{column}`" for column in subject.columns)
    chat = None if subject.tuned is None else subject.tuned.chat_format
    call = Call(
        name=subject.name,
        file=file,
        columns=subject.columns,
        base=subject.base_name,
        revision=subject.base.revision,
        chat=chat,
        generation=subject.trial.settings.generation,
        has_conversations=_has_conversations(subject),
    )
    parts = [
        "## How to call it",
        (
            f"An input is made of a row with {columns or 'no columns'} by this Jinja2 template (line breaks are kept "
            "as they are), and nothing else was seen in training:"
        ),
        _block("jinja", template.text_input),
        *_of_conversations(call.has_conversations, template.system),
        "In Python: `jinja2.Environment(keep_trailing_newline=True).from_string(template).render(row)`.",
        "The answers of the training data were made by:",
        _block("jinja", template.output),
        usage.code(call),
    ]
    if chat is not None:
        parts += [
            (
                "What the model reads is `prefix + input + suffix`; it answers `start + answer + end`. The chat "
                "template of an exported tokenizer gives this:"
            ),
            _block("json", json.dumps(_chat_parts(chat.prefix, chat.suffix, chat.start, chat.end), ensure_ascii=False)),
        ]
    return "\n\n".join([*parts, *([checked] if checked else [])])


def _has_conversations(subject: ExportSubject) -> bool:
    examples = subject.record.ledger.example_set(subject.trial.training).examples
    return any(example.is_conversation for example in examples)


def _of_conversations(has_conversations: bool, system: str | None) -> list[str]:
    """What a card says of system messages and earlier turns; nothing where training had none."""
    if not has_conversations:
        return []
    if system is None:
        return ["Before an input, training had the system message and the earlier turns of the row's own conversation."]
    return [
        "Before an input, and before earlier turns where a row has some, training had this system message:",
        _block("jinja", system),
    ]


def _chat_parts(prefix: str, suffix: str, start: str, end: str) -> dict[str, str]:
    return {"prefix": prefix, "suffix": suffix, "start": start, "end": end}


def _block(language: str, text: str) -> str:
    """A block of code with a fence longer than any in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


def _listed(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _training(subject: ExportSubject) -> str:
    trial, settings = subject.trial, subject.trial.settings
    hyperparameters = settings.hyperparameters
    without = () if subject.tuned is None else subject.tuned.without_adapter
    values: list[tuple[str, object]] = [
        ("epochs", hyperparameters.epoch_count),
        ("batch size", hyperparameters.batch_size),
        ("learning rate", hyperparameters.effective_learning_rate),
        ("adapter rank", hyperparameters.adapter_rank),
        ("adapter alpha", hyperparameters.adapter_alpha),
        ("kept epoch", hyperparameters.keep),
        *((name.replace("_", " "), _listed(value)) for name, value in hyperparameters.later.items()),
        ("seed", settings.seed),
        ("optimiser steps", trial.steps),
        ("training tokens, all epochs", trial.tokens),
        ("precision", trial.ingredients.get("precision", NOT_STATED)),
    ]
    written = [[name, f"{value:g}" if isinstance(value, float) else str(value)] for name, value in values]
    parts = [
        "## Training",
        "Supervised, with the loss on the answers' tokens only, and a LoRA adapter.",
        _data(subject),
        table(["setting", "value"], written),
    ]
    if without:
        names = ", ".join(f"`{name}`" for name in without)
        parts.append(f"Layers without an adapter, which stayed as they were: {names}.")
    return "\n\n".join(parts)


def _data(subject: ExportSubject) -> str:
    trial, ledger = subject.trial, subject.record.ledger
    sets = {"training": trial.training, **trial.held_out}
    lines = []
    for used_for, digest in sets.items():
        examples, file = ledger.example_set(digest), subject.data_file(used_for)
        name = file.name if file is not None else Path(examples.source).name
        count = numbers.counted(len(examples.examples), "row")
        lines.append([used_for, name, count, digest, _license_of(file)])
    return table(["set", "file", "size", "SHA-256 of its examples", "license"], lines)


def _evaluation(subject: ExportSubject) -> str:
    verdict, reason = subject.judged
    if verdict is None:
        return f"## Evaluation\n\nThe verdict cannot be computed here: {escaped(reason)}."
    result = subject.result_in(verdict)
    if not _measured(verdict, result):
        return "## Evaluation\n\nIt was not measured on held-out rows."
    is_advised = verdict.decision.advised == result.point
    parts = [
        "## Evaluation",
        f"On {numbers.counted(verdict.decision.rows, 'row')} of the validation set, which training did not see"
        + (" and by which the point was chosen:" if is_advised else ":"),
        _measures(verdict, result),
        f"The sweep's verdict: {escaped(verdict.sentence)}",
        _place(verdict, result),
        _on_test_set(subject),
    ]
    return "\n\n".join(part for part in parts if part)


def _measured(verdict: Verdict, result: TrialResult) -> list[Measure]:
    return [measure for measure in verdict.measures if measure.name in result.metrics]


def _on_test_set(subject: ExportSubject) -> str:
    """The same on the rows that were kept for the end, where they were opened for this model."""
    verdict = subject.judged_on_test
    result = None if verdict is None else subject.result_in(verdict)
    if verdict is None or result is None or not _measured(verdict, result):
        return ""
    count = len(subject.record.ledger.openings(subject.record.sweep.id))
    times = "once" if count == 1 else f"{count} times"
    return (
        f"On {numbers.counted(verdict.decision.rows, 'row')} of the test set, which was opened {times}:\n\n"
        f"{_measures(verdict, result)}\n\n{escaped(verdict.sentence)}"
    )


def _measures(verdict: Verdict, result: TrialResult) -> str:
    """The measures of this model, with the interval of its point, beside those of the baselines."""
    point = verdict.points[result.point]
    confidence = f"{100 * (1 - verdict.decision.alpha):g} % interval"
    is_replicated = len(point.trials) > 1
    head = ["measure", "this model", f"{confidence}{' (of all seeds)' if is_replicated else ''}"]
    head += [baseline.name for baseline in verdict.baselines]
    body = []
    for measure in _measured(verdict, result):
        estimate, count = point.estimates.get(measure.name), verdict.decision.rows
        interval = numbers.UNKNOWN if estimate is None else _interval(estimate.low, estimate.high, measure.unit, count)
        others = [
            numbers.measure(baseline.metrics.get(measure.name), measure.unit, count) for baseline in verdict.baselines
        ]
        value = numbers.measure(result.metrics[measure.name], measure.unit, count)
        body.append([measure_title(measure), value, interval, *others])
    return table(head, body)


def _interval(low: float | None, high: float | None, unit: Unit, count: int) -> str:
    text = numbers.interval(low, high, unit, count)
    return f"{text} %" if unit is Unit.SHARE and text != numbers.UNKNOWN else text


def _place(verdict: Verdict, result: TrialResult) -> str:
    """Where this model is in the verdict."""
    if verdict.decision.advised is None:
        return ""
    if result.point == verdict.decision.advised:
        return "This model is of the advised point."
    if result.point in verdict.decision.tied:
        return "This model is not of the advised point, and is not distinguishable from the best one."
    return "This model is not of the advised point."


def _limits(subject: ExportSubject, usage: Usage) -> str:
    lines = [
        (
            "It was tuned and measured on inputs of the template above alone; what it answers to other inputs, in "
            "other languages or in longer conversations was not measured."
        ),
        "Bias and harmful answers of the base model were not measured and are likely to remain.",
        *_of_base(subject, usage),
    ]
    verdict, _reason = subject.judged
    lines += [] if verdict is None else [escaped(note) for note in verdict.notes]
    return "\n".join(["## Limits", "", *(f"- {line}" for line in lines)])


def _of_base(subject: ExportSubject, usage: Usage) -> Iterator[str]:
    """What follows from weights that are not those of the hub."""
    base = subject.base
    if base.identity.startswith("gguf:") and subject.base_on_hub is not None:
        carried = f" in the package {base.package}" if base.package else ""
        differs = f": on the weights of {subject.base_on_hub} on the hub single answers can differ"
        yield (
            f"It was trained on the GGUF file{carried} with SHA-256 `{base.identity.rpartition(':')[2]}`, which may be "
            f"quantised{differs if usage.needs_base else ''}."
        )
    if usage.needs_base and subject.base_on_hub is None:
        yield f"It needs the base model with the identity `{base.identity}`, which has no name on the hub."


def _origin(subject: ExportSubject) -> str:
    record, job = subject.record, subject.job
    environment, code = record.facts.environment, record.sweep.document.get("code") or {}
    trained_on = TrainedOn() if job is None or job.trained_on is None else job.trained_on
    installed = {**environment.packages, **trained_on.packages}
    packages = {name: installed[name] for name in _COMPUTING if name in installed}
    finished = None if job is None or job.finished_at is None else datetime.fromtimestamp(job.finished_at, UTC)
    commit = code.get("commit")
    values = [
        ("tunerun", str(record.sweep.document.get("version", NOT_STATED))),
        ("key of the trial", subject.trial.key),
        ("base model", subject.base.identity or NOT_STATED),
        ("SHA-256 of the adapter", _weights(subject)),
        ("tuned on", NOT_STATED if finished is None else f"{finished:%Y-%m-%d}"),
        ("code of the project", f"{commit}{' with changes' if code.get('dirty') else ''}" if commit else NOT_STATED),
        ("Python", environment.python or NOT_STATED),
        ("system", environment.system or NOT_STATED),
        ("processor", _processor(trained_on, environment)),
        ("packages", ", ".join(f"{name} {version}" for name, version in packages.items()) or NOT_STATED),
    ]
    return "## Origin\n\n" + table(["what", "value"], [list(pair) for pair in values])


def _processor(trained_on: TrainedOn, environment: Environment) -> str:
    """The CPU or GPU that trained it, as the engine saw it; else the CPU of the machine that ran the sweep."""
    threads = f", {numbers.counted(trained_on.threads, 'thread')}" if trained_on.threads else ""
    return f"{trained_on.processor}{threads}" if trained_on.processor else environment.processor or NOT_STATED


def _weights(subject: ExportSubject) -> str:
    job = subject.job
    return NOT_STATED if job is None or job.tuned_model is None else job.tuned_model.weights or NOT_STATED
