"""Known services that speak this wire: their limits and deviations, chosen by address."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

OPENAI_URL = "https://api.openai.com/v1"


@dataclass(frozen=True)
class Host:
    """A service.

    Attributes:
        domains: suffixes of its host names.
        source: the document that states its limits, with the date it was read.
        min_examples: the fewest training examples of a job.
        max_bytes: the largest training file, in bytes; None: unknown.
        rate_is_absolute: whether its `learning_rate_multiplier` is the learning rate itself.
        key_header: name of the header with the API key.
        key_scheme: scheme before the key in that header, such as `Bearer`; empty: none.
        has_mark: whether training files have to start with a byte order mark.
        deploys: whether a tuned model has to be deployed before it answers.
        warnings: facts that a user should know before a run, one line each.
    """

    domains: tuple[str, ...] = ()
    source: str = "none: the service at this address states no limits that tunerun knows"
    min_examples: int = 1
    max_bytes: int | None = None
    rate_is_absolute: bool = False
    key_header: str = "authorization"
    key_scheme: str = "Bearer"
    has_mark: bool = False
    deploys: bool = False
    warnings: tuple[str, ...] = ()


_CLOSING = (
    "backend.base_url: OpenAI takes fine-tuning jobs only from organizations that used a tuned model in the last 60 "
    "days, and from none as of 2027-01-06; a tuned model ends with its base model (OpenAI's deprecations page, read "
    "2026-11-22)"
)
_DEPLOYMENTS = (
    "backend openai: at Azure a tuned model answers only once it is deployed, and hosting it is billed by the hour; "
    "without a deployment the trials are tuned but not measured. When they are, deploy each tuned model under its own "
    "name and run the same command again; neither the end of a run nor `tunerun cancel` deletes a deployment"
)

OPENAI = Host(
    domains=("api.openai.com",),
    source="OpenAI's fine-tuning and files reference, read 2026-11-22",
    min_examples=10,
    max_bytes=512 * 2**20,
    warnings=(_CLOSING,),
)

AZURE = Host(
    domains=(".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"),
    source="Azure OpenAI's fine-tuning reference, read 2026-11-22",
    min_examples=10,
    max_bytes=512 * 2**20,
    key_header="api-key",
    key_scheme="",
    has_mark=True,  # its reference asks for UTF-8 with a byte order mark
    deploys=True,
    warnings=(_DEPLOYMENTS,),
)

NEBIUS = Host(
    domains=(".nebius.com",),
    source="the fine-tuning skill for Nebius Token Factory (arindam200/nebius-skills), read 2026-11-22",
    max_bytes=5 * 2**30,
    rate_is_absolute=True,  # the skill sets learning_rate_multiplier to 2e-5
)

OTHER = Host()


def host_of(base_url: str, *, is_azure: bool) -> Host:
    """Return the service at an address.

    Args:
        base_url: `backend.base_url`.
        is_azure: whether the config declares the service as Azure; then the address does not matter.
    """
    name = urlsplit(base_url).hostname or ""
    host = next((each for each in (OPENAI, AZURE, NEBIUS) if name.endswith(each.domains)), OTHER)
    return AZURE if is_azure else host
