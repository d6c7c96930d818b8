"""Reads headers of GGUF files without numpy and the package gguf, which `plan` must not import.

Format: the GGUF specification of ggml, versions 2 and 3 (github.com/ggml-org/ggml, docs/gguf.md).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"GGUF"

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

_MOST_ENTRIES = 1_000_000
"""A file that states more metadata entries or tensors than this is damaged."""

_ALIGNMENT = 32  # the specification's default of general.alignment

# Elements and bytes of a block, by the number of the tensor type (gguf 0.19, GGML_QUANT_SIZES).
_BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    28: (1, 8),
    30: (1, 2),
}


class DamagedGgufError(ValueError):
    """The file is not a GGUF file, or ends within its header."""


@dataclass(frozen=True)
class GgufHeader:
    """The header of a GGUF file.

    Attributes:
        metadata: scalars and texts by key; arrays are omitted.
        tensors: the names of the tensors.
        byte_count: the smallest size of a file with these tensors, in bytes; a tensor of an unknown type counts as
            empty.
    """

    metadata: Mapping[str, Any]
    tensors: tuple[str, ...]
    byte_count: int

    def of_architecture(self, key: str) -> Any:
        """Return a value whose key begins with the architecture's name, such as `context_length`; None: not stated."""
        return self.metadata.get(f"{self.metadata.get('general.architecture')}.{key}")


def read(file: Path) -> GgufHeader:
    """Read the header of a GGUF file.

    Raises:
        DamagedGgufError: the file is not a GGUF file, or its header is cut off or invalid.
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        try:
            return _read(stream)
        except (struct.error, UnicodeDecodeError, KeyError, MemoryError, OverflowError) as error:
            raise DamagedGgufError("its header is cut off or damaged") from error


def _read(stream: BinaryIO) -> GgufHeader:
    if stream.read(4) != MAGIC:
        raise DamagedGgufError("it does not begin with 'GGUF'")
    version = _number(stream, "I")
    if version not in (2, 3):
        raise DamagedGgufError(f"it is of GGUF version {version}; allowed are 2 and 3")
    tensor_count, entry_count = _number(stream, "Q"), _number(stream, "Q")
    if max(tensor_count, entry_count) > _MOST_ENTRIES:
        raise DamagedGgufError("its header is damaged")
    metadata = {}
    for _ in range(entry_count):
        key = _text(stream)
        value = _value(stream, _number(stream, "I"))
        if value is not None:
            metadata[key] = value
    names, ends = [], [0]
    for _ in range(tensor_count):
        names.append(_text(stream))
        elements = 1
        for _ in range(_number(stream, "I")):
            elements *= _number(stream, "Q")
        # A tensor of an unknown type counts as empty: a newer llama.cpp may have types that are not in the table.
        per_block, block_bytes = _BLOCKS.get(_number(stream, "I"), (1, 0))
        ends.append(_number(stream, "Q") + elements // per_block * block_bytes)
    alignment = int(metadata.get("general.alignment", _ALIGNMENT))
    data_start = -(-stream.tell() // alignment) * alignment
    return GgufHeader(metadata, tuple(names), data_start + max(ends))


def _number(stream: BinaryIO, code: str) -> int:
    size = struct.calcsize(code)
    return int(struct.unpack(f"<{code}", stream.read(size))[0])


def _text(stream: BinaryIO) -> str:
    length = _number(stream, "Q")
    content = stream.read(length)
    if len(content) < length:
        raise struct.error
    return content.decode("utf-8")


def _value(stream: BinaryIO, kind: int) -> Any:
    """Return a scalar or a text; skip an array and return None."""
    if kind == _STRING:
        return _text(stream)
    if kind != _ARRAY:
        code = _SCALARS[kind]
        return struct.unpack(f"<{code}", stream.read(struct.calcsize(code)))[0]
    inner, count = _number(stream, "I"), _number(stream, "Q")
    if inner in _SCALARS:
        stream.seek(count * struct.calcsize(_SCALARS[inner]), 1)
        return None
    for _ in range(count):
        if inner == _STRING:
            stream.seek(_number(stream, "Q"), 1)
        else:
            _value(stream, inner)
    return None
