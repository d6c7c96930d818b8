"""Checks that the files of a bundle are unchanged since it was made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunerun.record.bundle.archive import MANIFEST, opened_archive


@dataclass(frozen=True)
class CheckedFiles:
    """What a look at every file of a bundle came to.

    Attributes:
        files: how many its manifest lists. bytes: of these together.
        problems: which are missing, changed or not listed, one line each.
    """

    files: int
    bytes: int
    problems: tuple[str, ...]


def check_files(path: Path) -> CheckedFiles:
    """Compare every file of a bundle with its manifest; nothing is unpacked.

    Raises:
        InputError: it is not a bundle, or holds what a bundle never does.
    """
    problems: list[str] = []
    size = 0
    with opened_archive(path) as archive:
        for name, digest in archive.digests.items():
            if name not in archive.names:
                problems.append(f"{name}: missing")
                continue
            size += archive.bytes_of(name)
            found = archive.digest_of(name)
            if found != digest:
                problems.append(f"{name}: changed (sha256 {digest[:12]} in the manifest, {found[:12]} now)")
        unlisted = sorted(archive.names - set(archive.digests) - {MANIFEST})
        problems += [f"{name}: not in {MANIFEST}" for name in unlisted]
        return CheckedFiles(len(archive.digests), size, tuple(problems))
