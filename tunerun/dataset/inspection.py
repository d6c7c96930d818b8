"""Every check of a data set, in one table: what is an error, what is worth a warning, and why.

The errors are found where rows become examples (`checks.py`); nothing is tuned with them. The warnings are found here,
among examples that can be used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import chain

from tunerun.dataset.advice import MOST_PLACES, contradictions, exact_duplicates, leaks
from tunerun.dataset.characters import wrong_characters
from tunerun.dataset.labels import imbalance, label_counts, typing_errors
from tunerun.dataset.near_duplicates import MOST_CHARACTERS, near_duplicates
from tunerun.dataset.rendered_rows import RenderedRows
from tunerun.dataset.secrets import EMAIL, secrets_in
from tunerun.template.prompt_template import OUTPUT, SYSTEM, TEXT_INPUT


class Severity(StrEnum):
    """Whether a finding stops everything or is only reported."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Check:
    """One kind of finding: a line of the table of checks in the documentation."""

    name: str
    severity: Severity
    meaning: str
    find: Callable[[Inspected], Iterable[str]] | None = None
    """Yields the lines of the findings; None: rows with this error are found where they are rendered (`checks.py`)."""


@dataclass(frozen=True)
class Finding:
    """One line of a check's result, with the places of the rows."""

    check: str
    severity: Severity
    text: str


ERROR, WARNING = Severity.ERROR, Severity.WARNING

_BRACES = ("{{", "}}", "{%")
_CHARACTERS_AT_ONCE = 100_000

ControlTokens = Callable[[str], Collection[str]]
"""Returns the base model's control tokens that occur in a text."""


@dataclass(frozen=True)
class Found:
    """The place of a finding.

    Attributes:
        rows: the set that the row belongs to.
        position: of the row in it.
        place: of the row, or of a message of its conversation.
    """

    rows: RenderedRows
    position: int
    place: str

    @classmethod
    def of(cls, rows: RenderedRows, position: int, number: int | None = None, part: str = "") -> Found:
        """Return the place of a part of a turn; number None: the last turn; no part: the whole row."""
        return cls(rows, position, rows.place_of_turn(position, number, part))


@dataclass(frozen=True)
class Inspected:
    """What the checks look at.

    Attributes:
        training: rows to train on.
        held_out: `validation` and `test` rows, by name.
        most: most places that one finding names.
        control_tokens: returns the base model's control tokens in a text; None: unknown.
    """

    training: RenderedRows
    held_out: Mapping[str, RenderedRows]
    most: int
    control_tokens: ControlTokens | None

    @property
    def everything(self) -> list[RenderedRows]:
        """All rows, those to train on first."""
        return [self.training, *self.held_out.values()]

    @cached_property
    def near(self) -> tuple[list[str], list[str]]:
        """Lines on near duplicates, and on near leaks: one search finds both."""
        return _near(self.training, self.held_out, self.most)


def inspect(
    training: RenderedRows,
    held_out: Mapping[str, RenderedRows],
    most: int = MOST_PLACES,
    control_tokens: ControlTokens | None = None,
) -> Iterator[Finding]:
    """Run the checks of the table in its order, and yield their findings; arguments as in `Inspected`."""
    inspected = Inspected(training, held_out, most, control_tokens)
    for check in CHECKS:
        for line in check.find(inspected) if check.find else ():
            yield Finding(check.name, check.severity, line)


def places(found: Sequence[Found], most: int) -> str:
    """Return the first few places as a text, with the number of the others."""
    named = ", ".join(each.place for each in found[:most])
    return named + (f" and {len(found) - most:,} more" if len(found) > most else "")


def _near(training: RenderedRows, held_out: Mapping[str, RenderedRows], most: int) -> tuple[list[str], list[str]]:
    """Return lines on near duplicates: among the training inputs, and of training inputs among held-out inputs."""
    texts = list(chain(training.inputs_of_rows, *(rows.inputs_of_rows for rows in held_out.values())))
    near = near_duplicates(texts, originals=len(training))
    repeated, leaked = [], []
    within = [pair for pair in near.pairs if pair[1] < len(training)]
    if within:
        where = _pairs([(training.place(first), training.place(second)) for first, second in within], most)
        repeated.append(f"near duplicates among the training inputs ({len(within):,}): {where}; keep one of each")
    if near.compared < len(texts):
        repeated.append(
            f"{training.rows.file}: near duplicates were looked for among {near.compared:,} of {len(texts):,} inputs, "
            f"evenly spread: they have more than {MOST_CHARACTERS:,} characters together"
        )
    start = len(training)
    for name, rows in held_out.items():
        pairs = [(first, second - start) for first, second in near.pairs if start <= second < start + len(rows)]
        pairs = [(first, second) for first, second in pairs if training.same_inputs[first] != rows.same_inputs[second]]
        if pairs:
            where = _pairs([(training.place(first), rows.place(second)) for first, second in pairs], most)
            leaked.append(
                f"near duplicates of training inputs among the {name} inputs ({len(pairs):,}): {where}; "
                "remove one of each, or the comparison flatters"
            )
        start += len(rows)
    return repeated, leaked


def _pairs(pairs: Sequence[tuple[str, str]], most: int) -> str:
    named = ", ".join(f"{first} and {second}" for first, second in pairs[:most])
    return named + (", ..." if len(pairs) > most else "")


def _imbalance(training: RenderedRows) -> Iterator[str]:
    found = imbalance(label_counts(training.learned_outputs_of_rows))
    if found is not None:
        (common, often), (rare, seldom) = found
        yield (
            f"{training.rows.file}: the output {rare!r} is in {seldom:,} training examples and {common!r} in "
            f"{often:,}; add examples of the rare one"
        )


def _label_typos(everything: Sequence[RenderedRows], most: int) -> Iterator[str]:
    counts = label_counts(list(chain.from_iterable(rows.learned_outputs_of_rows for rows in everything)))
    for label, intended in typing_errors(counts):
        found = [
            each
            for rows in everything
            for each in (
                *(
                    Found.of(rows, turn.position, turn.number, OUTPUT)
                    for turn in rows.turns_of_rows
                    if turn.turn.is_learned and turn.turn.output == label
                ),
                *(
                    Found.of(rows, position, part=OUTPUT)
                    for position, output in enumerate(rows.outputs_of_rows)
                    if output == label
                ),
            )
        ]
        yield (
            f"{places(found, most)}: the output {label!r} looks like {intended!r}, which occurs {counts[intended]:,} "
            "times; write one of them"
        )


def _braces(everything: Sequence[RenderedRows], most: int) -> Iterator[str]:
    found = list(dict.fromkeys(row for _, row in _look(everything, lambda text: [b for b in _BRACES if b in text])))
    if found:
        where = places(found, most)
        yield f"{where}: template braces are left in the text; render the rows once, or escape what is meant"


def _spaces(everything: Sequence[RenderedRows], most: int) -> Iterator[str]:
    spaced = [each for rows in everything for each in _spaced(rows)]
    of_rows = [found for found, text in spaced if text != text.strip()]
    if of_rows:
        yield (
            f"{places(of_rows, most)}: white space around the output is learned too; "
            "write {{ output | trim }} in template.output, or remove it"
        )
    elif spaced:
        yield "template.output: puts white space around outputs, which is learned too; remove it if it is not meant"


def _spaced(rows: RenderedRows) -> Iterator[tuple[Found, str]]:
    """Yield the learned outputs with white space around them, and the cells of their rows."""
    for turn, of_row in zip(rows.turns, rows.turns_of_rows, strict=True):
        if turn.turn.is_learned and turn.turn.output != turn.turn.output.strip():
            yield Found.of(rows, turn.position, turn.number, OUTPUT), of_row.turn.output
    for position, text in enumerate(rows.outputs):
        if text != text.strip():
            yield Found.of(rows, position, part=OUTPUT), rows.outputs_of_rows[position]


def _characters(everything: Sequence[RenderedRows], most: int) -> Iterator[str]:
    for kind, found in _by_kind(everything, wrong_characters).items():
        yield f"{places(found, most)}: holds {kind}; write the file again as UTF-8 from its source"


def _control_tokens(
    everything: Sequence[RenderedRows], most: int, control_tokens: ControlTokens | None
) -> Iterator[str]:
    if control_tokens is None:
        return
    template = everything[0].template.template
    for part, text in ((TEXT_INPUT, template.text_input), (OUTPUT, template.output), (SYSTEM, template.system)):
        for token in control_tokens(text or ""):
            yield (
                f"template.{part}: holds {token}, a control token of the base model; it is encoded as text: remove "
                "it, the base model's own chat format is put around every example"
            )
    for token, found in _by_kind(everything, control_tokens).items():
        yield (
            f"{places(found, most)}: holds {token}, a control token of the base model; it is encoded as text: remove "
            "it if it is left over from another chat format"
        )


def _secrets(everything: Sequence[RenderedRows], most: int) -> Iterator[str]:
    for kind, found in _by_kind(everything, secrets_in).items():
        yield f"{places(found, most)}: looks like {kind}; remove it, and revoke it if it is real"


def _emails(everything: Sequence[RenderedRows], most: int) -> Iterator[str]:
    found = _by_kind(everything, lambda text: ["address"] if "@" in text and EMAIL.search(text) else []).get("address")
    if found:
        yield f"{places(found, most)}: an e-mail address; replace it with one at example.com unless it must be learned"


def _by_kind(everything: Sequence[RenderedRows], look: Callable[[str], Collection[str]]) -> dict[str, list[Found]]:
    found: dict[str, dict[Found, None]] = {}
    for kind, row in _look(everything, look):
        found.setdefault(kind, {})[row] = None
    return {kind: list(rows) for kind, rows in found.items()}


def _look(everything: Sequence[RenderedRows], look: Callable[[str], Collection[str]]) -> Iterator[tuple[str, Found]]:
    """Apply `look` to the texts that come from the rows, and yield its results with places, in the order of rows."""
    for rows in everything:
        found = sorted(
            (where[0], where[1] is None, where[1] or 0, number, kind, where[2])
            for texts, place in _columns(rows)
            for index, number, kind in _finds(texts, look)
            for where in (place(index),)
        )
        yield from (
            (kind, Found.of(rows, position, None if is_last else turn, part))
            for position, is_last, turn, _, kind, part in found
        )


_Where = tuple[int, int | None, str]
"""Position of a row, number of a turn (None: the last), and a part."""


def _columns(rows: RenderedRows) -> Iterator[tuple[Sequence[str], Callable[[int], _Where]]]:
    """Yield each list of texts that come from the rows, with a function that gives the place of each text."""
    yield rows.last_inputs_of_rows, lambda index: (index, None, TEXT_INPUT)
    yield rows.outputs_of_rows, lambda index: (index, None, OUTPUT)
    turns = rows.turns_of_rows
    if turns:
        yield (
            [each.turn.text_input for each in turns],
            lambda index: (turns[index].position, turns[index].number, TEXT_INPUT),
        )
        yield [each.turn.output for each in turns], lambda index: (turns[index].position, turns[index].number, OUTPUT)
    if rows.rows.conversations is not None:
        systems = ["" if before is None else before.system for before in rows.said]
        yield systems, lambda index: (index, None, SYSTEM)


def _finds(texts: Sequence[str], look: Callable[[str], Collection[str]]) -> Iterator[tuple[int, int, str]]:
    """Yield position of a text, number and name of each result of `look`; first in joined blocks, most of which are
    free of any."""
    start, size = 0, 0
    for position, text in enumerate(texts):
        size += len(text) + 1
        if size < _CHARACTERS_AT_ONCE and position < len(texts) - 1:
            continue
        if look("\n".join(texts[start : position + 1])):
            for each in range(start, position + 1):
                yield from ((each, number, kind) for number, kind in enumerate(look(texts[each])))
        start, size = position + 1, 0


CHECKS = (
    Check("file", ERROR, "a file that is missing, is not what its ending says, is broken, or is not UTF-8"),
    Check("column", ERROR, "a column that the template prints and a row does not have"),
    Check("cell", ERROR, "an empty cell (null) or bytes that the template prints"),
    Check("conversation", ERROR, "a tool call, an image, a second system message, or no answer with weight 1"),
    Check("blank", ERROR, "a text_input or an output that is blank after the template"),
    Check("long", ERROR, "more characters than the backend takes"),
    Check("context", ERROR, "more tokens than the base model takes; a warning where they are estimated"),
    Check(
        "duplicate",
        WARNING,
        "an example that occurs twice: it weighs twice as much",
        lambda i: exact_duplicates(i.training, i.most),
    ),
    Check(
        "near duplicate",
        WARNING,
        "two inputs that differ in a few letters: often one row, pasted and edited",
        lambda i: i.near[0],
    ),
    Check(
        "contradiction",
        WARNING,
        "one input with different outputs: it cannot be learned",
        lambda i: contradictions(i.training, i.most),
    ),
    Check(
        "leak",
        WARNING,
        "an input that is trained on and held out, in capitals or spaces too: the comparison flatters",
        lambda i: leaks(i.training, i.held_out, i.most),
    ),
    Check(
        "near leak",
        WARNING,
        "a held-out input that differs from a training input in a few letters",
        lambda i: i.near[1],
    ),
    Check(
        "imbalance",
        WARNING,
        "a label at least 20 times rarer than another: it may never be answered",
        lambda i: _imbalance(i.training),
    ),
    Check(
        "label typo",
        WARNING,
        "a rare label that looks like a common one, or differs from it in case alone",
        lambda i: _label_typos(i.everything, i.most),
    ),
    Check(
        "braces",
        WARNING,
        "`{{`, `}}` or `{%` in a cell: a template inside the data",
        lambda i: _braces(i.everything, i.most),
    ),
    Check(
        "spaces", WARNING, "white space around an output: it is learned too", lambda i: _spaces(i.everything, i.most)
    ),
    Check(
        "characters",
        WARNING,
        "U+FFFD, NUL, a byte order mark or mojibake (`Ã©`) in a text: it was decoded wrongly",
        lambda i: _characters(i.everything, i.most),
    ),
    Check(
        "control token",
        WARNING,
        "text that the base model uses as a control token (`<|im_end|>`): it stays text",
        lambda i: _control_tokens(i.everything, i.most, i.control_tokens),
    ),
    Check(
        "secret",
        WARNING,
        "a key or a password, by its shape; the model may repeat it. It is never shown",
        lambda i: _secrets(i.everything, i.most),
    ),
    Check(
        "e-mail",
        WARNING,
        "an e-mail address: personal data that the model may repeat",
        lambda i: _emails(i.everything, i.most),
    ),
)
"""All checks, errors first; the documentation's table is made from it."""
