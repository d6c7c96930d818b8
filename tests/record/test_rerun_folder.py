"""The folder of a rerun, and the id that is stored in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunerun.errors import ConfigError
from tunerun.record import rerun_folder


def test_a_rerun_keeps_the_id_that_it_began_with(tmp_path: Path) -> None:
    """Before it begins, each call draws another id; the stored file says what is repeated as well."""
    folder = tmp_path / "runs" / rerun_folder.FOLDER / "numbers-1a2b3c4d"
    identity = rerun_folder.identity_of(folder)
    assert rerun_folder.identity_of(folder) != identity
    assert not folder.exists()
    rerun_folder.begin(folder, identity, {"rerun_of": {"sweep": "numbers-1a2b3c4d"}})
    assert rerun_folder.identity_of(folder) == identity
    (file,) = folder.iterdir()
    assert json.loads(file.read_text()) == {"rerun": identity, "rerun_of": {"sweep": "numbers-1a2b3c4d"}}


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_folder_whose_file_is_damaged_is_not_taken_for_a_new_rerun(tmp_path: Path, content: str) -> None:
    """A new id would give its finished trials other runs in MLflow; the message says what to do."""
    rerun_folder.begin(tmp_path, "0123456789abcdef", {})
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"rerun\.json: does not identify the rerun; move .* elsewhere"):
        rerun_folder.identity_of(tmp_path)
