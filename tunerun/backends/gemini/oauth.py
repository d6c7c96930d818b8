"""Google's OAuth tokens as credentials of a request."""

from __future__ import annotations

from typing import Any

from tunerun.errors import AccessError, MissingPackageError

SCOPE = "https://www.googleapis.com/auth/generative-language.tuning"
"""Of a token that may tune (the Gemini API's tuning guide)."""


class OAuth:
    """Google's application default credentials, through google-auth.

    Args:
        scope: what the token has to allow.
    """

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._credentials: Any = None

    def headers(self) -> dict[str, str]:
        """The header with a bearer token, which is refreshed when it is about to expire.

        Raises:
            MissingPackageError: google-auth is not installed.
            AccessError: there are no default credentials, or they cannot be refreshed.
        """
        try:
            import google.auth
            import google.auth.exceptions
            import google.auth.transport.requests
        except ImportError as error:
            raise MissingPackageError(
                "backend.oauth needs google-auth: pip install 'tunerun[google]', or set backend.oauth=false and a key"
            ) from error
        try:
            if self._credentials is None:
                self._credentials, _ = google.auth.default(scopes=[self._scope])
            # google-auth has no transport for httpx (read 2026-11-22), hence its own for requests.
            if not self._credentials.valid:
                self._credentials.refresh(google.auth.transport.requests.Request())
        except google.auth.exceptions.GoogleAuthError as error:
            raise AccessError(
                f"no OAuth token: {type(error).__name__}; run `gcloud auth application-default login`"
            ) from error
        return {"authorization": f"Bearer {self._credentials.token}"}
