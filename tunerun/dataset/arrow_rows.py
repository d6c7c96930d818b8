"""Rows from Parquet, from Arrow files and streams, and from the folders that the library `datasets` saves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunerun.dataset.findings import Findings, UnreadableError
from tunerun.dataset.rows import Rows
from tunerun.dataset.table_rows import repeated_names

if TYPE_CHECKING:
    import pyarrow

# pyarrow is imported where it is used: it takes longer to import than all the rest of this package.


def parquet_rows(file: str, content: bytes) -> tuple[Rows, Findings]:
    """Read a Parquet file; a row's `line` is its number."""

    def read() -> pyarrow.Table:
        import pyarrow
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content)).read()

    return _rows(file, "Parquet", read)


def arrow_rows(file: str, content: bytes) -> tuple[Rows, Findings]:
    """Read an Arrow file (also Feather), or an Arrow stream; a row's `line` is its number."""
    return _rows(file, "Arrow", lambda: _arrow_table(content))


def folder_rows(folder: Path) -> tuple[Rows, Findings] | None:
    """Read the rows of a folder that `Dataset.save_to_disk` wrote, in the order of its files; None: it is not one.

    Raises:
        UnreadableError: it holds several sets of rows, or its files are damaged.
    """
    state, splits = folder / "state.json", folder / "dataset_dict.json"
    if splits.is_file():
        names = _json(splits).get("splits", [])
        places = ", ".join(str(folder / str(name)) for name in names) or "one of its folders"
        raise UnreadableError("path", f"{folder}: holds several sets of rows; set dataset.path to one of {places}")
    if not state.is_file():
        return None
    named = [str(each.get("filename")) for each in _json(state).get("_data_files", []) if isinstance(each, dict)]
    # A name with a folder in it could reach files outside.
    files = [folder / name for name in named if Path(name).name == name] or sorted(folder.glob("*.arrow"))

    def read() -> pyarrow.Table:
        import pyarrow

        return pyarrow.concat_tables([_arrow_table(file.read_bytes()) for file in files])

    return _rows(str(folder), "Arrow", read)


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _arrow_table(content: bytes) -> pyarrow.Table:
    import pyarrow

    # `datasets` writes streams, Feather is the file form.
    opened = pyarrow.ipc.open_file if content.startswith(b"ARROW1") else pyarrow.ipc.open_stream
    return opened(pyarrow.BufferReader(content)).read_all()


def _rows(file: str, kind: str, read: Callable[[], pyarrow.Table]) -> tuple[Rows, Findings]:
    import pyarrow

    try:
        table = read()
        table.validate(full=True)  # an untrusted file may hold offsets that point outside it
    except (pyarrow.ArrowException, OSError) as error:
        text = f"{file}: is damaged or cut off; no {kind} could be read from it; write it again"
        raise UnreadableError("parquet", text) from error
    if repeated := repeated_names(table.column_names):
        raise UnreadableError("header", f"{file}: {repeated}")
    findings = Findings(file, "row")
    columns: dict[str, list[Any]] = {}
    for name in table.column_names:
        column = table.column(name)
        try:
            columns[name] = _cells(column)
        except (pyarrow.ArrowException, ArithmeticError, ValueError):
            what = f"the column {name!r} of {column.type} holds values that cannot be written"
            findings.add("column", f"{file}: {what}; cast it to text, or remove it")
        if _has_nanoseconds(column):
            what = f"the column {name!r} holds times to the nanosecond, with nine digits after the second"
            findings.warn("times", f"{file}: {what}; cast it to text where they should be written otherwise")
    return Rows(file, range(1, table.num_rows + 1), columns, "row"), findings


def _cells(column: pyarrow.ChunkedArray) -> list[Any]:
    import pyarrow

    kind = column.type
    if pyarrow.types.is_dictionary(kind):  # how pandas writes a categorical column
        return _cells(column.cast(kind.value_type))
    if _has_nanoseconds(column):
        texts: list[Any] = column.cast(pyarrow.string()).to_pylist()
        return texts
    if pyarrow.types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pyarrow.timestamp("us", kind.tz))  # `to_pylist` would need pandas for nanoseconds
    convert = _converter(kind)
    try:
        cells: list[Any] = column.to_pylist()
    except (OverflowError, ValueError):  # a year beyond 9999, which Python's dates do not have
        cells = column.cast(pyarrow.string()).to_pylist()
        if any(cell is not None and cell.startswith("<value out of range") for cell in cells):  # Arrow's own words
            raise
    return cells if convert is None else [None if cell is None else convert(cell) for cell in cells]


def _has_nanoseconds(column: pyarrow.ChunkedArray) -> bool:
    """Whether a column holds times with nanoseconds, which Python's datetime would cut."""
    import pyarrow

    kind = column.type
    types = pyarrow.types
    if not (types.is_timestamp(kind) or types.is_time64(kind)) or kind.unit != "ns":
        return False
    try:
        column.cast(pyarrow.time64("us") if types.is_time64(kind) else pyarrow.timestamp("us", kind.tz))
    except pyarrow.ArrowInvalid:
        return True
    return False


def _converter(kind: pyarrow.DataType) -> Callable[[Any], Any] | None:
    """Return what converts values of `to_pylist` for this type to cells; None: they need no conversion."""
    import pyarrow

    types = pyarrow.types
    if types.is_floating(kind):
        # Tables write NaN for null. Of a 16- or 32-bit float the fewest digits that give it: 0.1, not 0.10000000149.
        shorter = None if types.is_float64(kind) else kind.to_pandas_dtype()
        return lambda cell: None if math.isnan(cell) else float(str(shorter(cell))) if shorter else cell
    if types.is_struct(kind):
        fields = {kind.field(n).name: _converter(kind.field(n).type) for n in range(kind.num_fields)}
        changing = {name: convert for name, convert in fields.items() if convert is not None}
        if not changing:
            return None
        return lambda cell: {
            name: changing[name](value) if name in changing and value is not None else value
            for name, value in cell.items()
        }
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        convert = _converter(kind.value_type)
        return None if convert is None else lambda cell: [None if each is None else convert(each) for each in cell]
    return None
