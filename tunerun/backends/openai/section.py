"""The config section of the backend `openai`, and the capabilities of the service at its address."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field

from tunerun.backends.base import Capabilities
from tunerun.backends.hosted import HostedSection, api_key_env, hosted_capabilities
from tunerun.backends.http import ServiceAddress
from tunerun.backends.openai.hosts import OPENAI_URL, Host, host_of

KIND = "openai"
IS_HOSTED = True


class OpenAISection(HostedSection):
    """A service that speaks OpenAI's fine-tuning methods, such as `tunerun serve`, Azure, or OpenAI's own."""

    kind: Literal["openai"] = Field(description="openai")
    base_url: ServiceAddress = Field(
        OPENAI_URL,
        description="Address of the service, with its /v1; https, or http to this machine. With api_version: Azure's "
        "endpoint, without /openai.",
    )
    api_key_env: str = api_key_env("OPENAI_API_KEY")
    organization: str | None = Field(
        None, min_length=1, description="Id of the organization that is billed; null: the key's own."
    )
    project: str | None = Field(
        None, min_length=1, description="Id of the project that is billed; null: the key's own."
    )
    api_version: str | None = Field(
        None,
        pattern=r"^[0-9A-Za-z.-]+$",
        description="Azure's API version, such as 2024-10-21; also selects Azure's paths. null: the address ends in "
        "/v1.",
    )

    @property
    def host(self) -> Host:
        """What is known about the service at this address."""
        return host_of(self.base_url, is_azure=self.api_version is not None)


SECTION = OpenAISection


def capabilities(section: OpenAISection) -> Capabilities:
    """Return the capabilities of the service at the section's address."""
    host = section.host
    return replace(
        hosted_capabilities(section, host.source),
        max_training_bytes=host.max_bytes,
        min_examples=host.min_examples,
        measures_epochs=True,
        trains_conversations=True,
        keeps_best=False,  # services keep the last three epochs; the best one need not be among them
        takes_learning_rate=host.rate_is_absolute,
        warnings=host.warnings,
    )
