"""What the middleware needs of the Gemini wire: which requests are its own, their keys, and its error envelope."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import urlencode

from pydantic.alias_generators import to_camel

from tunerun.service.core.problems import Code, Json, ServiceError
from tunerun.service.screening import check_parameters, header

Scope = MutableMapping[str, Any]

VERSIONS = ("v1", "v1beta")

DOMAIN = "tunerun"
"""The domain of google.rpc.ErrorInfo, which defines its reasons."""


class _Gemini:
    """The Gemini API; see `tunerun.service.wires.Wire`."""

    name = "gemini"

    def takes(self, scope: Scope) -> bool:
        """Whether a request is below a version of the API. The OpenAI wire shares `/v1`, so it is asked first."""
        return scope["path"].strip("/").partition("/")[0] in VERSIONS

    def secret_of(self, scope: Scope, parameters: Mapping[str, str]) -> str:
        """Return the key, from a header or the query.

        The query is rewritten: without the key, so that no log has it, and with names in lowerCamelCase.

        Raises:
            ServiceError: there is no key or there are two different ones, or a parameter is given in both spellings.
        """
        # Google's services take both spellings of a name; FastAPI knows one, and two values must not pass as two names.
        named = [(to_camel(name) if "_" in name else name, value) for name, value in parameters.items()]
        check_parameters(named)
        query = dict(named)
        in_query = [query.pop(name, "") for name in ("key", "accessToken")]
        scope["query_string"] = urlencode(query).encode()
        scheme, _, token = (header(scope, b"authorization") or b"").decode("latin-1").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else ""
        in_header = (header(scope, b"x-goog-api-key") or b"").decode("latin-1")
        secrets = [text for text in dict.fromkeys((in_header, bearer, *in_query)) if text]
        if len(secrets) > 1:
            raise ServiceError(Code.INVALID_ARGUMENT, "the request has different keys in different places; send one")
        if not secrets:
            raise ServiceError(
                Code.UNAUTHENTICATED,
                "the request has no key: send it as x-goog-api-key, as ?key=, or as Authorization: Bearer",
                reason="CREDENTIALS_MISSING",
            )
        return secrets[0]

    def reads_body_itself(self, _scope: Scope) -> bool:
        """Return False: every method has a JSON body of a bounded size."""
        return False

    def refusal(self, error: ServiceError) -> tuple[int, Json, dict[str, str]]:
        """Return the status, google.rpc.Status in the envelope of every Google API, and the headers."""
        headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s is not None else {}
        if error.code is Code.UNAUTHENTICATED:
            headers["www-authenticate"] = "Bearer"  # RFC 9110, 15.5.2: a 401 has to name a scheme
        return error.code.http_status, envelope(error), headers


GEMINI = _Gemini()


def envelope(error: ServiceError) -> Json:
    """Return an error as the body of a response; in a stream, it is the last part."""
    # google-genai (3.4) reads exactly `code`, `status` and `message`; the details are for people.
    error = error.renamed(field_name)
    status: Json = {
        "code": error.code.http_status,
        "message": in_words_of_the_api(error.message),
        "status": error.code.name,
    }
    details = []
    if error.reason:
        details.append(_detail("ErrorInfo", reason=error.reason, domain=DOMAIN))
    if error.fields:
        violations = [{"field": field, "description": text} for field, text in error.fields.items()]
        details.append(_detail("BadRequest", fieldViolations=violations))
    if error.retry_after_s is not None:
        details.append(_detail("RetryInfo", retryDelay=f"{error.retry_after_s}s"))
    return {"error": status | ({"details": details} if details else {})}


def _detail(kind: str, **values: object) -> Json:
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **values}


_TASK = "tuningTask."
_FIELDS = {
    "identifier": "tunedModelId",
    "base_model": "baseModel",
    "source": "tunedModelSource.tunedModel",
    "display_name": "displayName",
    "email": "emailAddress",
    "epoch_count": f"{_TASK}hyperparameters.epochCount",
    "batch_size": f"{_TASK}hyperparameters.batchSize",
    "learning_rate": f"{_TASK}hyperparameters.learningRate",
    "learning_rate_multiplier": f"{_TASK}hyperparameters.learningRateMultiplier",
    "training": f"{_TASK}trainingData.examples.examples",
    "validation": f"{_TASK}validationData.examples.examples",
    "prompt": "contents",
}
"""The API's paths of the fields that the core's errors name."""


def field_name(name: str) -> str:
    """Return the API's path of a field that the core names, such as `training[3]`; other names stay unchanged."""
    field, bracket, place = name.partition("[")
    return f"{_FIELDS.get(field, field)}{bracket}{place}"


# Not after a dot: a message may already have the API's name, `tuningTask.hyperparameters.learningRate`.
_HYPERPARAMETER = re.compile(r"(?<![\w.])hyperparameters\.([a-z_]+)")


def in_words_of_the_api(message: str) -> str:
    """Replace the keys of an experiment that a message of the engine names by the API's names of the fields."""
    return _HYPERPARAMETER.sub(lambda match: f"{_TASK}hyperparameters.{to_camel(match[1])}", message)
