"""Verifies a rerun against its record: the same bits where that is possible, else the same results within bounds.

Training on a CPU is deterministic, so with the same packages, instruction set and threads the adapter has the same
bits. Another instruction set or number of threads sums in another order; then the losses have to agree within
`TOLERANCE`, and the verdict has to be the same. A package that computes in another version is always a difference, for
it can be installed as it was. A service computes where nothing is known of, so its bits cannot be compared.

Rows laid out in another form, or passes shared with other trials, are the same sums in another order: what is promised
of them is `SHARING_TOLERANCE` and equal answers. At which step a trial joins a pack depends on time, so that the same
pack mostly gives the same bits, and is held to no more than that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunerun.backends import capabilities_of
from tunerun.backends.registry import stored_section
from tunerun.comparison import judge
from tunerun.comparison.numbers import counted
from tunerun.comparison.results import Verdict
from tunerun.errors import ConfigError, InputError, MetricError
from tunerun.job import JobState, TrainedOn
from tunerun.ledger import LOSSES, JobRecord, TrialRecord
from tunerun.record.environment import package_differences
from tunerun.record.sources import OpenRecord
from tunerun.redaction import redact

TOLERANCE = 0.01
"""By how much a loss may differ, as a share of the larger one, or of 1 nat where both are smaller.

AVX2 in the place of AVX512 moved the losses of SmolLM2-135M on `next_number` (20 steps) by 3.4e-5 at most, and left all
24 answers as they were; it, or one thread in the place of two, moved those of a random Llama of two layers (learning
rate 0.01) by 5e-6 in the first 40 steps (measured 2026-11-26). Training that is not stable amplifies that: the same run
was 1e-3 apart after 64 steps and 0.3 after 96, so that its losses cannot be repeated elsewhere. Our choice is far above
the one and far below the other; another seed, row or hyperparameter differs by more from the start.
"""

SHARING_TOLERANCE = (1e-5, 1e-3)
"""The same in the first epoch, and to the end, where on one machine a form or a pack differs: what the engine promises
of a trial of a pack against itself alone (`tests/engine`)."""

_MOST_CHARACTERS = 60


@dataclass(frozen=True)
class TrialCheck:
    """What came of comparing one thing.

    Attributes:
        number: of the trial in the record; None: it is about the sweep as a whole.
        is_equal: whether it is as it was; what was not compared counts as that.
        line: what was compared, and the first thing that differs where something does.
        is_compared: whether it could be compared; else the line says why not.
    """

    number: int | None
    is_equal: bool
    line: str
    is_compared: bool = True

    def __str__(self) -> str:
        return self.line if self.number is None else f"trial {self.number}: {self.line}"


@dataclass(frozen=True)
class Verification:
    """Every check of a rerun: one for each trial, and one for the verdict where the whole sweep was run again."""

    checks: tuple[TrialCheck, ...]

    @property
    def is_equal(self) -> bool:
        """Whether all that can be compared is as it was."""
        return all(check.is_equal for check in self.checks)

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each check."""
        return tuple(map(str, self.checks))

    def to_json(self) -> dict[str, Any]:
        """As `rerun --json` prints it."""
        checks = [
            {"trial": c.number, "equal": c.is_equal, "compared": c.is_compared, "text": c.line} for c in self.checks
        ]
        tolerances = {"tolerance": TOLERANCE, "sharing_tolerance": list(SHARING_TOLERANCE)}
        return {"equal": self.is_equal, **tolerances, "checks": checks}


def compare(old: OpenRecord, new: OpenRecord) -> Verification:
    """Compare what a rerun gave with the record.

    Args:
        old: the record. new: the rerun; its trials are found by their keys.
    """
    jobs = old.ledger.last_jobs(old.sweep.id), new.ledger.last_jobs(new.sweep.id)
    again = {trial.key: trial for trial in new.trials}
    checks = [
        _Pair(old, new, trial, again.get(trial.key), *(j.get(trial.key) for j in jobs)).check() for trial in old.trials
    ]
    if len(old.trials) == len(old.ledger.trials(old.sweep.id)):
        checks += _verdicts(old, new)
    return Verification(tuple(checks))


def shown(text: str) -> str:
    """A text of data for a message: one line, short, without what looks like a secret."""
    text = redact(" ".join(text.split()))
    return repr(text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}...")


@dataclass(frozen=True)
class _Pair:
    """A trial of the record and the same one of the rerun, with the last job of each."""

    old: OpenRecord
    new: OpenRecord
    trial: TrialRecord
    again: TrialRecord | None
    job: JobRecord | None
    job_again: JobRecord | None

    def check(self) -> TrialCheck:
        """Compare a rerun with its record."""
        if self.again is None:
            return self._check(False, "no trial of the rerun has its key")
        states = [JobState.PLANNED if job is None else job.state for job in (self.job, self.job_again)]
        if self.job is None or self.job_again is None or states != [JobState.SUCCEEDED] * 2:
            return self._check(states[0] == states[1], f"is {states[0]} in the record, and {states[1]} now")
        equal_answers, of, first = self._answers(self.trial, self.again)
        is_same_answers = equal_answers == of
        answers = f"{equal_answers:,} of {of:,} answers equal{first}" if of else "no answers are recorded"
        problem = self._other_rows()
        if problem:
            return self._check(False, problem)
        place = _Place.of(self.job, self.old), _Place.of(self.job_again, self.new)
        packages = place[0].other_packages(place[1])
        elsewhere = place[0].elsewhere(place[1])
        weights = [job.tuned_model.weights if job.tuned_model else None for job in (self.job, self.job_again)]
        is_same = weights[0] is not None and weights[0] == weights[1]
        shared = place[0].shared_otherwise(place[1])
        losses, is_close = self._losses(SHARING_TOLERANCE if shared and not elsewhere else (TOLERANCE, TOLERANCE))
        if self._is_hosted:
            text = f"bits cannot be compared, for a service trained it; {losses}; {answers}"
            return self._check(is_close, text)
        bits = "adapter: same bits" if is_same else f"adapter: {_other_bits(weights)}; {losses}"
        if packages:
            return self._check(False, f"{', '.join(packages)}; {bits}; {answers}")
        why = ", ".join(filter(None, (elsewhere, shared)))
        text = f"{bits}; {answers}" if (is_same and is_same_answers) or not why else f"{why}; {bits}; {answers}"
        if elsewhere:
            return self._check(is_close, text)
        if shared:
            return self._check(is_close and is_same_answers, text)
        return self._check(is_same and is_same_answers, f"{bits}; {answers}")

    def _check(self, is_equal: bool, line: str) -> TrialCheck:
        return TrialCheck(self.trial.number, is_equal, line)

    @property
    def _is_hosted(self) -> bool:
        try:
            return capabilities_of(stored_section(self.trial.settings.backend)).is_hosted
        except ConfigError:
            return False

    def _other_rows(self) -> str | None:
        """Which of its example sets has other content; a key does not hold the test set."""
        assert self.again is not None  # noqa: S101 - checked by the caller
        for name, digest in self.trial.held_out.items():
            if self.again.held_out.get(name) != digest:
                return f"the {name} examples differ"
        return None

    def _losses(self, tolerance: tuple[float, float]) -> tuple[str, bool]:
        """In words, how the loss curves differ; and whether they agree within the tolerance.

        Args:
            tolerance: in the first epoch, and after it.
        """
        assert self.job is not None and self.job_again is not None  # noqa: PT018, S101 - checked by the caller
        curves = [
            [((s.epoch > 1, f"at step {s.step}"), s.mean_loss) for s in ledger.snapshots(job.id)]
            + [
                ((e.epoch > 1, f"on held-out examples after epoch {e.epoch}"), e.loss)
                for e in ledger.epoch_losses(job.id)
            ]
            for ledger, job in ((self.old.ledger, self.job), (self.new.ledger, self.job_again))
        ]
        before, now = map(dict, curves)
        if before.keys() != now.keys():
            return f"there are {len(before):,} losses in the record, and {len(now):,} now", False
        differing = [(where, loss, now[where]) for where, loss in before.items() if loss != now[where]]
        if not differing:
            return f"all {len(before):,} losses equal" if before else "no losses are recorded", True
        (_, where), a, b = differing[0]
        by = [(is_later, abs(a - b) / max(1.0, abs(a), abs(b))) for (is_later, _), a, b in differing]
        is_close = all(each <= tolerance[is_later] for is_later, each in by)
        first = "" if tolerance[0] == tolerance[1] else f"{tolerance[0]:g} in the first epoch and "
        bound = f"{'within' if is_close else 'not within'} {first}{tolerance[1]:g}"
        largest = max(each for _, each in by)
        return f"the loss differs first {where} ({a:.9g} -> {b:.9g}), at most by {largest:.2g}, {bound}", is_close

    def _answers(self, trial: TrialRecord, again: TrialRecord) -> tuple[int, int, str]:
        """How many answers to the validation set are equal, of how many; and the first that is not, in words."""
        for asked in (trial.asked, LOSSES):
            if trial.validation is None:
                break
            before = _values(self.old, (trial.key, trial.validation, asked))
            now = _values(self.new, (again.key, trial.validation, asked))
            if before is None:
                continue
            values = now or ()
            differing = [n for n, value in enumerate(before) if n >= len(values) or values[n] != value]
            first = ""
            if differing:
                row = differing[0]
                texts = [shown(str(each[row])) if row < len(each) else "none" for each in (before, values)]
                first = f" (the first that is not: row {row + 1}: {' -> '.join(texts)})"
            return len(before) - len(differing), len(before), first
        return 0, 0, ""


def _values(record: OpenRecord, key: tuple[str, str, str]) -> Sequence[str | float] | None:
    """What was answered: of a trial that stopped early the first rows; None: it was not asked."""
    found = record.ledger.answers(*key)
    if found is not None:
        return found.values
    stop = record.ledger.stop(record.sweep.id, key)
    return None if stop is None else stop.texts


def _other_bits(weights: Sequence[str | None]) -> str:
    if weights[0] is None:
        return "its digest is not recorded"
    return f"other bits (sha256 {weights[0][:8]} -> {(weights[1] or 'none')[:8]})"


@dataclass(frozen=True)
class _Place:
    """What trained a job, and with which packages; empty where it is not known."""

    on: TrainedOn | None
    installed: Mapping[str, str]

    @classmethod
    def of(cls, job: JobRecord, record: OpenRecord) -> _Place:
        return cls(job.trained_on, record.facts.environment.packages)

    def other_packages(self, now: _Place) -> list[str]:
        """The packages that compute which have another version now, by what either side says of them."""
        if self.on is None or now.on is None:
            return []
        names = {*self.on.packages, *now.on.packages}
        planned = {name: version for name, version in self.installed.items() if name in names}
        found = package_differences(self.on.packages, now.on.packages)
        return found or package_differences(planned, now.installed)

    def elsewhere(self, now: _Place) -> str:
        """Why equal bits are not to be expected; empty: they are."""
        if self.on is None or now.on is None:
            return "what trained it is not recorded"
        pairs = {
            "device": (self.on.device, now.on.device),
            "instruction set": (self.on.instructions, now.on.instructions),
            "threads": (self.on.threads, now.on.threads),
            "build of torch": (self.on.build, now.on.build),
            "driver": (self.on.driver, now.on.driver),
        }
        if self.on.device != "cpu":
            pairs["GPU"] = (self.on.processor, now.on.processor)
        return ", ".join(f"{name} {a} -> {b}" for name, (a, b) in pairs.items() if a != b)

    def shared_otherwise(self, now: _Place) -> str:
        """In which other form or pack it was trained, so that equal bits are not to be expected; empty: in the same."""
        if self.on is None or now.on is None:
            return ""
        parts = [] if self.on.form == now.on.form else [f"form {self.on.form} -> {now.on.form}"]
        packs = [on.packed_with for on in (self.on, now.on)]
        if not parts and packs[0] and packs[0] == packs[1]:
            parts.append("trials may have joined the pack at other steps")
        if packs[0] != packs[1]:
            sizes = [f"with {counted(len(pack), 'other trial')}" if pack else "alone" for pack in packs]
            parts.append(f"packed {sizes[0]} -> {sizes[1]}" if sizes[0] != sizes[1] else "packed with other trials")
        return ", ".join(parts)


def _verdicts(old: OpenRecord, new: OpenRecord) -> Iterator[TrialCheck]:
    """Whether the whole sweep comes to the same."""
    try:
        before, now = judge(old.ledger, [old.sweep]), judge(new.ledger, [new.sweep])
    except (InputError, MetricError) as error:
        yield TrialCheck(None, True, f"the verdict cannot be made here: {error}", is_compared=False)
        return
    if before.metric is None and now.metric is None:
        return
    words = [_conclusion(verdict) for verdict in (before, now)]
    if (before.decision.outcome, before.decision.advised) == (now.decision.outcome, now.decision.advised):
        yield TrialCheck(None, True, f"the same verdict: {words[1]}")
    else:
        yield TrialCheck(None, False, f"another verdict: {' -> '.join(words)}")


def _conclusion(verdict: Verdict) -> str:
    """What it says in short: against the hardest baseline, and which point is advised."""
    decision = verdict.decision
    outcome = str(decision.outcome).replace("_", " ")
    against = f"{outcome} against {decision.against}" if decision.against else outcome
    return f"{against}, {'no point' if decision.advised is None else f'point {decision.advised}'} advised"
