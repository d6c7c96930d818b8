"""The folder of a tuned model: PEFT's own format, plus a record of the model and of the job that made it.

    adapter_config.json, adapter_model.safetensors   what `peft.PeftModel.from_pretrained` loads
    tunerun.json                                     key, template, base model, chat format, hyperparameters
    status.json                                      job, snapshots, validation losses, metrics, hardware and software

The folder appears complete or not at all: it is written under another name, synced to the disk and renamed. Checkpoints
of earlier epochs, if they are kept, are folders of the same format, `<id>.epochs/<epoch>`, next to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tunerun.digest import digest_of_file
from tunerun.engine import file_digest
from tunerun.engine.chat_format import ChatFormat, EarlierTurns
from tunerun.errors import NotFoundError
from tunerun.files import partial_folder, private_folder
from tunerun.job import (
    BaseModelRef,
    Checkpoint,
    EpochLoss,
    JobState,
    Snapshot,
    TemplateText,
    TrainedOn,
    TuningHyperparameters,
    TuningRequest,
)

FORMAT_VERSION = 2
RECORD_FILE = "tunerun.json"
STATUS_FILE = "status.json"
WEIGHTS_FILE = "adapter_model.safetensors"
ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True)
class TunedModelRecord:
    """The content of `tunerun.json`.

    Attributes:
        key: the trial's content hash.
        tuned_model: `tunedModels/<id>`.
        base_model: the config's model section.
        base_identity: the digest or commit of the base model's weights.
        chat_format: the format of the training examples, in which every input has to be sent.
        earlier_turns: the same for a system message and earlier turns; None: an earlier version wrote the record, and
            the base model's chat template decides.
        template: the prompt template of the trial.
        hyperparameters: of the trial.
        seed: of the trial.
        without_adapter: weights in layers without an adapter, such as experts and routers; `*` is any layer's number.
        weights: the SHA-256 of the adapter's weights, hexadecimal; None in format 1.
        format_version: `FORMAT_VERSION` of the version that wrote it.
    """

    key: str
    tuned_model: str
    base_model: BaseModelRef
    base_identity: str
    chat_format: ChatFormat
    earlier_turns: EarlierTurns | None = None
    template: TemplateText = field(default_factory=TemplateText)
    hyperparameters: TuningHyperparameters = field(default_factory=TuningHyperparameters)
    seed: int = 0
    without_adapter: tuple[str, ...] = ()
    weights: str | None = None
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class FinishedJob:
    """The content of `status.json`: the job that made the tuned model.

    Attributes:
        job: its id; empty for a checkpoint of an epoch that was not the last.
        snapshots: of all steps.
        metrics: see `JobStatus.metrics`.
        state: SUCCEEDED or CANCELLED.
        validation: the validation loss after each epoch.
        trained_on: the hardware and software that trained it; None: an earlier version wrote the file.
        checkpoints: the tuned models of all epochs that were kept.
    """

    job: str
    snapshots: tuple[Snapshot, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    state: JobState = JobState.SUCCEEDED
    validation: tuple[EpochLoss, ...] = ()
    trained_on: TrainedOn | None = None
    checkpoints: tuple[Checkpoint, ...] = ()


@dataclass(frozen=True)
class _Format:
    """The part of `tunerun.json` that every format has; it is read first."""

    format_version: int


# Of plain dataclasses: unknown keys are ignored, missing ones take their default (STYLE 21c).
_FORMAT = TypeAdapter(_Format)
_RECORD = TypeAdapter(TunedModelRecord)
_FINISHED = TypeAdapter(FinishedJob)


def epochs_folder(folder: Path) -> Path:
    """Return the folder of a tuned model's checkpoints. Ids contain no dots, so it is never a tuned model's own."""
    return folder.with_name(f"{folder.name}.epochs")


def record_of(
    request: TuningRequest,
    base_identity: str,
    chat_format: ChatFormat,
    without_adapter: tuple[str, ...] = (),
    earlier_turns: EarlierTurns | None = None,
) -> TunedModelRecord:
    """Return the record of the tuned model that a request makes.

    Args:
        request: the trial's.
        base_identity: the digest or commit of the base model's weights.
        chat_format: the base model's.
        without_adapter: from `layers.without_adapter`.
        earlier_turns: the base model's chat format for a system message and earlier turns.
    """
    return TunedModelRecord(
        key=request.key,
        tuned_model=f"tunedModels/{request.tuned_model_id}",
        template=request.template,
        base_model=request.model,
        base_identity=base_identity,
        chat_format=chat_format,
        earlier_turns=earlier_turns,
        hyperparameters=request.hyperparameters,
        seed=request.seed,
        without_adapter=without_adapter,
    )


def write(folder: Path, record: TunedModelRecord, finished: FinishedJob, save_adapter: Callable[[Path], None]) -> None:
    """Write a tuned model's folder, completely or not at all.

    Args:
        folder: where it will be; an existing folder is replaced.
        record: for `tunerun.json`; its `weights` is set here.
        finished: for `status.json`.
        save_adapter: writes PEFT's files into the folder that it is called with.

    Raises:
        OSError: a file cannot be written.
    """
    private_folder(folder.parent.parent)
    with partial_folder(folder) as partial:
        save_adapter(partial)
        written = replace(record, weights=digest_of_file(partial / WEIGHTS_FILE))
        (partial / RECORD_FILE).write_bytes(_RECORD.dump_json(written, indent=1))
        (partial / STATUS_FILE).write_bytes(_FINISHED.dump_json(finished))
        # Before the rename: otherwise a power failure may leave the complete folder with empty files.
        for file in partial.iterdir():
            _sync(file)
        _sync(partial)
        if folder.is_symlink() or folder.is_file():
            folder.unlink()  # of a link only the link itself, because its target is not ours
        elif folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
        _sync(folder.parent)  # otherwise a power failure may undo the rename


def copy(folder: Path, target: Path, record: TunedModelRecord) -> None:
    """Copy the files that generation needs: the adapter, and `tunerun.json` with another record.

    PEFT's config in the copy names the base model as that record does.

    Args:
        folder: the tuned model's folder.
        target: the new folder; must not exist.
        record: for the copy.

    Raises:
        OSError, ValueError: a file cannot be read or written.
    """
    target.mkdir(parents=True)
    shutil.copyfile(folder / WEIGHTS_FILE, target / WEIGHTS_FILE)
    config = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = record.base_model.source
    (target / ADAPTER_FILE).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    (target / RECORD_FILE).write_bytes(_RECORD.dump_json(record, indent=1))


def parts(folder: Path) -> dict[str, bytes]:
    """Return the content of a tuned model's files by name; missing files are omitted."""
    names = (WEIGHTS_FILE, ADAPTER_FILE, RECORD_FILE, STATUS_FILE)
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def receive(files: Mapping[str, bytes], folder: Path, key: str, checkpoint: Callable[[int], Path]) -> None:
    """Write a tuned model that another machine made, completely or not at all.

    Args:
        files: from `parts` on that machine.
        folder: where it will be.
        key: of the trial that it has to belong to.
        checkpoint: returns the folder of an epoch's checkpoint; paths of the other machine are not used.

    Raises:
        ValueError: a file is missing or damaged, or the tuned model belongs to another trial.
        OSError: a file cannot be written.
    """
    lacking = [name for name in (WEIGHTS_FILE, ADAPTER_FILE, RECORD_FILE, STATUS_FILE) if name not in files]
    if lacking:
        raise ValueError(f"{', '.join(lacking)} was not received")
    record = _RECORD.validate_json(files[RECORD_FILE])
    finished = _FINISHED.validate_json(files[STATUS_FILE])
    if record.key != key:
        raise ValueError("it belongs to another trial")
    if hashlib.sha256(files[WEIGHTS_FILE]).hexdigest() != record.weights:
        raise ValueError(f"the digest of {WEIGHTS_FILE} is not the one that it was written with")
    last = max((each.epoch for each in finished.checkpoints), default=0)  # its checkpoint is the tuned model itself
    kept = tuple(
        replace(each, location=str(folder if each.epoch == last else checkpoint(each.epoch)))
        for each in finished.checkpoints
    )

    def save(partial: Path) -> None:
        for name in (WEIGHTS_FILE, ADAPTER_FILE):
            (partial / name).write_bytes(files[name])

    write(folder, record, replace(finished, checkpoints=kept), save)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fault(folder: Path, weights: str | None = None, cache: Path | None = None) -> str | None:
    """Check that a tuned model's folder is complete and unchanged.

    Args:
        folder: the tuned model's folder.
        weights: the SHA-256 of the weights in the ledger; None: compare with the one in `tunerun.json`.
        cache: where digests of large files are cached; None: read every byte.

    Returns:
        What is missing or changed, as a clause; None: the folder is as it was made.
    """
    if not folder.is_dir():
        return f"{folder} is missing"
    try:
        recorded = read(folder).weights
    except NotFoundError as error:
        return str(error).partition(";")[0]
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        return f"{file} is missing"
    if weights is not None and recorded not in (None, weights):
        return f"{folder} holds another tuned model than the one that was made"
    expected = weights or recorded  # None: format 1 recorded no digest, and the ledger has none
    try:
        digest = digest_of_file(file) if cache is None else file_digest.sha256(file, cache)
    except OSError as error:
        return f"{file} cannot be read ({error.strerror})"
    return None if expected in (None, digest) else f"{file} has changed since it was made"


def read(folder: Path) -> TunedModelRecord:
    """Read a tuned model's record.

    Raises:
        NotFoundError: the folder does not contain a readable tuned model, or a newer tunerun wrote it.
    """
    try:
        content = (folder / RECORD_FILE).read_bytes()
        # Read before the record itself, whose other fields a newer version may have changed.
        version = _FORMAT.validate_json(content).format_version
        if version > FORMAT_VERSION:
            raise NotFoundError(
                f"{folder} was written by a newer tunerun (format {version}, this one knows {FORMAT_VERSION}); "
                "update tunerun"
            )
        return _RECORD.validate_json(content)
    except (OSError, ValidationError) as error:
        reason = "cannot be read" if isinstance(error, OSError) else "is damaged"
        raise NotFoundError(
            f"{folder} does not hold a tuned model: its {RECORD_FILE} {reason}; a tuned model is a folder that tunerun "
            "wrote; give the location that the run shows, or tune again"
        ) from error


def read_finished(folder: Path) -> FinishedJob | None:
    """Read the record of the job that made a tuned model; None if it is missing or damaged."""
    try:
        return _FINISHED.validate_json((folder / STATUS_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
