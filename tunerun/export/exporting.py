"""Writes a tuned model for other programs, atomically, and checks that the export gives the same answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunerun.engine import tuned_model
from tunerun.engine.base_model import cache_folder
from tunerun.errors import InputError, LimitError, NotFoundError
from tunerun.export.formats import ExportFormat, ExportSource, format_of
from tunerun.export.model_card import FILE as CARD
from tunerun.export.model_card import model_card
from tunerun.export.subject import ExportSubject
from tunerun.export.usage import usage_of
from tunerun.files import partial_folder
from tunerun.ledger import TrialRecord, asked_by
from tunerun.prediction import checked_cache
from tunerun.record import OpenRecord

MOST_ROWS = 24
"""Held-out rows that an exported model answers. Ours: SmolLM2-135M answers them in 10 s on two cores, and a model of
7 billion parameters in minutes."""


@dataclass(frozen=True)
class AnswerCheck:
    """The comparison of an exported model's answers with those of the tuned model.

    Attributes:
        rows: number of inputs.
        different: numbers of the inputs with another answer, from 1.
        of: a description of the inputs.
        reason: why the model was not asked; empty: it was.
    """

    rows: int = 0
    different: tuple[int, ...] = ()
    of: str = ""
    reason: str = ""

    @property
    def equal(self) -> int:
        """The number of equal answers."""
        return self.rows - len(self.different)

    @property
    def sentence(self) -> str:
        """The result in one sentence, for the terminal and the model card."""
        if self.reason:
            return f"Not asked: {self.reason}."
        which = f"; different: row {', '.join(map(str, self.different))}" if self.different else ""
        return f"{self.equal} of {self.rows} answers equal to the tuned model's ({self.of}){which}."


@dataclass(frozen=True)
class ExportedModel:
    """An exported tuned model.

    Attributes:
        tuned_model: its name, `tunedModels/<id>`.
        format: the export format.
        path: the folder, or the file if a single-file format was requested by a file name.
        files: names of all files.
        bytes: total size in bytes.
        check: whether the export gives the same answers as the tuned model.
    """

    tuned_model: str
    format: str
    path: Path
    files: tuple[str, ...]
    bytes: int
    check: AnswerCheck

    def to_json(self) -> dict[str, Any]:
        """Return the result as `export --json` prints it."""
        return {
            "tuned_model": self.tuned_model,
            "format": self.format,
            "path": str(self.path),
            "files": list(self.files),
            "bytes": self.bytes,
            "answers": {
                "rows": self.check.rows,
                "equal": self.check.equal,
                "different": list(self.check.different),
                "of": self.check.of,
                "not_asked": self.check.reason or None,
            },
        }


def named_trial(record: OpenRecord) -> TrialRecord:
    """Return the one trial of a record.

    Args:
        record: of a trial, or of a sweep with one trial.

    Raises:
        InputError: it has several; the message says what to give instead.
    """
    if len(record.trials) == 1:
        return record.trials[0]
    # Of the first three, because one of them may have failed, and each is looked up in the ledger.
    names = [subject.name for trial in record.trials[:3] if (subject := ExportSubject(record, trial)).folder]
    raise InputError(
        f"{record.sweep.id} has {len(record.trials)} trials; give one tuned model"
        + (f", such as {names[0]}" if names else "")
        + ", or --best for the advised point's"
    )


def best_trial(record: OpenRecord) -> TrialRecord:
    """Return the first trial of the point that the sweep's verdict advises.

    Args:
        record: of the sweep, or of one of its trials.

    Raises:
        LimitError: no point is advised; the message has the verdict's sentence.
    """
    # The record may be of one trial, and a verdict is about all trials of a sweep.
    whole = OpenRecord(record.ledger, record.sweep, None, record.origin)
    verdict, reason = ExportSubject(whole, whole.trials[0]).judged
    if verdict is None or verdict.best is None:
        raise LimitError(
            f"--best {record.sweep.id}: no point is advised, so nothing was exported: "
            f"{reason if verdict is None else verdict.sentence} Name a tuned model to export it all the same"
        )
    return verdict.trials[verdict.best].record


def export(
    record: OpenRecord,
    trial: TrialRecord,
    form: str,
    target: Path,
    *,
    quantization: str | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> ExportedModel:
    """Write a trial's tuned model in one of the formats of `formats.FORMATS`. Slow: it loads the model.

    Args:
        record: of the trial's sweep.
        trial: whose tuned model is written.
        form: name of the format.
        target: a new or empty folder, or a new file if the format is one file.
        quantization: of the written file; None: the format's default.
        say: called with a line before each step that takes time.

    Raises:
        NotFoundError: the trial has no tuned model on this machine, or the model has changed.
        InputError: the format does not support it, or the target cannot be written; nothing was written.
    """
    export_format = format_of(form)
    if quantization is not None and quantization not in export_format.quantizations:
        allowed = ", ".join(export_format.quantizations)
        advice = f"choose one of {allowed}" if allowed else "it keeps the base model's precision; omit the option"
        raise InputError(f"--quantization {quantization}: not for --to {export_format.name}; {advice}")
    subject = ExportSubject(record, trial)
    source = _source(subject, quantization)
    export_format.check(source)

    # A format that is one file is written as that file beside its card if a file was named, else as a folder.
    is_file = bool(export_format.quantizations) and target.suffix == f".{export_format.name}"
    try:
        if target.exists() and (is_file or not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{target}: exists already; give a new name, or an empty folder")
        # Everything is written and checked beside the target and then renamed: what has the target's name is complete.
        with partial_folder(target) as folder:
            say(f"writing {subject.name} as {form}")
            file = export_format.write(source, folder)
            check = _check(subject, export_format, source, folder, say)
            # An adapter's answers depend on the base model, and the one on this machine was used.
            where = f", on the base model {source.record.base_identity}" if usage_of(form).needs_base else ""
            checked = f"Checked when it was exported, by transformers alone{where}: {check.sentence}"
            name = target.name if is_file else file
            card = model_card(record, trial, format=form, file=name, checked="" if check.reason else checked)
            (folder / CARD).write_text(card, encoding="utf-8")
            files = sorted(each.name for each in folder.iterdir())
            size = sum(each.stat().st_size for each in folder.iterdir())
            if is_file:  # the model last: where it is, the card beside it is complete
                (folder / CARD).rename(target.with_suffix(".md"))
                (folder / file).rename(target)
            else:
                folder.rename(target)
    except OSError as error:  # also from `write`, whose contract it is when the disk is full
        raise InputError(
            f"{target}: cannot be written ({error.strerror or error}), and nothing was; a whole model needs 2 to 4 "
            "bytes a parameter; free space, or choose another folder"
        ) from error
    return ExportedModel(subject.name, form, target, tuple(files), size, check)


def _source(subject: ExportSubject, quantization: str | None) -> ExportSource:
    job = subject.job
    if job is None or job.tuned_model is None:
        raise NotFoundError(f"{subject.name}: it has no tuned model; `tunerun status` shows why")
    folder = job.tuned_model.folder
    if folder is None:
        raise NotFoundError(
            f"{subject.name}: its weights are at the service that tuned it ({job.tuned_model.location}) and cannot be "
            "exported from here"
        )
    cache = cache_folder(checked_cache(subject.record.ledger, job.tuned_model, subject.trial))
    record, options = tuned_model.read(folder), subject.trial.settings.generation
    return ExportSource(folder, record, cache, options, subject.base_name, quantization)


def _check(
    subject: ExportSubject, export_format: ExportFormat, source: ExportSource, folder: Path, say: Callable[[str], None]
) -> AnswerCheck:
    """Compare the answers of the exported model with those of the tuned model."""
    if source.options.temperature > 0:
        return AnswerCheck(
            reason="its answers are drawn by chance (evaluation.generation.temperature), so none is the right one"
        )

    trial, ledger = subject.trial, subject.record.ledger
    examples = ledger.example_set(trial.validation or trial.training).examples
    inputs = [example.input for example in examples[:MOST_ROWS]]
    kind = "held-out" if trial.validation else "training"
    total = len(examples)
    which = f"all {total}" if total <= MOST_ROWS else f"the first {len(inputs)} of {total}"
    say(f"asking it {which} {kind} rows")

    # The ledger's answers are compared if they were generated: a trial of a closed set of answers was asked to choose.
    stored = None
    if trial.validation and trial.asked == asked_by(source.options):
        stored = ledger.answers(trial.key, trial.validation, trial.asked)
    if stored is not None:
        expected, origin = list(stored.texts[:MOST_ROWS]), "as the ledger has them"
    else:
        from tunerun.engine import export_answers

        base_model = source.record.base_model
        expected = export_answers.of_tuned(source.folder, base_model, source.cache, inputs, source.options)
        origin = "as it gives them now"

    answers = export_format.answers(source, folder, inputs)
    pairs = enumerate(zip(answers, expected, strict=True), start=1)
    different = tuple(number for number, (answer, before) in pairs if answer != before)
    return AnswerCheck(len(inputs), different, f"{which} {kind} rows, {origin}")
