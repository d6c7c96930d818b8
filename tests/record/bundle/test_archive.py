"""A bundle's zip: the same bytes for the same files, and hostile zips are refused."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tunerun.errors import InputError
from tunerun.record.bundle.archive import MANIFEST, opened_archive, write_archive

FILES = {
    "record/record.json": b'{"a": 1}',
    "README.md": b"# study\n" * 100,
    "tuned_models/t-1/w.safetensors": b"\0" * 9,
}
ALL = ("record/", "tuned_models/", "README.md")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_archive(tmp_path / "study.zip", FILES)
    return tmp_path / "study.zip"


def unpacked(path: Path, folder: Path) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    with opened_archive(path) as archive:
        archive.unpack(folder, ALL)
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_written_archive_is_read_unchanged(bundle: Path, tmp_path: Path) -> None:
    """Every file is unpacked unchanged and is not executable."""
    assert unpacked(bundle, tmp_path / "out") == FILES
    assert stat.S_IMODE((tmp_path / "out" / "README.md").stat().st_mode) & 0o111 == 0


@pytest.mark.thorough
def test_the_same_files_give_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    """Neither the order, the files' times, the time zone nor the process change the bytes."""
    source = tmp_path / "weights"
    source.write_bytes(FILES["tuned_models/t-1/w.safetensors"])
    os.utime(source, (1, 1))
    code = (
        "import sys; from pathlib import Path; from tunerun.record.bundle.archive import write_archive; "
        f"files = {dict(reversed(FILES.items()))!r}; files['tuned_models/t-1/w.safetensors'] = Path('weights'); "
        "write_archive(Path('other.zip'), files)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "TZ": "Pacific/Auckland"})
    assert (tmp_path / "other.zip").read_bytes() == bundle.read_bytes()


def test_it_appears_whole_or_not_at_all(bundle: Path, tmp_path: Path) -> None:
    """After a file that cannot be read or has another digest, the old bundle is unchanged and no partial file is left."""
    before = bundle.read_bytes()
    with pytest.raises(InputError, match=r"is a folder; give the name of a file, such as .*/study\.zip"):
        write_archive(tmp_path, {})
    with pytest.raises(InputError, match=r"gone: No such file or directory; the bundle was not written"):
        write_archive(bundle, {"a": b"new", "b": tmp_path / "gone"})
    (tmp_path / "w").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"w: has changed since it was made"):
        write_archive(bundle, {"w": tmp_path / "w"}, digests={"w": "0" * 64})
    assert bundle.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["study.zip", "w"]


def test_its_manifest_is_what_sha256sum_checks(bundle: Path) -> None:
    """Each line has a digest, two spaces and the name."""
    with zipfile.ZipFile(bundle) as opened:
        lines = opened.read(MANIFEST).decode().splitlines()
    assert lines == [f"{hashlib.sha256(FILES[name]).hexdigest()}  {name}" for name in sorted(FILES)]


def hostile(path: Path, *entries: zipfile.ZipInfo | str, content: bytes = b"x", listed: tuple[str, ...] = ()) -> Path:
    """A zip whose manifest is right, with further entries."""
    digest = hashlib.sha256(content).hexdigest()
    with zipfile.ZipFile(path, "w") as made:
        for entry in entries:
            made.writestr(entry, content)
        made.writestr(MANIFEST, "".join(f"{digest}  {name}\n" for name in listed))
    return path


def entry(name: str, mode: int = stat.S_IFREG | 0o644, method: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr, made.compress_type, made.create_system = mode << 16, method, 3
    return made


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../out.txt",
        "record/../../out.txt",
        "C:\\out.txt",
        "C:out",
        "a\\..\\b",
        "a//b",
        "a\nb",
        "é",
        "./a",
        "~/a b",
        "a" * 241,
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    """Nothing is unpacked, even if only another operating system would read the name as a path."""
    with pytest.raises(InputError, match="is not the name of a file below the folder; nothing was unpacked"):
        unpacked(hostile(tmp_path / "h.zip", name, listed=()), tmp_path / "out")
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and f.name != "h.zip"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry("record/a", stat.S_IFLNK | 0o777)], "'record/a' is a link or a device, not a file"),
        ([entry("record/a", stat.S_IFCHR | 0o666)], "'record/a' is a link or a device, not a file"),
        ([entry("record/a", stat.S_IFIFO | 0o666)], "'record/a' is a link or a device, not a file"),
        ([entry("record/a", method=zipfile.ZIP_LZMA)], "'record/a' is compressed in a way that bundles do not use"),
        ([entry("record/a"), entry("RECORD/A")], "in a folder that has the name of a file, or of another folder"),
        ([entry("record/a"), entry("record/A")], "occurs twice, or differs from another name in capitals alone"),
        ([entry("record/a"), entry("record/a/b")], "in a folder that has the name of a file"),
        ([entry("record/a/b"), entry("record/a")], "occurs twice, or differs"),
    ],
)
def test_an_entry_that_is_not_a_plain_file_of_its_own_is_refused(
    tmp_path: Path, entries: list[zipfile.ZipInfo], message: str
) -> None:
    """Links, devices, pipes and names that collide on some file system are refused."""
    with pytest.raises(InputError, match=message):
        unpacked(hostile(tmp_path / "h.zip", *entries), tmp_path / "out")
    assert not (tmp_path / "out" / "record").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    """The bundle is refused, because either entry could be the intended one."""
    with pytest.raises(InputError, match="'record/a' occurs twice"):
        unpacked(hostile(tmp_path / "h.zip", "record/a", "record/a"), tmp_path / "out")


def patched(path: Path, change: Callable[[bytearray, int], None]) -> Path:
    """A zip in whose list of files the README's entry is changed; `change` is given the place where it begins."""
    data = bytearray(path.read_bytes())
    change(data, data.rindex(b"README.md") - 46)
    path.write_bytes(data)
    return path


def test_what_the_zip_says_about_itself_is_not_trusted(bundle: Path, tmp_path: Path) -> None:
    """Entries with a false encryption flag or size are refused."""

    def encrypted(data: bytearray, at: int) -> None:
        data[at + 8] |= 1

    def huge(data: bytearray, at: int) -> None:
        data[at + 24 : at + 28] = (0xF0000000).to_bytes(4, "little")

    def small(data: bytearray, at: int) -> None:
        data[at + 24 : at + 28] = (3).to_bytes(4, "little")

    for change, message in [
        (encrypted, "is encrypted; nothing was unpacked"),
        (huge, r"unpacks to 4,026,\d{3},\d{3} bytes, more than 1,073,741,824"),
        (small, r"damaged|has changed|is longer"),
    ]:
        copy = tmp_path / "copy.zip"
        copy.write_bytes(bundle.read_bytes())
        with pytest.raises(InputError, match=message):
            unpacked(patched(copy, change), tmp_path / "out")


def test_a_bomb_is_refused_by_what_it_declares(tmp_path: Path) -> None:
    """A zip that declares two gigabytes is not unpacked."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("record/a", b"")
        made.writestr(MANIFEST, "")
        made.infolist()[0].file_size = 2 << 30  # as the list of files says it
    with pytest.raises(InputError, match=r"unpacks to 2,147,483,648 bytes, more than 1,073,741,824"):
        unpacked(path, tmp_path / "out")


def test_a_zip_with_too_many_files_is_refused(bundle: Path) -> None:
    """The number of files and the size of the zip's list are limited before the list is read into memory."""
    with pytest.raises(InputError, match="holds 7 files, more than 3"), opened_archive(bundle, max_files=3):
        pass
    with pytest.raises(InputError, match="its list of files takes"), opened_archive(bundle, max_directory_bytes=100):
        pass


def test_what_the_manifest_does_not_list_is_not_unpacked(tmp_path: Path) -> None:
    """A listed file must exist and be unchanged."""
    plain = unpacked(
        hostile(tmp_path / "h.zip", "record/a", "record/b", "record/c/", listed=("record/a",)), tmp_path / "out"
    )
    assert list(plain) == ["record/a"]
    with pytest.raises(InputError, match="record/b is missing; get the bundle again"):
        unpacked(hostile(tmp_path / "h.zip", "record/a", listed=("record/a", "record/b")), tmp_path / "o2")
    with zipfile.ZipFile(tmp_path / "h.zip", "w") as made:
        made.writestr("README.md", "y")
        made.writestr(MANIFEST, f"{'0' * 64}  README.md\n")
    with pytest.raises(InputError, match=r"h\.zip: README\.md has changed: manifest-sha256\.txt lists another digest"):
        unpacked(tmp_path / "h.zip", tmp_path / "o3")


@pytest.mark.parametrize("line", ["no digest", f"{'0' * 64}  ../a", f"{'0' * 64}  a/", f"{'0' * 64} a"])
def test_a_manifest_that_is_not_one_is_refused(tmp_path: Path, line: str) -> None:
    """The message names the line."""
    with zipfile.ZipFile(tmp_path / "h.zip", "w") as made:
        made.writestr(MANIFEST, f"{line}\n")
    with pytest.raises(InputError, match=r"manifest-sha256.txt, line 1: not a digest and the name of a file"):
        unpacked(tmp_path / "h.zip", tmp_path / "out")


def test_what_is_not_a_bundle_is_refused_in_one_line(tmp_path: Path) -> None:
    """A missing file, a folder, a text, another zip and half a zip are refused with one line."""
    (tmp_path / "text.zip").write_text("hello")
    (tmp_path / "folder.zip").mkdir()
    write_archive(tmp_path / "half.zip", FILES)
    (tmp_path / "half.zip").write_bytes((tmp_path / "half.zip").read_bytes()[:300])
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as made:
        made.writestr("a.txt", "a")
    for name, message in [
        ("none.zip", "none.zip: No such file or directory"),
        ("folder.zip", "folder.zip: Is a directory"),
        ("text.zip", "text.zip: not a zip file, or damaged"),
        ("half.zip", "half.zip: not a zip file, or damaged"),
        ("other.zip", "other.zip: has no manifest-sha256.txt; it is not a bundle of tunerun"),
    ]:
        with pytest.raises(InputError, match=message) as refused:
            unpacked(tmp_path / name, tmp_path / "out")
        assert len(refused.value.problems) == 1


@pytest.mark.thorough
def test_any_damage_is_refused_or_does_no_harm(bundle: Path, tmp_path: Path) -> None:
    """After random changes the bundle is refused or unpacks unchanged, and nothing is written outside the folder."""
    whole, draw = bundle.read_bytes(), random.Random(0)
    for turn in range(300):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 1, 4, 30))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        bundle.write_bytes(data[: draw.choice((len(data), len(data), draw.randrange(len(data))))])
        out = tmp_path / f"out{turn}"
        with contextlib.suppress(InputError):
            assert unpacked(bundle, out).items() <= FILES.items()
    assert {file.name for file in tmp_path.iterdir() if not file.name.startswith("out")} == {"study.zip"}
