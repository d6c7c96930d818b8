"""MLflow's Model Registry: a tuned model becomes a version of a registered model, found again by its content.

Every step is looked for before it is done, so that the same command may be killed anywhere and repeated: the logged
model by the tag of its content, then the version by the same tag, then the alias.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunerun.digest import digest
from tunerun.errors import ConfigError
from tunerun.ledger.subjects import RunKind
from tunerun.redaction import redact
from tunerun.tracking.connection import RefusedError
from tunerun.tracking.logged_models import new_model, upload
from tunerun.tracking.mlflow_internals import tracking_uri_of_process
from tunerun.tracking.packaged.record import CONTENT_TAG
from tunerun.tracking.packaged.writing import Package
from tunerun.tracking.run_projection import sweep_tag
from tunerun.tracking.store import Store

_AGAIN = "run the same command again: what was done of it is found, and not done twice"
_NOT_IN_NAMES = re.compile(r"[/:'\"\x00-\x1f]|^\s|\s$")
_ALIAS = re.compile(r"[A-Za-z0-9_-]+")
_RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)
_MAX_NAME_CHARACTERS = 250
_VERSIONS_TAG = "mlflow.modelVersions"
_OWN_DESCRIPTION_TAG = "tunerun.description"
"""The digest of the description that tunerun wrote: one that a person has edited stays."""


@dataclass(frozen=True)
class RegistryEntry:
    """What is to be registered.

    Attributes:
        name: of the registered model.
        alias: that its version gets.
        package: the files.
        model: a name for the logged model.
        experiment: the MLflow experiment of the run.
        key: of the trial; its run is found by it.
        sweep: whose run of the trial is meant, where several have one.
        tags: of the version and the logged model.
        description: of the registered model, in Markdown.
        version_description: of the version.
    """

    name: str
    alias: str
    package: Package
    model: str
    experiment: str
    key: str
    sweep: str
    tags: Mapping[str, str]
    description: str
    version_description: str


@dataclass(frozen=True)
class Registered:
    """What became of an entry.

    Attributes:
        is_new: whether the version was made now.
        before: the version that the alias named before; None: none.
        run_id: of the trial; None: MLflow has no run of it.
    """

    name: str
    alias: str
    version: int
    is_new: bool
    before: int | None
    run_id: str | None
    model_id: str

    @property
    def uri(self) -> str:
        """The URI by which MLflow loads the model."""
        return f"models:/{self.name}@{self.alias}"

    @property
    def sentence(self) -> str:
        """A sentence on what was registered."""
        if self.before == self.version:
            return f"{self.name}: version {self.version} is {self.alias} already"
        moved = "" if self.before is None else f"; version {self.before} was"
        return f"{self.name}: version {self.version} is now {self.alias}{moved}"


def check_names(name: str, alias: str) -> None:
    """Refuse names that the registry does not take.

    Raises:
        ConfigError: holds what is wrong with either.
    """
    problems = []
    if not name or _NOT_IN_NAMES.search(name) or len(name) > _MAX_NAME_CHARACTERS:
        problems.append(
            f"--as {name!r}: a registered model's name has 1 to {_MAX_NAME_CHARACTERS} characters and no slash, colon "
            "or quote; choose another name, such as intents"
        )
    if not _ALIAS.fullmatch(alias) or _RESERVED.fullmatch(alias):
        problems.append(
            f"--alias {alias!r}: an alias has letters, digits, _ and -, and is not 'latest' or 'v' with a number; "
            "choose another one, such as champion"
        )
    if problems:
        raise ConfigError(problems)


def register(store: Store, entry: RegistryEntry) -> Registered:
    """Register a tuned model, once for its content, and let the alias name it.

    Args:
        store: where it is registered.
        entry: what is registered, and under which names.

    Returns:
        The version, the same one when the call is repeated.

    Raises:
        TrackingError: MLflow cannot be reached or refuses; the same call later does the rest.
    """
    with store.connection.client(_AGAIN) as client:
        experiment_id = store.experiment(entry.experiment)
        wanted = {"tunerun.kind": RunKind.TRIAL, "tunerun.key": entry.key}
        runs = [run for run in store.runs(experiment_id) if run.is_active and wanted.items() <= run.tags.items()]
        of_sweep = [run for run in runs if sweep_tag(entry.sweep) in run.tags]  # else any run of the same key
        run_id = next((run.run_id for run in [*of_sweep, *runs]), None)

        tags = {**entry.tags, **entry.package.tags, **({} if run_id is None else {"tunerun.run": run_id})}
        model_id = _logged_model(client, experiment_id, run_id, entry, tags)
        registered = _registered_model(store, entry)
        version, is_new = _version(store, entry, model_id, run_id, tags)
        before = registered.aliases.get(entry.alias)
        if before is None or int(before) != int(version.version):
            client.set_registered_model_alias(entry.name, entry.alias, version.version)
    return Registered(
        entry.name,
        entry.alias,
        int(version.version),
        is_new=is_new,
        before=None if before is None else int(before),
        run_id=run_id,
        model_id=model_id,
    )


def _logged_model(
    client: Any, experiment_id: str, run_id: str | None, entry: RegistryEntry, tags: Mapping[str, str]
) -> str:
    """Return the logged model with these files: the trial's own if it has them, else a new one."""
    from mlflow.entities import LoggedModelOutput

    of_content = f"tags.`{CONTENT_TAG}` = '{entry.package.content}'"
    models = sorted(client.search_logged_models([experiment_id], of_content), key=lambda each: each.status != "READY")
    model = models[0] if models else new_model(client, experiment_id, entry.model, run_id, tags, {})
    upload(client, model, entry.package, tags)
    if run_id is not None:
        outputs = client.get_run(run_id).outputs
        if model.model_id not in [output.model_id for output in (outputs.model_outputs if outputs else [])]:
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def _registered_model(store: Store, entry: RegistryEntry) -> Any:
    """Return the registered model, created if it does not exist; a description that a person has edited stays."""
    description = redact(entry.description)
    try:
        with store.connection.client(_AGAIN) as client:
            registered = client.get_registered_model(entry.name)
    except RefusedError:
        tags = {"tunerun.experiment": entry.experiment, _OWN_DESCRIPTION_TAG: digest(description)}
        with store.connection.client(_AGAIN) as client:
            return client.create_registered_model(entry.name, tags=tags, description=description)
    own = registered.tags.get(_OWN_DESCRIPTION_TAG)
    if registered.description != description and digest(registered.description or "") in (own, digest("")):
        client.set_registered_model_tag(entry.name, _OWN_DESCRIPTION_TAG, digest(description))
        client.update_registered_model(entry.name, description)
    return registered


def _version(
    store: Store, entry: RegistryEntry, model_id: str, run_id: str | None, tags: Mapping[str, str]
) -> tuple[Any, bool]:
    """Return the version with this content, the newest of several, and whether it was created now."""
    tags = {key: redact(value) for key, value in tags.items()}
    description = redact(entry.version_description)
    with store.connection.client(_AGAIN) as client:
        versions: list[Any] = []
        token, is_last = None, False
        while not is_last:
            page = client.search_model_versions(f"name = '{entry.name}'", page_token=token)
            versions += [each for each in page if each.tags.get(CONTENT_TAG) == entry.package.content]
            token = page.token
            is_last = not token
        if versions:
            version = max(versions, key=lambda each: int(each.version))
            # What the verdict says may have changed since, such as on the test set.
            if version.description != description:
                client.update_model_version(entry.name, version.version, description)
            for key, value in tags.items():
                if version.tags.get(key) != value:
                    client.set_model_version_tag(entry.name, version.version, key, value)
            return version, False

        with tracking_uri_of_process(store.connection.address.uri):
            version = client.create_model_version(
                entry.name,
                source=f"models:/{model_id}",
                run_id=run_id,
                model_id=model_id,
                tags=tags,
                description=description,
            )
        # A server writes this itself; its page links the logged model to its versions by it.
        links = json.loads(client.get_logged_model(model_id).tags.get(_VERSIONS_TAG, "[]"))
        link = {"name": entry.name, "version": int(version.version)}
        if link not in [{**each, "version": int(each["version"])} for each in links]:
            client.set_logged_model_tags(model_id, {_VERSIONS_TAG: json.dumps([*links, link])})
        return version, True
