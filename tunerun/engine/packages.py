"""The packages of the extra `local`: whether they are installed, found without importing them."""

from __future__ import annotations

from importlib.util import find_spec

from tunerun.errors import MissingPackageError

NEEDED = ("torch", "transformers", "peft", "safetensors", "tokenizers")
"""What training and generation import."""


def require(*packages: str) -> None:
    """Check that packages can be imported.

    Raises:
        MissingPackageError: some cannot; names them all and the line that installs them.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingPackageError(
            f"the embedded engine needs {', '.join(missing)}, which this Python has not; pip install 'tunerun[local]'"
        )
