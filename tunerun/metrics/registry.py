"""The registry of metrics: those of this package, those of other packages, and files of the user.

A new one here is a module with its class and a line below. Another package's is an entry point of the group
`tunerun.metrics` that names a subclass of `MetricModel`; a name of this package cannot be taken by one.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from tunerun.errors import ConfigError, MissingPackageError, did_you_mean
from tunerun.metrics.base import Metric, MetricModel
from tunerun.metrics.own_metric import OwnMetric, OwnOptions, difference

GROUP = "tunerun.metrics"

_BUILT_IN = {
    "exact_match": "ExactMatch",
    "accuracy": "Accuracy",
    "macro_f1": "MacroF1",
    "balanced_accuracy": "BalancedAccuracy",
    "contains": "Contains",
    "numeric": "Numeric",
    "regex": "Regex",
    "json_valid": "JsonValid",
    "json_fields": "JsonFields",
    "chrf": "Chrf",
    "bleu": "Bleu",
    "rouge_l": "RougeL",
    "answer_loss": "AnswerLoss",
    "judge": "Judge",
    "judge_preference": "JudgePreference",
}
"""Class of each metric; its module has the metric's name, and is imported on first use."""


def names() -> list[str]:
    """Return the names that `evaluation.metrics` accepts."""
    return [*_BUILT_IN, *sorted(_entry_points())]


def built_in() -> dict[str, type[MetricModel]]:
    """Return the classes of this package's own metrics, by name; their fields are the options."""
    return {name: _model(name) for name in _BUILT_IN}


def summaries() -> dict[str, str]:
    """Return a sentence on each metric and its options, by name."""
    sentences = {}
    for name in names():
        try:
            model = _model(name)
        except ValueError as error:
            # Another package that cannot be loaded must not hide the other metrics.
            sentences[name] = str(error)
            continue
        sentence = " ".join((model.__doc__ or "").split("\n\n")[0].split())
        options = (f"`{option}`: {field.description or ''}" for option, field in model.model_fields.items())
        sentences[name] = " ".join([sentence, *options])
    return sentences


def checked(value: object) -> str | dict[str, Any]:
    """Validate an entry of `evaluation.metrics`; returns the name alone if it has no options.

    Raises:
        ValueError: it is not the name of a metric, or a mapping of its name and options.
        ValidationError: its options are invalid.
    """
    # Made only to validate the options: the config keeps what was written.
    name, options = _parts(value)
    _metric(name, options)
    return {"name": name, **options} if options else name


def resolve(evaluation: Any) -> tuple[Metric, ...]:
    """Return the metrics of an evaluation, the one that decides first.

    Args:
        evaluation: the config's section, or a stored one, in which metrics that this version lacks are ignored.

    Raises:
        ConfigError: the metric that decides is not known to this version.
    """
    if isinstance(evaluation, BaseModel):
        metrics = [_metric(*_parts(entry)) for entry in evaluation.metrics]  # type: ignore[attr-defined]
        decider = evaluation.decide_by  # type: ignore[attr-defined]
        # The sort is stable: the others keep the order of the config.
        return tuple(sorted(metrics, key=lambda metric: bool(decider) and metric.name != decider))
    return resolve_stored(evaluation, {})[0]


def resolve_stored(
    evaluation: Mapping[str, Any], files: Mapping[str, Any], *, runs_code: bool = True
) -> tuple[tuple[Metric, ...], list[str]]:
    """Return the metrics of a frozen evaluation, the one that decides first, and notes on those left out.

    Args:
        evaluation: the section of a trial's config.
        files: the sweep's document under `metrics`: by name, the file of a user's own metric.
        runs_code: whether such files are run; false for a record from elsewhere, because the file that it names may
            have come with it.

    Returns:
        Metrics, and a sentence for each that is left out: unknown to this version, or its file has changed.

    Raises:
        ConfigError: the metric that decides is left out.
    """
    metrics: list[Metric] = []
    lost: dict[str, str] = {}
    entries = evaluation.get("metrics") or ()
    for entry in entries:
        name, options = _parts(entry)
        try:
            metric = _metric(name, options, is_stored=True)
        except ValueError as error:
            lost[name] = str(error)
            continue
        # A changed file would give the sweep's stored answers other scores than those that were reported.
        if isinstance(metric, OwnMetric) and not runs_code:
            lost[name] = f"{metric.python} is code that a record from elsewhere names, which is not run"
        elif isinstance(metric, OwnMetric) and (changed := difference(metric, files)):
            lost[name] = changed
        else:
            metrics.append(metric)
    decider = evaluation.get("decide_by") or (_parts(entries[0])[0] if entries else None)
    if decider in lost:
        advice = "restore it, or name the experiment to compare by its current metrics"
        if not runs_code:
            advice = "compare in the project that made it"
        raise ConfigError(f"evaluation.metrics: {decider} decides in this sweep, and {lost[decider]}; {advice}")
    notes = [f"{name} is not computed: {why}." for name, why in lost.items()]
    return tuple(sorted(metrics, key=lambda metric: bool(decider) and metric.name != decider)), notes


def require_packages(metrics: Sequence[Metric]) -> None:
    """Check that the packages which metrics need are installed.

    Raises:
        MissingPackageError: names every metric and package, and the line that installs them.
    """
    problems = [
        f"evaluation.metrics: {metric.name} needs {package}, which is not installed; pip install 'tunerun[text]'"
        for metric in metrics
        for package in getattr(metric, "packages", ())
        if find_spec(package) is None
    ]
    if problems:
        raise MissingPackageError(problems)


def options_schema() -> dict[str, Any]:
    """Return the JSON Schema of an entry of `evaluation.metrics`."""
    models = built_in()
    documents: list[dict[str, Any]] = [{"type": "string", "enum": list(models)}]
    for name, model in models.items():
        document = _inlined(model.model_json_schema())
        document["properties"] = {"name": {"const": name}, **document.get("properties", {})}
        document["required"] = ["name", *document.get("required", ())]
        documents.append(document)
    # The last two: a user's own metric by its file, and a metric of another package, whose options are not known here.
    own = OwnOptions.model_json_schema()
    other = {"type": "object", "required": ["name"], "properties": {"name": {"not": {"enum": list(models)}}}}
    return {"anyOf": [*documents, own, {**other, "not": {"required": ["python"]}}, {"type": "string"}]}


def _inlined(document: dict[str, Any]) -> dict[str, Any]:
    """Inline the definitions of a JSON Schema, whose references would not resolve inside another schema."""
    definitions = document.pop("$defs", {})

    def inlined(value: Any) -> Any:
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).rpartition("/")[2]
            return (
                inlined(definitions[name])
                if name in definitions
                else {key: inlined(each) for key, each in value.items()}
            )
        return [inlined(each) for each in value] if isinstance(value, list) else value

    return cast("dict[str, Any]", inlined(document))


def _parts(value: object) -> tuple[str, dict[str, Any]]:
    if isinstance(value, str):
        return value, {}
    if not isinstance(value, Mapping):
        raise ValueError("must be the name of a metric, or a mapping of its name and options")
    options = {str(key): option for key, option in value.items()}
    if "name" not in options:
        raise _invalid([InitErrorDetails(type="missing", loc=("name",), input=value)])
    name = options.pop("name")
    if not isinstance(name, str):
        raise _invalid([InitErrorDetails(type="string_type", loc=("name",), input=name)])
    return name, options


def _metric(name: str, options: Mapping[str, Any], *, is_stored: bool = False) -> Metric:
    if "python" in options:
        if name in _BUILT_IN:
            raise ValueError(f"{name} is one of tunerun's own metrics; give yours another name")
        return OwnMetric.of(_validated(OwnOptions, {"name": name, **options}, is_stored))
    return cast(Metric, _validated(_model(name), options, is_stored))


def _validated(model: type[Any], options: Mapping[str, Any], is_stored: bool) -> Any:
    if is_stored:  # another version may have written it, with options that this one does not know
        options = {key: value for key, value in options.items() if key in model.model_fields}
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        details = []
        for each in error.errors(include_url=False):
            detail = InitErrorDetails(type=each["type"], loc=each["loc"], input=each["input"], ctx=each.get("ctx", {}))
            # "Extra inputs are not permitted" does not say which options there are.
            if each["type"] == "extra_forbidden" and len(each["loc"]) == 1:
                name, names = str(each["loc"][-1]), sorted(model.model_fields)
                hint = did_you_mean(name, names)
                hint = hint or (f"its options: {', '.join(names)}" if names else "it has no options")
                text = f"unknown option {name!r}; {hint}"
                detail["type"] = PydanticCustomError("metric_option", "{text}", {"text": text})
                del detail["ctx"]
            details.append(detail)
        raise _invalid(details) from error


def _invalid(details: list[InitErrorDetails]) -> ValidationError:
    return ValidationError.from_exception_data("evaluation.metrics", details)


def _model(name: str) -> type[MetricModel]:
    if name in _BUILT_IN:
        return cast("type[MetricModel]", getattr(importlib.import_module(f"tunerun.metrics.{name}"), _BUILT_IN[name]))
    # Another package's metric is loaded by name only, so that its code does not run in a plan that does not use it.
    others = _entry_points()
    if name not in others:
        allowed = [*_BUILT_IN, *sorted(others)]
        raise ValueError(f"no metric {name!r}; {did_you_mean(name, allowed) or 'metrics: ' + ', '.join(allowed)}")
    entry = others[name]
    try:
        model = entry.load()
    except Exception as error:
        raise ValueError(f"the entry point {entry.value} cannot be loaded: {type(error).__name__}: {error}") from error
    if not (isinstance(model, type) and issubclass(model, MetricModel) and getattr(model, "name", None) == name):
        raise ValueError(f"the entry point {entry.value} is not a tunerun.metrics.MetricModel whose name is {name!r}")
    return model


def _entry_points() -> dict[str, EntryPoint]:
    # A package that took a name of ours would change the scores of every sweep that uses it.
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in _BUILT_IN}
