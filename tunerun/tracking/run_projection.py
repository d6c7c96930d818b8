"""What a run in MLflow should contain, as plain values, and the parts that all runs of a sweep share."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

from tunerun.digest import digest
from tunerun.errors import NotFoundError
from tunerun.examples import ExampleSet
from tunerun.ledger import Ledger, SweepRecord, TrialProgress, TrialRecord
from tunerun.ledger.subjects import RunKind, trial_prefix
from tunerun.provenance.places import Places
from tunerun.stored import section

if TYPE_CHECKING:
    from tunerun.tracking.packaged.writing import Package

T = TypeVar("T")

_DIGEST_CHARACTERS = 8  # MLflow takes at most 36 and shows them all (3.18.0); the whole digest is in the source

LAYOUT = 4
"""Version of the content of runs. Raise it when a tag or an artifact is added: it is part of the digest that a mark
holds, so the next replay sends it to the runs of older stores too. Params are sent when their own version is new."""

STEP_LOSS, EPOCH_LOSS, VALIDATION_EPOCH_LOSS = "train/mean_loss", "train/epoch_mean_loss", "validation/epoch_loss"
"""The metrics that are curves."""

ONCE = "1"
"""The version of a part that never changes."""

STANDINGS, VIEW = "standings", "view"
"""Keys of a sweep's mark: the fields of each trial's last `Standing`; and the key of the view that MLflow has."""

NOTE_TAG = "mlflow.note.content"
"""The tag of a run or an experiment that MLflow shows as its description, in Markdown."""

RERUN_TAG, RERUN_OF_TAG, RECORD_TAG = "tunerun.rerun", "tunerun.rerun_of", "tunerun.record"
"""On the runs of a rerun: which one it is, and the run or the sweep that it runs again. On every trial: the folder of
the files from which it can be run again, as `runs:/<the sweep's own run>/record`."""

RECORD = "record"
"""The folder of these files among the artifacts of a sweep's own run."""

YES = "yes"
"""The value of a tag that is true or false; false is the empty text."""


class RunState(StrEnum):
    """MLflow's states of a run; the last three are finished."""

    SCHEDULED = "SCHEDULED"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"

    @property
    def is_finished(self) -> bool:
        """Whether a run in this state has an end."""
        return self not in (RunState.SCHEDULED, RunState.RUNNING)


@dataclass(frozen=True)
class RunPart(Generic[T]):
    """A part of a run that is rendered and sent as a whole when its version differs from the one sent last.

    Attributes:
        version: of the content, in the run's mark.
        render: makes the content; not called if it was sent already.
    """

    version: str
    render: Callable[[], T]


Content: TypeAlias = str | bytes
"""The content of a file: text, whose secrets are masked, or bytes, which are sent unchanged."""


@dataclass(frozen=True)
class LargeFiles:
    """Files of a run that are too large for memory: written to a folder and sent when their version is new.

    Attributes:
        version: of the content, in the run's mark.
        write: writes them into a folder, under the names of their artifacts.
    """

    version: str
    write: Callable[[Path], object]


@dataclass(frozen=True)
class MetricPoint:
    """One point of a metric.

    Attributes:
        time_ms: milliseconds since 1970 (UTC), from the ledger and never the clock: MLflow ignores a point that it has
            already, and stores it twice if it comes again with another time (3.18.0).
    """

    key: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True)
class SingleMetric:
    """A single value of a run.

    Attributes:
        time_ms: when it was measured, in milliseconds since 1970 (UTC).
        on: the data set it was measured on; None: none, or MLflow does not have it.
    """

    key: str
    value: float
    time_ms: int
    on: Input | None = None


@dataclass(frozen=True)
class Input:
    """A dataset that a run used.

    Attributes:
        digest: the first characters of our own digest of all its rows.
        source: JSON with the file's name and the whole digest.
        rows: how many it has.
        context: what it was used for, in MLflow's word.
    """

    name: str
    digest: str
    source: str
    rows: int
    context: str


@dataclass(frozen=True)
class LoggedModel:
    """A tuned model.

    Attributes:
        package: writes the files of one that MLflow can load into a new folder; returns None if it cannot. None: its
            weights are not on this machine, so MLflow has its name alone.
    """

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    package: Callable[[Path], Package | None] | None = None


@dataclass(frozen=True)
class Standing:
    """The verdict of a sweep about one of its trials.

    Attributes:
        point: the name of its point, shared by its replicates.
        is_advised: whether its point is the one to use.
        is_tied: whether its point is not distinguishable from the best.
    """

    point: str
    is_advised: bool = False
    is_tied: bool = False

    TAGS: ClassVar[tuple[str, ...]] = ("advised", "tied")
    """Tags that a list of runs shows as columns."""

    def tags(self) -> dict[str, str]:
        """Return the tags of its run; an empty value replaces that of an earlier verdict."""
        return {
            "tunerun.point": self.point,
            "tunerun.advised": YES if self.is_advised else "",
            "tunerun.tied": YES if self.is_tied else "",
        }


@dataclass(frozen=True)
class RunProjection:
    """The intended content of one run.

    Attributes:
        subject: the run's name in the ledger's marks.
        identity: the tags by which the run is found.
        ledger_digest: a digest of the ledger's state that this projection was made from.
        end_ms: set when the state is finished.
        points: of its curves.
        measures: single values, which are sent at step 0: MLflow then draws a bar over all runs, and not a lonely dot.
            Those that were measured on a data set are linked to it, and all of them to the model.
        large_files: more artifacts, by what the mark calls them together.
        mark_values: what the mark keeps for later replays, as JSON values.
        experiment_tags: what the experiment should have as tags once the run is there, by the experiment's id and the
            run's.
    """

    subject: str
    identity: Mapping[str, str]
    ledger_digest: str
    name: str
    start_ms: int
    state: RunState
    end_ms: int | None
    tags: Mapping[str, str]
    params: RunPart[dict[str, str]]
    points: Sequence[MetricPoint] = ()
    measures: Sequence[SingleMetric] = ()
    inputs: RunPart[list[Input]] | None = None
    artifacts: Mapping[str, RunPart[Content]] = field(default_factory=dict)
    large_files: Mapping[str, LargeFiles] = field(default_factory=dict)
    model: RunPart[LoggedModel] | None = None
    mark_values: Mapping[str, Any] = field(default_factory=dict)
    experiment_tags: Callable[[str, str], Mapping[str, str]] | None = None


class FrozenSweep:
    """A sweep's plan as the ledger froze it, read once; and its example sets, of which the last few are cached.

    Args:
        ledger: has the plan.
        sweep_id: the sweep.

    Raises:
        NotFoundError: the ledger holds no such sweep.
    """

    def __init__(self, ledger: Ledger, sweep_id: str) -> None:
        record = next((s for s in ledger.sweeps() if s.id == sweep_id), None)
        if record is None:
            raise NotFoundError(f"{sweep_id}: no such sweep in {ledger.path}; `tunerun status` shows the sweeps")
        self.record: SweepRecord = record
        self.experiment: str = record.mlflow_experiment
        self.trials: list[TrialRecord] = ledger.trials(sweep_id)
        self.by_number = {trial.number: trial for trial in self.trials}
        self.examples: Callable[[str], ExampleSet] = lru_cache(maxsize=4)(ledger.example_set)
        self._runs = ledger.path.parent

    @property
    def id(self) -> str:
        """The id of the sweep."""
        return self.record.id

    @property
    def varied(self) -> list[str]:
        """The dotted keys that the sweep varies."""
        return list(self.record.document.get("varied") or [])

    @cached_property
    def places(self) -> Places:
        """The replacements for places of the machine; read from every config on first use."""
        return Places.of_this_machine([trial.config for trial in self.trials], self._runs)

    @property
    def rerun(self) -> str:
        """The id that distinguishes a rerun from other sweeps of the same keys, in any ledger; empty: not a rerun."""
        return self.record.rerun

    @property
    def rerun_of(self) -> str:
        """The MLflow run that the sweep runs again, else the sweep; empty: it is not a rerun."""
        source = section(self.record.document, "rerun_of")
        return str(source.get("run_id") or source.get("sweep") or "")

    @property
    def trial_prefix(self) -> str:
        """The prefix of the subjects of its trials in the ledger's marks; the key follows."""
        return trial_prefix(self.experiment, self.rerun)

    def identity(self, kind: RunKind, **more: str) -> dict[str, str]:
        """Return the tags by which one of the sweep's runs is found."""
        own = {"tunerun.sweep": self.id, sweep_tag(self.id): kind, "tunerun.kind": kind}
        if self.rerun:
            own[RERUN_TAG] = self.rerun
        return own | {f"tunerun.{k}": v for k, v in more.items()}

    def code_tags(self) -> dict[str, str]:
        """Return tags of tunerun's version and of the Git commit of the user's project."""
        # `MlflowClient` sets none of MLflow's own context tags; its run page shows these as badges (3.18.0).
        tags = {"mlflow.source.name": "tunerun", "mlflow.source.type": "LOCAL"}
        tags["tunerun.version"] = str(self.record.document.get("version", ""))
        code = self.record.document.get("code")
        if code:
            tags["mlflow.source.git.commit"] = str(code["commit"])
            tags["mlflow.source.git.branch"] = str(code["branch"])
            tags["tunerun.dirty"] = str(bool(code["dirty"])).lower()
        return tags


@dataclass(frozen=True)
class Pages:
    """Where MLflow's page shows the runs of one experiment.

    Attributes:
        runs: the ids of those that it has.
    """

    experiment_id: str = ""
    runs: Collection[str] = ()

    def path(self, run_id: str, below: str = "") -> str:
        """Return where a run is shown, or a page below it."""
        return f"#/experiments/{self.experiment_id}/runs/{run_id}{below}"


@dataclass(frozen=True)
class SharedTrial:
    """A trial, and every sweep of one MLflow experiment that has it: all of them show one run. A rerun shares none.

    Attributes:
        members: the sweeps with their own record of the trial, the oldest first; the newest names the run.
        progress: of its job, as the newest sweep measures it.
        is_interrupted: whether its job is under way and no process watches it.
        standing: the newest sweep's verdict about it; None: not judged yet.
        record_run: the id of the newest sweep's own run, which has the record; None: there is none yet.
        pages: where both are shown.
    """

    members: Sequence[tuple[FrozenSweep, TrialRecord]]
    progress: TrialProgress
    is_interrupted: bool
    standing: Standing | None = None
    record_run: str | None = None
    pages: Pages = Pages()

    @property
    def owner(self) -> FrozenSweep:
        """The newest sweep that has it."""
        return self.members[-1][0]

    @property
    def trial(self) -> TrialRecord:
        """Its record in the newest sweep."""
        return self.members[-1][1]

    @property
    def subject(self) -> str:
        """The subject of its run in the ledger's marks."""
        return f"{self.owner.trial_prefix}{self.trial.key}"

    @property
    def ledger_digest(self) -> str:
        """A digest of everything in the ledger that its run depends on."""
        places = [[sweep.id, trial.number] for sweep, trial in self.members]
        standing = None if self.standing is None else asdict(self.standing)
        return digest([LAYOUT, asdict(self.progress), places, self.is_interrupted, standing, self.record_run])


def sweep_tag(sweep_id: str) -> str:
    """Return the tag of all runs of a sweep, also of those that it shares.

    Its value is the trial's number in that sweep, or the kind of a run that is not a trial's.
    """
    # A tag for each sweep: several may share a trial's run, and the filter of each one's view has to find it.
    return f"tunerun.sweep.{sweep_id}"


def dataset_input(examples: ExampleSet, context: str) -> Input:
    """Return a set of examples as an input of a run.

    Args:
        examples: the set.
        context: what it was used for: `training`, `validation` or `testing`.
    """
    return Input(
        name=PurePath(examples.source).stem or "examples",
        digest=examples.digest[:_DIGEST_CHARACTERS],
        source=json.dumps({"uri": examples.source, "sha256": examples.digest}),
        rows=len(examples.examples),
        context=context,
    )


def table_tag(*artifacts: str) -> dict[str, str]:
    """Return the tag that makes MLflow's page show JSON artifacts as tables; empty without artifacts."""
    # What `MlflowClient.log_table` sets too; but that appends to a table when it is called again (3.18.0).
    if not artifacts:
        return {}
    return {"mlflow.loggedArtifacts": json.dumps([{"path": path, "type": "table"} for path in artifacts])}


def milliseconds(seconds: float) -> int:
    """Return seconds since 1970 (UTC) as MLflow takes them, in milliseconds."""
    return round(seconds * 1000)
