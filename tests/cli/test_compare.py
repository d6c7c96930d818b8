"""`tunerun compare`: the table, the files, and several sweeps."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.comparison.sweeps import Trained, frozen
from tunerun.cli import app
from tunerun.errors import InputError, NotFoundError
from tunerun.ledger import Ledger

pytestmark = pytest.mark.process

FIRST, SECOND = "support-1a2b3c4d", "support-5e6f7a8b"
GOOD, FAIR, POOR = "1" * 22 + "0" * 2, "1" * 20 + "0" * 4, "0" * 24
FILES = ["results.json", "results.md", "results.csv", "results.tex", "points.png", "loss.png", "report.html"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A ledger with two sweeps on the same held-out rows."""
    lab = frozen(tmp_path / "runs", [Trained(GOOD), Trained(FAIR, tokens=200)], {"base": POOR})
    frozen(tmp_path, [Trained(POOR, tokens=7)], {"base": POOR}, sweep_id=SECOND, ledger=lab.ledger)
    lab.ledger.close()
    return tmp_path / "runs"


def compare(runs: Path, *arguments: str) -> Result:
    """In this process: to start another one takes seconds."""
    return CliRunner().invoke(app, ["compare", f"paths.runs={runs}", *arguments])


def blue_pixels(png: bytes) -> int:
    """The pixels of a PNG in the colour of the best trial and the advised point; axes and text have none of it."""
    from matplotlib.image import imread

    red, green, blue = (imread(io.BytesIO(png), format="png")[..., channel] for channel in range(3))
    return int(((blue > 0.6) & (red < 0.3) & (green < 0.6)).sum())


def test_the_last_line_is_the_sentence(runs: Path) -> None:
    """The table and the legend of its marks come first; points are rows above the baselines."""
    lines = compare(runs, "--sweep", FIRST).stdout.splitlines()
    assert lines[-1].startswith("Use point 0 (5 epochs): this trained model is better than")
    assert next(line for line in lines if line.startswith(" *")).split()[:3] == ["*", "0", "5"]
    assert any(line.startswith("*: the point to use.") for line in lines)
    assert [line.split()[0] for line in lines if line.startswith(" base")] == ["base"]


def test_the_files_are_the_same_at_every_call_and_name_no_machine(runs: Path, tmp_path: Path) -> None:
    """Every file has the same bytes at each call, and no path of this machine."""
    contents = []
    for name in ("one", "two"):
        finished = compare(runs, "--sweep", FIRST, "--output", str(tmp_path / name))
        assert finished.exit_code == 0, finished.stderr
        contents.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert sorted(contents[0]) == sorted(FILES)
    assert contents[0] == contents[1]
    for name, content in contents[0].items():
        assert str(tmp_path).encode() not in content, name
    assert "adapter" not in json.loads(contents[0]["results.json"])["trials"][0]
    rows = list(csv.DictReader(contents[0]["results.csv"].decode().splitlines()))
    assert [(row["row"], row["point"]) for row in rows] == [("point", "0"), ("point", "1"), ("baseline", "base")]
    assert all(blue_pixels(contents[0][name]) > 100 for name in ("loss.png", "points.png"))
    assert rb"\toprule" in contents[0]["results.tex"]


def test_the_markdown_has_the_answers_beside_a_baselines(runs: Path, tmp_path: Path) -> None:
    """Each held-out row has the advised point's answer, whether it is right, and the baseline's answer."""
    compare(runs, "--sweep", FIRST, "--output", str(tmp_path / "written"))
    text = (tmp_path / "written" / "results.md").read_text()
    assert "| held-out input | expected | tuned model | right | base |" in text
    assert "| validation 0 | yes | yes | yes | no |" in text
    assert "| validation 23 | yes | no | no | no |" in text
    assert text.rstrip().endswith("An answer counts as right where eval/exact_match is 1 for it.")


def test_two_sweeps_are_compared_in_one_family(runs: Path) -> None:
    """Points are numbered across sweeps in the order of the options."""
    finished = compare(runs, "--sweep", SECOND, "--sweep", FIRST, "--json")
    document = json.loads(finished.stdout)
    assert document["sweeps"] == [SECOND, FIRST]
    assert [trial["sweep"] for trial in document["trials"]] == [SECOND, FIRST, FIRST]
    assert [trial["number"] for trial in document["trials"]] == [0, 1, 2]
    assert (document["decision"]["advised"], document["best"]) == (1, 1)
    assert (
        document["decision"]["family"]
        > json.loads(compare(runs, "--sweep", FIRST, "--json").stdout)["decision"]["family"]
    )
    printed = compare(runs, "--sweep", SECOND, "--sweep", FIRST).stdout
    assert f"support: sweeps {SECOND}, {FIRST}" in printed
    assert "1a2b3c4d" in next(line for line in printed.splitlines() if line.startswith(" *"))


def test_unknown_sweeps_are_named_with_the_known_ones(runs: Path) -> None:
    """One message names all unknown sweeps; nothing is written."""
    finished = compare(runs, "--sweep", "lost", "--sweep", FIRST, "--sweep", "gone")
    assert isinstance(finished.exception, NotFoundError)
    assert str(finished.exception).startswith("lost, gone: no sweep of this id or experiment in ")
    assert str(finished.exception).endswith(f"sweeps: {SECOND}, {FIRST}")


@pytest.mark.skipif(sys.platform == "win32", reason="a folder cannot be below a file in another way there")
def test_a_folder_that_cannot_be_written_is_an_error(runs: Path, tmp_path: Path) -> None:
    """The message names the folder and what to do."""
    (tmp_path / "file").write_text("")
    finished = compare(runs, "--sweep", FIRST, "--output", str(tmp_path / "file" / "below"))
    assert isinstance(finished.exception, InputError)
    assert "choose a folder that can be written" in str(finished.exception)


def test_sweeps_over_different_rows_are_refused(runs: Path) -> None:
    """The message names both sweeps; nothing is compared."""
    with Ledger(runs / "ledger.db") as ledger:
        frozen(runs, [Trained("1" * 30)], sweep_id="other-0a0b0c0d", ledger=ledger)
    finished = compare(runs, "--sweep", FIRST, "--sweep", "other-0a0b0c0d")
    assert isinstance(finished.exception, InputError)
    assert str(finished.exception) == (
        f"{FIRST} and other-0a0b0c0d were measured on different held-out rows, so they cannot be compared; "
        "name sweeps over the same dataset.validation rows, or compare each alone"
    )
