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
"""The folder in a bundle that contains the portable form of the ledger."""

RESULTS = "results/"

MODELS = "tuned_models/"
"""The folder in a bundle that contains the adapters; a runs folder has the same."""


@contextmanager
def opened_bundle(path: Path) -> Iterator[Ledger]:
    """Unpack a bundle's record and adapters into a temporary folder, and open it there as a ledger.

    Files that the manifest does not list are not unpacked.

    Args:
        path: of the bundle.

    Yields:
        The ledger, open for reading until the context ends.

    Raises:
        InputError: it is not a bundle, is damaged or has changed, or contains an entry that no bundle has.
    """
    with temporary_folder("bundle") as folder:
        with opened_archive(path) as archive:
            # Without the results: readers compute them from the record.
            archive.unpack(folder, (RECORD, MODELS))
        try:
            restored(folder / RECORD, folder / FILE_NAME)
        except RecordError as error:
            # The folder is gone when the message is read: it names the bundle instead.
            raise RecordError([line.replace(f"{folder}/", f"{path}: ") for line in error.problems]) from error
        with Ledger.open_read_only(folder / FILE_NAME) as ledger:
            yield ledger
