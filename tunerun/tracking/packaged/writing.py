"""Writes the folder of a model that MLflow can load; the same bytes for the same tuned model and the same packages.

Not `mlflow.pyfunc.save_model`: it writes absolute paths of this machine into MLmodel, takes `uv.lock` and
`pyproject.toml` of the current directory along, runs the wrapper, and copies every artifact twice (3.17.2). Nor does
this import mlflow.pyfunc, which warns about itself.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

import tunerun
from tunerun.digest import digest, digest_of_file
from tunerun.engine import base_model, tuned_model
from tunerun.errors import BaseModelError, NotFoundError, TemplateError
from tunerun.examples import Example
from tunerun.interpolation import resolved_record
from tunerun.job import BaseModelRef, TemplateText
from tunerun.ledger import JobRecord, TrialRecord
from tunerun.prediction import CallableModel, callable_model
from tunerun.redaction import redact
from tunerun.stored import section
from tunerun.template import PromptTemplate
from tunerun.tracking.connection import import_mlflow
from tunerun.tracking.packaged.columns import example_row, input_columns, stored_row
from tunerun.tracking.packaged.record import (
    BASE_MODEL,
    CONTENT_TAG,
    FILES_TAG,
    MODEL,
    MODEL_FILE,
    TUNED_MODEL,
    PackagedModel,
    portable,
)

_WRAPPER = "wrapper.py"
_ARTIFACTS = "artifacts"
_EXAMPLE, _SERVED_EXAMPLE = "input_example.json", "serving_input_example.json"
_MOST_LOOKED_THROUGH = 20
"""Held-out rows, for one that can be the example."""
_PINNED = ("mlflow", "torch", "transformers", "peft", "safetensors", "tokenizers", "gguf", "jinja2")
"""Packages that decide what is answered, or that loading needs."""


@dataclass(frozen=True)
class Package:
    """A model's folder as it was written.

    Attributes:
        folder: holds the files.
        sums: SHA-256 of every file, in the form that `sha256sum --check` reads.
        content: their digest; the same for the same tuned model.
    """

    folder: Path
    sums: str
    content: str

    @property
    def tags(self) -> dict[str, str]:
        """The tags of a model with these files."""
        return {CONTENT_TAG: self.content, FILES_TAG: self.sums}


@dataclass(frozen=True)
class PackageSource:
    """A tuned model that is to be packaged.

    Attributes:
        model: how it is called.
        folder: of its adapter, on this machine.
        made_at: when it was tuned, in seconds since 1970 (UTC).
        inputs: held-out inputs, one of which becomes the example.
        rows: the file that they were made from; None: it is not recorded.
    """

    model: CallableModel
    folder: Path
    made_at: float
    inputs: Sequence[str] = ()
    rows: Path | None = None


def source_of(trial: TrialRecord, job: JobRecord, held_out: Sequence[Example] = ()) -> PackageSource:
    """Return a trial's tuned model, to be packaged.

    Args:
        trial: the trial.
        job: the one that made the model.
        held_out: of the trial; the first few are looked through for the example.

    Raises:
        NotFoundError: the trial has no tuned model, or a service has its weights.
        ConfigError: this version has no such kind of backend.
    """
    tuned = job.tuned_model
    if tuned is None or tuned.folder is None:
        what = "has no tuned model" if tuned is None else f"has its tuned model at a service ({tuned.location})"
        raise NotFoundError(f"trial {trial.number} {what}; choose one that this machine's engine has tuned")
    made_at = job.finished_at or job.created_at
    inputs = [example.text_input for example in held_out[:_MOST_LOOKED_THROUGH]]
    dataset = section(trial.config, "dataset")
    rows = section(dataset, "validation").get("path") or dataset.get("path")
    model = callable_model(tuned, trial.settings)
    # Rows of MLflow are columns, not conversations: the system message that all held-out rows had becomes the
    # template's, so that the model is asked as it was measured.
    model = replace(model, template=with_system(model.template, held_out))
    return PackageSource(model, tuned.folder, made_at, inputs, Path(rows) if rows is not None else None)


def with_system(template: PromptTemplate, examples: Sequence[Example]) -> PromptTemplate:
    """Return a template that sends the system message which all examples' conversations have; else the same."""
    systems = {example.system for example in examples}
    if not template.sends_own_system or len(systems) != 1 or systems == {""}:
        return template
    (system,) = systems
    parts = template.template
    literal = json.dumps(system, ensure_ascii=False)  # Jinja2 reads the escapes that JSON writes
    return PromptTemplate(TemplateText(parts.text_input, parts.output, f"{{{{ {literal} }}}}"))


def write(folder: Path, source: PackageSource, *, base: base_model.FoundModel | None = None) -> Package:
    """Write a model's folder.

    Args:
        folder: new or empty.
        source: what is packaged.
        base: the base model, of which a copy is put in; None: it is named, and looked for when the model is loaded.

    Raises:
        NotFoundError: the adapter's folder holds no tuned model.
        BaseModelError: `base` is another one than the tuned model was made from.
        TemplateError: the template holds a secret, which cannot be masked here.
        OSError: a file cannot be read or written.
    """
    artifacts = folder / _ARTIFACTS
    artifacts.mkdir(parents=True)
    _copy_models(source, base, artifacts)
    model, parts = source.model, source.model.template.template
    template = TemplateText(parts.text_input, parts.output, parts.system)
    for text in template.document.values():
        if redact(text) != text:
            raise TemplateError(
                "the template holds what looks like a key or a password, and users of the model could read it; "
                "remove it from the template and tune again"
            )
    section = model.backend.model_dump(mode="json")
    if section.get("device", "cpu") != "cpu":
        section["device"] = "auto"  # the machine that loads it may have another one
    packaged = PackagedModel(template, replace(model.generation, seed=model.seed), section)
    (artifacts / MODEL_FILE).write_text(packaged.text(), encoding="utf-8")

    shutil.copyfile(Path(__file__).with_name(_WRAPPER), folder / _WRAPPER)
    _write_requirements(folder)
    has_example = _write_example(folder, source)
    _write_mlmodel(folder, source, has_base=base is not None, has_example=has_example)
    sums = _sums(folder)
    return Package(folder, sums, digest(sums))


def _copy_models(source: PackageSource, base: base_model.FoundModel | None, artifacts: Path) -> None:
    """Copy the adapter, and the base model if it is given; the adapter's record names the copy."""
    record = tuned_model.read(source.folder)
    identity = record.base_identity
    if base is not None:
        if base.identity != identity:
            raise BaseModelError(
                f"{source.model.tuned_model.name} was tuned from {identity}, but the base model found now "
                f"({base.origin}) is {base.identity}; restore the old one, or leave out --with-base"
            )
        base_model.copy(base, artifacts / BASE_MODEL)
        copy = BaseModelRef(source.model.tuned_model.model.name, str(artifacts / BASE_MODEL))
        with TemporaryDirectory(prefix="tunerun-") as cache:
            identity = base_model.find(copy, Path(cache)).identity

    place = Path(resolved_record(record.base_model).source).expanduser()
    if place.exists():  # loaded on this machine again, the model finds it there
        base_model.remember_place(record.base_identity, place, base_model.cache_folder(None))
    named = portable(record.base_model, record.base_identity)
    tuned_model.copy(source.folder, artifacts / TUNED_MODEL, replace(record, base_model=named, base_identity=identity))


def _write_requirements(folder: Path) -> None:
    # Exact versions of what is installed; without builds such as `+cpu`: an index has torch under the bare version.
    pins = [f"tunerun=={tunerun.__version__}"]
    for package in _PINNED:
        try:
            pins.append(f"{package}=={importlib.metadata.version(package).partition('+')[0]}")
        except importlib.metadata.PackageNotFoundError:
            continue
    (folder / "requirements.txt").write_text("\n".join(pins) + "\n", encoding="utf-8")
    python = platform.python_version()
    _write_yaml(folder / "python_env.yaml", {"python": python, "dependencies": ["-r requirements.txt"]})
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": pins}],
    }
    _write_yaml(folder / "conda.yaml", conda)


def _write_yaml(file: Path, value: object) -> None:
    file.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")


def _write_example(folder: Path, source: PackageSource) -> bool:
    """Write a held-out row, as its input shows it, else as the file has it; return False if neither does."""
    template = source.model.template
    row: Mapping[str, Any] | None = example_row(template, source.inputs)
    if row is None and source.rows is not None:
        row = stored_row(source.rows, template, source.inputs)
    if row is None:
        return False
    cells = [redact(cell) if isinstance(cell, str) else cell for cell in row.values()]
    split = {"columns": list(row), "data": [cells]}
    for name, document in ((_EXAMPLE, split), (_SERVED_EXAMPLE, {"dataframe_split": split})):
        (folder / name).write_text(json.dumps(document, ensure_ascii=False, default=str), encoding="utf-8")
    return True


def _write_mlmodel(folder: Path, source: PackageSource, *, has_base: bool, has_example: bool) -> None:
    import_mlflow()  # before its other modules, which would start its telemetry
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    # Written by hand: to infer it from an example MLflow loads the model and runs it, 8 s of CPU for a tiny one
    # (3.17.2).
    columns = [
        ColSpec("string" if each.is_text else AnyType(), each.name, required=each.is_required)
        for each in input_columns(source.model.template)
    ]
    most = source.model.generation.max_output_tokens
    signature = ModelSignature(
        inputs=Schema(columns) if columns else None,
        outputs=Schema([ColSpec("string")]),
        params=ParamSchema([ParamSpec("max_output_tokens", "long", most)]),
    )
    names = {TUNED_MODEL: TUNED_MODEL, MODEL: MODEL_FILE} | ({BASE_MODEL: BASE_MODEL} if has_base else {})
    paths = {name: f"{_ARTIFACTS}/{file}" for name, file in names.items()}
    example = {
        "artifact_path": _EXAMPLE, "serving_input_path": _SERVED_EXAMPLE, "type": "dataframe", "pandas_orient": "split",
    }  # fmt: skip
    made = datetime.fromtimestamp(source.made_at, UTC).replace(tzinfo=None)
    model = Model(
        utc_time_created=str(made),
        signature=signature,
        saved_input_example_info=example if has_example else None,
        model_uuid=digest(_sums(folder))[:32],
    )
    model.add_flavor(
        "python_function",
        loader_module="mlflow.pyfunc.loaders.code_model",
        python_version=platform.python_version(),
        env={"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        model_code_path=_WRAPPER,
        artifacts={name: {"path": path, "uri": path} for name, path in paths.items()},
        streamable=False,
    )
    model.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    model.save(folder / "MLmodel")


def _sums(folder: Path) -> str:
    """The SHA-256 of all files of a folder, as `sha256sum` prints them."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return "".join(f"{digest_of_file(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)
