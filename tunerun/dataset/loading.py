"""From the config's dataset to example sets: read, checked, rendered, split, limited and digested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tunerun.dataset.advice import MOST_PLACES, advice_on_columns, advice_on_length, advice_on_size, advice_on_system
from tunerun.dataset.checks import CharacterLimits, render_rows, require
from tunerun.dataset.clusters import cells, clusters_of, kept_together
from tunerun.dataset.drawing import draw
from tunerun.dataset.inspection import ControlTokens, Finding, inspect
from tunerun.dataset.lengths import TokenLimit, short_enough
from tunerun.dataset.reading import collect_rows
from tunerun.dataset.rendered_rows import RenderedRows
from tunerun.dataset.rows import MOST_OF_A_KIND, Findings, Rows, listed
from tunerun.dataset.split import choose, ranks_of, split_rows
from tunerun.digest import digest
from tunerun.errors import DatasetError
from tunerun.example_json import digest_of_examples
from tunerun.job import Example, ExampleSet
from tunerun.schema import DatasetSection
from tunerun.template import PromptTemplate

Progress = Callable[[str], None]
"""Takes a short description of the stage that starts."""


@dataclass(frozen=True)
class LoadedDataset:
    """The examples to train on and those held out, with the warnings about them.

    Attributes:
        training: in the file's order, or shuffled by seed when there is a limit.
        validation: in the file's order; None: none is configured.
        test: the same.
        warnings: one line each; the examples can be used all the same.
        findings: those of the warnings that come from a check in the table of `inspection.py`.
        drawn: training examples for few-shot prompts, at most as many as `draws`; see `drawing.py`.
    """

    training: ExampleSet
    validation: ExampleSet | None
    test: ExampleSet | None
    warnings: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    drawn: tuple[Example, ...] = ()

    @property
    def conversations(self) -> dict[str, int]:
        """Counts of conversations among the training examples: with several turns, with a system message, and so on."""
        examples = self.training.examples
        spoken = [example for example in examples if example.is_conversation]
        turns = [turn for example in spoken for turn in example.turns]
        return {
            "examples": len(examples),
            "conversations": sum(bool(example.earlier) for example in spoken),
            "system_messages": sum(bool(example.system) for example in spoken),
            "turns": len(turns) + len(examples) - len(spoken),
            "learned_answers": sum(turn.is_learned for turn in turns) + len(examples) - len(spoken),
        }

    @property
    def advice(self) -> tuple[str, ...]:
        """The warnings that do not come from a check."""
        found = {finding.text for finding in self.findings}
        return tuple(warning for warning in self.warnings if warning not in found)


@dataclass(frozen=True)
class _Parts:
    training: RenderedRows
    validation: RenderedRows | None
    test: RenderedRows | None

    @property
    def held_out(self) -> dict[str, RenderedRows]:
        parts = {"validation": self.validation, "test": self.test}
        return {name: rows for name, rows in parts.items() if rows is not None}


def load_examples(
    dataset: DatasetSection,
    template: PromptTemplate,
    *,
    max_input_characters: int | None,
    max_output_characters: int | None,
    tokens: TokenLimit | None = None,
    most_places: int = MOST_PLACES,
    control_tokens: ControlTokens | None = None,
    progress: Progress | None = None,
    draws: int = 0,
) -> LoadedDataset:
    """Read the files of a dataset and make examples of their rows.

    Args:
        dataset: its paths are absolute or relative to the current directory; its format holds for all its files.
        template: makes the examples.
        max_input_characters: the most of a text_input that the backend takes; None: any number.
        max_output_characters: the most of an output; None: any number.
        tokens: how many tokens an example may have; None: unknown.
        most_places: most places that one finding names.
        control_tokens: returns the base model's control tokens in a text; None: unknown.
        progress: called at the start of each stage.
        draws: how many training examples to draw for few-shot prompts.

    Raises:
        DatasetError: every problem of every file, one line each.
    """
    progress = progress or (lambda _: None)
    limits = CharacterLimits(max_input_characters, max_output_characters)
    reader = _Reader(dataset, template, limits, tokens, progress, most_places)
    rows, findings_of_file = reader.rows(dataset.path)
    rendered = reader.rendered(rows, findings_of_file, is_split=True)
    validation = reader.held_out(dataset.validation.path)
    test = reader.held_out(dataset.test.path)
    parts = reader.split(rendered, validation, test)
    if parts is None or reader.problems:
        raise DatasetError(reader.problems)
    training = _example_set(dataset.path, parts.training)
    progress(f"looking for duplicates, leaks and more in {len(parts.training):,} examples")
    findings = tuple(inspect(parts.training, parts.held_out, most_places, control_tokens))
    return LoadedDataset(
        training=training,
        validation=_held_out_set(dataset.validation.path or dataset.path, parts.validation, dataset.cluster_by),
        test=_held_out_set(dataset.test.path or dataset.path, parts.test, dataset.cluster_by),
        warnings=(
            *reader.warnings,
            *advice_on_size(parts.training),
            *advice_on_length(parts.training, most_places),
            *advice_on_system(parts.training, most_places),
            *(finding.text for finding in findings),
            *advice_on_columns(rows, template, [c for c in (dataset.stratify_by, dataset.cluster_by) if c is not None]),
        ),
        findings=findings,
        drawn=draw(parts.training, parts.held_out.values(), dataset.split_seed, draws),
    )


class _Reader:
    """Reads files and collects the problems of all of them."""

    def __init__(
        self,
        dataset: DatasetSection,
        template: PromptTemplate,
        limits: CharacterLimits,
        tokens: TokenLimit | None,
        progress: Progress,
        most_places: int,
    ) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._dataset = dataset
        self._template = template
        self._limits = limits
        self._tokens = tokens
        self._progress = progress
        self._most_places = most_places

    def rows(self, path: str) -> tuple[Rows, Findings]:
        findings = Findings(max(self._most_places, MOST_OF_A_KIND))
        self._progress(f"reading {path}")
        return collect_rows(Path(path), self._dataset.format, findings, self._dataset.columns), findings

    def rendered(self, rows: Rows, findings: Findings, *, is_split: bool = False) -> RenderedRows:
        if is_split:
            rows = self._with_column(rows, self._dataset.stratify_by, "dataset.stratify_by", findings)
        if not is_split or self._dataset.validation.fraction or self._dataset.test.fraction:
            rows = self._with_column(rows, self._dataset.cluster_by, "dataset.cluster_by", findings)
        self._progress(f"rendering {len(rows):,} rows of {rows.file}")
        rendered = render_rows(rows, self._template, self._limits, findings)
        if self._tokens is not None:
            rendered = short_enough(rendered, self._tokens, findings)
        self._settle(rows.file, rendered, findings)
        return rendered

    def _with_column(self, rows: Rows, column: str | None, named_by: str, findings: Findings) -> Rows:
        """Return the rows that have a cell in a column which the config names; the others become findings."""
        if column is None:
            return rows
        lacking = set(require(rows, column, named_by, findings))
        if column not in rows.columns or not lacking:
            return rows
        return rows.take([row for row in range(len(rows)) if row not in lacking])

    def _settle(self, file: str, rendered: RenderedRows, findings: Findings) -> None:
        """Collect the findings of a file; bad rows, already left out, are errors unless `on_bad_row` is skip."""
        if self._dataset.on_bad_row == "skip" and (len(rendered) or findings.file_lines):
            self.problems += findings.file_lines
            self.warnings += findings.skipped(file)
        else:
            self.problems += findings.lines
        self.warnings += findings.warnings

    def held_out(self, path: str | None) -> RenderedRows | None:
        return None if path is None else self.rendered(*self.rows(path))

    def split(
        self, rendered: RenderedRows, validation: RenderedRows | None, test: RenderedRows | None
    ) -> _Parts | None:
        """Split the held-out fractions off, then apply the limit; None: some rows are bad, so nothing is split."""
        if self.problems:
            return None
        fractions = {"validation": self._dataset.validation.fraction, "test": self._dataset.test.fraction}
        if not any(fractions.values()) and self._dataset.limit is None:
            return _Parts(rendered, validation, test)
        self._progress(f"splitting {len(rendered):,} rows")
        ranks = ranks_of(rendered.contents, self._dataset.split_seed)
        training: Sequence[int] = range(len(rendered))
        if any(fractions.values()):
            classes = _classes(rendered, self._dataset.stratify_by)
            together = kept_together(rendered, self._dataset.cluster_by)
            split = split_rows(ranks, together, classes, **fractions)
            self._advise_on_classes(classes, {"validation": split.validation, "test": split.test})
            training = split.training
            validation = rendered.take(split.validation) if fractions["validation"] else validation
            test = rendered.take(split.test) if fractions["test"] else test
        return _Parts(rendered.take(self._limited(training, ranks)), validation, test)

    def _advise_on_classes(self, classes: Sequence[Hashable], parts: dict[str, Sequence[int]]) -> None:
        """Refuse a split that leaves a part empty; warn about classes of one row, which are never held out."""
        column = self._dataset.stratify_by
        counts = Counter(classes)
        single = sorted(str(name) for name, count in counts.items() if count == 1)
        fractions = {"validation": self._dataset.validation.fraction, "test": self._dataset.test.fraction}
        for part in (part for part, rows in parts.items() if fractions[part] and not rows):
            what = f"dataset.{part}.fraction={fractions[part]} of {len(classes)} rows leaves it empty"
            if column is not None and single:
                values = f"{len(single):,} of the {len(counts):,} values of {column!r}"
                what += f", as {values} have one row each, kept to train on"
                advice = "set dataset.stratify_by=null, or choose a column whose values repeat"
            else:
                advice = f"raise it, or set dataset.{part}.path"
            self.problems.append(f"{self._dataset.path}: {what}; {advice}")
        if column is not None and single and not self.problems:
            have = "1 value has a single row" if len(single) == 1 else f"{len(single):,} values have a single row each"
            self.warnings.append(
                f"{self._dataset.path}: dataset.stratify_by={column}: {have}, kept to train on and never measured: "
                f"{listed(single)}; add rows of them, or set dataset.stratify_by=null to hold some out"
            )

    def _limited(self, training: Sequence[int], ranks: Sequence[int]) -> Sequence[int]:
        limit = self._dataset.limit
        if limit is None:
            return training
        if limit > len(training):
            what = f"dataset.limit={limit} is more than the {len(training)} rows to train on"
            self.warnings.append(f"{self._dataset.path}: {what}; all of them are used")
        return [training[position] for position in choose([ranks[row] for row in training], limit)]


def _classes(rendered: RenderedRows, stratify_by: str | None) -> list[Hashable]:
    """Return each row's class; the same for all: no stratification."""
    return [None] * len(rendered) if stratify_by is None else cells(rendered, stratify_by)


def _held_out_set(source: str, rows: RenderedRows | None, cluster_by: str | None) -> ExampleSet | None:
    if rows is None:
        return None
    return replace(
        _example_set(source, rows),
        rows=digest([content.hex() for content in rows.contents]),
        clusters=clusters_of(rows, cluster_by),
    )


def _example_set(source: str, rows: RenderedRows) -> ExampleSet:
    """Return the examples under the digest of `[{"output": "2", "text_input": "1"}, ...]`, in their order."""
    examples = tuple(rows.examples)
    return ExampleSet(digest_of_examples(examples), source, examples)
