"""The base class of every section of the config."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
"""Pattern of the name of an environment variable."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Section(BaseModel):
    """A part of the config: frozen, strict, and silent about its input in errors (it may hold a key)."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    @classmethod
    def members(cls) -> tuple[type[Section], ...]:
        """Return the sections that a field of this type may hold: this one, or for a union its members."""
        return (cls,)
