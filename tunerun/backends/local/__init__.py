"""The backend `local`: the embedded engine, in processes of its own on this machine or on a cluster."""

from tunerun.backends.local.backend import LocalBackend, open_backend
from tunerun.backends.local.section import IS_HOSTED, SECTION, LocalSection, capabilities

__all__ = ["IS_HOSTED", "SECTION", "LocalBackend", "LocalSection", "capabilities", "open_backend"]
