"""The package as a library: its functions, the text of its objects, and models that stay open."""

from __future__ import annotations

import builtins
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

import tunerun
from tests.comparison import verdicts
from tests.experiments import planned
from tests.scripted import SWEEP, right_when_tuned, run_on
from tunerun.backends.local import LocalSection
from tunerun.errors import BackendError, NotFoundError, TemplateError
from tunerun.generation import GenerateOptions
from tunerun.job import BaseModelRef, TemplateText, TunedModel
from tunerun.prediction import CallableModel, OpenModel
from tunerun.runner import SweepResult
from tunerun.template import PromptTemplate
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

pytestmark = pytest.mark.process

FUNCTIONS = ("load", "plan", "run", "rerun", "compare", "predict", "open")


def test_the_package_lists_what_it_offers() -> None:
    """`dir` and `help` show every function, each with a line that says what it does."""
    assert set(FUNCTIONS) <= set(dir(tunerun))
    shown = pydoc.plain(pydoc.render_doc(tunerun))
    for name in FUNCTIONS:
        line = next(line for line in shown.splitlines() if line.strip().startswith(f"{name}("))
        assert len(line.split("  ")[-1]) > 20, line
    for name in dir(tunerun):
        getattr(tunerun, name)


def test_a_star_import_leaves_pythons_own_functions() -> None:
    """`open` is reached as `tunerun.open` alone."""
    names: dict[str, object] = {}
    exec("from tunerun import *", names)  # noqa: S102
    assert names.get("open", builtins.open) is builtins.open
    assert names["run"] is tunerun.run


def test_importing_the_package_imports_nothing_heavy() -> None:
    """Neither the import nor `dir` imports another package."""
    script = "import sys, tunerun; dir(tunerun); print([m for m in sys.modules if m.split('.')[0] in sys.argv[1:]])"
    heavy = ["torch", "mlflow", "transformers", "hydra", "pydantic", "pandas", "rich", "numpy"]
    shown = subprocess.run([sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_what_is_shown_at_a_prompt_is_one_line(tmp_path: Path) -> None:
    """Experiment, plan, result and verdict have a short text."""
    plan = planned(tmp_path, *SWEEP)
    result = SweepResult(verdicts.demo_verdict(), {}, None, None)
    assert repr(plan.experiment) == "<Experiment numbers: 4 trials, varies hyperparameters.epoch_count, seed>"
    assert repr(plan) == f"<Plan {plan.sweep}: 4 trials, 4 to run>"
    assert repr(result) == "<SweepResult next_number-0096e4a4: 4 SUCCEEDED>"
    assert repr(result.verdict) == "<Verdict next_number-0096e4a4: 4 points, better, point 0 advised>"
    assert repr(planned(tmp_path).experiment) == "<Experiment numbers: 1 trial>"


def test_a_result_is_a_table_in_a_notebook(tmp_path: Path) -> None:
    """A notebook shows the comparison's table; text and data frame have the same rows."""
    result = run_on(ScriptedService(answers=right_when_tuned), planned(tmp_path, *SWEEP))
    assert result._repr_html_() == result.table.render("html")
    assert str(result.table).splitlines()[-1] == result.verdict.sentence
    frame = result.to_pandas()
    assert list(frame["point"]) == [trial.point for trial in result.verdict.trials] == [0, 0, 1, 1]
    assert list(result.table.to_pandas().index[:2]) == [0, 1]


def test_sweeps_that_have_run_are_compared(tmp_path: Path) -> None:
    """By id, by the experiment's name, the newest, or several in one family; nothing is written."""
    service = ScriptedService(answers=right_when_tuned)
    first = run_on(service, planned(tmp_path, "hyperparameters.epoch_count=1,2"))
    second = run_on(service, planned(tmp_path, "hyperparameters.epoch_count=3"))
    runs = tmp_path / "runs"
    before = (runs / "ledger.db").read_bytes()
    assert tunerun.compare(runs=runs).to_json() == second.to_json()
    assert tunerun.compare("numbers", runs=str(runs)).to_json() == second.to_json()
    ids = [result.verdict.sweep.id for result in (first, second)]
    assert tunerun.compare(ids[0], runs=runs).to_json() == first.to_json()
    both = tunerun.compare(*ids, runs=runs)
    assert both.to_json()["sweeps"] == ids
    assert [trial["number"] for trial in both.to_json()["trials"]] == [0, 1, 2]
    assert len(both.verdict.points) == 3
    assert tunerun.compare(ids[0], ids[0], runs=runs).to_json() == first.to_json()
    assert (runs / "ledger.db").read_bytes() == before


def test_a_sweep_is_scored_by_another_metric_without_a_model(tmp_path: Path) -> None:
    """The stored answers are scored as the given section says."""
    run_on(ScriptedService(answers=right_when_tuned), planned(tmp_path))
    other = planned(tmp_path, "evaluation.metrics=[numeric,exact_match]").experiment.evaluation
    result = tunerun.compare(runs=tmp_path / "runs", evaluation=other)
    assert result.verdict.metric == "eval/numeric"
    assert [column.title for column in result.table.columns if column.key.startswith("eval/")] == [
        "numeric",
        "exact match",
    ]


def test_a_sweep_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    """All unknown names at once, and the sweeps of the ledger, the newest first."""
    with pytest.raises(NotFoundError, match="no ledger; nothing has run yet"):
        tunerun.compare(runs=tmp_path / "nowhere")
    result = run_on(ScriptedService(answers=right_when_tuned), planned(tmp_path))
    known = result.verdict.sweep.id
    with pytest.raises(
        NotFoundError, match=rf"^gone, lost: no sweep of this id or experiment in .*; sweeps: {re.escape(known)}$"
    ):
        tunerun.compare("gone", known, "lost", runs=tmp_path / "runs")


def opened(service: ScriptedService) -> OpenModel:
    template = PromptTemplate(TemplateText("{{ number }}", "{{ next }}"))
    tuned = TunedModel("tunedModels/numbers-1", BaseModelRef("base", "base"), "tunedModels/numbers-1")
    model = CallableModel(tuned, template, LocalSection(kind="local"), GenerateOptions(), 0, None)
    return OpenModel(model, GenerateOptions(), ScriptedBackend(service))


def test_an_open_model_answers_rows_until_it_is_closed() -> None:
    """One row by its columns or as a mapping, many at once; afterwards it says how to open it again."""
    with opened(ScriptedService(answers=right_when_tuned)) as model:
        assert repr(model) == "<OpenModel tunedModels/numbers-1: open, reads number>"
        assert (model(number=7), model({"number": "8"}), model({"number": 1}, number=2)) == ("8", "9", "3")
        assert model.many([{"number": 1}, {"number": 2}]) == ["2", "3"]
        assert model.many([]) == []
        with pytest.raises(TemplateError, match=r"row 2: .*number"):
            model.many([{"number": 1}, {}])
    model.close()
    assert repr(model) == "<OpenModel tunedModels/numbers-1: closed, reads number>"
    with pytest.raises(BackendError, match=r"was closed; open it again with tunerun.open\('tunedModels/numbers-1'\)"):
        model(number=1)


def test_an_open_model_may_be_called_from_several_threads() -> None:
    """Calls are answered one after another, each with its own answer."""
    inside: list[int] = []
    most = []

    def answer(model: BaseModelRef | TunedModel, text: str) -> str:
        inside.append(1)
        most.append(len(inside))
        inside.pop()
        return right_when_tuned(model, text)

    answers: dict[int, str] = {}
    with opened(ScriptedService(answers=answer)) as model:

        def ask(number: int) -> None:
            answers[number] = model(number=number)

        threads = [Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {number: str(number + 1) for number in range(8)}
    assert set(most) == {1}
