"""A bundle's zip file: written reproducibly, byte for byte; read as untrusted input.

A bundle comes by mail or from a repository of papers, so nothing it says about itself is trusted. Its names can only
be those of files below the folder it is unpacked into; the disk and memory it may use are bounded before a byte is
unpacked, and during unpacking; nothing in it is executed. Every refusal is one line.
"""

from __future__ import annotations

import errno
import hashlib
import io
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import BinaryIO, cast

from tunerun.errors import InputError
from tunerun.files import replacing

MANIFEST = "manifest-sha256.txt"
"""Digest and name of every other file, one a line, as `sha256sum --check` reads them."""

Content = bytes | Path
"""The content of a bundle's file: its bytes, or a path to them; a large file is never read into memory as a whole."""

_CHUNK = 1 << 20

_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The time of every file, the earliest that a zip can express, so that a bundle does not depend on when it is made."""

# "Version made by" and the MS-DOS attribute of a directory, by the ZIP specification (APPNOTE 4.4.2 and 4.4.15).
# zipfile takes the first from the system that writes, so a bundle made on Windows would have other bytes.
_UNIX = 3
_DOS_FOLDER = 0x10

_COMPRESSED_ALREADY = (".gz", ".png", ".safetensors", ".zip")
"""Deflating them saves little (8 % for an adapter in float32), and would take most of the time of writing a bundle."""

MAX_FILES = 100_000
MAX_DIRECTORY_BYTES = 32 << 20
"""Of the zip's own list of files, which is read into memory: 100,000 entries with long names take 20 MB."""

# Windows takes 260 characters for a whole path by default, of which the folder needs some.
_MAX_NAME_CHARACTERS = 240
_MAX_MANIFEST_BYTES = 32 << 20

_SMALL_BYTES = 1 << 30
_MAX_RATIO = 100
"""A bundle unpacks to 1 GiB at most, or to 100 times its own size: very repetitive text reaches 20 to 50 times."""

# What every file system takes: no backslash, colon or space, and no letters that file systems normalise differently.
_NAME = re.compile(r"[A-Za-z0-9_.+-]+(?:/[A-Za-z0-9_.+-]+)*/?")


def write_archive(
    target: Path,
    files: Mapping[str, Content],
    first: tuple[str, ...] = (),
    digests: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write files and their manifest into a zip atomically, replacing an existing one.

    The same names and contents give the same bytes with the same version of zlib: order, times, permissions and flags
    are fixed.

    Args:
        target: the zip file.
        files: contents by name, with `/` between folders.
        first: names to write before the others, which are sorted.
        digests: required SHA-256 by name, for some of the files.

    Raises:
        InputError: the file cannot be written, or one of the files cannot be read or has another digest.
    """
    # Sorted, because folders list their files in any order; the descriptions come first, where `unzip -l` shows them.
    order = [*(name for name in first if name in files), *sorted(name for name in files if name not in first)]
    if target.is_dir():
        raise InputError(f"{target}: is a folder; give the name of a file, such as {target / 'study.zip'}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as aside, zipfile.ZipFile(aside, "w") as archive:
            for folder in sorted({f"{above}/" for name in files for above in PurePosixPath(name).parents[:-1]}):
                _add(archive, folder, b"")  # validators of RO-Crates look for the folders that one names
            # Digests are of the bytes that were written: a file that changes meanwhile cannot contradict its manifest.
            written = {name: _add(archive, name, files[name]) for name in order}
            changed = [name for name, digest in digests.items() if written[name] != digest]
            if changed:
                places = [place if isinstance(place := files[name], Path) else name for name in changed]
                raise InputError([f"{place}: has changed since it was made" for place in places])
            _add(archive, MANIFEST, "".join(f"{written[name]}  {name}\n" for name in order).encode())
    except OSError as error:
        # Of the target or its partial file, or else of one of the files to be written into it.
        is_ours = str(error.filename or target).startswith((str(target), str(target.parent / f".{target.name}.")))
        place = target if is_ours else error.filename
        raise InputError(f"{place}: {error.strerror}; the bundle was not written") from error


def _add(archive: zipfile.ZipFile, name: str, content: Content) -> str:
    """Write one file, and return its SHA-256."""
    # Not `ZipFile.write`, which takes time and mode from the file.
    entry = zipfile.ZipInfo(name, _EARLIEST)
    entry.create_system = _UNIX
    entry.external_attr = (
        ((stat.S_IFDIR | 0o755) << 16 | _DOS_FOLDER) if entry.is_dir() else (stat.S_IFREG | 0o644) << 16
    )
    is_stored = entry.is_dir() or name.endswith(_COMPRESSED_ALREADY)
    entry.compress_type = zipfile.ZIP_STORED if is_stored else zipfile.ZIP_DEFLATED
    # In advance, because the header is written first, and that of a file above 2 GiB has another form (zip64).
    entry.file_size = content.stat().st_size if isinstance(content, Path) else len(content)
    sha = hashlib.sha256()
    read: BinaryIO = content.open("rb") if isinstance(content, Path) else io.BytesIO(content)
    with read as source, archive.open(entry, "w") as written:
        while chunk := source.read(_CHUNK):
            sha.update(chunk)
            written.write(chunk)
    return sha.hexdigest()


class Archive:
    """An open zip of a bundle, whose list of files has been checked.

    Attributes:
        path: the zip, for messages.
        sizes: bytes of every file by name, also of those that the manifest does not list; reading gives no more.
        digests: SHA-256 of every file that the manifest lists, by name.
    """

    def __init__(self, path: Path, opened: zipfile.ZipFile, max_files: int) -> None:
        """Check the zip's entries and read its manifest.

        Args:
            path: the zip, for messages.
            opened: the open zip.
            max_files: files and folders that are accepted.

        Raises:
            InputError: an entry is refused, or the manifest is missing or damaged.
        """
        self.path = path
        self._zip = opened
        # Every entry is checked, also those that are not read: a zip with one hostile entry is not a bundle.
        self._entries = {entry.filename: entry for entry in self._checked(max_files) if not entry.is_dir()}
        self.sizes = {name: entry.file_size for name, entry in self._entries.items()}
        self.digests: dict[str, str] = {}
        text = self.read(MANIFEST, _MAX_MANIFEST_BYTES).decode("utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            digest, _, name = line.partition("  ")
            is_digest = re.fullmatch(r"[0-9a-f]{64}", digest) is not None
            # A name that is listed twice would have two digests, and a folder has none.
            if not is_digest or not _is_name(name) or name in self.digests or name.endswith("/"):
                raise InputError(f"{path}: {MANIFEST}, line {number}: not a digest and the name of a file; damaged")
            self.digests[name] = digest

    def read(self, name: str, limit_bytes: int) -> bytes:
        """Return the content of a small file.

        Args:
            name: of the file.
            limit_bytes: its size at most; the whole of it is held in memory.

        Raises:
            InputError: it is missing, larger than the limit, or damaged.
        """
        if name not in self._entries:
            raise InputError(f"{self.path}: has no {name}; it is not a bundle of tunerun")
        if self.sizes[name] > limit_bytes:
            raise InputError(f"{self.path}: {name} has {self.sizes[name]:,} bytes, more than {limit_bytes:,}")
        target = io.BytesIO()
        self.copy(name, target.write)
        return target.getvalue()

    def copy(self, name: str, write: Callable[[bytes], object]) -> str:
        """Pass a file's content to `write` in chunks, and return its SHA-256.

        Args:
            name: of the file.
            write: called with each chunk.

        Raises:
            InputError: it is damaged, or longer than the zip's list says.
        """
        # The list of files was checked against the limits, so no more than it says may come out of the zip.
        sha, left = hashlib.sha256(), self.sizes[name]
        with _translated(self.path, name), self._zip.open(self._entries[name]) as source:
            while chunk := source.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise InputError(
                        f"{self.path}: {name} is longer than the zip's list of files says; damaged or made up"
                    )
                sha.update(chunk)
                write(chunk)
        return sha.hexdigest()

    def unpack(self, folder: Path, prefixes: tuple[str, ...]) -> None:
        """Unpack the files that the manifest lists and whose names have one of these prefixes.

        Args:
            folder: a new folder that no other process writes to.
            prefixes: such as `record/`.

        Raises:
            InputError: a file is missing, or its content has changed; the disk is full.
        """
        listed = [name for name in self.digests if name.startswith(prefixes)]
        if missing := [name for name in listed if name not in self._entries]:
            raise InputError([f"{self.path}: {name} is missing; get the bundle again" for name in missing])
        needed = sum(self.sizes[name] for name in listed)
        if needed > (free := shutil.disk_usage(folder).free):
            raise InputError(
                f"{self.path}: unpacks to {needed:,} bytes and {folder} has {free:,} left; set TMPDIR to another"
            )
        for name in listed:
            place = folder / name  # below the folder, because the names were checked
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as target:
                sha256 = self.copy(name, target.write)
            if sha256 != self.digests[name]:
                raise InputError(
                    f"{self.path}: {name} has changed: {MANIFEST} lists another digest; get the bundle again"
                )

    def _checked(self, max_files: int) -> Iterator[zipfile.ZipInfo]:
        """Yield the zip's entries; one that could do harm by its name, type or size is an error."""
        entries = self._zip.infolist()
        if len(entries) > max_files:
            raise InputError(f"{self.path}: holds {len(entries):,} files, more than {max_files:,}")
        # The declared sizes may be false, so `copy` counts again; a zip bomb that declares its size is refused at once.
        total, most = sum(each.file_size for each in entries), max(_SMALL_BYTES, _MAX_RATIO * self.path.stat().st_size)
        if total > most:
            raise InputError(
                f"{self.path}: unpacks to {total:,} bytes, more than {most:,} (1 GiB, or {_MAX_RATIO} times its size)"
            )
        files: set[str] = set()
        folders: dict[str, str] = {}
        for entry in entries:
            if fault := _fault(entry) or _collision(entry, files, folders):
                name = entry.filename if len(entry.filename) <= 80 else f"{entry.filename[:77]}..."
                # `repr`: a hostile name may have characters that control a terminal.
                raise InputError(f"{self.path}: {name!r} {fault}; nothing was unpacked")
            yield entry


@contextmanager
def opened_archive(
    path: Path, *, max_files: int = MAX_FILES, max_directory_bytes: int = MAX_DIRECTORY_BYTES
) -> Iterator[Archive]:
    """Open a bundle's zip for reading.

    Args:
        path: the zip.
        max_files: files and folders that are accepted.
        max_directory_bytes: accepted size of the zip's own list of files.

    Raises:
        InputError: it is not a zip, is damaged, or contains an entry that no bundle has; the message names it.
    """
    with (
        _translated(path),
        _BoundedFile(path, max_directory_bytes) as file,
        zipfile.ZipFile(cast(BinaryIO, file)) as opened,
    ):
        yield Archive(path, opened, max_files)


@dataclass(frozen=True)
class CheckedFiles:
    """The result of comparing the files of a bundle with its manifest.

    Attributes:
        files: number of files that the manifest lists.
        bytes: their total size.
        problems: files that are missing, changed or not listed, one line each.
    """

    files: int
    bytes: int
    problems: tuple[str, ...]


def check_files(path: Path) -> CheckedFiles:
    """Compare every file of a bundle with its manifest, without unpacking it.

    Args:
        path: of the bundle.

    Raises:
        InputError: it is not a bundle, or contains an entry that no bundle has.
    """
    problems: list[str] = []
    size = 0
    with opened_archive(path) as archive:
        for name, digest in archive.digests.items():
            if name not in archive.sizes:
                problems.append(f"{name}: missing")
                continue
            size += archive.sizes[name]
            sha256 = archive.copy(name, lambda _chunk: None)
            if sha256 != digest:
                problems.append(f"{name}: changed (sha256 {digest[:12]} in the manifest, {sha256[:12]} now)")
        unlisted = sorted(archive.sizes.keys() - archive.digests.keys() - {MANIFEST})
        problems += [f"{name}: not in {MANIFEST}" for name in unlisted]
        return CheckedFiles(len(archive.digests), size, tuple(problems))


class _BoundedFile(io.FileIO):
    """A file that refuses a read of more bytes than a limit: zipfile reads the zip's list of files at once."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(path)
        self._limit = limit

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._limit:
            raise zipfile.BadZipFile(f"its list of files takes {size:,} bytes")
        return super().read(size) or b""


@contextmanager
def _translated(path: Path, name: str = "") -> Iterator[None]:
    """Translate what zipfile and zlib raise for a damaged file into one line."""
    place = f"{path}: {name}" if name else str(path)
    try:
        yield
    except zipfile.BadZipFile as error:
        if name:
            raise InputError(f"{place}: damaged ({error}); get the bundle again") from error
        raise InputError(f"{place}: not a zip file, or damaged ({error}); give a bundle of tunerun") from error
    # Damage makes zipfile raise any of these (a test damages a bundle 300 times): NotImplementedError for a compression
    # or version that it does not know, RuntimeError for a file that claims to be encrypted.
    except (zlib.error, EOFError, NotImplementedError, UnicodeError, ValueError, RuntimeError) as error:
        raise InputError(f"{place}: damaged ({error}); get the bundle again") from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # zipfile seeks to a damaged offset, which is before the start of the file
            raise InputError(f"{place}: damaged; get the bundle again") from error
        raise InputError(f"{error.filename or place}: {error.strerror or 'cannot be read'}") from error


def _fault(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry is refused, whatever the others are; None: it is accepted."""
    kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 if the zip was made on a system without modes
    if not _is_name(entry.filename):
        return "is not the name of a file below the folder"
    if entry.flag_bits & 1:
        return "is encrypted"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in a way that bundles do not use"
    return None


def _collision(entry: zipfile.ZipInfo, files: set[str], folders: dict[str, str]) -> str | None:
    """Why an entry conflicts with earlier ones on some file system; None: it does not, and it is added to them.

    Args:
        entry: the entry.
        files: names of the earlier files, in lower case.
        folders: names of the folders so far, by their names in lower case.
    """
    # On a file system that ignores case the second of `a` and `A` would overwrite the first.
    name = entry.filename.rstrip("/")
    parts = name.split("/")
    for depth in range(1, len(parts) + entry.is_dir()):
        folder = "/".join(parts[:depth])
        if folders.setdefault(folder.casefold(), folder) != folder or folder.casefold() in files:
            return "is in a folder that has the name of a file, or of another folder in other capitals"
    if not entry.is_dir():
        if name.casefold() in files or name.casefold() in folders:
            return "occurs twice, or differs from another name in capitals alone"
        files.add(name.casefold())
    return None


def _is_name(name: str) -> bool:
    """Whether a name always leads below the folder it is unpacked into, on every operating system."""
    parts = name.rstrip("/").split("/")
    return len(name) <= _MAX_NAME_CHARACTERS and bool(_NAME.fullmatch(name)) and not {".", ".."} & set(parts)
