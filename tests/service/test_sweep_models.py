"""`tunerun serve --tuned` and `--from`: tuned models of a sweep, answered with their own template, and never changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError

import tunerun
from tests.cli.test_serve import called
from tests.rigs.running_service import RunningService
from tests.service.client import Client, body, prompt, turns
from tests.service.openai.conftest import client_of
from tests.service.visitor import text_of, visiting
from tests.tracking.sweeps import freeze
from tunerun.errors import ConfigError, TemplateError
from tunerun.generation import Prompt
from tunerun.job import BaseModelRef
from tunerun.ledger import Ledger
from tunerun.planning import ledger_path
from tunerun.service.app import Settings
from tunerun.service.core.column_template import ColumnTemplate
from tunerun.service.core.credentials import CLOUD_SCOPE
from tunerun.service.core.library import Library
from tunerun.service.core.model_calls import ServedModels
from tunerun.service.core.problems import ServiceError
from tunerun.service.core.selection import Selection, select
from tunerun.service.openai.names import model_name
from tunerun.template import PromptTemplate

TEMPLATE = "{{ kind }} {{ number }}{% if hint %} ({{ hint }}){% endif %}"
ROWS = [{"kind": "one more than", "number": number, "answer": str(number + 1)} for number in range(1, 9)]


@dataclass(frozen=True)
class Trained:
    """A finished sweep of two trials, and the base model's folder, which no other test uses."""

    runs: Path
    base: Path
    names: tuple[str, ...]
    sweep: str

    def adapter(self, number: int = 0) -> Path:
        return self.runs / "tuned_models" / self.names[number]


@pytest.fixture(scope="module")
def trained(tiny: BaseModelRef, engine_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("sweep")
    base = Path(shutil.copytree(tiny.source, folder / "base"))
    rows = folder / "rows.json"
    rows.write_text(json.dumps(ROWS))
    overrides = [
        "name=more", f"dataset.path={rows}", "dataset.validation.fraction=0.25", "evaluation.baselines.examples=[]",
        f"template.text_input='{TEMPLATE}'", "template.output='{{ answer }}'", "model=huggingface", f"model.name={base}",
        "hyperparameters.learning_rate=0.01,0.02", "hyperparameters.epoch_count=2",
        "evaluation.generation.max_output_tokens=6", "backend.device=cpu", "backend.threads=1", "tracking=none",
        f"paths.runs={folder / 'runs'}", f"paths.cache={engine_cache}",
    ]  # fmt: skip
    swept = tunerun.run(tunerun.plan(tunerun.load(overrides)))
    assert swept.exit_code == 0
    models = [trial.tuned_model for trial in swept.verdict.trials if trial.tuned_model is not None]
    names = tuple(model.name.removeprefix("tunedModels/") for model in models)
    return Trained(folder / "runs", base, names, swept.verdict.sweep.id)


@pytest.fixture(scope="module")
def selection(trained: Trained, engine_cache: Path) -> Selection:
    return select([f"tunedModels/{trained.names[1]}"], ["more"], trained.runs, [], engine_cache)


@pytest.fixture(scope="module")
def serving(
    selection: Selection, engine_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    state = tmp_path_factory.mktemp("serving") / "state"
    settings = Settings(state, selection.models, engine_cache, device="cpu", threads=1)
    with RunningService(replace(settings, sweep_models=selection.sweep_models)) as running:
        yield running


@pytest.fixture
def mine(serving: RunningService) -> Iterator[Client]:
    with Client(serving.address, serving.key.secret) as client:
        yield client


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Trained:
    """The runs folder, to be damaged."""
    return replace(trained, runs=Path(shutil.copytree(trained.runs, tmp_path / "runs")))


def payload(client: Client, name: str, content: Any) -> tuple[str, int]:
    """The answer, and how many tokens its prompt had."""
    answer = client.good("POST", f"/tunedModels/{name}:generateContent", content)
    return answer["candidates"][0]["content"]["parts"][0]["text"], answer["usageMetadata"]["promptTokenCount"]


def test_a_row_is_answered_as_by_predict(trained: Trained, mine: Client) -> None:
    """Numbers as they are written, an optional column, columns that the template does not read; streamed too."""
    texts = [
        '{"kind": "one more than", "number": 1.10}',
        '{\n "number": "5",\n "hint": "please", "kind": "one more than", "other": null\n}',
        '{"kind": "", "number": -0}',
    ]
    rendered = ["one more than 1.10", "one more than 5 (please)", " -0"]
    Path("rows.jsonl").write_text("".join(" ".join(text.split()) + "\n" for text in texts))
    name = trained.names[0]
    predicted = tunerun.predict(f"tunedModels/{name}", Path("rows.jsonl"), runs=trained.runs).outputs
    assert len(set(predicted)) > 1
    answers = [payload(mine, name, prompt(text)) for text in texts]
    assert tuple(text for text, _ in answers) == predicted
    assert answers == [payload(mine, name, prompt(text)) for text in rendered]
    path = f"/tunedModels/{name}:streamGenerateContent"
    parts = mine.call("POST", path, prompt(texts[0])).json()
    assert "".join(part["candidates"][0]["content"]["parts"][0]["text"] for part in parts) == predicted[0]


@pytest.mark.parametrize(
    ("template", "sent", "expected"),
    [
        ("{{ a }} and {{ b }}", '{"a": 1, "b": true}', "1 and true"),
        ("{{ a }} and {{ b }}", '{"c": 1}', '{"c": 1}'),
        ("{{ a }}", '{"a": 1}, {"a": 2}', '{"a": 1}, {"a": 2}'),
        ("{{ a }}", '[{"a": 1}]', '[{"a": 1}]'),
        ("{{ a }}", '{"a": 1', '{"a": 1'),
        ("{{ a }}", '{"a": "{\\"a\\": 1}"}', '{"a": 1}'),
        ("{{ a }}", "{" * 10_000, "{" * 10_000),
        ("{{ a }}", '{"a":' + "[" * 10_000, '{"a":' + "[" * 10_000),
        ('{{ row["the text"] }}', '{"the text": "1"}', "1"),
        ("{{ row | tojson }}", '{"x": 1.0}', '{"x": 1.0}'),
        ("{% if a %}{{ a }}{% else %}{{ b }}{% endif %}", '{"b": "2"}', "2"),
    ],
)
def test_an_object_with_a_column_of_the_template_is_a_row(template: str, sent: str, expected: str) -> None:
    """All other texts are used verbatim, for templates of every kind."""
    text = ColumnTemplate(PromptTemplate(tunerun.schema.Template(text_input=template, output="{{ answer }}")))
    assert text.text_of(sent) == expected


def test_openais_client_calls_them_by_both_names(serving: RunningService, trained: Trained, mine: Client) -> None:
    """Rows are rendered and answered as on the other wire, and refused with OpenAI's field."""
    name, row = trained.names[0], '{"kind": "one more than", "number": 5}'
    expected, tokens = payload(mine, name, prompt(row))
    with client_of(serving, mine.http.headers["x-goog-api-key"]) as sdk:
        own = model_name(serving.service.library.sweep_models[name].row)
        assert own in [model.id for model in sdk.models.list()]
        for model in (own, f"tunedModels/{name}"):
            answer = sdk.chat.completions.create(model=model, messages=[{"role": "user", "content": row}])
            assert answer.choices[0].message.content == expected
            assert answer.usage is not None
            assert answer.usage.prompt_tokens == tokens
            assert sdk.completions.create(model=model, prompt=row).choices[0].text == expected
        with pytest.raises(BadRequestError, match="which reads hint, kind, number") as caught:
            sdk.chat.completions.create(model=own, messages=[{"role": "user", "content": '{"number": 1}'}])
        assert caught.value.param == "messages[0].content"


def test_a_row_that_lacks_a_column_is_refused(trained: Trained, mine: Client) -> None:
    """With the field, the columns, and what is missing; null is refused as in training."""
    path = f"/tunedModels/{trained.names[0]}:generateContent"
    error = mine.refused(400, "POST", path, prompt('{"kind": "one more than", "nubmer": 1}'))
    assert error["message"] == (
        "contents[0].parts: name columns of the model's template, which reads hint, kind, number, and "
        "template.text_input names 'number', which the row does not have; it has kind, nubmer"
    )
    assert "which is null" in mine.refused(400, "POST", path, prompt('{"kind": null, "number": 1}'))["message"]


def test_the_rule_applies_to_each_turn_of_the_user(trained: Trained, mine: Client) -> None:
    """Earlier questions are rendered too; the model's own turns never are."""
    row, text = '{"kind": "one more than", "number": 5}', "one more than 5"
    name = trained.names[0]
    assert payload(mine, name, turns(row, "6", row)) == payload(mine, name, turns(text, "6", text))
    assert payload(mine, name, turns(text, row, text)) != payload(mine, name, turns(text, text, text))
    kind = {"systemInstruction": {"parts": [{"text": "be kind"}]}}
    assert payload(mine, name, prompt(row) | kind) == payload(mine, name, prompt(text) | kind)


def test_every_key_may_see_and_call_them(serving: RunningService, trained: Trained, mine: Client) -> None:
    """In lists and by name, with curve, settings and origin; each once, even if it was selected twice."""
    first = mine.good("POST", "/tunedModels", body(epochCount=1) | {"baseModel": "models/base"}, tunedModelId="own")
    assert first
    mine.finished("own")
    listed = mine.good("GET", "/tunedModels")["tunedModels"]
    names = [f"tunedModels/{trained.names[number]}" for number in (1, 0)]
    assert [model["name"] for model in listed] == ["tunedModels/own", *names]
    model = mine.good("GET", f"/{names[1]}")
    assert model == listed[2]
    assert (model["state"], model["baseModel"], model["temperature"]) == ("ACTIVE", "models/base", 0.0)
    assert model["displayName"] == "more, trial 0"
    assert all(words in model["description"] for words in (trained.sweep, "learning_rate 0.01", "Verdict of the sweep"))
    assert "(hint, kind, number)" in model["description"]
    task = model["tuningTask"]
    assert task["hyperparameters"] == {"epochCount": 2, "batchSize": 4, "learningRate": 0.01}
    assert [snapshot["step"] for snapshot in task["snapshots"]] == [1, 2, 3, 4]
    assert model["createTime"] <= task["startTime"] <= task["completeTime"]
    assert mine.operation(trained.names[0])["done"] is True
    other = serving.service.keys.add("other@localhost", [*serving.key.scopes, CLOUD_SCOPE])
    with Client(serving.address, other.secret) as client:
        assert [model["name"] for model in client.good("GET", "/tunedModels")["tunedModels"]] == names
        assert payload(client, trained.names[0], prompt("5")) == payload(mine, trained.names[0], prompt("5"))
        permissions = client.good("GET", f"/{names[0]}/permissions")["permissions"]
        assert [(one["granteeType"], one["role"]) for one in permissions] == [("EVERYONE", "READER")]
    pages = [mine.good("GET", "/tunedModels", pageSize=2)]
    pages.append(mine.good("GET", "/tunedModels", pageSize=2, pageToken=pages[0]["nextPageToken"]))
    assert [model["name"] for page in pages for model in page["tunedModels"]] == ["tunedModels/own", *names]
    assert "nextPageToken" not in pages[1]
    for words, found in (("owner:me", ["own"]), ("readers:everyone", trained.names), ("sweep trial", trained.names)):
        listed = mine.good("GET", "/tunedModels", filter=words)["tunedModels"]
        assert {model["name"].partition("/")[2] for model in listed} == set(found)
    mine.good("DELETE", "/tunedModels/own")


def test_they_cannot_be_changed(trained: Trained, mine: Client, selection: Selection, serving: RunningService) -> None:
    """Each method that would change them is refused with the reason; their names cannot be used, before or after the start."""
    path = f"/tunedModels/{trained.names[0]}"
    reader = {"granteeType": "EVERYONE", "role": "READER"}
    for method, where, content in (
        ("PATCH", path, {"displayName": "mine"}),
        ("DELETE", path, None),
        ("POST", f"{path}:transferOwnership", {"emailAddress": "you@example.org"}),
        ("POST", f"{path}:cancel", {}),
        ("POST", f"{path}/operations/{mine.operation(trained.names[0])['name'].rpartition('/')[2]}:cancel", {}),
        ("POST", f"{path}/permissions", reader),
        ("PATCH", f"{path}/permissions/everyone", reader),
        ("DELETE", f"{path}/permissions/everyone", None),
    ):
        error = mine.refused(400, method, where, content)
        assert error["status"] == "FAILED_PRECONDITION"
        assert f"is trial 0 of the sweep {trained.sweep}" in error["message"]
    tuning = body() | {"baseModel": "models/base"}
    mine.refused(409, "POST", "/tunedModels", tuning, tunedModelId=trained.names[0])
    mine.good("POST", "/tunedModels", tuning, tunedModelId="taken")
    clash = replace(selection.sweep_models[0], row=replace(selection.sweep_models[0].row, id="taken"))
    service = serving.service
    with pytest.raises(ConfigError, match="tunedModels/taken: the service has a tuned model of its own of this name"):
        Library(service.state, service.library.catalogue, service.tuner, [clash])
    mine.good("DELETE", "/tunedModels/taken")


def test_tuning_can_start_from_them(trained: Trained, mine: Client) -> None:
    """The new model is the caller's own; the sweep's stays as it is."""
    before = (trained.adapter() / "adapter_model.safetensors").read_bytes()
    source = {"baseModel": None, "tunedModelSource": {"tunedModel": f"tunedModels/{trained.names[0]}"}}
    mine.good("POST", "/tunedModels", body(epochCount=1) | source, tunedModelId="further")
    further = mine.finished("further")
    assert (further["state"], further["tunedModelSource"]["baseModel"]) == ("ACTIVE", "models/base")
    mine.good("DELETE", "/tunedModels/further")
    assert (trained.adapter() / "adapter_model.safetensors").read_bytes() == before


def test_one_whose_files_changed_is_refused_and_the_others_answer(trained: Trained, mine: Client) -> None:
    """The error names no path; it answers again when its files are restored."""
    adapter, name = trained.adapter(0), trained.names[0]
    path = f"/tunedModels/{name}:generateContent"
    answer = payload(mine, name, prompt("5"))
    away = adapter.rename(adapter.with_name("away"))
    error = mine.refused(400, "POST", path, prompt("5"))
    assert error["status"] == "FAILED_PRECONDITION"
    assert error["message"] == (
        f"tunedModels/{name}: what was stored of it is missing or damaged; it is a sweep's: its operator can train it "
        "again, and start the service again"
    )
    assert payload(mine, trained.names[1], prompt("5"))[1] == answer[1]
    shutil.copytree(away, adapter)
    shutil.copy(trained.adapter(1) / "adapter_model.safetensors", adapter)
    mine.refused(400, "POST", path, prompt("5"))
    shutil.rmtree(adapter)
    away.rename(adapter)
    assert payload(mine, name, prompt("5")) == answer


def test_the_page_shows_them_with_a_field_for_each_column(serving: RunningService, trained: Trained) -> None:
    """Marked, with curve and description, without buttons that would change them; both models get the rendered row."""
    name = trained.names[0]
    with visiting(serving, "visitor@localhost") as visitor:
        library_page = visitor.sign_in()
        assert "ACTIVE, from a sweep" in text_of(library_page)
        page = visitor.card(name)
        assert all(words in text_of(page) for words in ("Trial 0 of the sweep", "Loss by step", "hint kind number"))
        assert "Delete" not in text_of(page)
        response = visitor.http.post(f"/library/{name}/try", data={"text": ["", "one more than", "5"]})
        with Client(serving.address, visitor.secret) as client:
            answer, _ = payload(client, name, prompt("one more than 5"))
            base = client.good("POST", "/models/base:generateContent", prompt("one more than 5", maxOutputTokens=6))
        section = text_of(response).partition("Ask both")[2]
        assert f"tunedModels/{name} {' '.join(answer.split())}".strip() in section
        assert " ".join(base["candidates"][0]["content"]["parts"][0]["text"].split()) in section
        assert ">\none more than</textarea>" in response.text
        assert visitor.http.post(f"/library/{name}/try", data={"text": ["1"]}).status_code == 400
        assert visitor.http.post(f"/library/{name}/delete").status_code == 400


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_googles_client_lists_and_calls_them(serving: RunningService, trained: Trained, mine: Client) -> None:
    """google-generativeai finds them in the list, reads a curve, and sends a row as JSON."""
    import google.generativeai as genai

    genai.configure(api_key=serving.key.secret, transport="rest", client_options={"api_endpoint": serving.address})
    (model,) = [each for each in genai.list_tuned_models() if each.display_name == "more, trial 0"]
    assert [snapshot["step"] for snapshot in model.tuning_task.snapshots] == [1, 2, 3, 4]
    answer = genai.GenerativeModel(model.name).generate_content(json.dumps({"kind": "one more than", "number": 5}))
    expected, tokens = payload(mine, trained.names[0], prompt("one more than 5"))
    assert answer.usage_metadata.prompt_token_count == tokens
    assert answer.candidates[0].content.parts[0].text == expected


# What it is started with


def test_a_served_base_model_with_the_same_content_is_used(
    trained: Trained, tiny: BaseModelRef, engine_cache: Path, selection: Selection
) -> None:
    """Whatever its name and path are; otherwise the tuned model's own base model is added."""
    assert [model.name for model in selection.models] == ["base"]
    chosen = select([trained.names[0]], [], trained.runs, [tiny], engine_cache)
    assert chosen.models == (tiny,)
    assert chosen.sweep_models[0].row.base_model == "tiny"
    other = BaseModelRef("base", str(tiny.source))
    assert select([trained.names[0]], [], trained.runs, [other, tiny], engine_cache).models == (other, tiny)


def test_all_problems_of_the_selection_are_reported_at_the_start(copied: Trained, tmp_path: Path) -> None:
    """Unknown names, a sweep as --tuned, sweeps without models, missing adapters; exit code 2."""
    with Ledger(ledger_path(copied.runs)) as ledger:
        freeze(ledger, "unfinished-1a2b3c4d", name="unfinished")
        hosted = freeze(ledger, "hosted-1a2b3c4d", name="hosted")
        hosted.finish(0)
    weights = copied.adapter(0) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    shutil.rmtree(copied.adapter(1))
    references = ["--tuned", "tunedModels/none", "--tuned", "more", "--from", "nothing", "--from", "unfinished"]
    place = ["--runs", str(copied.runs), "--state", str(tmp_path / "state"), "--port", "0"]
    code, printed, said = called(*references, "--from", "more", "--from", "hosted", *place)
    assert (code, printed) == (2, "")
    lines = [line for line in said.splitlines() if line]
    for words in (
        "--tuned tunedModels/none: no tuned model under this name or MLflow run id in",
        "--tuned more: this is a sweep; use --from more",
        "--from nothing: no sweep of this id or experiment in",
        "--from unfinished: no trial of unfinished-1a2b3c4d has succeeded; to run them: tunerun run",
        f"--from more: trial 0: {weights} has changed since it was made; to make it again: ",
        f"--from more: trial 1: {copied.adapter(1)} is missing; to make it again: ",
        "--from hosted: trial 0: tunedModels/t-",
    ):
        assert sum(words in line for line in lines) == 1, (words, said)
    assert lines[0] == "7 problems:"
    code, _, said = called("--tuned", "x", "--runs", str(tmp_path / "none"), *place[2:])
    assert (code, "no ledger; give the folder of your runs with --runs" in said) == (2, True)


def test_a_missing_or_changed_base_model_is_reported(trained: Trained, engine_cache: Path, tmp_path: Path) -> None:
    """And one whose name another base model has."""
    tuned = [trained.names[0]]
    away = trained.base.rename(trained.base.with_name("away"))
    try:
        with pytest.raises(ConfigError, match=rf"--tuned {tuned[0]}: .*cannot be found"):
            select(tuned, [], trained.runs, [], engine_cache)
        changed = Path(shutil.copytree(away, trained.base))
        config = json.loads((changed / "config.json").read_text())
        (changed / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.01}))
        with pytest.raises(ConfigError, match="but the base model found now is"):
            select(tuned, [], trained.runs, [], engine_cache)
        other = BaseModelRef("base", str(shutil.copytree(changed, tmp_path / "other")))
        shutil.rmtree(changed)
        shutil.copytree(away, changed)
        with pytest.raises(ConfigError, match=r"would both be models/base; serve it as --model NAME="):
            select(tuned, [], trained.runs, [other], engine_cache)
    finally:
        shutil.rmtree(trained.base, ignore_errors=True)
        away.rename(trained.base)


def test_a_template_that_cannot_be_rendered_refuses_the_prompt() -> None:
    """The prompt is not answered as plain text instead."""
    template = ColumnTemplate(PromptTemplate(tunerun.schema.Template(text_input="{{ a * 2 }}", output="{{ b }}")))
    assert template.text_of('{"a": 3}') == "6"
    with pytest.raises(TemplateError, match=r"template\.text_input"):
        template.text_of('{"a": {"b": 1}}')


@pytest.mark.parametrize(
    ("system", "client_message", "sent"),
    [
        (None, "S", "S"),
        ("Be brief.", "", "Be brief."),
        ("Be brief.", "S", "S"),
        ("{{ system }} Be brief.", "S", "S Be brief."),
        ("{{ system }}", "", ""),
        ("Of {{ product }}.", "S", "S"),
        ("Of {{ product }}.", "", ""),
    ],
)
def test_the_system_message_of_a_template(system: str | None, client_message: str, sent: str) -> None:
    """Without a message of the client's, that of training is used; otherwise what the template makes of the client's."""
    assert ColumnTemplate(PromptTemplate(tunerun.schema.Template(system=system))).system_of(client_message) == sent


def test_a_system_message_that_a_template_cannot_use_is_refused(serving: RunningService) -> None:
    """With the field that has it; the prompt that is counted is the one that is answered."""
    base = ServedModels(serving.service.library, serving.service.tuner, serving.service.answerer).base("base")
    brief = replace(base, template=ColumnTemplate(PromptTemplate(tunerun.schema.Template(system="Be brief."))))
    assert brief.prepared(Prompt("1"), "messages").system == "Be brief."
    wrong = replace(base, template=ColumnTemplate(PromptTemplate(tunerun.schema.Template(system="{{ system + 1 }}"))))
    with pytest.raises(ServiceError, match=r"messages: .*template\.system"):
        wrong.prepared(Prompt("1", system="S"), "messages")
