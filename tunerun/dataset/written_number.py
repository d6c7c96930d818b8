"""Numbers as a file writes them: 1.10 is not 1.1 to a reader, and a label of 1e5 is not 100000.0."""

from __future__ import annotations


class WrittenNumber(float):
    """A number that prints as the file writes it, and counts as the float that it is."""

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> WrittenNumber:  # noqa: D102
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[type[WrittenNumber], tuple[str]]:
        return WrittenNumber, (self.text,)


def written_float(text: str) -> float:
    """Return the number of a JSON text with a point or an exponent; a plain float where Python writes it the same."""
    number = float(text)
    return number if repr(number) == text else WrittenNumber(text)


def written_int(text: str) -> float:
    """Return the number of a JSON text without them; -0 is the one that int does not write the same."""
    return WrittenNumber(text) if text == "-0" else int(text)
