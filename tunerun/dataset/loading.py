"""Loads the examples of a config's dataset: reads, renders, checks, splits, limits and digests the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tunerun.dataset.advice import MOST_PLACES, advice_on_columns, advice_on_length, advice_on_size, advice_on_system
from tunerun.dataset.clusters import cells, clusters_of, kept_together
from tunerun.dataset.drawing import draw
from tunerun.dataset.findings import MOST_OF_A_KIND
from tunerun.dataset.inspection import ControlTokens, Finding, inspect
from tunerun.dataset.lengths import TokenLimit, short_enough
from tunerun.dataset.reading import collect_rows
from tunerun.dataset.rendered_rows import RenderedRows
from tunerun.dataset.rendering import CharacterLimits, render_rows, require
from tunerun.dataset.rows import Rows, listed
from tunerun.dataset.split import choose, ranks_of, split_rows
from tunerun.digest import digest
from tunerun.errors import DatasetError
from tunerun.example_json import digest_of_examples
from tunerun.examples import Example, ExampleSet
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
        warnings: one line each; the examples can be used in spite of them.
        findings: the warnings that come from a check in the table of `inspection.py`.
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
        # Most files have no conversations: their examples are counted without making their turns.
        conversations = [example for example in examples if example.is_conversation]
        pairs = len(examples) - len(conversations)
        turns = [turn for example in conversations for turn in example.turns]
        return {
            "examples": len(examples),
            "conversations": sum(bool(example.earlier) for example in conversations),
            "system_messages": sum(bool(example.system) for example in conversations),
            "turns": len(turns) + pairs,
            "learned_answers": sum(turn.is_learned for turn in turns) + pairs,
        }

    @property
    def advice(self) -> tuple[str, ...]:
        """The warnings that do not come from a check."""
        of_checks = {finding.text for finding in self.findings}
        return tuple(warning for warning in self.warnings if warning not in of_checks)


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
        dataset: its paths are absolute or relative to the current directory; its format applies to all of its files.
        template: renders the rows.
        max_input_characters: limit of the backend for a text_input; None: no limit.
        max_output_characters: limit of the backend for an output; None: no limit.
        tokens: limit for the tokens of an example; None: unknown.
        most_places: most places that one finding names.
        control_tokens: returns the base model's control tokens in a text; None: unknown.
        progress: called at the start of each stage.
        draws: how many training examples to draw for few-shot prompts.

    Raises:
        DatasetError: every problem of every file, one line each.
    """
    progress = progress or (lambda _: None)
    limits = CharacterLimits(max_input_characters, max_output_characters)
    reader = _Reader(dataset, template, limits, tokens, progress, max(most_places, MOST_OF_A_KIND))

    rows, rendered = reader.read(dataset.path, is_split=True)
    held_out = {
        name: reader.read(section.path)[1]
        for name, section in (("validation", dataset.validation), ("test", dataset.test))
        if section.path is not None
    }
    if reader.problems:  # nothing is split where rows are missing: a split of the others would not be the final one
        raise DatasetError(reader.problems)

    training, split_off = reader.split(rendered)
    if reader.problems:
        raise DatasetError(reader.problems)
    held_out |= split_off
    # A file for one and a fraction for the other came in the order of reading; findings name validation first.
    held_out = {name: held_out[name] for name in ("validation", "test") if name in held_out}

    progress(f"looking for duplicates, leaks and more in {len(training):,} examples")
    findings = tuple(inspect(training, held_out, most_places, control_tokens))
    sets = {}
    for name, held_out_rows in held_out.items():
        examples = _example_set(getattr(dataset, name).path or dataset.path, held_out_rows)
        # Sweeps with different templates are compared where they held the same rows out, so the rows have a digest too.
        digest_of_rows = digest([content.hex() for content in held_out_rows.contents])
        clusters = clusters_of(held_out_rows, dataset.cluster_by)
        sets[name] = replace(examples, rows=digest_of_rows, clusters=clusters)

    return LoadedDataset(
        training=_example_set(dataset.path, training),
        validation=sets.get("validation"),
        test=sets.get("test"),
        warnings=(
            *reader.warnings,
            *advice_on_size(training),
            *advice_on_length(training, most_places),
            *advice_on_system(training, most_places),
            *(finding.text for finding in findings),
            *advice_on_columns(rows, template, [c for c in (dataset.stratify_by, dataset.cluster_by) if c is not None]),
        ),
        findings=findings,
        drawn=draw(training, held_out.values(), dataset.split_seed, draws),
    )


@dataclass
class _Reader:
    """Reads files and splits rows, and collects the problems and warnings of all of them."""

    dataset: DatasetSection
    template: PromptTemplate
    limits: CharacterLimits
    tokens: TokenLimit | None
    progress: Progress
    most: int
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def read(self, path: str, *, is_split: bool = False) -> tuple[Rows, RenderedRows]:
        """Read a file; return its rows as they were read, and those that can be learned.

        Bad rows are left out, and are errors unless `on_bad_row` is skip.

        Args:
            is_split: whether held-out rows may be split off it.
        """
        dataset = self.dataset
        self.progress(f"reading {path}")
        read, findings = collect_rows(Path(path), dataset.format, dataset.columns)

        # Rows need the columns that a split or a test of this file reads: clusters are of held-out rows.
        rows = read
        columns = {"dataset.stratify_by": dataset.stratify_by} if is_split else {}
        if not is_split or dataset.validation.fraction or dataset.test.fraction:
            columns["dataset.cluster_by"] = dataset.cluster_by
        for key, column in columns.items():
            if column is not None:
                lacking, of_column = require(rows, column, key)
                findings.extend(of_column)
                if column in rows.columns and lacking:
                    without = set(lacking)
                    rows = rows.take([row for row in range(len(rows)) if row not in without])

        self.progress(f"rendering {len(rows):,} rows of {rows.file}")
        rendered, of_rendering = render_rows(rows, self.template, self.limits)
        findings.extend(of_rendering)
        if self.tokens is not None:
            rendered, of_length = short_enough(rendered, self.tokens)
            findings.extend(of_length)

        of_file = findings.file_lines(self.most)
        # A file without a single good row is an error also where bad rows are skipped; the bad rows' lines say why.
        if dataset.on_bad_row == "skip" and (len(rendered) or of_file):
            self.problems += of_file
            self.warnings += findings.skipped(self.most)
        else:
            self.problems += findings.lines(self.most)
        self.warnings += findings.warnings(self.most)
        return read, rendered

    def split(self, rendered: RenderedRows) -> tuple[RenderedRows, dict[str, RenderedRows]]:
        """Split the held-out fractions off, by name, then apply the limit to the rest."""
        dataset = self.dataset
        fractions = {"validation": dataset.validation.fraction, "test": dataset.test.fraction}
        if not any(fractions.values()) and dataset.limit is None:
            return rendered, {}

        self.progress(f"splitting {len(rendered):,} rows")
        # By the cells and not by the rendered texts: trials with different templates hold the same rows out.
        ranks = ranks_of(rendered.contents, dataset.split_seed)
        training: Sequence[int] = range(len(rendered))
        held_out: dict[str, RenderedRows] = {}
        if any(fractions.values()):
            column = dataset.stratify_by
            classes = [None] * len(rendered) if column is None else cells(rendered, column)
            split = split_rows(ranks, kept_together(rendered, dataset.cluster_by), classes, **fractions)
            parts = {
                name: rows for name, rows in (("validation", split.validation), ("test", split.test)) if fractions[name]
            }
            self._check_parts(classes, parts)
            training = split.training
            held_out = {name: rendered.take(rows) for name, rows in parts.items()}

        if dataset.limit is not None:
            # After the split, so that trials of several limits are measured on the same rows.
            if dataset.limit > len(training):
                what = f"dataset.limit={dataset.limit} is more than the {len(training)} rows to train on"
                self.warnings.append(f"{dataset.path}: {what}; all of them are used")
            chosen = choose([ranks[row] for row in training], dataset.limit)
            training = [training[position] for position in chosen]
        return rendered.take(training), held_out

    def _check_parts(self, classes: Sequence[Hashable], parts: Mapping[str, Sequence[int]]) -> None:
        """Refuse a split that leaves a part empty; warn about classes of one row, which are never held out."""
        column, path = self.dataset.stratify_by, self.dataset.path
        counts = Counter(classes)
        single = sorted(str(name) for name, count in counts.items() if count == 1)
        for part, rows in parts.items():
            if rows:
                continue
            fraction = getattr(self.dataset, part).fraction
            what = f"dataset.{part}.fraction={fraction} of {len(classes)} rows leaves it empty"
            if column is not None and single:
                values = f"{len(single):,} of the {len(counts):,} values of {column!r}"
                what += f", as {values} have one row each, kept to train on"
                advice = "set dataset.stratify_by=null, or choose a column whose values repeat"
            else:
                advice = f"raise it, or set dataset.{part}.path"
            self.problems.append(f"{path}: {what}; {advice}")
        if column is not None and single and not self.problems:
            have = "1 value has a single row" if len(single) == 1 else f"{len(single):,} values have a single row each"
            self.warnings.append(
                f"{path}: dataset.stratify_by={column}: {have}, kept to train on and never measured: "
                f"{listed(single)}; add rows of them, or set dataset.stratify_by=null to hold some out"
            )


def _example_set(source: str, rows: RenderedRows) -> ExampleSet:
    """Return the examples under the digest of `[{"output": "2", "text_input": "1"}, ...]`, in their order."""
    examples = tuple(rows.examples)
    return ExampleSet(digest_of_examples(examples), source, examples)
