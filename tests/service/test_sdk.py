"""Google's own client, google-generativeai 0.8.6, against the service: only the endpoint differs from Google's.

What that client cannot do here, or at Google, and why:

- `list_operations()` and `delete_operation()`: over REST it has no binding for them (ValueError, NotImplementedError);
  they are asked for by `get_operation()`, and a tuned model is deleted instead.
- `permissions.create` sends what it is given and reads what it is answered; groups are refused by this service.
- `learning_rate_multiplier` is not an argument of its `create_tuned_model`, nor a field that it can read.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.tiny_model import EXAMPLES
from tests.rigs.running_service import RunningService
from tests.service.client import Client, body
from tunerun.testing.waiting import wait_until

pytestmark = [
    # Its own end of support, and what its dependencies say of each other.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ROWS = [{"text_input": one.text_input, "output": one.output} for one in EXAMPLES]
LONG = 1_000_000


@pytest.fixture
def genai(running: RunningService) -> Iterator[Any]:
    import google.generativeai as genai

    genai.configure(api_key=running.key.secret, transport="rest", client_options={"api_endpoint": running.address})
    yield genai
    for model in list(genai.list_tuned_models()):  # also those that a test has given away
        running.service.state.delete(model.name.removeprefix("tunedModels/"))
    running.service.tuner.look()


def finished(operation: Any) -> Any:
    wait_until(operation.done, "the operation is done")
    return operation.result()


def test_a_notebook_written_for_google_runs(genai: Any) -> None:
    """It finds a base model, tunes it, polls, plots the curve and calls it, as the guide does."""
    (offered,) = [m for m in genai.list_models() if "createTunedModel" in m.supported_generation_methods]
    assert (offered.temperature, offered.max_temperature, offered.top_p, offered.top_k) == (0.0, 2.0, 1.0, 0)
    base = offered.name
    operation = genai.create_tuned_model(
        source_model=base,
        training_data=ROWS,
        id="number-generator",
        display_name="Number generator",
        epoch_count=60,
        batch_size=7,
        learning_rate=0.01,
    )
    assert operation.metadata.total_steps == 60
    steps = [status.completed_steps for status in operation.wait_bar(disable=True)]
    assert steps == sorted(steps)
    model = operation.result()
    assert (model.name, model.state.name, model.base_model) == ("tunedModels/number-generator", "ACTIVE", base)
    assert model.tuning_task.hyperparameters.learning_rate == pytest.approx(0.01)
    import pandas  # comes with mlflow

    curve = pandas.DataFrame(model.tuning_task.snapshots)
    assert list(curve["step"]) == list(range(1, 61))
    assert curve["mean_loss"].iloc[-1] < curve["mean_loss"].iloc[0]
    payload = genai.GenerativeModel(model_name="tunedModels/number-generator")
    answer = payload.generate_content("twenty two")
    assert answer.text == "twenty three"
    chat = payload.start_chat()
    assert chat.send_message("8").text == "9"
    chat.send_message("one")
    assert [turn.role for turn in chat.history] == ["user", "model", "user", "model"]
    assert answer.usage_metadata.total_token_count > 0
    assert answer.candidates[0].finish_reason.name == "STOP"
    streamed = "".join(chunk.text for chunk in payload.generate_content("twenty two", stream=True))
    assert streamed == "twenty three"
    assert genai.GenerativeModel(base).count_tokens("twenty two").total_tokens > 2
    config = genai.GenerationConfig(max_output_tokens=1)
    assert payload.generate_content("twenty two", generation_config=config).candidates[0].finish_reason.name == (
        "MAX_TOKENS"
    )


def test_every_form_of_training_data_of_the_client_works(genai: Any, tmp_path: Path) -> None:
    """A CSV file with other column names, pairs, a mapping of columns; with an id and without."""
    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as rows:
        writer = csv.writer(rows)
        writer.writerows([["question", "answer"], *([one.text_input, one.output] for one in EXAMPLES)])
    columns = {"text_input": [e.text_input for e in EXAMPLES], "output": [e.output for e in EXAMPLES]}
    made = []
    for data, keys in (
        (file, {"input_key": "question", "output_key": "answer"}),
        ([(one.text_input, one.output) for one in EXAMPLES], {}),
        (columns, {}),
    ):
        operation = genai.create_tuned_model(
            source_model="models/tiny",
            training_data=data,
            display_name="From a file",
            epoch_count=1,
            batch_size=4,
            learning_rate=0.01,
            **keys,
        )
        made.append(finished(operation))
    assert all(model.name.startswith("tunedModels/from-a-file-") for model in made)
    losses = [[s["mean_loss"] for s in model.tuning_task.snapshots] for model in made]
    assert losses[0] == losses[1] == losses[2]


def test_tuned_models_are_listed_changed_and_built_on(genai: Any, client: Client) -> None:
    """get, list, update, a finished operation, and a tuned model as the source of another."""
    first = finished(
        genai.create_tuned_model("models/tiny", ROWS, id="first", epoch_count=1, batch_size=4, learning_rate=0.01)
    )
    changed = genai.update_tuned_model("tunedModels/first", {"description": "words", "temperature": 0.25})
    assert (changed.description, changed.temperature) == ("words", 0.25)
    assert genai.get_tuned_model("tunedModels/first").description == "words"
    second = finished(
        genai.create_tuned_model(first.name, ROWS, id="second", epoch_count=1, batch_size=4, learning_rate=0.01)
    )
    assert (second.source_model, second.base_model) == ("tunedModels/first", "models/tiny")
    assert [model.name for model in genai.list_tuned_models(page_size=1)] == ["tunedModels/first", "tunedModels/second"]
    assert genai.get_operation(client.operation("first")["name"]).done()
    genai.delete_tuned_model("tunedModels/second")
    assert [model.name for model in genai.list_tuned_models()] == ["tunedModels/first"]


def test_a_model_tuned_with_a_multiplier_is_read(genai: Any, client: Client) -> None:
    """Its rate is the effective one, when it is got, listed and in its operation."""
    payload = body(learningRate=None, learningRateMultiplier=2.0, epochCount=1)
    client.good("POST", "/tunedModels", payload, tunedModelId="multiplied")
    client.finished("multiplied")
    (listed,) = genai.list_tuned_models()
    operation = genai.get_operation(client.operation("multiplied")["name"])
    for model in (listed, genai.get_tuned_model("tunedModels/multiplied"), operation.result()):
        assert model.tuning_task.hyperparameters.learning_rate == pytest.approx(0.002)
        assert (model.temperature, model.top_p, model.top_k) == (0.0, 1.0, 0)


def test_a_job_is_cancelled(genai: Any) -> None:
    """By the client's own operation; its result is the error, the model still answers."""
    from google.api_core import exceptions

    operation = genai.create_tuned_model(
        "models/tiny", ROWS, id="stopped", epoch_count=LONG, batch_size=4, learning_rate=0.001
    )
    wait_until(lambda: not operation.done() and operation.metadata.completed_steps > 1, "two steps are taken")
    operation.cancel()
    wait_until(operation.done, "the operation is done")
    with pytest.raises(exceptions.GoogleAPICallError, match="quality is unpredictable"):
        operation.result()
    assert genai.get_tuned_model("tunedModels/stopped").state.name == "FAILED"
    assert genai.GenerativeModel("tunedModels/stopped").generate_content("1").candidates


def test_permissions_are_granted_changed_and_revoked(genai: Any) -> None:
    """create, list, get, update, delete, and the transfer of the whole model."""
    finished(
        genai.create_tuned_model("models/tiny", ROWS, id="shared", epoch_count=1, batch_size=4, learning_rate=0.01)
    )
    permissions = genai.get_tuned_model("tunedModels/shared").permissions
    granted = permissions.create(role="READER", grantee_type="USER", email_address="you@example.org")
    everyone = permissions.create(role="READER", grantee_type="EVERYONE")
    assert {p.name for p in permissions.list()} >= {granted.name, everyone.name}
    assert permissions.get(granted.name).email_address == "you@example.org"
    granted.update({"role": "WRITER"})
    assert permissions.get(granted.name).role.name == "WRITER"
    everyone.delete()
    assert len(list(permissions.list())) == 2
    permissions.transfer_ownership("you@example.org")
    roles = {p.email_address: p.role.name for p in permissions.list()}
    assert roles == {"me@localhost": "WRITER", "you@example.org": "OWNER"}


def test_each_refusal_raises_the_clients_exception(genai: Any, running: RunningService) -> None:
    """With the field in the client's words."""
    from google.api_core import exceptions

    genai.create_tuned_model("models/tiny", ROWS, id="taken", epoch_count=1, batch_size=4, learning_rate=0.01)
    with pytest.raises(exceptions.Conflict, match="choose another id"):
        genai.create_tuned_model("models/tiny", ROWS, id="taken", epoch_count=1, batch_size=4, learning_rate=0.01)
    with pytest.raises(exceptions.NotFound):
        genai.get_tuned_model("tunedModels/none")
    config = {"response_mime_type": "application/json"}
    with pytest.raises(exceptions.BadRequest, match="JSON mode"):
        genai.GenerativeModel("models/tiny").generate_content("1", generation_config=config)
    genai.configure(api_key="wrong", transport="rest", client_options={"api_endpoint": running.address})
    with pytest.raises(exceptions.Unauthorized, match="API key not valid"):
        list(genai.list_models())
    genai.configure(api_key=running.key.secret, transport="rest", client_options={"api_endpoint": running.address})
