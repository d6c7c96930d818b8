"""The facts that are frozen with a sweep so that it can be run again elsewhere, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tunerun.stored import read_stored, section

SECTION = "facts"
"""Where a sweep's document holds them."""


@dataclass(frozen=True)
class FileFacts:
    """A file by its content.

    Attributes:
        name: without the folders of the machine it was on.
        sha256: 64 hexadecimal digits.
    """

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class DataFile(FileFacts):
    """A file of rows.

    Attributes:
        used_for: `training`, `validation`, `test`: what its rows became.
        license: as the config states it, such as `CC-BY-4.0`; None: not stated.
    """

    used_for: tuple[str, ...] = ()
    license: str | None = None


@dataclass(frozen=True)
class BaseModelFacts:
    """A base model as it was when the sweep was planned.

    Attributes:
        name: what tables call it.
        identity: what its weights are, wherever they are; in every key of its trials.
        source: a name on the hub, or a folder's or file's own name; never a path of the machine.
        revision: the commit on the hub; None: it does not come from there.
        package: `name==version` of the package that carries it; None: none does.
        license: None: neither its files nor the config state it.
        files: those that decide what it answers; empty for a model at a service, or one that is not on the machine.
        chat_format: what is around each example: `ChatFormat` by its fields; empty as `files`.
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
    """A YAML file that was composed, or the code of a user's own metric, as it was.

    Attributes:
        path: below its directory, such as `experiment/next_number.yaml`.
        origin: which directory that is: `tunerun` (shipped), `conf`, `--config-dir` or `TUNERUN_CONF`, the last two
            with the directory's own name; `evaluation.metrics` for the code of a user's own metric.
        text: with what looks like a secret masked.
    """

    path: str
    origin: str
    text: str


@dataclass(frozen=True)
class Environment:
    """The machine and the software that planned and ran a sweep.

    What a job's own engine says of the place that trained it is with the job: `job.TrainedOn`.

    Attributes:
        python: its version, such as `3.11.7`.
        system: operating system and release, without the machine's name.
        processor: the CPU's model.
        instructions: of the CPU's instruction sets, those that arithmetic uses, such as `avx2`, `avx512f`.
        cores: that this process may use.
        memory_bytes: 0: not known.
        packages: every installed package with its version.
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
    """Everything of this module for one sweep; empty parts where an earlier version froze it."""

    environment: Environment = Environment()
    config_files: tuple[ConfigFile, ...] = ()
    data_files: tuple[DataFile, ...] = ()
    base_models: tuple[BaseModelFacts, ...] = ()

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Facts:
        """Read the facts of a sweep's document, whichever version wrote it."""
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
        """The facts as the document holds them under `SECTION`."""
        return asdict(self)
