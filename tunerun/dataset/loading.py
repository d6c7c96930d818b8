"""From the config's dataset to example sets: read, checked, rendered, split, limited and digested."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunerun.dataset.advice import MOST_PLACES, advice_on_columns, advice_on_length, advice_on_size
from tunerun.dataset.checks import CharacterLimits, RenderedRow, render_rows, require
from tunerun.dataset.inspection import Finding, inspect
from tunerun.dataset.lengths import TokenLimit, short_enough
from tunerun.dataset.reading import collect_rows
from tunerun.dataset.rows import Findings, Rows
from tunerun.dataset.split import choose, split_rows
from tunerun.digest import digest
from tunerun.errors import DatasetError
from tunerun.job import ExampleSet
from tunerun.schema import Dataset
from tunerun.template import PromptTemplate


@dataclass(frozen=True)
class LoadedDataset:
    """The examples to train on and those held out, and what is worth knowing about them.

    Attributes:
        training: in the file's order, or shuffled by seed when there is a limit.
        validation: in the file's order; None: none is configured.
        test: the same.
        warnings: one line each; nothing in them keeps the examples from being used.
        findings: those of the warnings that a check of the table in `inspection.py` gave.
    """

    training: ExampleSet
    validation: ExampleSet | None
    test: ExampleSet | None
    warnings: tuple[str, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def advice(self) -> tuple[str, ...]:
        """The warnings that are no check's."""
        found = {finding.text for finding in self.findings}
        return tuple(warning for warning in self.warnings if warning not in found)


@dataclass(frozen=True)
class _Parts:
    training: list[RenderedRow]
    validation: list[RenderedRow] | None
    test: list[RenderedRow] | None

    @property
    def held_out(self) -> dict[str, list[RenderedRow]]:
        return {"validation": self.validation or [], "test": self.test or []}


def load_examples(
    dataset: Dataset,
    template: PromptTemplate,
    *,
    seed: int,
    max_input_characters: int | None,
    max_output_characters: int | None,
    tokens: TokenLimit | None = None,
    most_places: int = MOST_PLACES,
) -> LoadedDataset:
    """Read the files of a dataset and make examples of their rows.

    Args:
        dataset: its paths are absolute or relative to the current directory; its format holds for all its files.
        template: makes the examples.
        seed: of the split and of the limit; nothing else has an influence on them.
        max_input_characters: the most of a text_input that the backend takes; None: any number.
        max_output_characters: the most of an output; None: any number.
        tokens: how many tokens an example may have; None: that is not known.
        most_places: that one finding names.

    Raises:
        DatasetError: every problem of every file, one line each.
    """
    reader = _Reader(dataset, template, CharacterLimits(max_input_characters, max_output_characters), tokens)
    rows, findings_of_file = reader.rows(dataset.path)
    rendered = reader.rendered(rows, findings_of_file, dataset.stratify_by)
    validation = reader.held_out(dataset.validation.path)
    test = reader.held_out(dataset.test.path)
    parts = reader.split(rendered, _Parts([], validation, test), seed)
    if reader.problems:
        raise DatasetError(reader.problems)
    findings = tuple(inspect(parts.training, parts.held_out, most_places))
    return LoadedDataset(
        training=_example_set(dataset.path, parts.training),
        validation=_held_out_set(dataset.validation.path or dataset.path, parts.validation),
        test=_held_out_set(dataset.test.path or dataset.path, parts.test),
        warnings=(
            *reader.warnings,
            *advice_on_size(parts.training),
            *advice_on_length(parts.training, most_places),
            *(finding.text for finding in findings),
            *_unused_columns(rows, dataset, template),
        ),
        findings=findings,
    )


class _Reader:
    """Reads files and collects the problems of all of them."""

    def __init__(
        self, dataset: Dataset, template: PromptTemplate, limits: CharacterLimits, tokens: TokenLimit | None
    ) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._dataset = dataset
        self._template = template
        self._limits = limits
        self._tokens = tokens

    def rows(self, path: str) -> tuple[Rows, Findings]:
        findings = Findings()
        return collect_rows(Path(path), self._dataset.format, findings, self._dataset.columns), findings

    def rendered(self, rows: Rows, findings: Findings, stratify_by: str | None = None) -> list[RenderedRow]:
        if stratify_by is not None:
            require(rows, stratify_by, "dataset.stratify_by", findings)
        rendered = render_rows(rows, self._template, self._limits, findings)
        if self._tokens is not None:
            rendered = short_enough(rendered, self._tokens, findings)
        self._settle(rows.file, rendered, findings)
        return rendered

    def _settle(self, file: str, rendered: Sequence[RenderedRow], findings: Findings) -> None:
        """Report what was found; bad rows, which are left out already, are errors unless the config says skip."""
        if self._dataset.on_bad_row == "skip" and (rendered or findings.file_lines):
            self.problems += findings.file_lines
            self.warnings += findings.skipped(file)
        else:
            self.problems += findings.lines
        self.warnings += findings.warnings

    def held_out(self, path: str | None) -> list[RenderedRow] | None:
        return None if path is None else self.rendered(*self.rows(path))

    def split(self, rendered: list[RenderedRow], files: _Parts, seed: int) -> _Parts:
        """Split the fractions off, once all rows are known to be good; then apply the limit."""
        if self.problems:
            return files
        validation, test = self._dataset.validation.fraction, self._dataset.test.fraction
        split = split_rows(
            [each.example for each in rendered],
            _classes(rendered, self._dataset.stratify_by),
            validation=validation,
            test=test,
            seed=seed,
        )
        self._refuse_empty("validation", validation, split.validation, rendered)
        self._refuse_empty("test", test, split.test, rendered)
        return _Parts(
            training=self._limited([rendered[row] for row in split.training], seed),
            validation=[rendered[row] for row in split.validation] if validation else files.validation,
            test=[rendered[row] for row in split.test] if test else files.test,
        )

    def _refuse_empty(self, part: str, fraction: float, rows: Sequence[int], rendered: Sequence[RenderedRow]) -> None:
        if fraction and not rows:
            what = f"dataset.{part}.fraction={fraction} of {len(rendered)} rows leaves it empty"
            self.problems.append(f"{self._dataset.path}: {what}; raise it, or set dataset.{part}.path")

    def _limited(self, training: list[RenderedRow], seed: int) -> list[RenderedRow]:
        limit = self._dataset.limit
        if limit is None:
            return training
        if limit > len(training):
            what = f"dataset.limit={limit} is more than the {len(training)} rows to train on"
            self.warnings.append(f"{self._dataset.path}: {what}; all of them are used")
        return [training[position] for position in choose(len(training), limit, seed)]


def _classes(rendered: Sequence[RenderedRow], stratify_by: str | None) -> list[Hashable]:
    """Return each row's class; cells need not be hashable (lists of JSON), so their text stands for them."""
    return [None if stratify_by is None else repr(each.row.columns[stratify_by]) for each in rendered]


def _unused_columns(rows: Rows, dataset: Dataset, template: PromptTemplate) -> Iterator[str]:
    stratify_by = () if dataset.stratify_by is None else (dataset.stratify_by,)
    return advice_on_columns(rows, {*template.columns, *stratify_by})


def _held_out_set(source: str, rows: Sequence[RenderedRow] | None) -> ExampleSet | None:
    return None if rows is None else _example_set(source, rows)


def _example_set(source: str, rows: Sequence[RenderedRow]) -> ExampleSet:
    """Return the examples under the digest of `[{"output": "2", "text_input": "1"}, ...]`, in their order."""
    examples = tuple(each.example for each in rows)
    objects = [{"output": each.output, "text_input": each.text_input} for each in examples]
    return ExampleSet(digest=digest(objects), source=source, examples=examples)
