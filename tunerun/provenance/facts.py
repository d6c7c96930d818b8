"""The facts that are frozen with a sweep, so that it can be run again on another machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tunerun.stored import read_stored, section

SECTION = "facts"
"""The key of the facts in a sweep's document."""


@dataclass(frozen=True)
class FileFacts:
    """A file, identified by its content.

    Attributes:
        name: without the machine's folders.
        sha256: 64 hexadecimal digits.
        bytes: size of the file.
    """

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class DataFile(FileFacts):
    """A file of rows.

    Attributes:
        used_for: the sets that its rows became: `training`, `validation`, `test`.
        license: from the config, such as `CC-BY-4.0`; None: not stated.
    """

    used_for: tuple[str, ...] = ()
    license: str | None = None


@dataclass(frozen=True)
class BaseModelFacts:
    """A base model as it was when the sweep was planned.

    Attributes:
        name: in tables.
        identity: digest of its content, which is part of every trial's key; for a hosted model its name.
        source: a name on the hub, or the name of a folder or file; never a path of the machine.
        revision: commit on the hub; None: it does not come from the hub.
        package: `name==version` of the PyPI package that contains it; None: no package does.
        license: None: neither its files nor the config state one.
        files: those that its answers depend on; empty for a hosted model, or one that is not on the machine.
        chat_format: the fields of `ChatFormat`, the text around each example; empty where `files` is.
    """

    name: str
    identity: str
    source: str = ""
    revision: str | None = None
    package: str | None = None
    license: str | None = None
    files: tuple[FileFacts, ...] = ()
    chat_format: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ConfigFile:
    """A YAML file that was composed, or the code of a user's own metric.

    Attributes:
        path: relative to its directory, such as `experiment/next_number.yaml`.
        origin: its directory: `tunerun` (shipped), `conf`, `--config-dir` or `TUNERUN_CONF`, the last two with the
            directory's name; `evaluation.metrics` for the code of a user's own metric.
        text: its content, with possible secrets masked.
    """

    path: str
    origin: str
    text: str


@dataclass(frozen=True)
class Environment:
    """The machine and the software that planned and ran a sweep.

    The device that trained a job is recorded with the job: `job.TrainedOn`.

    Attributes:
        python: version of Python, such as `3.11.7`.
        system: operating system and release, without the machine's name.
        processor: the CPU's model.
        instructions: the CPU's instruction sets for arithmetic, such as `avx2`, `avx512f`.
        cores: number of cores that the process may use.
        memory_bytes: of the machine; 0: not known.
        packages: version of every installed package, by name.
    """

    python: str = ""
    system: str = ""
    processor: str = ""
    instructions: tuple[str, ...] = ()
    cores: int = 0
    memory_bytes: int = 0
    packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """All facts of one sweep; parts that an earlier version did not record are empty."""

    environment: Environment = Environment()
    config_files: tuple[ConfigFile, ...] = ()
    data_files: tuple[DataFile, ...] = ()
    base_models: tuple[BaseModelFacts, ...] = ()

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Facts:
        """Read the facts from a sweep's document, of this version or an earlier one."""
        facts = section(document, SECTION)
        environment = read_stored(Environment, section(facts, "environment"))
        models = [
            read_stored(BaseModelFacts, each, files=tuple(read_stored(FileFacts, f) for f in each.get("files", ())))
            for each in facts.get("base_models", ())
        ]
        return cls(
            environment=environment,
            config_files=tuple(read_stored(ConfigFile, each) for each in facts.get("config_files", ())),
            data_files=tuple(read_stored(DataFile, each) for each in facts.get("data_files", ())),
            base_models=tuple(models),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the facts as stored under `SECTION`."""
        return asdict(self)
