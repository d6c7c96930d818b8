"""The packages of an extra: whether they are installed, found without importing them."""

from __future__ import annotations

from importlib.util import find_spec

from tunerun.errors import MissingPackageError

NEEDED = ("torch", "transformers", "peft", "safetensors", "tokenizers")
"""What training and generation import."""

QUANTISING = ("accelerate", "bitsandbytes")
"""What a base model in 4 bits needs besides."""


def require(*packages: str, extra: str = "local", what: str = "the embedded engine") -> None:
    """Check that packages can be imported.

    Args:
        extra: the extra of tunerun that brings them.
        what: what needs them, for the message.

    Raises:
        MissingPackageError: some cannot; names them all and the line that installs them.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingPackageError(
            f"{what} needs {', '.join(missing)}, which this Python has not; pip install 'tunerun[{extra}]'"
        )
