"""Restores a ledger from portable files, which are untrusted: digests are checked and sizes limited."""

from __future__ import annotations

import gzip
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from tunerun import example_json
from tunerun.digest import digest_of_file
from tunerun.errors import LedgerError, RecordError
from tunerun.job import BaseModelRef, JobRef, TrainedOn
from tunerun.ledger.answers import LOSSES
from tunerun.ledger.ledger import Ledger
from tunerun.ledger.portable import (
    EXAMPLES,
    FORMAT,
    RECORD,
    RESULTS,
    PortableRecord,
    PortableResults,
    PortableSet,
)
from tunerun.ledger.rows import dump
from tunerun.ledger.stops import STOPPED
from tunerun.ledger.stored_types import problems_of_config, problems_of_document
from tunerun.ledger.transfer import WholeAnswers, WholeJob
from tunerun.provenance.places import is_path
from tunerun.stored import section

MAX_SET_BYTES = 1_000_000_000
"""Largest set of examples or results, uncompressed: the most that a cell of SQLite holds (limits, SQLite 3)."""

MAX_BYTES = 4 * MAX_SET_BYTES
"""Most bytes of all sets of a record together, uncompressed."""

MAX_RECORD_BYTES = 500_000_000
"""Largest `record.json`: ten thousand trials with their configs have a tenth of it."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_ADAPTER = re.compile(r"tuned_models/[a-z0-9][a-z0-9._-]{0,99}")
_MOST_PROBLEMS = 20
"""Problems that an error lists, one line each."""

_ADVICE = "fetch the record again from its source"

_Stored = TypeVar("_Stored")


@dataclass(frozen=True)
class _TunedModel:
    """A tuned model as stored with a job."""

    name: str
    model: BaseModelRef
    folder: str = ""
    location: str = ""
    weights: str | None = None


@dataclass(frozen=True)
class _Parts:
    """The JSON values of a job, with the types that the ledger's readers expect."""

    reference: JobRef | None = None
    tuned_model: _TunedModel | None = None
    failure: dict[str, str | None] | None = None
    trained_on: TrainedOn | None = None


_PARTS = TypeAdapter(_Parts)


def restored(folder: Path, path: Path) -> str:
    """Create a new ledger from portable files.

    Args:
        folder: the one with `record.json`.
        path: the ledger's file, which must not exist yet; adapters are looked for in `tuned_models` beside it.

    Returns:
        The id of its sweep.

    Raises:
        RecordError: the files are damaged, incomplete, unsafe, or of a newer tunerun; no ledger is left behind.
        LedgerError: the ledger exists already, or cannot be written.
    """
    record = read_record(folder)
    # First everything that needs no decompression, so that a damaged record is refused before anything is unpacked.
    problems = list(islice(_problems(record), _MOST_PROBLEMS))
    if problems:
        raise RecordError([f"{folder / RECORD}: {problem}; {_ADVICE}" for problem in problems])
    for each in record.examples.values():
        file = _inside(folder, each.file)
        if digest_of_file(file) != each.sha256:
            raise RecordError(f"{file}: its content does not match the SHA-256 in {RECORD}; {_ADVICE}")
    results = read_results(folder, record)

    if path.exists():
        raise LedgerError(f"{path}: exists already; restore the record into a folder without a ledger")
    is_whole = False
    try:
        with Ledger(path) as ledger:
            # First: from here on, code that the record names, such as a metric's file, is not run by itself.
            ledger.mark_restored()
            ledger.restore(
                record.sweep,
                record.trials,
                record.baselines,
                ((digest, each.source, _examples(folder, each)) for digest, each in record.examples.items()),
            )
            if results is not None:
                # Answers of a shared model to another sweep's own test set: its rows are not in this record.
                answers = (each for each in results.answers if each.held_out in record.examples)
                ledger.restore_results(results.jobs, answers, results.openings, results.agreements)
        is_whole = True
    except (ValueError, OverflowError, struct.error) as error:  # NaN, or a number too large for a column
        raise RecordError(f"{folder / RECORD}: contains a value that a ledger cannot store; {_ADVICE}") from error
    finally:
        for suffix in () if is_whole else ("", "-wal", "-shm"):
            with suppress(OSError):
                path.with_name(path.name + suffix).unlink()
    return record.sweep.id


def read_record(folder: Path) -> PortableRecord:
    """Read `record.json` alone.

    Raises:
        RecordError: it is missing or damaged, or was written by a newer tunerun.
    """
    file = _inside(folder, RECORD)
    if file.stat().st_size > MAX_RECORD_BYTES:
        raise RecordError(f"{file}: is larger than {MAX_RECORD_BYTES:,} bytes; {_ADVICE}")
    return _read(PortableRecord, file.read_bytes(), file)


def read_results(folder: Path, record: PortableRecord) -> PortableResults | None:
    """Read `results.json.gz`, and check that it belongs to a record; None: there is none.

    Raises:
        RecordError: it is damaged, unsafe, or belongs to another record.
    """
    if not (folder / RESULTS).exists():
        return None
    file = _inside(folder, RESULTS)
    results = _read(PortableResults, b"".join(_unpacked(file, MAX_SET_BYTES)), file)
    keys = {trial.key for trial in record.trials}
    subjects = keys | {baseline.subject for baseline in record.baselines}
    problems = [f"job {job.id}: {problem}" for job in results.jobs for problem in _problems_of_job(job, keys)]
    problems += [
        f"answers of {a.subject!r}, which is not in the plan" for a in results.answers if a.subject not in subjects
    ]
    problems += [problem for each in results.answers for problem in _problems_of_answers(each, record)]
    if results.sweep != record.sweep.id:
        problems.append(f"belongs to the sweep {results.sweep!r}, and {RECORD} to {record.sweep.id!r}")
    if problems:
        raise RecordError([f"{file}: {problem}; {_ADVICE}" for problem in problems[:_MOST_PROBLEMS]])
    return results


def _problems_of_answers(answers: WholeAnswers, record: PortableRecord) -> Iterator[str]:
    """Yield problems of answers. Sets that the record lacks are test sets of other sweeps that share a trial."""
    held_out = record.examples.get(answers.held_out)
    if answers.asked.startswith(STOPPED):  # a JSON object, and some of the rows
        if not answers.values or (held_out is not None and len(answers.values) > held_out.rows):
            yield f"answers of {answers.subject!r}: no trial stops after {len(answers.values) - 1:,} rows"
        else:
            try:
                reason = json.loads(str(answers.values[0]))
            except ValueError:
                reason = None
            if not isinstance(reason, dict):
                yield f"answers of {answers.subject!r}: stopped early, but the reason is missing"
    elif held_out is not None and len(answers.values) != held_out.rows:
        rows = f"{held_out.rows:,} rows of the set {answers.held_out[:12]}"
        yield f"answers of {answers.subject!r}: {len(answers.values):,} for the {rows}"
    if answers.asked == LOSSES and any(isinstance(value, str) for value in answers.values):
        yield f"answers of {answers.subject!r}: losses must be numbers"


def _problems_of_job(job: WholeJob, keys: set[str]) -> Iterator[str]:
    if job.key not in keys:
        yield f"has the key {job.key!r}, which no trial has"
    try:
        _PARTS.validate_json(dump({name: getattr(job, name) for name in vars(_Parts())}), strict=True)
    except ValidationError as error:
        yield from (f"{'.'.join(map(str, each['loc']))[:200]}: {each['msg']}" for each in error.errors()[:5])
        return
    except ValueError:  # NaN or an infinity
        yield "contains a value that a ledger cannot store"
        return
    place = job.tuned_model or {}
    if "folder" in place and not _ADAPTER.fullmatch(place["folder"]):
        yield "its tuned model is not in tuned_models/"
    # The engine opens the folder of a tuned model, and export copies it: no path of a record may lead elsewhere.
    location = place.get("location", "")
    if is_path(location) or ".." in PurePosixPath(location).parts:
        yield "its tuned model's location is outside the record"


def _problems(record: PortableRecord) -> Iterator[str]:
    if not _ID.fullmatch(record.sweep.id) or not _ID.fullmatch(record.sweep.experiment):
        yield "sweep.id or sweep.experiment is not a name of letters, digits, - and _"
    if [trial.number for trial in record.trials] != list(range(len(record.trials))) or not record.trials:
        yield "trials: are not numbered from 0"
    for digest, each in record.examples.items():
        if not _DIGEST.fullmatch(digest) or each.file != f"{EXAMPLES}/{digest}.jsonl.gz":
            yield f"examples.{digest[:70]}: must be a digest, with the file {EXAMPLES}/<digest>.jsonl.gz"
        if not 0 <= each.bytes <= MAX_SET_BYTES:
            yield f"examples.{digest[:70]}: has {each.bytes:,} bytes; at most {MAX_SET_BYTES:,} are read"
    if sum(each.bytes for each in record.examples.values()) > MAX_BYTES:
        yield f"examples: have more than {MAX_BYTES:,} bytes together, the most that is read"
    used = {digest for trial in record.trials for digest in (trial.training, *trial.held_out.values())}
    if missing := sorted(used - set(record.examples)):
        yield f"examples: trials use sets that are missing: {', '.join(missing)[:300]}"
    wrong = list(problems_of_document(record.sweep.document))
    yield from (f"sweep.document.{problem}" for problem in wrong)
    for digest, clusters in record.sweep.document.get("clusters", {}).items() if not wrong else ():
        if digest in record.examples and len(clusters) != record.examples[digest].rows:
            yield f"sweep.document.clusters.{digest[:70]}: does not have one cluster for each row of the set"
    for trial in record.trials:
        place = f"trials.{trial.number}.config"
        yield from (f"{place}.{problem}" for problem in problems_of_config(trial.config))
        yield from (f"{place}.{problem}" for problem in _problems_of_metrics(trial.config))


def _problems_of_metrics(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield problems of metrics: their code may only be in the folder that the command runs in."""
    metrics = section(config, "evaluation").get("metrics")
    for number, entry in enumerate(metrics if isinstance(metrics, list) else ()):
        options = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(options, dict) or not isinstance(options.get("name"), str):
            yield f"evaluation.metrics.{number}: must be the name of a metric, or an object with it and options"
            continue
        python = options.get("python")
        if python is not None and (
            not isinstance(python, str) or is_path(python) or ".." in PurePosixPath(python.rpartition(":")[0]).parts
        ):
            yield f"evaluation.metrics.{number}: the file of a metric is outside the record"


def _inside(folder: Path, name: str) -> Path:
    """Return the path of a file of a record.

    Raises:
        RecordError: it is missing or not a file, or a link leads out of the folder.
    """
    file = folder / name
    if not file.is_file():
        raise RecordError(f"{file}: is missing, or not a file; a record has {RECORD}, {EXAMPLES}/ and {RESULTS}")
    if not file.resolve().is_relative_to(folder.resolve()):  # an archive may hold links
        raise RecordError(f"{file}: leads out of its folder; {_ADVICE}")
    return file


def _read(kind: type[_Stored], text: bytes, file: Path) -> _Stored:
    try:
        # Before the content: what a newer version has written differently would be called damaged.
        version = TypeAdapter(dict[str, Any]).validate_json(text).get("format")
        if isinstance(version, int) and version > FORMAT:
            raise RecordError(
                f"{file}: written by a newer tunerun (format {version}, this one knows {FORMAT}); update tunerun"
            )
        # Strict, unlike what reads a ledger: a record is untrusted, and a wrong type would fail wherever it is read.
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        lines = error.errors(include_input=False, include_url=False, include_context=False)
        problems = [f"{'.'.join(map(str, each['loc']))[:200]}: {each['msg']}" for each in lines[:_MOST_PROBLEMS]]
        raise RecordError([f"{file}: {problem}; {_ADVICE}" for problem in problems]) from error


def _unpacked(file: Path, most: int) -> Iterator[bytes]:
    """Yield the lines of a compressed file, up to a limit.

    Raises:
        RecordError: it is damaged, or has more bytes.
    """
    size = 0
    try:
        with gzip.open(file, "rb") as content:
            # At most one byte more than is allowed: a small file may unpack to any size, in a single line.
            while line := content.readline(most - size + 1):
                size += len(line)
                if size > most:
                    raise RecordError(f"{file}: has more than the {most:,} bytes that are expected; {_ADVICE}")
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise RecordError(f"{file}: is damaged ({error}); {_ADVICE}") from error


def _examples(folder: Path, each: PortableSet) -> str:
    """Return the examples of a set as the ledger stores them: as text, since objects would take more memory."""
    file = folder / each.file
    pairs: list[str] = []
    for number, line in enumerate(_unpacked(file, each.bytes), start=1):
        try:
            row = json.loads(line)
            text_input, output = row["text_input"], row["output"]
            is_text = isinstance(text_input, str) and isinstance(output, str)
            is_short = "system" not in row and "earlier" not in row
            if is_text:
                values = [text_input, output] if is_short else example_json.to_list(example_json.from_object(row))
                pairs.append(dump(values))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise RecordError(f"{file}:{number}: is not an example; {_ADVICE}") from error
        if not is_text:
            raise RecordError(f"{file}:{number}: text_input and output must be texts; {_ADVICE}")
    if len(pairs) != each.rows:
        raise RecordError(f"{file}: has {len(pairs):,} examples, and {RECORD} says {each.rows:,}; {_ADVICE}")
    return f"[{','.join(pairs)}]"
