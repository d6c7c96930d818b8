"""A plain HTTP client of the service, and valid requests."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from tests.engine.tiny_model import EXAMPLES
from tunerun.testing.waiting import wait_until

Json = dict[str, Any]
ROWS = [{"textInput": one.text_input, "output": one.output} for one in EXAMPLES]


def body(rows: list[Json] | None = None, **hyperparameters: Any) -> Json:
    """Return the body of a request to tune the tiny model."""
    settings = {"epochCount": 2, "batchSize": 3, "learningRate": 0.01} | hyperparameters
    task: Json = {"trainingData": {"examples": {"examples": ROWS if rows is None else rows}}}
    return {"baseModel": "models/tiny", "tuningTask": task | {"hyperparameters": settings}}


def continuing(source: str, rows: list[Json] | None = None, **hyperparameters: Any) -> Json:
    """Return the body of a request to continue the tuning of a tuned model, by its id."""
    continued = body(rows, **hyperparameters) | {"tunedModelSource": {"tunedModel": f"tunedModels/{source}"}}
    del continued["baseModel"]
    return continued


def turns(*texts: str, roles: Sequence[str] = ()) -> dict[str, Any]:
    """Return a conversation; by default its roles alternate, beginning with the user."""
    said = zip(texts, roles or ("user", "model") * len(texts), strict=False)
    return {"contents": [{"role": role, "parts": [{"text": text}]} for text, role in said]}


def prompt(text: str, **config: Any) -> Json:
    """Return the body of a prompt."""
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], "generationConfig": config}


class Client:
    """Calls methods of the API with a key; None: without one."""

    def __init__(self, address: str, secret: str | None) -> None:
        headers = {"x-goog-api-key": secret} if secret else {}
        self.http = httpx.Client(base_url=f"{address}/v1beta", headers=headers, timeout=60, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.http.close()

    def call(self, method: str, path: str, json: Any = None, **parameters: Any) -> httpx.Response:
        return self.http.request(method, path, json=json, params=parameters)

    def good(self, method: str, path: str, json: Any = None, **parameters: Any) -> Json:
        response = self.call(method, path, json, **parameters)
        assert response.status_code == 200, response.text
        content: Json = response.json()
        return content

    def refused(self, status: int, method: str, path: str, json: Any = None, **parameters: Any) -> Json:
        """Return the error of a response, which has to be in Google's envelope."""
        response = self.call(method, path, json, **parameters)
        assert response.status_code == status, response.text
        error: Json = response.json()["error"]
        assert error["code"] == status
        return error

    def tuned(self, identifier: str, **hyperparameters: Any) -> Json:
        """Create a tuned model, and return it once it is finished."""
        self.good("POST", "/tunedModels", body(**hyperparameters), tunedModelId=identifier)
        return self.finished(identifier)

    def finished(self, identifier: str) -> Json:
        path = f"/tunedModels/{identifier}"
        wait_until(lambda: self.good("GET", path)["state"] != "CREATING", f"{path} is finished")
        return self.good("GET", path)

    def steps(self, identifier: str) -> int:
        """Return the number of steps that a job has taken."""
        return len(self.good("GET", f"/tunedModels/{identifier}").get("tuningTask", {}).get("snapshots", ()))

    def operation(self, identifier: str) -> Json:
        operation: Json = self.good("GET", f"/tunedModels/{identifier}/operations")["operations"][0]
        return operation
