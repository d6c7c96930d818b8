"""Calls judges for judgements that the ledger does not have yet: after a run, and in `compare`.

Each judgement is recorded as it arrives, so that an interrupted, refused or killed run never pays for one twice. A
judge that fails ends only its own judging: the other metrics are still compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from itertools import islice

from tunerun.comparison.judges import identities_of
from tunerun.errors import BackendError, ConfigError, InputError, LimitError
from tunerun.judges.client import JudgeClient
from tunerun.judges.cost import usd_at_most
from tunerun.judges.prompt import Judged, Rating
from tunerun.judges.rows import JudgedSubject, is_rated, judged_rows, rating_of, subjects_of
from tunerun.judges.sample import sample_of
from tunerun.ledger import Ledger, SweepRecord, rated_by
from tunerun.locks import held_if_free
from tunerun.metrics import Metric, resolve, resolve_stored
from tunerun.metrics.judged_metric import JudgedMetric
from tunerun.runner.progress import Progress
from tunerun.schema import Experiment
from tunerun.statistics import agreement
from tunerun.stored import section

Recorded = Mapping[tuple[str, str], Rating]
"""Judgements of a record by judge identity and item."""


def judge_answers(
    ledger: Ledger,
    sweeps: Sequence[SweepRecord],
    metrics: Sequence[Metric],
    *,
    max_usd: float | None = None,
    recorded: Recorded | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Have the judges among some metrics judge every answer of sweeps that they have not judged yet.

    A rerun of a record calls no judge, because a file from elsewhere must not decide which service receives examples
    and an API key. It reuses the record's judgements of equal answers.

    Args:
        ledger: open for writing.
        sweeps: whose answers are judged.
        metrics: only judged metrics are used.
        max_usd: budget in US dollars for each sweep's jobs and judgements together; None: no limit.
        recorded: judgements of a record, reused for equal answers.
        progress: hooks that are called during the work; None: none.

    Returns:
        Why judgements are missing, one line for each metric.
    """
    if ledger.is_restored:
        return []
    problems = []
    for metric in metrics:
        if isinstance(metric, JudgedMetric):
            for sweep in sweeps:
                try:
                    _Judging(ledger, sweep, metric, max_usd, recorded or {}, progress or Progress()).run()
                except (BackendError, InputError, LimitError) as error:
                    problems.append(f"{metric.name}: {metric.model} at {metric.base_url}: {error}")
                    break  # the other sweeps would meet the same judge; the other metrics have another one
    return problems


def judge_unattended(
    ledger: Ledger,
    sweeps: Sequence[SweepRecord],
    metrics: Sequence[Metric],
    *,
    max_usd: float | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Call `judge_answers` for each sweep that is not running; a running sweep's own runner calls its judges.

    Args:
        ledger, sweeps, metrics, max_usd, progress: as in `judge_answers`.

    Returns:
        Why judgements are missing, one line each.
    """
    problems = []
    for sweep in sweeps:
        with held_if_free(ledger.path.parent, sweep.id) as is_free:
            if is_free:
                problems += judge_answers(ledger, [sweep], metrics, max_usd=max_usd, progress=progress)
            else:
                problems.append(f"{sweep.id}: is running; that run calls the judges")
    return list(dict.fromkeys(problems))


def judges_of(
    ledger: Ledger, sweeps: Sequence[SweepRecord], experiment: Experiment | None = None
) -> tuple[list[JudgedMetric], float | None]:
    """Return the judges that score the answers of sweeps, and the budget in US dollars (None: no limit).

    Args:
        ledger: of the sweeps.
        sweeps: not empty.
        experiment: defines the metrics; None: those frozen with the first sweep, without judges whose prompt differs
            from that of this version of tunerun.
    """
    if experiment is not None:
        judges = [metric for metric in resolve(experiment.evaluation) if isinstance(metric, JudgedMetric)]
        return judges, experiment.budget.max_usd
    first = ledger.trials(sweeps[0].id)[0]
    document, evaluation = sweeps[0].document, first.settings.evaluation
    try:
        metrics, _ = resolve_stored(evaluation, section(document, "metrics"), runs_code=not ledger.is_restored)
    except ConfigError:  # the comparison reports it
        return [], None
    frozen = identities_of(metrics, document)
    judges = [each for each in metrics if isinstance(each, JudgedMetric) and frozen[each.name] == each.identity]
    budget = section(first.config, "budget").get("max_usd")
    return judges, float(budget) if isinstance(budget, int | float) else None


def has_more_to_judge(ledger: Ledger, sweeps: Sequence[SweepRecord], metrics: Sequence[Metric]) -> bool:
    """Return whether `judge_answers` would call a judge.

    Args:
        ledger: of the sweeps.
        sweeps: whose answers may lack judgements.
        metrics: only judged metrics are used.
    """
    if ledger.is_restored:
        return False
    judges = [metric for metric in metrics if isinstance(metric, JudgedMetric)]
    return any(
        not is_rated(ledger, metric, subject) and ledger.answered_at(subject.key, subject.held_out, subject.asked)
        for metric in judges
        for sweep in sweeps
        if not _repeats_a_record(sweep)
        for subject in subjects_of(ledger, sweep)
    )


def _repeats_a_record(sweep: SweepRecord) -> bool:
    return "rerun" in sweep.document


@dataclass
class _Judging:
    """Judges the answers of one sweep by one metric."""

    ledger: Ledger
    sweep: SweepRecord
    metric: JudgedMetric
    max_usd: float | None
    recorded: Recorded
    progress: Progress
    _answers: dict[tuple[str, str, str], tuple[str, ...] | None] = field(default_factory=dict)
    _spent: float = 0.0

    def run(self) -> None:
        """Judge the labelled sample, then the answers of one subject after the other."""
        self._spent = self.ledger.spending(self.sweep.id).usd
        is_asked = not _repeats_a_record(self.sweep)
        todo = [s for s in subjects_of(self.ledger, self.sweep) if not is_rated(self.ledger, self.metric, s)]
        todo = [s for s in todo if self._texts(s.key, s) is not None]
        # What a config took from the environment is not stored, only the expression that named it.
        if self.metric.base_url.startswith("${"):
            raise InputError("its address comes from the environment; name the experiment to call it")
        with JudgeClient(self.metric) as client:
            if is_asked:
                self._judge_sample(client)
            for subject in todo:
                self._judge(subject, client if is_asked else None)

    def _texts(self, key: str, subject: JudgedSubject) -> tuple[str, ...] | None:
        of_key = (key, subject.held_out, subject.asked)
        if of_key not in self._answers:
            answers = self.ledger.answers(*of_key)
            self._answers[of_key] = None if answers is None else answers.texts
        return self._answers[of_key]

    def _judge(self, subject: JudgedSubject, client: JudgeClient | None) -> None:
        """Judge the answers of a subject; the ratings are stored as answers once all of them are complete."""
        texts = self._texts(subject.key, subject)
        base = self._texts(subject.base, subject) if self.metric.compares and subject.base is not None else None
        if texts is None or (self.metric.compares and base is None):
            return
        examples = self.ledger.example_set(subject.held_out).examples
        rows = list(judged_rows(self.metric, examples, texts, base))
        of_items = self._ratings([judged for row in rows for judged in row], client, subject.name)
        ratings = [rating_of(row, of_items) for row in rows]
        # Part of the ratings would look like a finished subject; each single one is in the ledger already.
        if all(rating is not None for rating in ratings):
            rated = rated_by(self.metric.identity, subject.asked)
            texts_ = [rating.to_text() for rating in ratings if rating is not None]
            self.ledger.record_answers(subject.key, subject.held_out, rated, texts_)

    def _ratings(self, judged: Sequence[Judged], client: JudgeClient | None, name: str) -> dict[str, Rating]:
        """Return the judgements of these items: from the ledger, from the record, or newly obtained."""
        identity = self.metric.identity
        items = {each.item: each for each in judged}
        ratings = {item: Rating(*stored) for item, stored in self.ledger.ratings(identity, items).items()}
        for item in items.keys() - ratings.keys():
            if (recorded := self.recorded.get((identity, item))) is not None:
                ratings[item] = recorded
                self.ledger.record_rating(identity, item, recorded.score, recorded.reason)
        missing = [each for item, each in items.items() if item not in ratings]
        if missing and client is not None:
            self.progress.evaluating(f"{name}, by the judge {self.metric.model}")
            for each, rating in self._request(missing, client):
                ratings[each.item] = rating
        return ratings

    def _request(self, missing: Sequence[Judged], client: JudgeClient) -> Iterator[tuple[Judged, Rating]]:
        """Call the judge for items, several at once; each judgement is recorded on arrival, even if another fails."""

        def record(done: Iterable[Future[Rating]]) -> Iterator[tuple[Judged, Rating]]:
            for future in done:
                each, rating = under_way.pop(future), future.result()
                self.ledger.record_rating(
                    self.metric.identity, each.item, rating.score, rating.reason, usd=rating.usd, sweep=self.sweep.id
                )
                self._spent += rating.usd
                yield each, rating

        waiting = iter(missing)
        under_way: dict[Future[Rating], Judged] = {}
        pool = ThreadPoolExecutor(self.metric.max_in_flight)
        try:
            while True:
                for each in islice(waiting, self.metric.max_in_flight - len(under_way)):
                    # Calls under way count at their highest price until they answer, so the budget is never exceeded.
                    self._check_budget([*under_way.values(), each])
                    under_way[pool.submit(client.rate, each)] = each
                if not under_way:
                    return
                yield from record(wait(under_way, return_when=FIRST_COMPLETED).done)
        except Exception:
            wait(under_way)  # they may have been paid for; after Ctrl-C only those that arrived are recorded
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            came = [future for future in under_way if future.done() and not future.cancelled()]
            for _ in record([future for future in came if future.exception() is None]):
                pass

    def _check_budget(self, judged: Sequence[Judged]) -> None:
        """Reject the next call if it could exceed the budget.

        Raises:
            LimitError: the next call could exceed the budget.
        """
        if self.max_usd is None or self.metric.price is None:
            return
        spent = self._spent
        more = sum(usd_at_most(self.metric, each.characters) for each in judged)
        if spent + more > self.max_usd:
            raise LimitError(
                f"budget.max_usd: {spent:,.4f} US dollars are spent, the next judgements cost up to {more:,.4f}, and "
                f"the budget is {self.max_usd:g}; raise it, and run the same command again"
            )

    def _judge_sample(self, client: JudgeClient) -> None:
        """Measure the judge's agreement with a labelled sample, unless it is in the ledger."""
        identity = self.metric.identity
        measured = self.ledger.agreements([identity])
        frozen = section(section(self.sweep.document, "judges"), self.metric.name)
        if (identity, frozen.get("sample")) in measured:
            return
        sample = sample_of(self.metric)
        if sample is None or (identity, sample.sha256) in measured:
            return
        ratings = self._ratings(sample.judged, client, "the labelled sample")
        scores = [ratings[each.item].score for each in sample.judged]
        pairs = [(s, label) for s, label in zip(scores, sample.labels, strict=True) if s is not None]
        document = {"rows": len(scores), "unreadable": len(scores) - len(pairs)}
        if not pairs:
            raise InputError(f"evaluation.metrics.{self.metric.name}.examples: no reply of the judge could be read")
        agreed = agreement([s for s, _ in pairs], [label for _, label in pairs])
        self.ledger.record_agreement(identity, sample.sha256, {**document, **asdict(agreed)})


def recorded_ratings(ledger: Ledger, sweep: SweepRecord, metrics: Sequence[Metric]) -> dict[tuple[str, str], Rating]:
    """Return the judgements in a record, by judge identity and item.

    Args:
        ledger: of the record.
        sweep: that was recorded.
        metrics: only judged metrics are used.
    """
    ratings: dict[tuple[str, str], Rating] = {}
    judged_metrics = [metric for metric in metrics if isinstance(metric, JudgedMetric)]
    for metric, subject in ((m, s) for m in judged_metrics for s in subjects_of(ledger, sweep)):
        methods = [rated_by(metric.identity, subject.asked), subject.asked]
        rated, texts = (ledger.answers(subject.key, subject.held_out, method) for method in methods)
        base = None if subject.base is None else ledger.answers(subject.base, subject.held_out, subject.asked)
        if rated is None or texts is None:
            continue
        examples = ledger.example_set(subject.held_out).examples
        rows = judged_rows(metric, examples, texts.texts, base.texts if base else None)
        for judged, text in zip(rows, rated.texts, strict=True):
            rating = Rating.of_text(text)
            for place, each in enumerate(judged):
                # Of a comparison the record has only the outcome, so both orders are given that outcome.
                turned = rating.score if not place or rating.score is None else 1 - rating.score
                ratings[metric.identity, each.item] = Rating(turned, rating.reason)
    return ratings
