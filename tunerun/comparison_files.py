"""A sweep's comparison as files that can stand beside the experiment: measured, never typed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunerun.errors import InputError
from tunerun.evaluation.metrics import measure
from tunerun.evaluation.verdict import EPOCH_LOSS, LOSS, TrialResult, Verdict
from tunerun.job import JobState
from tunerun.ledger import Ledger
from tunerun.report import Curve, sweep_plot

JSON_FILE, TABLE_FILE, PLOT_FILE = "results.json", "results.md", "loss.png"


def write_comparison(ledger: Ledger, verdict: Verdict, document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `results.json`, `results.md` (a table) and `loss.png` (all loss curves) into a folder.

    Args:
        document: the result as `run --json` prints it.

    Returns:
        The files that were written.

    Raises:
        InputError: the folder cannot be written.
    """
    contents: dict[str, bytes] = {
        JSON_FILE: (json.dumps(_portable(document), ensure_ascii=False, indent=2) + "\n").encode(),
        TABLE_FILE: _markdown(verdict, ledger).encode(),
    }
    curves = _curves(ledger, verdict)
    if curves:
        best = next((_name(t) for t in verdict.trials if t.record.number == verdict.best), None)
        contents[PLOT_FILE] = sweep_plot(f"{verdict.sweep.experiment}: mean loss by epoch", curves, best)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; choose a folder that can be written") from error
    return [folder / name for name in contents]


def _portable(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without what only this machine knows: adapters' folders and MLflow's run ids."""
    local = ("adapter", "mlflow_run_id")
    trials = [{key: value for key, value in trial.items() if key not in local} for trial in document["trials"]]
    return {**document, "trials": trials}


def _name(trial: TrialResult) -> str:
    values = ", ".join(f"{key.rsplit('.', 1)[-1]} {value}" for key, value in trial.record.overrides.items())
    return f"trial {trial.record.number}: {values}" if values else f"trial {trial.record.number}"


def _curves(ledger: Ledger, verdict: Verdict) -> list[Curve]:
    curves = []
    for trial in verdict.trials:
        job = ledger.job(trial.record.key)
        snapshots = ledger.snapshots(job.id) if job is not None else []
        if snapshots:
            curves.append(Curve(_name(trial), tuple(snapshots), trial.metrics.get(LOSS)))
    return curves


def _markdown(verdict: Verdict, ledger: Ledger) -> str:
    varied = list(verdict.trials[0].record.overrides)
    evaluated = sorted({name for t in verdict.trials for name in t.metrics if name.startswith("eval/")})
    head = [
        "trial",
        *(f"`{key}`" for key in varied),
        "state",
        EPOCH_LOSS,
        LOSS,
        *evaluated,
        "train/seconds",
        "curve",
    ]
    rows = [
        [
            f"**{t.record.number}**" if t.record.number == verdict.best else str(t.record.number),
            *(str(t.record.overrides[key]) for key in varied),
            t.state.value,
            *(_number(t.metrics.get(name)) for name in (EPOCH_LOSS, LOSS, *evaluated, "train/seconds")),
            t.advice.text if t.advice else "",
        ]
        for t in verdict.trials
    ]
    rows.extend(
        [b.name, *[""] * len(varied), b.model, *(_number(b.metrics.get(n)) for n in ("", LOSS, *evaluated)), "", ""]
        for b in verdict.baselines
    )
    return f"""<!-- Written by: tunerun compare. Losses are nats per output token; eval/exact_match is a share of 1. -->

{_table(head, rows)}
{verdict.sentence}

{_examples(verdict, ledger)}"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _examples(verdict: Verdict, ledger: Ledger) -> str:
    """What the best trial answers to each held-out example, beside the base model."""
    trial = next((t for t in verdict.trials if t.record.number == verdict.best), None)
    if trial is None or trial.state is not JobState.SUCCEEDED:
        return ""
    record = trial.record
    if record.validation is None:
        return ""
    tuned = ledger.answers(record.key, record.validation, record.asked)
    base = ledger.answers(record.baselines[0], record.validation, record.asked)
    if tuned is None or base is None:
        return ""
    examples = ledger.example_set(record.validation).examples
    rows = [
        [t.text_input, t.expected, t.predicted.strip(), "yes" if t.exact_match else "no", b.predicted.strip()]
        for t, b in zip(
            measure(record, examples, tuned).predictions, measure(record, examples, base).predictions, strict=True
        )
    ]
    cells = [[" ".join(cell.split())[:80] for cell in row] for row in rows]
    return _table(["held-out input", "expected", "tuned model", "exact", "base model"], cells)
