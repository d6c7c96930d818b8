"""Opens a bundle: restores its record as a ledger in a temporary folder, with its adapters beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunerun.errors import RecordError
from tunerun.files import temporary_folder
from tunerun.ledger import FILE_NAME, Ledger
from tunerun.ledger.restoring import restored
from tunerun.record.bundle.archive import opened_archive

RECORD = "record/"
"""Where a bundle has the portable form of the ledger."""
RESULTS = "results/"
MODELS = "tuned_models/"
"""Where it has adapters, as a runs folder has them."""


@contextmanager
def opened_bundle(path: Path) -> Iterator[Ledger]:
    """Unpack a bundle's record and adapters into a temporary folder, and open it as a ledger until the caller is done.

    Files that the manifest does not list are not unpacked.

    Raises:
        InputError: it is not a bundle, is damaged or has changed, or holds what a bundle never does.
    """
    with temporary_folder("bundle") as folder:
        with opened_archive(path) as archive:
            archive.unpack(folder, (RECORD, MODELS))
        try:
            restored(folder / RECORD, folder / FILE_NAME)
        except RecordError as error:
            raise RecordError([line.replace(f"{folder}/", f"{path}: ") for line in error.problems]) from error
        with Ledger.open_read_only(folder / FILE_NAME) as ledger:
            yield ledger
