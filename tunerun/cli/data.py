"""`tunerun data`: check examples before anything is tuned, and export them for other tools."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunerun.cli.options import ConfigDir, Json, Overrides
from tunerun.cli.printing import print_json
from tunerun.errors import DatasetError, InputError, TemplateError

if TYPE_CHECKING:
    from tunerun.dataset import LoadedDataset
    from tunerun.schema import Experiment

app = typer.Typer(help="Check examples, or write them in a provider's format.", no_args_is_help=True)


@app.command()
def check(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    all_: Annotated[bool, typer.Option("--all", help="List every row of a finding, not only the first few.")] = False,
    json_: Json = False,
) -> None:
    """Look for duplicates, contradictions, leaks, secrets and more.

    Exit code 2 if some rows cannot be used.
    """
    from tunerun.cli import tables
    from tunerun.cli.stages import Stages
    from tunerun.dataset import yaml_line
    from tunerun.planning.baselines import baseline_count
    from tunerun.planning.sources import load_dataset
    from tunerun.planning.visibility import visibility_of
    from tunerun.replicates import point_numbers

    places = [sys.maxsize] if all_ or json_ else []  # how many rows of a finding are listed; [] for the default
    experiment = _experiment(overrides, config_dir)
    errors: DatasetError | TemplateError | None = None
    try:
        with Stages() as progress:
            loaded = load_dataset(experiment, *places, progress=progress)
    except (DatasetError, TemplateError) as error:
        # A new file often has other columns than the default template reads; its rows can be checked all the same.
        errors = error
        fitting = _with_a_template_that_fits(experiment, places)
        if fitting is None:
            if json_:
                print_json({"errors": _entries("error", error.problems), "warnings": []})
            raise
        experiment, loaded = fitting

    visible = None  # the differences that the validation rows can show
    if loaded.validation is not None:
        points = len(set(point_numbers(point.overrides for point in experiment.points))) or 1
        baselines = baseline_count(loaded, experiment.evaluation)
        visible = visibility_of([loaded.validation], points, baselines, experiment.evaluation)
    if json_:
        warnings = [
            *({"check": finding.check, "text": finding.text} for finding in loaded.findings),
            *_entries("advice", loaded.advice),
        ]
        document = {
            "errors": _entries("error", errors.problems if errors else ()),
            "warnings": warnings,
            "training": loaded.conversations,
        }
        print_json({**document, **(visible.to_json() if visible else {})})
    else:
        tables.findings_table(loaded, None if errors is None else yaml_line(experiment.template))
        if visible is not None:
            tables.out.print(tables.plain(str(visible)))
    if errors is not None:
        raise errors


@app.command()
def export(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    format_: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="gemini, vertex, openai, together or messages.")
    ] = "messages",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Folder to write to; export/FORMAT if not given."),
    ] = None,
    json_: Json = False,
) -> None:
    """Write the rendered examples in a provider's format.

    They are checked against the limits of the provider.
    """
    from tunerun.cli import tables
    from tunerun.dataset.export import FORMATS
    from tunerun.dataset.export import export as write
    from tunerun.planning.sources import load_dataset

    if format_ not in FORMATS:
        raise InputError(f"--format {format_}: choose one of {', '.join(FORMATS)}")
    done = write(load_dataset(_experiment(overrides, config_dir)), FORMATS[format_], output or Path("export") / format_)
    if json_:
        print_json({"files": [str(file) for file in done.files], "notes": list(done.notes)})
        return
    for file in done.files:
        tables.out.print(f"wrote {tables.plain(str(file))}")
    tables.warnings(done.notes)


def _entries(check: str, texts: Iterable[str]) -> list[dict[str, str]]:
    return [{"check": check, "text": text} for text in texts]


def _experiment(overrides: list[str] | None, config_dir: list[str] | None) -> Experiment:
    """Compose the experiment, which needs no name here because only its examples are used."""
    from tunerun.compose import compose_name, load

    texts = list(overrides or ())
    if any(override.startswith("name=") for override in texts) or compose_name(texts, config_dir) is not None:
        return load(texts, config_dir)
    if not texts:
        raise InputError("say which examples: experiment=..., dataset=... or dataset.path=FILE")
    return load([*texts, "name=unnamed"], config_dir)


def _with_a_template_that_fits(experiment: Experiment, places: list[int]) -> tuple[Experiment, LoadedDataset] | None:
    """Return the experiment with a template that fits its columns, and its examples; None: no template does."""
    from tunerun.dataset import template_that_fits
    from tunerun.planning.sources import load_dataset
    from tunerun.template import PromptTemplate

    try:
        template = template_that_fits(experiment.dataset, PromptTemplate(experiment.template))
        if template is None:
            return None
        fitting = experiment.model_copy(update={"template": template})
        return fitting, load_dataset(fitting, *places)
    except InputError:
        return None
