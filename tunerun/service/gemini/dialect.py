"""How the middleware and the application see the Gemini wire: its requests, their keys, its error envelope."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping, Sequence
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
    """The wire, as `tunerun.service.wires.Wire` describes it."""

    name = "gemini"

    def takes(self, scope: Scope) -> bool:
        """Every request below a version of the API; a wire that shares one of them comes before this one."""
        return scope["path"].strip("/").partition("/")[0] in VERSIONS

    def secret_of(self, scope: Scope, parameters: Mapping[str, str]) -> str:
        """The key, from a header or the query; the query then has no key, and names in lowerCamelCase.

        Raises:
            ServiceError: there is no key or there are two different ones, or a parameter is given in both spellings.
        """
        named = [(to_camel(name) if "_" in name else name, value) for name, value in parameters.items()]
        check_parameters(named)
        query = dict(named)
        in_query = [query.pop(name, "") for name in ("key", "accessToken")]
        scope["query_string"] = urlencode(query).encode()
        scheme, _, token = (header(scope, b"authorization") or b"").decode("latin-1").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else ""
        in_header = (header(scope, b"x-goog-api-key") or b"").decode("latin-1")
        given = [text for text in dict.fromkeys((in_header, bearer, *in_query)) if text]
        if len(given) > 1:
            raise ServiceError(Code.INVALID_ARGUMENT, "the request has different keys in different places; send one")
        if not given:
            raise ServiceError(
                Code.UNAUTHENTICATED,
                "the request has no key: send it as x-goog-api-key, as ?key=, or as Authorization: Bearer",
                reason="CREDENTIALS_MISSING",
            )
        return given[0]

    def reads_body_itself(self, _scope: Scope) -> bool:
        """Never: every method has a JSON body of a bounded size."""
        return False

    def refusal(self, error: ServiceError) -> tuple[int, Json, dict[str, str]]:
        """The status, google.rpc.Status in the envelope of every Google API, and the headers."""
        headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s is not None else {}
        if error.code is Code.UNAUTHENTICATED:
            headers["www-authenticate"] = "Bearer"
        return error.code.http_status, envelope(error), headers


GEMINI = _Gemini()


def envelope(error: ServiceError) -> Json:
    """The body of the answer to a request that is refused; in a stream, its last part."""
    error = error.renamed(field_name)
    status: Json = {
        "code": error.code.http_status,
        "message": in_words_of_the_api(error.message),
        "status": error.code.name,
    }
    details = [*_info(error), *_violations(error), *_retry(error)]
    return {"error": status | ({"details": details} if details else {})}


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
"""The core's names of the fields of a request, and the API's paths."""


def field_name(name: str) -> str:
    """The API's path of a field that the core names, such as `training[3]`; any other name stays as it is."""
    field, bracket, place = name.partition("[")
    return f"{_FIELDS.get(field, field)}{bracket}{place}"


_HYPERPARAMETER = re.compile(r"(?<![\w.])hyperparameters\.([a-z_]+)")


def in_words_of_the_api(message: str) -> str:
    """A message of the engine, which names the keys of an experiment, with the API's names of the fields."""
    return _HYPERPARAMETER.sub(lambda found: f"{_TASK}hyperparameters.{to_camel(found[1])}", message)


def _info(error: ServiceError) -> Sequence[Json]:
    return [_detail("ErrorInfo", reason=error.reason, domain=DOMAIN)] if error.reason else []


def _violations(error: ServiceError) -> Sequence[Json]:
    violations = [{"field": field, "description": text} for field, text in error.fields.items()]
    return [_detail("BadRequest", fieldViolations=violations)] if violations else []


def _retry(error: ServiceError) -> Sequence[Json]:
    return [] if error.retry_after_s is None else [_detail("RetryInfo", retryDelay=f"{error.retry_after_s}s")]


def _detail(kind: str, **values: object) -> Json:
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **values}
