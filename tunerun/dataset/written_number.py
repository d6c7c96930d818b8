"""Numbers that keep the spelling of the file: a prompt should show 1.10 as 1.10, and a label 1e5 as 1e5."""

from __future__ import annotations


class WrittenNumber(float):
    """A float whose `str()` is the spelling in the file."""

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
    """Parse a JSON number with a point or an exponent; a plain float where Python writes it the same way."""
    number = float(text)
    return number if repr(number) == text else WrittenNumber(text)


def written_int(text: str) -> float:
    """Parse a JSON integer; -0 is the only one that `int` writes differently."""
    return WrittenNumber(text) if text == "-0" else int(text)
