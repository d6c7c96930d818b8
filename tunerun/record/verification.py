"""Verifies a rerun against its record: the same bits where possible, otherwise the same results within tolerances.

Training on a CPU is deterministic, so with the same packages, instruction set and threads the adapter has the same
bits. Another instruction set or number of threads adds in another order; then the losses have to agree within
`TOLERANCE`, and the verdict has to be the same. Another version of a package that computes always counts as a
difference, because the recorded version can be installed. The hardware and software of a service are not known, so the
bits of hosted models are not compared.

Rows laid out in another form, and passes shared with other trials, compute the same sums in another order; for them the
engine guarantees `SHARING_TOLERANCE` and equal answers. The step at which a trial joins a pack depends on timing, so
the same pack usually gives the same bits, but only the tolerance is required.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunerun.backends.registry import is_hosted
from tunerun.comparison import judge
from tunerun.comparison.numbers import counted
from tunerun.errors import InputError, MetricError
from tunerun.job import JobState, TrainedOn
from tunerun.ledger import LOSSES, JobRecord, TrialRecord
from tunerun.record.environment_changes import package_differences
from tunerun.record.sources import OpenRecord
from tunerun.redaction import redact

TOLERANCE = 0.01
"""Permitted difference of a loss, as a share of the larger loss, or of 1 nat if both are smaller.

AVX2 instead of AVX512 changed the losses of SmolLM2-135M on `next_number` (20 steps) by at most 3.4e-5 and none of its
24 answers; the same change, or one thread instead of two, changed those of a random two-layer Llama (learning rate
0.01) by 5e-6 in the first 40 steps (measured 2026-11-26). Unstable training amplifies such differences: the same run
was 1e-3 apart after 64 steps and 0.3 after 96, so its losses cannot be reproduced elsewhere. Our choice is far above
the first figures and far below the last; another seed, row or hyperparameter differs by more from the start.
"""

SHARING_TOLERANCE = (1e-5, 1e-3)
"""The tolerance in the first epoch, and in later ones, if form or pack differ on one machine: what the engine
guarantees for a trial in a pack compared with the trial alone (`tests/engine`)."""

_MOST_CHARACTERS = 60


@dataclass(frozen=True)
class TrialCheck:
    """The result of one comparison.

    Attributes:
        number: of the trial in the record; None: the comparison is about the whole sweep.
        is_equal: whether the rerun matches the record; True if they could not be compared.
        line: what was compared, and the first difference if there is one.
        is_compared: whether a comparison was possible; if not, `line` says why.
    """

    number: int | None
    is_equal: bool
    line: str
    is_compared: bool = True

    def __str__(self) -> str:
        return self.line if self.number is None else f"trial {self.number}: {self.line}"


@dataclass(frozen=True)
class Verification:
    """All checks of a rerun: one for each trial, and one for the verdict if the whole sweep was run again."""

    checks: tuple[TrialCheck, ...]

    @property
    def is_equal(self) -> bool:
        """Whether everything that could be compared matches the record."""
        return all(check.is_equal for check in self.checks)

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each check."""
        return tuple(map(str, self.checks))

    def to_json(self) -> dict[str, Any]:
        """Return the checks as `rerun --json` prints them."""
        checks = [
            {"trial": c.number, "equal": c.is_equal, "compared": c.is_compared, "text": c.line} for c in self.checks
        ]
        tolerances = {"tolerance": TOLERANCE, "sharing_tolerance": list(SHARING_TOLERANCE)}
        return {"equal": self.is_equal, **tolerances, "checks": checks}


def compare(old: OpenRecord, new: OpenRecord) -> Verification:
    """Compare the results of a rerun with the record.

    Args:
        old: the record.
        new: the rerun; its trials are matched by their keys.
    """
    jobs = old.ledger.last_jobs(old.sweep.id), new.ledger.last_jobs(new.sweep.id)
    again = {trial.key: trial for trial in new.trials}
    checks = [
        _Pair(old, new, trial, again.get(trial.key), *(j.get(trial.key) for j in jobs)).check() for trial in old.trials
    ]
    # A verdict is about all trials of a sweep: one trial that was run again alone has none.
    if len(old.trials) == len(old.ledger.trials(old.sweep.id)):
        checks += _verdicts(old, new)
    return Verification(tuple(checks))


def quoted(text: str) -> str:
    """Format a text from the data for a message: one line, shortened, with secrets redacted."""
    text = redact(" ".join(text.split()))
    return repr(text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}...")


@dataclass(frozen=True)
class _Pair:
    """A trial of the record and its counterpart in the rerun, with the last job of each."""

    old: OpenRecord
    new: OpenRecord
    trial: TrialRecord
    again: TrialRecord | None
    job: JobRecord | None
    job_again: JobRecord | None

    def check(self) -> TrialCheck:
        """Compare the two trials: states, examples, bits, losses and answers."""
        if self.again is None:
            return self._check(False, "no trial of the rerun has its key")
        # A trial that fails as it did before has been reproduced.
        states = [JobState.PLANNED if job is None else job.state for job in (self.job, self.job_again)]
        if self.job is None or self.job_again is None or states != [JobState.SUCCEEDED] * 2:
            return self._check(states[0] == states[1], f"is {states[0]} in the record, and {states[1]} now")
        equal_answers, of, first = self._answers(self.trial, self.again)
        is_same_answers = equal_answers == of
        answers = f"{equal_answers:,} of {of:,} answers equal{first}" if of else "no answers are recorded"

        # Equal keys mean equal training and validation rows; the test set is not in the key.
        if others := [name for name, digest in self.trial.held_out.items() if self.again.held_out.get(name) != digest]:
            return self._check(False, f"the {others[0]} examples differ")
        place = _Place(self.job.trained_on, self.old.facts.environment.packages)
        place_again = _Place(self.job_again.trained_on, self.new.facts.environment.packages)
        packages = place.other_packages(place_again)
        elsewhere = place.elsewhere(place_again)
        shared = place.shared_otherwise(place_again)
        # Each of the two tolerances is for one cause; with both, the larger one holds.
        losses, is_close = self._losses(SHARING_TOLERANCE if shared and not elsewhere else (TOLERANCE, TOLERANCE))
        if is_hosted(str(self.trial.settings.backend.get("kind"))):
            text = f"bits cannot be compared, because a service trained it; {losses}; {answers}"
            return self._check(is_close, text)

        # The digest is of the weights alone: the model's status.json has the times of its job, which never repeat.
        weights = [job.tuned_model.weights if job.tuned_model else None for job in (self.job, self.job_again)]
        is_same = weights[0] is not None and weights[0] == weights[1]
        bits = "adapter: same bits"
        if weights[0] is None:
            bits = f"adapter: its digest is not recorded; {losses}"
        elif not is_same:
            bits = f"adapter: other bits (sha256 {weights[0][:8]} -> {(weights[1] or 'none')[:8]}); {losses}"
        # A difference even with the same bits: the recorded version can be installed, and then nothing is in doubt.
        if packages:
            return self._check(False, f"{', '.join(packages)}; {bits}; {answers}")

        # What is required: on another machine close losses, in another pack or form also the answers, else the bits.
        why = ", ".join(filter(None, (elsewhere, shared)))
        text = f"{bits}; {answers}" if (is_same and is_same_answers) or not why else f"{why}; {bits}; {answers}"
        is_equal = is_same and is_same_answers
        if elsewhere:
            is_equal = is_close
        elif shared:
            is_equal = is_close and is_same_answers
        return self._check(is_equal, text)

    def _check(self, is_equal: bool, line: str) -> TrialCheck:
        return TrialCheck(self.trial.number, is_equal, line)

    def _losses(self, tolerance: tuple[float, float]) -> tuple[str, bool]:
        """Compare the loss curves.

        Args:
            tolerance: in the first epoch, and in later ones.

        Returns:
            How they differ, and whether they agree within the tolerance.
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
        # Relative for large losses, absolute for small ones: at the end of training a loss may be next to nothing.
        distances = [(is_later, abs(a - b) / max(1.0, abs(a), abs(b))) for (is_later, _), a, b in differing]
        is_close = all(distance <= tolerance[is_later] for is_later, distance in distances)
        first = "" if tolerance[0] == tolerance[1] else f"{tolerance[0]:g} in the first epoch and "
        bound = f"{'within' if is_close else 'not within'} {first}{tolerance[1]:g}"
        # Nine digits distinguish any two numbers of float32.
        largest = max(distance for _, distance in distances)
        return f"the loss differs first {where} ({a:.9g} -> {b:.9g}), at most by {largest:.2g}, {bound}", is_close

    def _answers(self, trial: TrialRecord, again: TrialRecord) -> tuple[int, int, str]:
        """The number of equal answers to the validation set, the total, and the first difference in words."""
        # Where models generate no text, the losses of the expected answers are recorded instead.
        for method in (trial.asked, LOSSES):
            if trial.validation is None:
                break
            before = _values(self.old, (trial.key, trial.validation, method))
            now = _values(self.new, (again.key, trial.validation, method))
            if before is None:
                continue
            values = now or ()
            differing = [n for n, value in enumerate(before) if n >= len(values) or values[n] != value]
            first = ""
            if differing:
                row = differing[0]
                texts = [quoted(str(each[row])) if row < len(each) else "none" for each in (before, values)]
                first = f" (the first that is not: row {row + 1}: {' -> '.join(texts)})"
            return len(before) - len(differing), len(before), first
        return 0, 0, ""


def _values(record: OpenRecord, key: tuple[str, str, str]) -> Sequence[str | float] | None:
    """The recorded answers; only the first rows for a trial that stopped early; None: it was not asked."""
    stored = record.ledger.answers(*key)
    if stored is not None:
        return stored.values
    stop = record.ledger.stop(record.sweep.id, key)
    return None if stop is None else stop.texts


@dataclass(frozen=True)
class _Place:
    """The device that trained a job, with its packages.

    Attributes:
        on: as the engine recorded it; None: not recorded.
        installed: versions on the machine that planned the sweep, by name.
    """

    on: TrainedOn | None
    installed: Mapping[str, str]

    def other_packages(self, now: _Place) -> list[str]:
        """Packages used in computing that have another version now, according to either record."""
        if self.on is None or now.on is None:
            return []
        names = {*self.on.packages, *now.on.packages}
        planned = {name: version for name, version in self.installed.items() if name in names}
        return package_differences(self.on.packages, now.on.packages) or package_differences(planned, now.installed)

    def elsewhere(self, now: _Place) -> str:
        """Why equal bits cannot be expected; empty: they can."""
        if self.on is None or now.on is None:
            return "what trained it is not recorded"
        pairs = {
            "device": (self.on.device, now.on.device),
            "instruction set": (self.on.instructions, now.on.instructions),
            "threads": (self.on.threads, now.on.threads),
            "build of torch": (self.on.build, now.on.build),
            "driver": (self.on.driver, now.on.driver),
        }
        # CPUs of two models add in the same order if they have the same instruction set; GPUs need not.
        if self.on.device != "cpu":
            pairs["GPU"] = (self.on.processor, now.on.processor)
        return ", ".join(f"{name} {a} -> {b}" for name, (a, b) in pairs.items() if a != b)

    def shared_otherwise(self, now: _Place) -> str:
        """How form or pack differ, so that equal bits cannot be expected; empty: they are the same."""
        if self.on is None or now.on is None:
            return ""
        parts = [] if self.on.form == now.on.form else [f"form {self.on.form} -> {now.on.form}"]
        packs = [on.packed_with for on in (self.on, now.on)]
        # When a trial joins depends on when its job began, so even the same pack may add in another order.
        if not parts and packs[0] and packs[0] == packs[1]:
            parts.append("trials may have joined the pack at other steps")
        if packs[0] != packs[1]:
            sizes = [f"with {counted(len(pack), 'other trial')}" if pack else "alone" for pack in packs]
            parts.append(f"packed {sizes[0]} -> {sizes[1]}" if sizes[0] != sizes[1] else "packed with other trials")
        return ", ".join(parts)


def _verdicts(old: OpenRecord, new: OpenRecord) -> Iterator[TrialCheck]:
    """Yield the check of the sweep's verdict."""
    try:
        before, now = judge(old.ledger, [old.sweep]), judge(new.ledger, [new.sweep])
    except (InputError, MetricError) as error:
        yield TrialCheck(None, True, f"the verdict cannot be computed here: {error}", is_compared=False)
        return
    if before.metric is None and now.metric is None:
        return
    conclusions = []
    for decision in (before.decision, now.decision):
        outcome = str(decision.outcome).replace("_", " ")
        against = f"{outcome} against {decision.against}" if decision.against else outcome
        advised = "no point" if decision.advised is None else f"point {decision.advised}"
        conclusions.append(f"{against}, {advised} advised")
    # Not the sentences: they contain figures, which other last bits change.
    if (before.decision.outcome, before.decision.advised) == (now.decision.outcome, now.decision.advised):
        yield TrialCheck(None, True, f"the same verdict: {conclusions[1]}")
    else:
        yield TrialCheck(None, False, f"another verdict: {' -> '.join(conclusions)}")
