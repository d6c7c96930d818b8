"""The base class of every section of the config."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
"""Pattern of the name of an environment variable."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts of this machine, which plain HTTP reaches without leaving it."""


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


def one_error(message: str) -> WrapValidator:
    """Annotate a field that is a union: a value that fits none of its members gives this error.

    Args:
        message: what the field takes, such as "must be auto or a whole number".
    """

    def validate(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except ValidationError as error:  # pydantic's own has a line for each member of the union
            raise ValueError(message) from error

    return WrapValidator(validate)
