"""Checks whether the packages of an extra are installed, without importing them."""

from __future__ import annotations

from importlib.util import find_spec

from tunerun.errors import MissingPackageError

NEEDED = ("torch", "transformers", "peft", "safetensors", "tokenizers")
"""The packages that training and generation import."""

QUANTISING = ("accelerate", "bitsandbytes")
"""The additional packages for a base model in 4 bits."""


def require(*packages: str, extra: str = "local", what: str = "the embedded engine") -> None:
    """Check that packages can be imported.

    Args:
        *packages: import names.
        extra: the extra of tunerun that installs them.
        what: what needs them, for the message.

    Raises:
        MissingPackageError: some are not installed; the message names them all and the command that installs them.
    """
    # Looked up rather than imported: that would take seconds, in a process that leaves the work to the engine's own.
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingPackageError(
            f"{what} needs {', '.join(missing)}, which is not installed; pip install 'tunerun[{extra}]'"
        )
