"""The backend `gemini`: any service that speaks the tuning methods of the Gemini API, v1beta.

A job's reference is the tuned model's id, which follows from the trial's key: a repeated create answers 409, and a
later process finds what an earlier one began. The tuned model's description carries the key.
Sources: the API's discovery document of 2026-06-24 and its tuning guide as last served, 2025-04-28.
"""

from tunerun.backends.gemini.backend import GeminiBackend, open_backend
from tunerun.backends.gemini.section import IS_HOSTED, SECTION, GeminiSection, capabilities

__all__ = ["IS_HOSTED", "SECTION", "GeminiBackend", "GeminiSection", "capabilities", "open_backend"]
