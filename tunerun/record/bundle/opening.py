"""A bundle is opened: its record becomes a ledger in a temporary folder, with its adapters beside it."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunerun.errors import InputError
from tunerun.ledger import FILE_NAME, Ledger
from tunerun.ledger.portable import restored
from tunerun.record.bundle.archive import MAX_RATIO, SMALL_BYTES, opened_archive

RECORD = "record/"
"""Where a bundle has the portable form of the ledger."""
RESULTS = "results/"
MODELS = "tuned_models/"
"""Where it has adapters, as a runs folder has them."""

_CHUNK = 1 << 20


@contextmanager
def opened_bundle(path: Path) -> Iterator[Ledger]:
    """Unpack a bundle's record and adapters into a temporary folder, and open it as a ledger until the caller is done.

    Files that the manifest does not list are not unpacked.

    Raises:
        InputError: it is not a bundle, is damaged or has changed, or holds what a bundle never does.
    """
    with tempfile.TemporaryDirectory(prefix="tunerun-bundle-") as name:
        folder = Path(name)
        with opened_archive(path) as archive:
            archive.unpack(folder, (RECORD, MODELS))
        _refuse_bombs(path, folder / RECORD)
        restored(folder / RECORD, folder / FILE_NAME)
        with Ledger.open_read_only(folder / FILE_NAME) as ledger:
            yield ledger


def _refuse_bombs(path: Path, record: Path) -> None:
    """Refuse compressed parts of the record that would fill the memory: reading them takes it all at once."""
    left = most = max(SMALL_BYTES, MAX_RATIO * path.stat().st_size)
    for file in sorted(record.rglob("*.gz")):
        try:
            with gzip.open(file) as source:
                while left >= 0 and (chunk := source.read(_CHUNK)):
                    left -= len(chunk)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: {RECORD}{file.name}: damaged ({error}); get the bundle again") from error
        if left < 0:
            raise InputError(
                f"{path}: its record unpacks to more than {most:,} bytes (1 GiB, or {MAX_RATIO} times its size)"
            )
