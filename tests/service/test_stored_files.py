"""Files on disk: whatever a crash leaves is removed at the next start, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tunerun.service.core.problems import ServiceError
from tunerun.service.core.state import State
from tunerun.service.core.stored_files import PARTIAL, StoredFiles

OWNER = "me@localhost"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state")
    yield state
    state.close()


def test_what_a_crash_leaves_is_removed_at_the_next_start(state: State) -> None:
    """A file that was being written, and one that was renamed and has no row; a file with its row is kept."""
    files = StoredFiles(state)
    with files.draft() as draft:
        draft.write(b"kept")
        kept = files.keep(draft, OWNER, "a", "batch")
    folder = files.path_of(kept).parent
    (folder / f"0123{PARTIAL}").write_bytes(b"being written")
    (folder / "file-u0123").write_bytes(b"without its row")
    again = StoredFiles(state)
    assert [path.name for path in folder.iterdir()] == [kept.id]
    assert again.path_of(kept).read_bytes() == b"kept"
    assert again.find(OWNER, kept.id) == kept


def test_a_row_is_deleted_before_its_file(state: State) -> None:
    """A crash between the two leaves a file, which the next start removes, and never a row without a file."""
    files = StoredFiles(state)
    with files.draft() as draft:
        file = files.keep(draft, OWNER, "a", "batch")
    state.database.write("DELETE FROM stored_file")
    assert StoredFiles(state).find(OWNER, file.id) is None
    assert not files.path_of(file).exists()


def test_an_expired_file_is_removed_at_the_next_start(state: State) -> None:
    """With its content; until then it is not found."""
    files = StoredFiles(state)
    with files.draft() as draft:
        file = files.keep(draft, OWNER, "a", "batch", life_s=-1)
    assert files.find(OWNER, file.id) is None
    assert not files.of(OWNER)
    assert files.path_of(file).exists()
    assert not StoredFiles(state).path_of(file).exists()


def test_a_draft_that_is_not_kept_leaves_nothing(state: State) -> None:
    """However the upload ends."""
    files = StoredFiles(state)
    with files.draft() as draft:
        draft.write(b"half")
    assert not [*draft.path.parent.iterdir()]


def test_a_disk_that_cannot_be_written_is_unavailable(state: State) -> None:
    """The client may retry later."""
    files = StoredFiles(state)
    folder = state.folder / "files"
    folder.rmdir()
    with pytest.raises(ServiceError, match="cannot write the file at the moment") as refused, files.draft():
        pass
    assert refused.value.retry_after_s
