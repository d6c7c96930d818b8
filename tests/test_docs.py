"""What README and the pages of docs/ print is what the program takes: commands, overrides, Python, names of code.

Each block marked `sh` is read by bash itself, with a stub in the place of every program; so a test sees the words that
a program would get.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

import tunerun
from tests.conftest import REPOSITORY
from tests.engine import tiny_model
from tunerun.cli import app
from tunerun.dataset import CHECKS
from tunerun.metrics.registry import built_in

PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").glob("*.md"),
        *(REPOSITORY / "experiments").glob("*/README.md"),
    ]
)
BLOCK = re.compile(r"(?ms)^( *)```(\w+)\n(.*?)^ *```$")
INLINE = re.compile(r"`(tunerun [a-z][^`\n]*)`")
CODE_LINK = re.compile(r"\[`([A-Za-z_.]+)`\]\(\.\./(tunerun/[a-z_/]+\.py)\)")
OTHER_PROGRAMS = {"curl", "mlflow", "ray", "rm"}
"""Not ours: that these are spelled right is all that is tested of them."""

STUBS = """
PATH=/nothing
command_not_found_handle() { printf '%s\\0' "$@" '|'; }
cd() { :; }
source() { :; }
"""


@dataclass(frozen=True)
class Command:
    """A command that a page prints, as the words that its program gets."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """Yield page and text of every block of a language."""
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
            if match[2] == language:
                yield page.relative_to(REPOSITORY).as_posix(), match[3]


def words_of(script: str) -> list[tuple[str, ...]]:
    """The words of each command of a script, as bash would hand them to the program."""
    done = subprocess.run(["/bin/bash", "-euc", STUBS + script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, script + done.stderr
    words: list[list[str]] = [[]]
    for word in done.stdout.split("\0"):
        if word == "|":
            words.append([])
        else:
            words[-1].append(word)
    return [tuple(command) for command in words if command and command[0]]


@cache
def commands() -> tuple[Command, ...]:
    """The commands of all blocks marked `sh`."""
    return tuple(
        Command(page, words)
        for page, text in blocks("sh")
        for words in words_of(f"GEMINI_API_KEY=key KEY=key TUNERUN_API_KEY=key\n{text}")
    )


@cache
def program() -> Any:
    """The command line of tunerun."""
    return typer.main.get_command(app)


@cache
def parsed(*arguments: str) -> tuple[str, dict[str, Any]]:
    """Parse arguments of `tunerun` as the program does; the command's name and its parameters."""
    name, rest, command = "", list(arguments), program()
    context = command.make_context("tunerun", rest[:1])
    while rest and rest[0] in getattr(command, "commands", {}):
        name, command = f"{name} {rest[0]}".strip(), command.commands[rest.pop(0)]
    assert command is not program(), f"no command {' '.join(rest[:1])}"
    context = command.make_context(name, rest, parent=context)
    return name, dict(context.params)


def test_every_command_is_one_that_its_program_takes() -> None:
    """Commands and options of tunerun exist, targets are in the Makefile, extras in pyproject, modules are found."""
    targets = set(re.findall(r"(?m)^([a-z-]+):", (REPOSITORY / "Makefile").read_text()))
    extras = set(tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    problems = []
    for command in commands():
        tool, *rest = command.words
        try:
            if tool == "tunerun":
                parsed(*rest)
            elif tool == "make":
                assert set(rest) <= targets, f"the Makefile has {sorted(targets)}"
            elif tool == "pip":
                named = {extra for group in re.findall(r"\[([a-z,]+)\]", " ".join(rest)) for extra in group.split(",")}
                assert rest[0] == "install", "pip installs"
                assert named <= extras, f"pyproject has the extras {sorted(extras)}"
            elif tool == "python":
                assert rest[0] == "-m", "python runs a module"
                assert importlib.util.find_spec(rest[1]) is not None, "no such module"
            else:
                assert tool in OTHER_PROGRAMS, "no such program"
        except Exception as error:  # noqa: BLE001 - all of them at once
            problems.append(f"{command}\n    {type(error).__name__}: {error}")
    assert not problems, "\n".join(problems)
    assert len(commands()) > 50


def test_every_command_in_a_sentence_exists() -> None:
    """`tunerun NAME --option` between backquotes names a command, and options that it has."""
    problems = []
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for text in INLINE.findall(page.read_text(encoding="utf-8")):
            try:
                parsed(*(word for words in words_of(text) for word in words[1:]))
            except Exception as error:  # noqa: BLE001 - all of them at once
                if type(error).__name__ not in ("MissingParameter", "NoArgsIsHelpError"):
                    problems.append(f"{page.name}: {text}: {type(error).__name__} {error}")
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which what the pages print can be run: the project of `init`, files of rows, and a tiny base model
    under the name of the small one."""
    folder = tmp_path_factory.mktemp("project")
    run(["init", str(folder)])
    model = tiny_model.build(folder / "tiny")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))
    for group, choice, text in (
        ("model", "smollm2-135m", f"name: smollm2-135m\nsource: {model}\n"),
        ("tracking", "mlflow", "kind: none\n"),
        ("experiment", "mine", "# @package _global_\ndefaults: [support]\nname: mine\n"),
    ):
        (folder / "conf" / group).mkdir(exist_ok=True)
        (folder / "conf" / group / f"{choice}.yaml").write_text(text)
    rows = [{"text_input": f"say {n}", "output": str(n % 7)} for n in range(40)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.csv").write_text("text_input,output\n" + "".join(f"say {n},{n % 7}\n" for n in range(40)))
    (folder / "train.jsonl").write_text(lines * 4)
    (folder / "held_out.jsonl").write_text(lines)
    return folder


def run(arguments: Sequence[str], *, code: int = 0) -> str:
    """Run `tunerun` in this process; what it printed on stdout."""
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, f"{arguments}\n{done.output}"
    return done.stdout


@pytest.mark.process
def test_every_override_composes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page gives to a command as overrides is a config without mistakes."""
    monkeypatch.chdir(project)
    tried: set[tuple[str, ...]] = set()
    for command in commands():
        if command.words[0] != "tunerun":
            continue
        name, parameters = parsed(*command.words[1:])
        overrides = tuple(parameters.get("overrides") or ())
        if overrides and name not in ("rerun", "verify") and overrides not in tried:
            tried.add(overrides)
            if name == "data check":
                run(command.words[1:])
            else:
                assert tunerun.load([*overrides]).points is not None, command
    assert len(tried) > 10


@pytest.mark.process
def test_the_cheap_commands_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`plan` and `config` of the shipped experiment and of the project of `init` do what the pages say."""
    monkeypatch.chdir(project)
    cheap = {c.words[1:] for c in commands() if c.words[:2] in (("tunerun", "plan"), ("tunerun", "config"))}
    for arguments in sorted(cheap):
        if "qwen3" not in " ".join(arguments):  # its files are on the hub
            assert run(arguments)


def test_the_mistakes_are_reported_as_printed() -> None:
    """The session in docs/configuration.md prints what it prints there."""
    ((_, session),) = [(page, text) for page, text in blocks("console") if page == "docs/configuration.md"]
    command, *printed = session.removeprefix("$ ").splitlines()
    ((_, *arguments),) = words_of(command)
    with pytest.raises(tunerun.errors.InputError) as refused:
        run(arguments)
    problems = refused.value.problems
    assert [f"{len(problems)} problems:", *(f"  {problem}" for problem in problems)] == printed


@pytest.mark.process
def test_a_finished_sweep_is_used_and_run_again_a_year_later(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pages print about a finished sweep works, and `Run it again in a year` ends with the lines that follow it."""
    page = (REPOSITORY / "docs/reproduce.md").read_text(encoding="utf-8")
    found = re.search(
        r"(?m)^## Run it again in a year\n[\s\S]*?^```sh\n([\s\S]*?)^```\n[\s\S]*?```text\n([\s\S]*?)```", page
    )
    assert found is not None
    monkeypatch.chdir(project)
    printed = ""
    for tool, *arguments in words_of(found[1]):
        if tool == "rm":
            shutil.copytree("runs/debug", "again/runs")
            shutil.rmtree("runs")
            monkeypatch.chdir("again")
            for finished in sorted({c.words[1:] for c in commands() if about_a_finished_sweep(c.words)}):
                run(finished)
            assert {"appendix.tex", "results", "study.zip"} <= {each.name for each in Path().iterdir()}
            monkeypatch.chdir(project)
        else:
            printed = run(arguments)
    # Which baseline comes closest depends on the base model.
    lines = [re.sub(r"against [^,]+,", "against it,", line) for line in printed.splitlines()]
    assert lines[-3:] == [re.sub(r"against [^,]+,", "against it,", line) for line in found[2].splitlines()]


def about_a_finished_sweep(words: Sequence[str]) -> bool:
    """Whether a command reads the sweep next_number, and needs neither a test set nor a browser."""
    is_about = words[:2] == ("tunerun", "status") or (words[0] == "tunerun" and "next_number" in words)
    return is_about and words[1] in ("status", "compare", "appendix", "bundle") and not {"--final", "--runs"} & {*words}


def test_python_blocks_compile() -> None:
    """Every Python block is Python, and what it imports of tunerun is there."""
    for page, text in blocks("python"):
        for node in ast.walk(ast.parse(text, page)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tunerun"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), f"{page}: {ast.unparse(node)}"


def test_yaml_json_and_toml_blocks_can_be_read() -> None:
    """What a page shows of a file is one that its program reads."""
    read: dict[str, Callable[[str], Any]] = {"yaml": yaml.safe_load, "json": json.loads, "toml": tomllib.loads}
    assert all(read[language](text) for language in read for _, text in blocks(language))


@pytest.mark.process
def test_the_python_of_readme_plans(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first lines of README's Python load and plan the shipped experiment; the next one would train."""
    monkeypatch.chdir(project)
    ((_, text),) = [block for block in blocks("python") if block[0] == "README.md"]
    names: dict[str, Any] = {}
    exec(text.partition("result =")[0], names)  # noqa: S102 - what a user would paste
    assert len(names["plan"].trials) == 8


def test_the_metrics_that_a_page_writes_work(tmp_path: Path) -> None:
    """The function and the class of docs/write-a-metric.md keep the contract."""
    own, packaged, tested = (text for page, text in blocks("python") if page == "docs/write-a-metric.md")
    names: dict[str, Any] = {"__name__": "page"}
    exec(own, names)  # noqa: S102 - what a user would paste
    assert (names["score"]("two words", "two"), names["score"]("one", "one")) == (0.5, 1.0)
    exec(packaged + tested, names)  # noqa: S102
    names["test_it_keeps_the_contract"]()


@pytest.mark.process
def test_the_backend_that_a_page_writes_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of docs/write-a-backend.md is found by its entry point, plans, and keeps the contract."""
    pages = {
        language: [t for page, t in blocks(language) if page == "docs/write-a-backend.md"]
        for language in ("python", "toml", "yaml")
    }
    (module, test), (project,), (choice,) = pages["python"], pages["toml"], pages["yaml"]
    ((group, entries),) = tomllib.loads(project)["project"]["entry-points"].items()
    lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
    files = {
        "site/my_backend.py": module,
        "site/my_backend-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: my-backend\nVersion: 1.0\n",
        "site/my_backend-1.0.dist-info/entry_points.txt": f"[{group}]\n{lines}",
        "test_my_backend.py": test,
        "conf/backend/mine.yaml": choice,
        "rows.csv": "text_input,output\n" + "".join(f"say {n},{n}\n" for n in range(40)),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY)]))
    for arguments in (
        ["pytest", "-q", "-p", "no:cacheprovider", "test_my_backend.py"],
        ["tunerun", "run", "name=first", "backend=mine", "dataset.path=rows.csv", "tracking=none"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_functions_of_the_architecture_are_where_it_says() -> None:
    """A name that links to a file of the package is defined there."""
    links = [link for page in PAGES for link in CODE_LINK.findall(page.read_text(encoding="utf-8"))]
    for name, file in links:
        if not name.endswith(".py"):
            source = (REPOSITORY / file).read_text(encoding="utf-8")
            for part in name.split("."):
                assert re.search(rf"(?m)^\s*(?:async )?(?:def|class) {part}\b", source), f"{file} has no {name}"
    assert len(links) > 20


def test_the_tables_that_are_made_have_everything() -> None:
    """Every key of the schema, every command, every data check and every metric is in the table of its page."""
    hooks: Any = importlib.import_module("docs.hooks")
    keys = re.findall(r"(?m)^\| `([^`]+)`", hooks.configuration())
    assert {"seed", "dataset.validation.fraction", "evaluation.generation.temperature", "budget.max_usd"} <= set(keys)
    assert len(keys) > 80
    titles = re.findall(r"(?m)^## `([^`]+)`", hooks.commands())
    assert {"plan", "run", "data check", "serve", "serve keys add"} <= set(titles)
    assert set(program().commands) <= {title.split()[0] for title in titles}
    assert [line.split(" | ")[0] for line in hooks.checks().splitlines()[2:]] == [f"| {c.name}" for c in CHECKS]
    assert len(hooks.metrics().splitlines()) == 2 + len(built_in())
    asked = {name for page in PAGES for name in hooks.MADE.findall(page.read_text(encoding="utf-8"))}
    assert asked == set(hooks.TABLES)


def test_what_a_page_would_load_from_another_host_is_found() -> None:
    """A script, a style, a font or a picture of another host is found; a link that a reader follows is not."""
    foreign: re.Pattern[str] = importlib.import_module("docs.hooks").FOREIGN
    loaded = [
        '<script async src="https://cdn.example.org/a.js">',
        "<link rel=stylesheet href=//fonts.example.org/b.css>",
        '<link href="https://fonts.example.org/c.css" rel="stylesheet">',
        '<img alt="a" src="http://example.org/d.png">',
        '<style>@import url("https://example.org/e.css")</style>',
    ]
    followed = [
        '<a href="https://example.org">',
        '<link rel="canonical" href="https://example.org/">',
        '<img src="a.png">',
    ]
    assert all(foreign.search(text) for text in loaded)
    assert not any(foreign.search(text) for text in followed)


def test_readme_names_every_command() -> None:
    """The table of commands in README has those of `tunerun --help`."""
    table = (REPOSITORY / "README.md").read_text(encoding="utf-8").partition("## Commands")[2].partition("\n## ")[0]
    named = {name.split()[0] for row in re.findall(r"(?m)^\| (`.*?) \|", table) for name in re.findall("`(.*?)`", row)}
    assert named == set(program().commands)


def test_readme_is_short() -> None:
    """README is an entrance: at most 180 lines, and all that is more is in docs/."""
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 180
