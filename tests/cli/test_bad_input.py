"""Bad input: each with its exact message, its exit code, and proof that nothing was written or sent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.commands import tunerun
from tests.conftest import REPOSITORY
from tests.rigs.gemini_service import GeminiService


def one(text_input: str, output: str) -> str:
    return json.dumps({"text_input": text_input, "output": output}) + "\n"


ROW = one("1", "2")
ROWS = "".join(one(str(n), str(n + 1)) for n in range(4))
BIG = "".join(one("x" * 39_000, str(n)) for n in range(120))


@dataclass(frozen=True)
class Case:
    """A mistake and its message.

    Attributes:
        code: 2 for wrong input, 3 for a limit.
        overrides: the mistake, after the overrides of a run that succeeds without it.
        lines: the whole message without warnings, with REPOSITORY and ADDRESS in the place of what differs.
        content: of the file of examples.
    """

    code: int
    overrides: Sequence[str]
    lines: Sequence[str]
    content: str | bytes = ROWS
    file: str = "rows.jsonl"


# fmt: off
CASES = [
    Case(2, ['hyperparameters.epoch_cuont=3'], ["command line: hyperparameters.epoch_cuont: unknown key 'epoch_cuont'; did you mean 'epoch_count'?"]),
    Case(2, ['datset=csv'], ["command line: datset: unknown key 'datset'; did you mean 'dataset'?"]),
    Case(2, ['backend=locl'], ["command line: backend: no choice 'locl'; did you mean 'local'? choices: gemini, local, openai"]),
    Case(2, ['seed=one'], ['command line: seed: must be a whole number']),
    Case(2, ['seed=-1'], ['command line: seed: must be 0 or more, not -1']),
    Case(2, ['seed=1.5'], ['command line: seed: must be a whole number, not 1.5']),
    Case(2, ['hyperparameters.learning_rate=nan'], ['command line: hyperparameters.learning_rate: must be a finite number, not NaN or infinity']),
    Case(2, ['hyperparameters.learning_rate=0'], ['command line: hyperparameters.learning_rate: must be greater than 0, not 0']),
    Case(2, ['hyperparameters.epoch_count=0'], ['command line: hyperparameters.epoch_count: must be 1 or more, not 0']),
    Case(2, ['hyperparameters.epoch_count=null'], ['command line: hyperparameters.epoch_count: must be a whole number']),
    Case(2, ['hyperparameters.batch_size=9'], ['hyperparameters.batch_size: 9 is more than the 4 examples of rows.jsonl; set it to 4 or less']),
    Case(2, ['hyperparameters.learning_rate_multiplier=2'], ['command line: hyperparameters: learning_rate and learning_rate_multiplier exclude each other; add hyperparameters.learning_rate=null to use the multiplier']),
    Case(2, ['hyperparameters.learning_rate=null'], ['command line: hyperparameters: one of learning_rate and learning_rate_multiplier must be set; both are null']),
    Case(2, ['hyperparameters.adapter_rank=0'], ['command line: hyperparameters.adapter_rank: must be 1 or more, not 0']),
    Case(2, ['hyperparameters=[1]'], ["command line: hyperparameters: no choice '[1]'; choices: default"]),
    Case(2, ['name=Big Name'], ['command line: name: must be a slug: small letters, digits, - and _, a letter first, such as next_number']),
    Case(2, ["name=''"], ['command line: name: must not be empty']),
    Case(2, ['dataset.limit=0'], ['command line: dataset.limit: must be 1 or more, not 0']),
    Case(2, ['dataset.validation.fraction=1'], ['command line: dataset.validation.fraction: must be less than 1, not 1']),
    Case(2, ['dataset.validation={path: rows.jsonl, fraction: 0.5}'], ['command line: dataset.validation: set path or fraction, not both']),
    Case(2, ['dataset.validation.fraction=0.6', 'dataset.test.fraction=0.5'], ['command line: dataset: validation.fraction and test.fraction leave nothing to train on; their sum must be below 1']),
    Case(2, ['dataset.format=xls'], ["command line: dataset.format: must be one of 'auto', 'json', 'jsonl', 'csv', 'tsv', 'semicolon', 'pipe', 'parquet' or 'arrow'"]),
    Case(2, ['dataset.columns=[a,a]'], ['command line: dataset: columns names a column twice; give each column a different name']),
    Case(2, ['dataset.path=nowhere.jsonl'], ["nowhere.jsonl: the file does not exist; the nearest name in its directory is 'rows.jsonl'"]),
    Case(2, ['dataset.validation.path=nowhere.jsonl'], ["nowhere.jsonl: the file does not exist; the nearest name in its directory is 'rows.jsonl'"]),
    Case(2, ['dataset.stratify_by=label'], ["rows.jsonl: no row has the column 'label', which dataset.stratify_by names; there are 'text_input', 'output'"]),
    Case(2, ["template.text_input='{{ question }}'"], ["rows.jsonl: no row has the column 'question', which template.text_input names; there are 'text_input', 'output'", 'rows.jsonl: for its columns write template: {text_input: "{{ text_input }}", output: "{{ output }}"}']),
    Case(2, ["template.text_input='{{ text_input'"], ["template.text_input: line 1: unexpected end of template, expected 'end of print statement'.; this is not valid Jinja2"]),
    Case(2, ["template.output=''"], ['command line: template.output: must not be empty']),
    Case(2, ["template.output='{{ output.__class__ }}'"], ["rows.jsonl:1: template.output: access to attribute '__class__' of 'str' object is unsafe.; correct the template, or this row", "rows.jsonl:2: template.output: access to attribute '__class__' of 'str' object is unsafe.; correct the template, or this row", "rows.jsonl:3: template.output: access to attribute '__class__' of 'str' object is unsafe.; correct the template, or this row", "rows.jsonl:4: template.output: access to attribute '__class__' of 'str' object is unsafe.; correct the template, or this row"]),
    Case(2, ['evaluation.metrics=[bleus]'], ["command line: evaluation.metrics.0: no metric 'bleus'; did you mean 'bleu'?"]),
    Case(2, ['evaluation.generation.max_output_tokens=0'], ['command line: evaluation.generation.max_output_tokens: must be 1 or more, not 0']),
    Case(2, ['evaluation.generation.temperature=3'], ['command line: evaluation.generation.temperature: must be 2 or less, not 3']),
    Case(2, ['tracking.kind=wandb'], ["command line: tracking.kind: must be one of 'mlflow' or 'none'"]),
    Case(2, ['backend.base_url=http://example.org'], ['command line: backend.base_url: must be https, because an API key is sent there; http is allowed for this machine only']),
    Case(2, ['backend.base_url=ftp://127.0.0.1'], ['command line: backend.base_url: must be an address such as http://127.0.0.1:8000 or https://example.org']),
    Case(2, ["backend.base_url='http://me:planted@127.0.0.1'"], ['command line: backend.base_url: must not contain a user, password or query; name the variable with the API key in backend.api_key_env']),
    Case(2, ["backend.api_key_env='a b'"], ['command line: backend.api_key_env: must be the name of an environment variable, such as GEMINI_API_KEY']),
    Case(2, ['backend.max_in_flight=0'], ['command line: backend.max_in_flight: must be 1 or more, not 0']),
    Case(2, ['backend.read_timeout_s=0'], ['command line: backend.read_timeout_s: must be greater than 0, not 0']),
    Case(2, ['backend.api_key=sk-planted'], ["command line: backend.api_key: unknown key 'api_key'; did you mean 'api_key_env'?"]),
    Case(2, ['backend.kind=vertx'], ["command line: backend.kind: must be one of 'local', 'gemini', 'openai'"]),
    Case(2, ['hyperparameters.adapter_rank=4,8'], ['sweep.axes.hyperparameters.adapter_rank: the backend gemini does not take it; remove the axis']),
    Case(2, ['hyperparameters.adapter_alpha=4,8', 'hyperparameters.adapter_rank=1,2'], ['sweep.axes.hyperparameters.adapter_rank: the backend gemini does not take it; remove the axis', 'sweep.axes.hyperparameters.adapter_alpha: the backend gemini does not take it; remove the axis']),
    Case(2, ['budget.max_usd=-1'], ['command line: budget.max_usd: must be 0 or more, not -1']),
    Case(2, ['budget.max_usd=lots'], ['command line: budget.max_usd: must be a number']),
    Case(2, ['budget.max_token=3'], ["command line: budget.max_token: unknown key 'max_token'; did you mean 'max_tokens'?"]),
    Case(2, ['budget.max_tokens=1.5'], ['command line: budget.max_tokens: must be a whole number, not 1.5']),
    Case(2, ['budget.max_hours=nan'], ['command line: budget.max_hours: must be a finite number, not NaN or infinity']),
    Case(2, ['budget.max_tokens=1,2'], ['budget.max_tokens=1,2: budget.max_tokens changes no trial and cannot be swept; run once for each value']),
    Case(3, ['budget.max_tokens=10'], ['budget.max_tokens: the sweep would cost up to 1,320 tokens (0 of it already spent, running, or for baselines and judges), the budget is 10; raise it, or remove trials']),
    Case(3, ['budget.max_usd=0.01', "model.price={usd_per_million_tokens: 1000, source: a page, date: '2026-11-22'}"], ['budget.max_usd: the sweep would cost up to 1.32 US dollars (0.00 of it already spent, running, or for baselines and judges), the budget is 0.01; raise it, or remove trials']),
    Case(3, ['budget.max_usd=5'], ['budget.max_usd: the price of tuning smollm2-135m is not known, so the budget cannot be enforced; set model.price={usd_per_million_tokens: ..., source: ..., date: ...}, or remove the budget']),
    Case(2, ['tracking=mlflow', 'tracking.uri=foo://x'], ["tracking.uri=foo://x: unknown scheme 'foo'; allowed: sqlite:///FILE, http(s)://HOST, postgresql://, mysql://, mssql://; choose one, or tracking=none"]),
    Case(2, [], ['rows.jsonl:2: template.output: an expression gives a list instead of text; write {{ cell | tojson }} for its JSON, or cell[\'name\'] for a part of it; correct the template, or this row'], ROW + '{"text_input": "1", "output": ["a", "b"]}\n'),
    Case(2, ['runner.max_attempts=0'], ['command line: runner.max_attempts: must be 1 or more, not 0']),
    Case(2, ['runner.backoff_s=-1'], ['command line: runner.backoff_s: must be 0 or more, not -1']),
    Case(2, ['runner.max_failures=0'], ['command line: runner.max_failures: must be 1 or more, not 0']),
    Case(2, ['runner.stall_after_s=0'], ['command line: runner.stall_after_s: must be greater than 0, not 0']),
    Case(2, ['runner.max_failures=1,2'], ['runner.max_failures=1,2: runner.max_failures changes no trial and cannot be swept; run once for each value']),
    Case(2, ["model.price={usd_per_million_tokens: -1, source: x, date: '2026-11-22'}"], ['command line: model.price.usd_per_million_tokens: must be 0 or more, not -1']),
    Case(2, ['model.price={usd_per_million_tokens: 1}'], ['command line: model.price.source: is missing; give it a value', 'command line: model.price.date: is missing; give it a value']),
    Case(2, ['model.price={usd_per_million_tokens: 1, source: x, date: yesterday}'], ['command line: model.price.date: must be a date, such as 2026-11-22']),
    Case(2, ["model.retires_on='2026-1-1'"], ['command line: model.retires_on: must be a date, such as 2026-11-22']),
    Case(2, ["model.retires_on='2025-05-24'"], ['model.retires_on: smollm2-135m was retired on 2025-05-24; choose another base model']),
    Case(2, ['model.adapter_ranks=[1,2]'], ['hyperparameters.adapter_rank: 8 is not offered for smollm2-135m; choose one of 1, 2']),
    Case(2, ['model.adapter_ranks=8'], ['command line: model.adapter_ranks: must be a list, not 8']),
    Case(2, ['model.context_length=0'], ['command line: model.context_length: must be 1 or more, not 0']),
    Case(2, ['sweep.axes.seed=[]'], ['sweep.axes.seed: has no values; give some, such as 1,2,3, or remove the axis']),
    Case(2, ["sweep.axes={name: 'a,b'}"], ["sweep.axes.name: name=a,b: name changes no trial and cannot be swept; run once for each value"]),
    Case(2, ['+sweep.exclude=[{seed: 1}]'], ['sweep.exclude.0.seed: is not swept; name one of (nothing is swept)']),
    Case(2, ['seed=interval(0,1)'], ['seed=interval(0,1): the values of an axis must be listed: 1,2, choice(..), range(..) or zip(..)']),
    Case(2, ['seed=range(0,200000)'], ['seed=range(0,200000): more than 100,000 values; shorten the axis']),
    Case(2, ['hydra/launcher=ray'], ["hydra/launcher=ray: tunerun starts and watches the trials itself, so hydra's launchers and sweepers are not used; choose where to run with backend=..., and what to vary with key=1,2 or sweep.axes"]),
    Case(2, ['=3'], ['\'=\': this is not an override in Hydra\'s grammar; write key=value, and quote a value that has spaces, commas, braces or letters beyond ASCII: \'key="two words"\'']),
    Case(2, ["+sweep.axes={seed: 'zip(1,2)', hyperparameters.epoch_count: 'zip(1,2,3)'}"], ['sweep.axes: axes written with zip(..) must have equally many values: seed has 2, hyperparameters.epoch_count has 3']),
    Case(2, [], ['rows.jsonl: looks like CSV, but its ending says JSON lines; rename it, or set dataset.format=csv'], 'text_input,output\n1,2\n'),
    Case(2, [], ['rows.jsonl:2: broken JSON in column 2: Expecting property name enclosed in double quotes; fix it there'], ROW + '{broken\n'),
    Case(2, [], ['rows.jsonl:1: is not UTF-8 at byte 16 of the file (0xff); save it as UTF-8'], b'{"text_input": "\xff", "output": "2"}\n'),
    Case(2, [], ["rows.jsonl:2: the row has no column 'output', which template.output names; there are 'text_input'"], ROW + '{"text_input": "1"}\n'),
    Case(2, [], ['rows.jsonl:2: output is blank after the template; fill in the row or remove it'], ROW + '{"text_input": "1", "output": ""}\n'),
    Case(2, [], ["rows.jsonl:2: the cell of 'text_input' is null, and template.text_input uses it; fill it in as text"], ROW + '{"text_input": null, "output": "1"}\n'),
    Case(2, [], ['rows.jsonl: is empty; add examples'], ''),
    Case(2, [], ['rows.jsonl:1: output has 5,001 characters, the limit is 5,000 (Gemini API model tuning guide, as last served 2025-04-28); shorten it'], one("1", "x" * 5_001)),
    Case(2, [], ['rows.jsonl:1: text_input has 40,001 characters, the limit is 40,000 (Gemini API model tuning guide, as last served 2025-04-28); shorten it'], one("x" * 40_001, "1")),
    Case(2, [], ['rows.jsonl:1: messages[1]: has a role that is unknown; use user, assistant, model, system, developer, human, gpt, chatgpt'], '{"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}\n'),
    Case(2, [], ['rows.jsonl: looks like a zip archive, not an Excel workbook, but its ending says JSON lines; give a file of JSON, JSON lines, CSV, TSV, Parquet or Arrow'], 'PK\x03\x04zip'),
    Case(2, ['dataset.path=rows.json'], ['rows.json:1: holds an object without exactly one list of rows; put the rows into one list: [{...}, {...}]'], '{"a": 1}', 'rows.json'),
    Case(2, ['dataset.path=rows.csv'], ['rows.csv: looks like a table with semicolons between cells, but its ending says CSV; set dataset.format=semicolon'], 'a;b\n1;2\n', 'rows.csv'),
    Case(3, [], ["rows.jsonl: 4,680,250 bytes of training examples; the backend gemini takes 4,194,304 (the Gemini API's model tuning guide (as last served, 2025-04-28)); set dataset.limit"], BIG),
]
# fmt: on


@pytest.fixture(scope="module")
def service() -> Iterator[GeminiService]:
    with GeminiService() as service:
        yield service


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case.overrides) or ascii(case.content[:40]))
def test_bad_input_has_its_exact_message_and_nothing_is_sent(
    case: Case,
    tmp_path: Path,
    service: GeminiService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The service gets no request, and no file is written."""
    (tmp_path / case.file).write_bytes(case.content if isinstance(case.content, bytes) else case.content.encode())
    good = [
        f"backend.base_url={service.address}",
        "dataset.path=rows.jsonl",
        "tracking=none",
        "hyperparameters.batch_size=1",
    ]
    backend = [] if any(override.startswith("backend=") for override in case.overrides) else ["backend=gemini"]
    monkeypatch.setenv("GEMINI_API_KEY", "planted-key")
    finished = tunerun("run", "name=x", *backend, *good, *case.overrides)
    assert finished.stdout == ""
    printed = [line for line in finished.stderr.splitlines() if not line.startswith("warning: ")]
    expected = [line.replace("REPOSITORY", str(REPOSITORY)) for line in case.lines]
    lines = [line.replace(f"{tmp_path}/", "").replace(service.address, "ADDRESS") for line in printed]
    assert lines == (
        [f"error: {expected[0]}"]
        if len(expected) == 1
        else [f"{len(expected)} problems:", *(f"  {line}" for line in expected)]
    )
    assert finished.returncode == case.code
    assert service.requests == []
    assert [file.name for file in tmp_path.iterdir()] == [case.file]


def test_the_same_run_without_a_mistake_succeeds(
    tmp_path: Path, service: GeminiService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run to which every case adds its mistake succeeds without it."""
    (tmp_path / "rows.jsonl").write_text(ROWS)
    good = [
        f"backend.base_url={service.address}",
        "dataset.path=rows.jsonl",
        "tracking=none",
        "hyperparameters.batch_size=1",
    ]
    monkeypatch.setenv("GEMINI_API_KEY", "planted-key")
    finished = tunerun("run", "name=x", "backend=gemini", "backend.poll_interval_s=0", *good)
    assert finished.returncode == 0, finished.stderr
    assert len(service.created) == 1
    service.forget()
