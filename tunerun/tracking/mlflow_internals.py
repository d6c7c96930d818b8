"""Names of mlflow that are private, or public and undocumented, each in one place; read in mlflow 3.17.2.

What has no public way: MLflow keeps connections for as long as the process lives, creates its tables in place, asks
the process's own tracking URI for the models that it registers, and writes no `MLmodel` for a model that it does not
have. When mlflow is updated these functions have to be read again; `tests/tracking` runs each of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_URI_VARIABLE = "MLFLOW_TRACKING_URI"


def drop_connections(client: Any) -> None:
    """Close a client's connections to a database; the next client of the same address opens new ones.

    Without this a process that had a SQLite file open continues to read and write it after it was deleted or replaced.
    """
    from mlflow.tracking._tracking_service.registry import TrackingStoreRegistry

    client._tracking_client.store.engine.dispose()
    TrackingStoreRegistry._get_store_with_resolved_uri.cache_clear()


def table_names() -> set[str]:
    """Return the names of the tables of a store in a database."""
    from mlflow.store.db import utils
    from mlflow.store.db.base_sql_model import Base

    assert utils  # noqa: S101 - importing it declares the tables; without it there are none
    return set(Base.metadata.tables)


def schema_versions() -> tuple[set[str], str | None]:
    """Return the schema versions that this MLflow can migrate from, and the one that it needs."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils

    script = ScriptDirectory.from_config(utils._get_alembic_config(db_url=""))
    return {each.revision for each in script.walk_revisions()}, script.get_current_head()


def create_tables(file: Path) -> None:
    """Create the tables of a SQLite store, or those that are missing.

    Raises:
        sqlalchemy.exc.SQLAlchemyError, alembic.util.CommandError: they cannot be created.
    """
    from mlflow.store.db import utils

    engine: Any = utils.create_sqlalchemy_engine(f"sqlite:///{file}")
    try:
        utils._initialize_tables(engine)
    finally:
        engine.dispose()


def write_external_model(model: Any, folder: Path) -> None:
    """Write the `MLmodel` file of a model whose weights MLflow does not have; the model registry needs one."""
    from mlflow.models.utils import get_external_mlflow_model_spec

    get_external_mlflow_model_spec(model).save(str(folder / "MLmodel"))


@contextmanager
def tracking_uri_of_process(uri: str) -> Iterator[None]:
    """Make a tracking URI the process's own: MLflow's registry in a database asks that one for the logged model.

    Otherwise it looks in `mlflow.db` of the current directory, which it creates (sqlalchemy_store.py). The environment
    is as it was afterwards, for MLflow unsets its variable.
    """
    from mlflow.tracking._tracking_service.utils import _use_tracking_uri

    before = os.environ.get(_URI_VARIABLE)
    try:
        with _use_tracking_uri(uri):
            yield
    finally:
        if before is not None:
            os.environ[_URI_VARIABLE] = before
