"""What is recorded of the user's own project, in real Git repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tunerun.code_version import MAX_DIFF_BYTES, code_version
from tunerun.compose import load
from tunerun.planning import plan


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a config directory, one tracked file of rows, and nothing that differs from its commit."""
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/old.yaml").write_text("# @package _global_\nname: old\nseed: 1\n")
    (tmp_path / "rows.jsonl").write_text('{"text_input": "1", "output": "2"}\n')
    (tmp_path / ".gitignore").write_text("runs/\nconf/local/\n")
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def version(project: Path, *data: str) -> dict[str, object]:
    state = code_version([project / "conf"], [project / name for name in data], project)
    assert state is not None
    return state


def test_a_clean_project_is_clean(project: Path) -> None:
    """What Git ignores, and what is outside the repository, does not count."""
    (project / "conf/local").mkdir()
    (project / "conf/local/default.yaml").write_text("seed: 3")
    (project / "notes.txt").write_text("not read by any experiment")
    state = code_version([project / "conf", Path("/")], [project / "rows.jsonl", Path("/elsewhere.csv")], project)
    assert state is not None
    assert (state["branch"], state["dirty"], state["changed"], state["diff"]) == ("main", False, [], "")
    assert len(state["commit"]) == 40


def test_untracked_config_and_data_count_and_the_config_is_kept(project: Path) -> None:
    """A run from an untracked experiment file is dirty; its text is kept, the rows of data files are not."""
    (project / "conf/experiment/neu.yaml").write_text("# @package _global_\nname: größer\n")
    (project / "new.jsonl").write_text('{"text_input": "planted row", "output": "2"}\n')
    (project / "rows.jsonl").write_text('{"text_input": "changed row", "output": "2"}\n')
    (project / "conf/experiment/old.yaml").write_text("# @package _global_\nname: old\nseed: 2\n")
    state = version(project, "rows.jsonl", "new.jsonl")
    assert state["dirty"] is True
    assert state["changed"] == ["conf/experiment/neu.yaml", "conf/experiment/old.yaml", "new.jsonl", "rows.jsonl"]
    diff = str(state["diff"])
    assert "+name: größer" in diff
    assert "-seed: 1\n+seed: 2" in diff
    assert "row" not in diff


def test_the_diff_is_bounded_and_holds_no_secret(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that are secret by name, by shape or by the environment are masked; files of secrets are left out."""
    monkeypatch.setenv("SERVICE_API_KEY", "planted-in-the-environment")
    (project / ".env").write_text("HARMLESS=planted-in-a-file\n")
    git(project, "add", "-f", ".env")
    (project / "conf/experiment/new.yaml").write_text(
        "a: planted-in-the-environment\napi_key: planted-by-name\n'db_password': 'planted quoted'\nmax_tokens: 64\nmin_tokens: 2  # each\n"
        "secret: ${oc.env:SECRET}\nkeyword: plain\nurl: postgresql://me:planted@db/x\n" + "x: 1\n" * MAX_DIFF_BYTES
    )
    diff = str(version(project)["diff"])
    assert "planted" not in diff
    assert "+max_tokens: 64\n+min_tokens: 2  # each\n+secret: ${oc.env:SECRET}\n" in diff
    assert diff.endswith("... cut here: the diff is longer\n")
    assert len(diff) < MAX_DIFF_BYTES + 100


def test_a_metric_that_git_does_not_have_is_in_the_diff_and_what_is_left_out_is_said(project: Path) -> None:
    """The code of a user's own metric is kept as config is; secret files and files beyond the bound are counted."""
    (project / "score.py").write_text("def score(expected, answer):\n    return 1.0\n")
    (project / "other.py").write_text("not_read_by_any_experiment = 1\n")
    (project / "conf/my_credentials.yaml").write_text("user: planted\n")
    for number in range(60):
        (project / f"conf/experiment/many{number}.yaml").write_text(f"seed: {number}\n")
    state = code_version([project / "conf"], [], project, code=[project / "score.py"])
    assert state is not None
    assert "planted" not in state["diff"]
    assert "not_read" not in state["diff"]
    assert "left out, as their names say that they are secret: conf/my_credentials.yaml" in state["diff"]
    assert "left out: 12 further untracked files" in state["diff"]
    assert "+def score(expected, answer):" in state["diff"]


def test_a_folder_without_git_has_no_version(tmp_path: Path) -> None:
    """Outside a repository there is nothing to record."""
    assert code_version(folder=tmp_path) is None


def test_a_plan_of_an_untracked_experiment_is_dirty_and_changes_no_byte(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan freezes the state of the project that it was read from, and writes nothing to the repository."""
    monkeypatch.chdir(project)
    (project / "conf/experiment/mine.yaml").write_text("# @package _global_\nname: mine\ndataset: {path: rows.jsonl}\n")
    before = {path: path.read_bytes() for path in (project / ".git").rglob("*") if path.is_file()}
    made = plan(
        load(["experiment=mine", "backend=gemini", "model=gemini-1.5-flash-001-tuning", "hyperparameters.batch_size=1"])
    )
    code = made.document["code"]
    assert (code["dirty"], code["changed"]) == (True, ["conf/experiment/mine.yaml"])
    assert {path: path.read_bytes() for path in (project / ".git").rglob("*") if path.is_file()} == before
