"""The config section of the backend `gemini`, and the capabilities of the service at its address."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field

from tunerun.backends.base import Capabilities
from tunerun.backends.hosted import HostedSection, api_key_env, hosted_capabilities
from tunerun.backends.http import ServiceAddress
from tunerun.tuning_guide import MOST_INPUT_CHARACTERS, MOST_OUTPUT_CHARACTERS, MOST_TRAINING_BYTES

KIND = "gemini"
IS_HOSTED = True
GOOGLE = "https://generativelanguage.googleapis.com"

NO_TUNING = (
    "backend.base_url: Google's Gemini API has not offered a tunable model since May 2025 and does not plan one (its "
    "documentation, read 2026-04-29); set the address of another service, such as the one that `tunerun serve` prints"
)


class GeminiSection(HostedSection):
    """A service that speaks the Gemini API's tuning methods, such as `tunerun serve`; Google's own no longer tunes."""

    kind: Literal["gemini"] = Field(description="gemini")
    base_url: ServiceAddress = Field(
        GOOGLE,
        description="Address of the service: https, or http to this machine. Google's own no longer tunes.",
    )
    api_key_env: str = api_key_env("GEMINI_API_KEY")
    oauth: bool = Field(
        False, description="true: authenticate with Google's application default credentials; false: with an API key."
    )


SECTION = GeminiSection


def capabilities(section: GeminiSection) -> Capabilities:
    """What a service at the section's address can do, by the limits of the tuning guide."""
    return replace(
        hosted_capabilities(section, "the Gemini API's model tuning guide (as last served, 2025-04-28)"),
        max_input_characters=MOST_INPUT_CHARACTERS,
        max_output_characters=MOST_OUTPUT_CHARACTERS,
        max_training_bytes=MOST_TRAINING_BYTES,
        warnings=(NO_TUNING,) if section.base_url == GOOGLE else (),
    )
