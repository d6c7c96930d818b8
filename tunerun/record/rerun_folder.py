"""The runs folder of a rerun: a ledger of its own, so that its results cannot be confused with those of the record."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunerun.errors import ConfigError
from tunerun.files import private_folder, replacing
from tunerun.ledger import FILE_NAME, Ledger
from tunerun.record.sources import OpenRecord

FOLDER = "reruns"
"""The subfolder of a runs folder that contains the runs folder of each rerun."""

_ORIGIN_FILE = "rerun.json"


def folder_of(record: OpenRecord, runs: Path, *, fresh: bool) -> Path:
    """Return the folder of a record's newest rerun; a new one if a fresh rerun is requested and that one is finished.

    Args:
        record: of a sweep or a trial.
        runs: this project's runs folder.
        fresh: whether to train again what an earlier rerun trained.
    """
    # The name says what is repeated, so that the same command finds its folder and continues there.
    name = record.sweep.id if record.number is None else f"{record.sweep.id}-trial-{record.number}"
    above = runs / FOLDER
    folders = (above / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    newest, following = next(pair for pair in itertools.pairwise(folders) if not pair[1].exists())
    if not fresh or not newest.exists():
        return newest
    if newest.name != name:  # of an earlier fresh rerun: the same command continues it
        if not (newest / FILE_NAME).exists():  # interrupted before its first trial
            return newest
        with Ledger.open_read_only(newest / FILE_NAME) as ledger:
            states = ledger.final_states()
            if any(trial.key not in states for sweep in ledger.sweeps() for trial in ledger.trials(sweep.id)):
                return newest
    return following


def identity_of(folder: Path) -> str:
    """Return the random id that distinguishes a folder's rerun from all others; `begin` stores it.

    Raises:
        ConfigError: the folder has a file of this name that does not identify a rerun.
    """
    # Two colleagues who rerun one sweep against the same MLflow server would otherwise take over the original's runs,
    # which are found by the trials' keys.
    try:
        return str(json.loads((folder / _ORIGIN_FILE).read_text(encoding="utf-8"))["rerun"])
    except FileNotFoundError:
        return secrets.token_hex(8)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder / _ORIGIN_FILE}: does not identify the rerun; move {folder} elsewhere and run the command again"
        ) from error


def begin(folder: Path, rerun: str, origin: Mapping[str, Any]) -> None:
    """Record which rerun a folder belongs to, before anything runs.

    Args:
        folder: of the rerun; it is made if necessary.
        rerun: the id of the rerun.
        origin: what is repeated, for people who look into the folder.
    """
    with replacing(private_folder(folder) / _ORIGIN_FILE) as written:
        written.write_text(json.dumps({"rerun": rerun, **origin}, indent=1), encoding="utf-8")
