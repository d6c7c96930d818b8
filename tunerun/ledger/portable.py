"""Writes a sweep of a ledger as portable files, from which a ledger can be restored on any machine.

    record.json                     the plan: sweep, trials, baselines, and an index of the examples; never changes
    examples/<digest>.jsonl.gz      each set of examples once, one JSON object a line
    results.json.gz                 the results: jobs with their curves, answers, openings; if there are any

The same sweep gives the same bytes. They hold no path of the machine (`tunerun.provenance.places`): a file of rows, a
local base model or a metric's code is named without its folder, and the folder of results has its default.
"""

from __future__ import annotations

import gzip
import io
import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path, PurePath
from typing import IO, Any

from tunerun.digest import digest_of_file
from tunerun.ledger.ledger import Ledger
from tunerun.ledger.records import BaselineRecord, Opening, SweepRecord, TrialRecord
from tunerun.ledger.rows import dump
from tunerun.ledger.transfer import ExampleText, WholeAgreement, WholeAnswers, WholeJob
from tunerun.provenance.places import Places
from tunerun.redaction import redact
from tunerun.stored import section

RECORD = "record.json"
RESULTS = "results.json.gz"
EXAMPLES = "examples"

FORMAT = 1
"""The format of these files; a newer one is refused, older ones are read."""

_LEVEL = 1  # of gzip: 4 s of a CPU for 300 MB of rows, for which a run waits; 6: 7 s, 8 % smaller (2026-11-26)
_BLOCK_CHARACTERS = 4_000_000
_COMPRESSORS = 2
"""Threads that compress: zlib releases Python's lock, so that the next examples are read meanwhile."""


@dataclass(frozen=True)
class PortableSet:
    """An entry of the index of example sets.

    Attributes:
        file: relative to `record.json`.
        sha256: of the compressed file.
        bytes: of its lines, uncompressed.
        rows: how many lines it has.
        source: the name of the file of rows that they came from.
    """

    file: str
    sha256: str
    bytes: int
    rows: int
    source: str


@dataclass(frozen=True)
class PortableRecord:
    """The content of `record.json`.

    Attributes:
        format: of these files: `FORMAT` of the version that wrote them.
        tunerun: that version.
        examples: the index of example sets, by digest.
    """

    format: int
    tunerun: str
    sweep: SweepRecord
    trials: tuple[TrialRecord, ...]
    baselines: tuple[BaselineRecord, ...]
    examples: dict[str, PortableSet]


@dataclass(frozen=True)
class PortableResults:
    """The content of `results.json.gz`.

    Attributes:
        sweep: the id of the sweep that they belong to.
        openings: of its test set, also by other sweeps that share it.
        agreements: of its judges with people.
    """

    format: int
    sweep: str
    jobs: tuple[WholeJob, ...] = ()
    answers: tuple[WholeAnswers, ...] = ()
    openings: tuple[Opening, ...] = ()
    agreements: tuple[WholeAgreement, ...] = ()


def portable_files(ledger: Ledger, sweep: SweepRecord, folder: Path) -> list[str]:
    """Write a sweep as portable files.

    Args:
        ledger: has the sweep.
        sweep: its record.
        folder: the target folder, created if missing.

    Returns:
        The names of the files in it.

    Raises:
        LedgerError: a row is damaged.
    """
    results = results_file(ledger, sweep, folder)
    return [*plan_files(ledger, sweep, folder), *([] if results is None else [results])]


def plan_files(ledger: Ledger, sweep: SweepRecord, folder: Path) -> list[str]:
    """Write the part that is fixed before the first job, examples included: it never changes.

    Args:
        ledger, sweep, folder: as for `portable_files`.

    Returns:
        The names of the files, `record.json` last.

    Raises:
        LedgerError: a row is damaged.
    """
    from tunerun import __version__

    trials = ledger.trials(sweep.id)
    places = _places(ledger, trials)
    (folder / EXAMPLES).mkdir(parents=True, exist_ok=True)
    baselines = []
    for baseline in ledger.baselines(sweep.id):
        document = dict(baseline.document)
        if isinstance(model := document.get("base_model"), Mapping):
            document["base_model"] = places.model(model)
        if "model" in document:
            document["model"] = places.value("model.name", document["model"])
        baselines.append(replace(baseline, document=document))
    # Each set once: most trials of a sweep share theirs, and the rows are most of a record's bytes.
    digests = dict.fromkeys(digest for t in trials for digest in (t.training, *t.held_out.values()))
    record = PortableRecord(
        format=FORMAT,
        tunerun=__version__,
        sweep=replace(sweep, document=_document(sweep, places)),
        trials=tuple(
            replace(
                trial,
                overrides={key: places.value(key, value) for key, value in trial.overrides.items()},
                config=places.config(trial.config),
                ingredients=dict(trial.ingredients),
            )
            for trial in trials
        ),
        baselines=tuple(baselines),
        examples={digest: _write_examples(ledger, digest, folder, places) for digest in sorted(digests)},
    )
    # The second line of defence: older versions stored passwords in addresses of commands and configs.
    text = redact(json.dumps(asdict(record), ensure_ascii=False, allow_nan=False, indent=1))
    (folder / RECORD).write_text(f"{text}\n", encoding="utf-8", newline="\n")
    return [*(each.file for each in record.examples.values()), RECORD]


def results_file(ledger: Ledger, sweep: SweepRecord, folder: Path) -> str | None:
    """Write the results of a sweep so far.

    Args:
        ledger, sweep, folder: as for `portable_files`.

    Returns:
        The file's name; None: there are no results yet, and no file.

    Raises:
        LedgerError: a row is damaged.
    """
    jobs = ledger.whole_jobs(sweep.id)
    first = next(jobs, None)  # one at a time: the curves of one job are in memory, not of all
    trials = ledger.trials(sweep.id)
    # Answers of a shared model to another sweep's own test set: this record does not have the rows.
    sets = {digest for trial in trials for digest in (trial.training, *trial.held_out.values())}
    answers = {key: each for key, each in ledger.answers_of_sweep(sweep.id).items() if key[1] in sets}
    openings = ledger.openings(sweep.id)
    if first is None and not answers and not openings:
        return None
    places = _places(ledger, trials)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / RESULTS).open("wb") as raw, _compressed(raw) as file:
        file.write(f'{{"format":{FORMAT},"sweep":{dump(sweep.id)},"jobs":['.encode())
        _write_list(file, (_job(job, places) for job in chain([] if first is None else [first], jobs)))
        file.write(b'],"answers":[')
        _write_list(
            file,
            (vars(WholeAnswers(*of_key, each.created_at, each.values)) for of_key, each in sorted(answers.items())),
        )
        file.write(b'],"openings":[')
        _write_list(file, map(vars, openings))
        # How well the judges of the sweep agree with people; no key without any, so that older sweeps keep their bytes.
        judges = [each for each in section(sweep.document, "judges").values() if isinstance(each, Mapping)]
        agreements = ledger.agreements([str(each["identity"]) for each in judges if "identity" in each])
        if agreements:
            file.write(b'],"agreements":[')
            _write_list(file, (vars(WholeAgreement(*of_key, each)) for of_key, each in sorted(agreements.items())))
        file.write(b"]}\n")
    return RESULTS


def _places(ledger: Ledger, trials: Iterable[TrialRecord]) -> Places:
    return Places.of_this_machine([trial.config for trial in trials], ledger.path.parent)


def _compressed(raw: IO[bytes]) -> gzip.GzipFile:
    """Return a gzip file whose bytes depend on its content only: it has no time and no name."""
    return gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=raw, mtime=0)


def _write_list(file: gzip.GzipFile, values: Iterable[object]) -> None:
    for number, value in enumerate(values):
        file.write(f"{',' if number else ''}\n{dump(value)}".encode())


def _blocks(examples: Iterable[ExampleText]) -> Iterator[tuple[int, bytes]]:
    """Yield blocks of JSON Lines with their counts."""
    # Where a block ends depends on the examples alone: the same sweep gives the same bytes.
    lines: list[str] = []
    length = 0
    for text_input, output, before in examples:
        end = f",{before[1:]}" if before else "}"
        lines.append(f'{{"text_input":{text_input},"output":{output}{end}\n')
        length += len(lines[-1])
        if length >= _BLOCK_CHARACTERS:
            yield len(lines), "".join(lines).encode()
            lines, length = [], 0
    yield len(lines), "".join(lines).encode()


def _write_examples(ledger: Ledger, digest: str, folder: Path, places: Places) -> PortableSet:
    def compressed(block: bytes) -> bytes:
        member = io.BytesIO()
        with _compressed(member) as file:
            file.write(block)
        return member.getvalue()

    source, examples = ledger.example_rows(digest)
    name, size, rows = f"{EXAMPLES}/{digest}.jsonl.gz", 0, 0
    with (folder / name).open("wb") as file, ThreadPoolExecutor(_COMPRESSORS) as pool:
        waiting: deque[Future[bytes]] = deque()  # gzip members; in sequence they are one gzip file (RFC 1952, 2.2)
        for count, block in _blocks(examples):
            rows, size = rows + count, size + len(block)
            waiting.append(pool.submit(compressed, block))
            if len(waiting) > _COMPRESSORS:
                file.write(waiting.popleft().result())
        for member in waiting:
            file.write(member.result())
    return PortableSet(name, digest_of_file(folder / name), size, rows, places.name(source))


def _document(sweep: SweepRecord, places: Places) -> dict[str, Any]:
    """Return the sweep's document with the places of the machine removed from its texts."""
    # What is not listed has its texts searched for known places, so that a part that is added later has none either.
    document = dict(sweep.document)
    changed: dict[str, Any] = {
        "pins": lambda pins: {key: places.value(key, value) for key, value in pins.items()},
        "warnings": lambda warnings: [places.prose(text) for text in warnings],
        "models": lambda models: {identity: places.value("model.name", name) for identity, name in models.items()},
        "metrics": lambda metrics: {
            name: {**values, "python": places.python(str(values.get("python", "")))} for name, values in metrics.items()
        },
        "command": places.command,
        "clusters": lambda clusters: clusters,  # numbers only, and many: nothing to remove
    }
    return {
        name: changed[name](value) if value and name in changed else _texts(value, places)
        for name, value in document.items()
    }


def _texts(value: Any, places: Places) -> Any:
    """Return JSON values with known places of the machine removed from their texts."""
    if isinstance(value, str):
        return places.text(value)
    if isinstance(value, Mapping):
        return {key: _texts(each, places) for key, each in value.items()}
    return [_texts(each, places) for each in value] if isinstance(value, list | tuple) else value


def _job(job: WholeJob, places: Places) -> dict[str, Any]:
    """Return a job as JSON values with places of the machine removed from its texts."""
    tuned, failure = job.tuned_model, job.failure
    if tuned is not None:
        tuned = {**tuned, "model": places.model(tuned.get("model") or {})}
        if PurePath(tuned.get("location", "")).is_absolute():  # an adapter that is outside the runs folder
            tuned["location"] = PurePath(tuned["location"]).name
    if failure is not None:
        failure = {name: places.prose(each) if isinstance(each, str) else each for name, each in failure.items()}
    model = places.value("model.name", job.model)
    # Not `asdict`, which would copy every point of the curves.
    return vars(replace(job, model=model, tuned_model=tuned, failure=failure)) | {
        "snapshots": [(step, epoch, _loss(loss), time) for step, epoch, loss, time in job.snapshots],
        "epoch_losses": [(epoch, _loss(loss)) for epoch, loss in job.epoch_losses],
    }


def _loss(value: float) -> float | str:
    # JSON has neither NaN nor infinity, and a training that diverged has such losses: they are texts.
    return value if math.isfinite(value) else str(value)
