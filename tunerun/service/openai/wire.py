"""Recognises requests of the OpenAI wire, and extracts what the middleware needs before it reads their bodies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tunerun.service.core.problems import Code, ServiceError
from tunerun.service.openai import problems

if TYPE_CHECKING:
    from tunerun.service.wires import Scope, Wire

PREFIXES = ("/v1", "/openai/v1", "/openai")
"""Prefixes of all paths; the last two are Azure's, which clients append to its endpoint."""

_OWN = "files|uploads|fine_tuning|chat|completions|responses|embeddings|images|audio|moderations|batches|assistants"
_PATH = re.compile(rf"/v1/(?:{_OWN})(?:/.*)?|/openai(?:/.*)?|/chat/completions|/fine_tuning(?:/.*)?", re.DOTALL)
"""Paths that only this wire has, whatever key the request uses."""

_MODELS = re.compile(r"/v1/models(?:/.*)?", re.DOTALL)
_GEMINI_METHOD = re.compile(r":(?:generate|streamGenerate|count|embed|batchEmbed|asyncBatch|batchGenerate|predict)\w*")
"""Suffixes of Gemini paths that call a model. A colon alone is not enough: names of tuned models contain colons."""

_GOOGLE_ONLY = frozenset(
    (b"key", b"access_token", b"accessToken", b"pageSize", b"pageToken", b"page_size", b"alt", b"$alt")
)
"""Query parameters that only Google's clients send."""

_WITHOUT_VERSION = re.compile(r"/(?:models|files|uploads|completions|responses|embeddings)(?:/.*)?", re.DOTALL)
_GEMINI_PATH = re.compile(r"/v1/tunedModels(?:/.*)?|/v1beta(?:/.*)?", re.DOTALL)

_UPLOADS = re.compile(r"(?:/v1|/openai/v1|/openai)/(?:files|uploads/[^/]+/parts)")


class OpenAiWire:
    """The API of OpenAI's and Azure's clients."""

    @property
    def name(self) -> str:
        """`openai`."""
        return "openai"

    def takes(self, scope: Scope) -> bool:
        """Whether a request belongs to this wire.

        Paths that only OpenAI has do. `/v1/models` does unless the request has headers or parameters that only Google's
        clients send. Other paths do if the request has a bearer key, so that a client with a wrong base URL gets an
        error that it can read.
        """
        path = scope["path"]
        if _PATH.fullmatch(path):
            return True
        # Google's clients send x-goog-api-key or x-goog-api-client, or the key in the query.
        headers = {name for name, _ in scope["headers"]}
        parameters = {pair.partition(b"=")[0] for pair in scope["query_string"].split(b"&")}
        is_googles = any(name.startswith(b"x-goog-") for name in headers) or not _GOOGLE_ONLY.isdisjoint(parameters)
        if _GEMINI_PATH.fullmatch(path) or _GEMINI_METHOD.search(path) or is_googles:
            return False
        has_key = bool({b"authorization", b"api-key"} & headers)
        if path.startswith("/v1/"):
            return has_key or _MODELS.fullmatch(path) is not None
        return _MODELS.fullmatch(path) is not None or (has_key and _WITHOUT_VERSION.fullmatch(path) is not None)

    def secret_of(self, scope: Scope, _parameters: Mapping[str, str]) -> str:
        """Return the API key, which OpenAI's clients send in Authorization and Azure's in api-key.

        Raises:
            ServiceError: the request has no key, or two different ones.
        """
        headers: dict[bytes, str] = {name: value.decode("latin-1") for name, value in scope["headers"]}
        scheme, _, token = headers.get(b"authorization", "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else ""
        keys = {bearer, headers.get(b"api-key", "").strip()} - {""}
        if len(keys) > 1:  # a proxy may have authenticated the request by the other one
            raise ServiceError(Code.INVALID_ARGUMENT, "the request has different keys in different headers; send one")
        if not keys:
            words = "the request has no API key: send it as Authorization: Bearer KEY, as the clients do with api_key"
            raise ServiceError(Code.UNAUTHENTICATED, words)
        return keys.pop()

    def reads_body_itself(self, scope: Scope) -> bool:
        """Whether the request uploads a file, or a part of one."""
        return scope["method"] == "POST" and _UPLOADS.fullmatch(scope["path"]) is not None

    def refusal(self, error: ServiceError) -> tuple[int, Mapping[str, Any], Mapping[str, str]]:
        """Return the status, body and headers of an error response."""
        return problems.refusal(error)


OPENAI: Wire = OpenAiWire()
