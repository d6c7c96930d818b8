"""A cell that is null, and a column that a row does not have: allowed in a condition, an error where it is printed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from jinja2 import Undefined, UndefinedError
from jinja2.utils import missing

from tunerun.errors import TemplateError


class AbsentCellError(TemplateError):
    """A template prints a cell that holds no text.

    Attributes:
        column: its name.
        is_null: whether the row has the column with null in it; else it does not have the column.
        part: the expression that prints it: text_input, output or system.
    """

    def __init__(self, problem: str, column: str, is_null: bool, part: str) -> None:
        super().__init__(problem)
        self.args = (problem, column, is_null, part)  # what unpickling passes to this method
        self.column = column
        self.is_null = is_null
        self.part = part


class PrintedError(UndefinedError):
    """`str()` was called on an `Absent` cell; `PromptTemplate` raises an `AbsentCellError` instead."""

    def __init__(self, column: str, is_null: bool) -> None:
        super().__init__(f"{column!r} is {'null' if is_null else 'missing'}")
        self.column = column
        self.is_null = is_null


class Absent(Undefined):
    """The undefined value of Jinja2 for an absent cell.

    `if`, `is defined`, `default`, `==`, `in` and attributes work, so that a column may be optional; printing it, or
    any other use of its text, raises an error that names the column.
    """

    __slots__ = ("is_null",)

    def __init__(self, *args: Any, is_null: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_null = is_null

    def _fail(self, *_args: object, **_kwargs: object) -> NoReturn:
        if self._undefined_hint is None and self._undefined_obj is missing:
            raise PrintedError(str(self._undefined_name), self.is_null)
        raise self._undefined_exception(self._undefined_message)

    __str__ = __iter__ = __call__ = _fail
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _fail
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = _fail
    __pow__ = __rpow__ = __pos__ = __neg__ = __int__ = __index__ = __float__ = __lt__ = __le__ = __gt__ = __ge__ = _fail

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):  # what Python itself looks up, as `copy` and `hasattr` do
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, _key: object) -> Any:
        # A hint means that the sandbox refused something, or an inline `if` without `else`; no part of that is a value.
        return self if self._undefined_hint is None else self._fail()

    def __contains__(self, _item: object) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        # A missing column is not null: `{% if x == none %}` asks for a cell that is there and empty.
        return isinstance(other, Absent) or (self.is_null and other is None)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(Absent)


def is_null(cell: Any) -> bool:
    """Whether a cell is null; NaN is how tables write that."""
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


class CellsOfRow(dict[str, Any]):
    """The cells of a row as a template sees them: null is `Absent`, so that `default('')` applies to it."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(
            (name, Absent(name=name, is_null=True) if is_null(cell) else cell) for name, cell in row.items()
        )

    def __missing__(self, column: str) -> Absent:
        return Absent(name=column)

    def get(self, column: str, default: Any = None) -> Any:
        """Return the cell, or the default where the row does not have the column."""
        return self[column] if column in self or default is None else default
