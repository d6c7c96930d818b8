"""One fresh MLflow store, made once (2 to 3 s) and copied for each test; and real ledgers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tracking.sweeps import Lab, SyncedSweep, complete, freeze, synced_sweep
from tunerun.ledger import Ledger
from tunerun.tracking.address import parse_address
from tunerun.tracking.store import Store


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store without runs."""
    file = tmp_path_factory.mktemp("made") / "mlflow.db"
    Store(parse_address(f"sqlite:///{file}", file.parent)).experiments()
    return file


@pytest.fixture(scope="session")
def finished(made_store: Path, tmp_path_factory: pytest.TempPathFactory) -> SyncedSweep:
    """A finished sweep of three trials and its store: shared, so no test may write to either."""

    def fill(ledger: Ledger) -> Lab:
        lab = freeze(ledger)
        complete(lab)
        return lab

    return synced_sweep(tmp_path_factory.mktemp("finished"), made_store, fill)


@pytest.fixture
def new_store(made_store: Path, tmp_path: Path) -> Callable[[str], str]:
    """Makes an empty store of the given name and returns its URI."""

    def make(name: str = "mlflow") -> str:
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(made_store, folder / "mlflow.db")
        return f"sqlite:///{folder / 'mlflow.db'}"

    return make


@pytest.fixture
def uri(new_store: Callable[[str], str]) -> str:
    """The URI of an empty store."""
    return new_store("mlflow")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    with Ledger(tmp_path / "runs" / "ledger.db") as ledger:
        yield ledger


@pytest.fixture
def lab(ledger: Ledger) -> Lab:
    """A frozen sweep of three trials."""
    return freeze(ledger)


# MLflow 3.17.2 uses an option that SQLAlchemy 2.1 calls deprecated; nothing of ours can avoid it.
MLFLOW_WARNINGS = "ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let MLflow warn about itself in the tests of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(MLFLOW_WARNINGS))
