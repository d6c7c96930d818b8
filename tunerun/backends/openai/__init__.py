"""The backend `openai`: any service that speaks the fine-tuning methods of OpenAI's API.

These are OpenAI itself, Azure, Nebius, gateways, and `tunerun serve`. A job is found again by the trial's key in its
metadata, or by the suffix of its model's name where a service does not keep metadata. The wire was recorded with
openai 3.57.0 on 2026-11-25; facts about the services were read on 2026-11-22 (`hosts`).
"""

from tunerun.backends.openai.backend import OpenAIBackend, open_backend
from tunerun.backends.openai.section import IS_HOSTED, SECTION, OpenAISection, capabilities

__all__ = ["IS_HOSTED", "SECTION", "OpenAIBackend", "OpenAISection", "capabilities", "open_backend"]
