"""The topics on measurement: metrics, baselines, error bars and tests, results, limits."""

from __future__ import annotations

from collections.abc import Iterator

from tunerun import __version__
from tunerun.comparison.columns import ColumnKind
from tunerun.comparison.judgement import VALIDATION
from tunerun.comparison.numbers import counted, p_value
from tunerun.comparison.renderers.latex import MOST_RANK
from tunerun.comparison.table import ComparisonTable
from tunerun.metrics import Unit
from tunerun.metrics.judged_metric import JudgedMetric
from tunerun.record.appendix.document import AppendixTable, Block, Bullets, Paragraph, Topic
from tunerun.record.appendix.material import Material, words


def metrics(material: Material) -> Topic:
    """The metrics that scored the answers."""
    scorers = material.metrics
    if not scorers:
        summary = f"No metric is configured. {material.verdict.sentence}"
        return Topic("Metrics", summary, (Paragraph(summary),))
    named = words(
        [f"{each.name} ({each.unit}{'' if each.higher_is_better else ', lower is better'})" for each in scorers]
    )
    generation = material.trials[0].settings.generation
    choices = material.config_values("evaluation.choices")
    how = (
        "the answer is the likeliest of the configured choices"
        if choices[0] is not None
        else f"answers have at most {generation.max_output_tokens} tokens, temperature {generation.temperature:g}"
    )
    summary = f"Metrics: {named}; {scorers[0].name} decides. {how[:1].upper()}{how[1:]}."
    own = [
        f"{name}: SHA-256 {each.get('sha256')}" for name, each in dict(material.document.get("metrics") or {}).items()
    ]
    blocks: list[Block] = [Paragraph(summary)]
    blocks += [Paragraph(f"Code of metrics of their own: {words(own)}.")] if own else []
    for each in scorers:
        if isinstance(each, JudgedMetric):
            blocks.append(Paragraph(f"{each.name}: the judge is {each.description}. Its rubric: {each.rubric}"))
    return Topic("Metrics", summary, tuple(blocks))


def baselines(material: Material) -> Topic:
    """The baselines that the points had to beat."""
    verdict = material.verdict
    if not verdict.baselines:
        return Topic("Baselines", "There is no baseline.", (Paragraph("There is no baseline."),))
    names = []
    for baseline in verdict.baselines:
        named = baseline.words or baseline.name
        names.append(named if baseline.name in named else f"{named} ({baseline.name})")
    size = material.sizes(VALIDATION)
    summary = f"Baselines, without tuning and on the same rows{f' ({size})' if size else ''}: {words(names)}."
    missing = [f"{each.name}: {each.problem or 'not measured'}" for each in verdict.baselines if not each.estimates]
    stored = material.record.ledger.baselines(material.sweep.id)
    has_examples = any(each.document.get("examples") for each in stored)
    examples = "The examples in the prompt are training rows." if has_examples else ""
    blocks: list[Block] = [Paragraph(f"{summary} {examples}".strip())]
    blocks += [Bullets(tuple(missing))] if missing else []
    return Topic("Baselines", summary, tuple(blocks))


def uncertainty(material: Material) -> Topic:
    """The methods of intervals and tests, and which variation they capture."""
    verdict = material.verdict
    decision = verdict.decision
    if not material.metrics or decision.about is None:
        summary = f"Nothing was tested. {verdict.sentence}"
        return Topic("Error bars and tests", summary, (Paragraph(summary),))
    metric, seeds = material.metrics[0], _most_seeds(material)
    # As `comparison` computes them: Wilson's interval needs independent rows that are right or wrong.
    is_share = metric.unit is Unit.SHARE and not metric.is_corpus
    is_plain = is_share and decision.clusters is None and seeds == 1
    alone = "Wilson's interval where rows are right or wrong, else the score form" if is_plain else "the score form"
    spread = "; ± is the standard deviation over seeds (not the standard error)" if seeds > 1 else ""
    # With one seed a claim is about these trained models; one about settings needs the variance between seeds.
    over_seeds = "Each point has one seed, so the chance of initialisation and of the order of rows is in no interval."
    if seeds > 1:
        over_seeds = (
            f"Seeds vary, too: up to {seeds} for each point; a seed decides the order of training rows, the adapter's "
            "initial weights and sampling."
        )
    confidence = 100 * (1 - decision.alpha)
    # Rows of one cluster are not independent, so clusters are what was drawn.
    rows = counted(decision.rows, "held-out row")
    units = f"{rows} in {counted(decision.clusters, 'cluster')}" if decision.clusters else rows
    lines = [
        f"Intervals of single values are {confidence:g} % intervals of each value alone ({alone}){spread}.",
        *_test(material),
        f"What varies is the drawing of the held-out rows ({units}).",
        over_seeds,
        "The split is the same throughout; other splits were not tried.",
    ]
    summary = " ".join(lines)
    closing = (
        f"Intervals and tests were computed by tunerun {__version__} from the recorded answers, with a fixed seed. p "
        f"of the best point against its hardest baseline: {p_value(decision.p)}, at an error rate of "
        f"{100 * decision.alpha:g} % for the family."
    )
    return Topic("Error bars and tests", summary, (Bullets(tuple(lines)), Paragraph(closing)))


def _test(material: Material) -> Iterator[str]:
    """Yield the tests of differences; `tunerun.comparison.paired_tests` chooses among the same methods."""
    decision = material.verdict.decision
    if decision.against is None:
        yield "No baseline was measured, so no difference was tested."
        return
    family = counted(decision.family, "comparison")
    # Wins are counted only where a row is right or wrong.
    is_binary = any(each.wins is not None for point in material.verdict.points for each in point.against)
    if _most_seeds(material) > 1:
        yield (
            "Differences from baselines are tested with both rows and seeds as random (a t test on two variances; the "
            f"variance between seeds is pooled over the points), two-sided, corrected by Holm's method for {family}."
        )
        return
    if is_binary and decision.family == 1:
        yield "The difference from the baseline is tested by McNemar's test (mid-p), two-sided; one comparison is made."
    else:
        flips = (
            "swaps of two models' answers to a row" if material.metrics[0].is_corpus else "sign flips of paired rows"
        )
        yield (
            f"Differences from baselines are tested by joint {flips} (step-down maxT, Westfall and Young 1993), "
            f"two-sided, corrected for {family}; under the null hypothesis the differences of rows "
            "are assumed to be symmetric."
        )
    method = "Tango's score intervals" if is_binary else "score intervals"
    yield f"Intervals of differences are {method}, which hold for all comparisons at once."


def _most_seeds(material: Material) -> int:
    return max((len(members) for members in material.points), default=1)


def results(material: Material) -> Topic:
    """The tables of the comparison, one for each set that was measured."""
    blocks: list[Block] = []
    # With the columns of the comparison's LaTeX table: a page is narrow.
    verdicts = [verdict for verdict in (material.verdict, material.test_verdict) if verdict is not None]
    for verdict in verdicts:
        whole = ComparisonTable.of(verdict)
        short = whole.without(column.key for column in whole.columns if column.rank >= MOST_RANK)
        # On the test set most points were not measured: their rows would be empty.
        measured = {point.number for point in verdict.points if verdict.metric in (None, *point.estimates)}
        rows = []
        for row in short.rows:
            if row.point is not None and row.point not in measured and verdict.held_out != VALIDATION:
                continue
            first, *rest = short.texts(row)
            rows.append((f"{row.mark} {first}".strip(), *rest))
        is_text = [column.kind.is_text or column.kind is ColumnKind.LABEL for column in short.columns]
        table = AppendixTable(
            tuple(column.title for column in short.columns),
            tuple(rows),
            numbers=tuple(place for place, each in enumerate(is_text) if not each),
            note=" ".join(short.legend),
        )
        blocks += [Paragraph(f"On the {verdict.held_out} set:"), table.without_empty_columns()]
        blocks.append(Paragraph(verdict.sentence))
    return Topic("Results", " ".join(verdict.sentence for verdict in verdicts), tuple(blocks))


def limits(material: Material) -> Topic:
    """The notes of the comparison on its own limits."""
    notes = (*material.verdict.notes, *(material.test_verdict.notes if material.test_verdict else ()))
    notes = tuple(dict.fromkeys(notes))
    summary = " ".join(notes) or "The comparison noted no limit of its own."
    return Topic("Limits of the comparison", summary, (Bullets(notes),) if notes else (Paragraph(summary),))
