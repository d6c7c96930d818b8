"""A bundle as a zip file: the same bytes for the same files when it is written, a stranger's file when it is read.

A bundle comes by mail or from a repository of papers, so nothing that it says of itself is believed. Its names can only
be those of files below the folder it is unpacked into; what it may take of disk and memory is bounded before a byte is
unpacked, and while it is; nothing in it is executed. Every refusal is one line.
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
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import BinaryIO, cast

from tunerun.errors import InputError
from tunerun.files import replacing

MANIFEST = "manifest-sha256.txt"
"""Digest and name of every other file, one a line, as `sha256sum --check` reads them."""

Content = bytes | Path
"""A file of a bundle: its bytes, or where they are; a large one is never in memory as a whole."""

_CHUNK = 1 << 20
_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The time of every file: zip knows none before."""
_UNIX = 3
_DOS_FOLDER = 0x10
_COMPRESSED_ALREADY = (".gz", ".png", ".safetensors", ".zip")
"""Deflating them gains a few percent at most (8 % for an adapter's float32), for most of the time a bundle takes."""

MAX_FILES = 100_000
_MAX_DIRECTORY_BYTES = 32 << 20
"""The zip's own list of files, which is read into memory: 100,000 entries of long names take 20 MB."""
_MAX_NAME_CHARACTERS = 240
MAX_MANIFEST_BYTES = 32 << 20
SMALL_BYTES = 1 << 30
MAX_RATIO = 100
"""A bundle unpacks to 1 GiB at most, or to 100 times its own size: text of much repetition comes to 20 to 50 times."""

_NAME = re.compile(r"[A-Za-z0-9_.+-]+(?:/[A-Za-z0-9_.+-]+)*/?")


def write_archive(
    target: Path,
    files: Mapping[str, Content],
    first: tuple[str, ...] = (),
    digests: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write files and their manifest into a zip, whole or not at all; one that is there is replaced.

    Names, contents and versions of zlib being equal, so are the bytes: order, times, rights and flags are fixed.

    Args:
        files: contents by name, with `/` between folders.
        first: names that come before the others, which are sorted.
        digests: what the SHA-256 of some of them has to be.

    Raises:
        InputError: the file cannot be written, or one of the files cannot be read or has another digest.
    """
    order = [*(name for name in first if name in files), *sorted(name for name in files if name not in first)]
    if target.is_dir():
        raise InputError(f"{target}: is a folder; give the name of a file, such as {target / 'study.zip'}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as aside, zipfile.ZipFile(aside, "w") as archive:
            for folder in sorted({f"{above}/" for name in files for above in PurePosixPath(name).parents[:-1]}):
                _add(archive, folder, b"")  # validators of RO-Crates look for the folders that one names
            found = {name: _add(archive, name, files[name]) for name in order}
            changed = [name for name, digest in digests.items() if found[name] != digest]
            if changed:
                raise InputError([f"{_place(name, files[name])}: has changed since it was made" for name in changed])
            _add(archive, MANIFEST, "".join(f"{found[name]}  {name}\n" for name in order).encode())
    except OSError as error:
        is_ours = str(error.filename or target).startswith((str(target), str(target.parent / f".{target.name}.")))
        place = target if is_ours else error.filename
        raise InputError(f"{place}: {error.strerror}; the bundle was not written") from error


def _place(name: str, content: Content) -> str:
    return str(content) if isinstance(content, Path) else name


def _add(archive: zipfile.ZipFile, name: str, content: Content) -> str:
    """Write one file, and return its SHA-256."""
    entry = zipfile.ZipInfo(name, _EARLIEST)
    entry.create_system = _UNIX
    entry.external_attr = (
        ((stat.S_IFDIR | 0o755) << 16 | _DOS_FOLDER) if entry.is_dir() else (stat.S_IFREG | 0o644) << 16
    )
    is_stored = entry.is_dir() or name.endswith(_COMPRESSED_ALREADY)
    entry.compress_type = zipfile.ZIP_STORED if is_stored else zipfile.ZIP_DEFLATED
    entry.file_size = content.stat().st_size if isinstance(content, Path) else len(content)
    sha = hashlib.sha256()
    read: BinaryIO = content.open("rb") if isinstance(content, Path) else io.BytesIO(content)
    with read as source, archive.open(entry, "w") as written:
        while chunk := source.read(_CHUNK):
            sha.update(chunk)
            written.write(chunk)
    return sha.hexdigest()


class Archive:
    """A bundle's zip that is open, and whose list of files has been checked.

    Args:
        path: what it is called in errors.
    """

    def __init__(self, path: Path, opened: zipfile.ZipFile) -> None:
        self.path = path
        self._zip = opened
        self._entries = {entry.filename: entry for entry in self._checked() if not entry.is_dir()}
        self.digests = self._manifest()

    @property
    def names(self) -> frozenset[str]:
        """Every file in it, also those that its manifest does not list."""
        return frozenset(self._entries)

    def bytes_of(self, name: str) -> int:
        """The size that a file has according to the zip; reading gives no more."""
        return self._entries[name].file_size

    def read(self, name: str, limit_bytes: int) -> bytes:
        """A small file.

        Raises:
            InputError: it is not there, is larger than the limit, or is damaged.
        """
        if name not in self._entries:
            raise InputError(f"{self.path}: has no {name}; it is not a bundle of tunerun")
        if self.bytes_of(name) > limit_bytes:
            raise InputError(f"{self.path}: {name} has {self.bytes_of(name):,} bytes, more than {limit_bytes:,}")
        target = io.BytesIO()
        self.copy(name, target.write)
        return target.getvalue()

    def digest_of(self, name: str) -> str:
        """The SHA-256 of a file's content as it is, as 64 hexadecimal digits.

        Raises:
            InputError: it is damaged.
        """
        return self.copy(name, lambda _: None)

    def copy(self, name: str, write: Callable[[bytes], object]) -> str:
        """Give a file's content away in pieces, and return its SHA-256.

        Raises:
            InputError: it is damaged, or longer than the zip's list says.
        """
        sha, left = hashlib.sha256(), self.bytes_of(name)
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
        """Write the files whose names begin so, and which the manifest lists, into a new folder of the caller's own.

        Raises:
            InputError: a file is missing, or its content has changed; the disk is full.
        """
        listed = [name for name in self.digests if name.startswith(prefixes)]
        if missing := [name for name in listed if name not in self._entries]:
            raise InputError([f"{self.path}: {name} is missing; get the bundle again" for name in missing])
        needed = sum(self.bytes_of(name) for name in listed)
        if needed > (free := shutil.disk_usage(folder).free):
            raise InputError(
                f"{self.path}: unpacks to {needed:,} bytes and {folder} has {free:,} left; set TMPDIR to another"
            )
        for name in listed:
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as target:
                found = self.copy(name, target.write)
            if found != self.digests[name]:
                raise InputError(
                    f"{self.path}: {name} has changed: {MANIFEST} lists another digest; get the bundle again"
                )

    def _checked(self) -> Iterator[zipfile.ZipInfo]:
        """The zip's entries, none of which can do harm by its name, its kind or its size."""
        entries = self._zip.infolist()
        if len(entries) > MAX_FILES:
            raise InputError(f"{self.path}: holds {len(entries):,} files, more than {MAX_FILES:,}")
        total, most = sum(each.file_size for each in entries), max(SMALL_BYTES, MAX_RATIO * self.path.stat().st_size)
        if total > most:
            raise InputError(
                f"{self.path}: unpacks to {total:,} bytes, more than {most:,} (1 GiB, or {MAX_RATIO} times its size)"
            )
        files: set[str] = set()
        folders: dict[str, str] = {}
        for entry in entries:
            if fault := _fault(entry) or _collision(entry, files, folders):
                raise InputError(f"{self.path}: {_shown(entry.filename)} {fault}; nothing was unpacked")
            yield entry

    def _manifest(self) -> Mapping[str, str]:
        text = self.read(MANIFEST, MAX_MANIFEST_BYTES).decode("utf-8", errors="replace")
        digests: dict[str, str] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            digest, _, name = line.partition("  ")
            if not (re.fullmatch(r"[0-9a-f]{64}", digest) and _is_name(name)) or name in digests or name.endswith("/"):
                raise InputError(
                    f"{self.path}: {MANIFEST}, line {number}: not a digest and the name of a file; damaged"
                )
            digests[name] = digest
        return digests


@contextmanager
def opened_archive(path: Path) -> Iterator[Archive]:
    """Open a bundle's zip to be read.

    Raises:
        InputError: it is not a zip, is damaged, or holds what a bundle never does; says what.
    """
    with _translated(path), _BoundedFile(path) as file, zipfile.ZipFile(cast(BinaryIO, file)) as opened:
        yield Archive(path, opened)


class _BoundedFile(io.FileIO):
    """A file of which no more is read at once than a list of `MAX_FILES` takes; zipfile reads the list as a whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its list of files takes {size:,} bytes")
        return super().read(size) or b""


@contextmanager
def _translated(path: Path, name: str = "") -> Iterator[None]:
    """What zipfile and zlib raise of a damaged file, as one line."""
    place = f"{path}: {name}" if name else str(path)
    try:
        yield
    except zipfile.BadZipFile as error:
        if name:
            raise InputError(f"{place}: damaged ({error}); get the bundle again") from error
        raise InputError(f"{place}: not a zip file, or damaged ({error}); give a bundle of tunerun") from error
    except (zlib.error, EOFError, NotImplementedError, UnicodeError, ValueError, RuntimeError) as error:
        raise InputError(f"{place}: damaged ({error}); get the bundle again") from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # zipfile follows an offset to before the beginning of the file
            raise InputError(f"{place}: damaged; get the bundle again") from error
        raise InputError(f"{error.filename or place}: {error.strerror or 'cannot be read'}") from error


def _fault(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry is refused by itself; None: it is not."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
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
    """Why an entry cannot be beside those before it on every file system; adds it to them where it can."""
    name = entry.filename.rstrip("/")
    parts = name.split("/")
    for depth in range(1, len(parts) + entry.is_dir()):
        folder = "/".join(parts[:depth])
        if folders.setdefault(folder.casefold(), folder) != folder or folder.casefold() in files:
            return "is in a folder of which there is a file of that name, or another folder in other capitals"
    if not entry.is_dir():
        if name.casefold() in files or name.casefold() in folders:
            return "is there twice, or differs from another name in capitals alone"
        files.add(name.casefold())
    return None


def _is_name(name: str) -> bool:
    """Whether a name can only be that of a file or a folder below the one it is put into."""
    parts = name.rstrip("/").split("/")
    return len(name) <= _MAX_NAME_CHARACTERS and bool(_NAME.fullmatch(name)) and not {".", ".."} & set(parts)


def _shown(name: str) -> str:
    """A hostile name in an error: no control characters, and not a screen of it."""
    return repr(name if len(name) <= 80 else f"{name[:77]}...")
