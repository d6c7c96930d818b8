"""Every check of a data set in one table: the errors, the warnings, and why each matters.

Errors are found where rows are rendered (`rendering.py`), and stop a plan. Warnings are found here, among examples that
can be used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import chain

from tunerun.dataset.advice import MOST_PLACES, contradictions, exact_duplicates, leaks, pairs_text
from tunerun.dataset.characters import wrong_characters
from tunerun.dataset.labels import imbalance, label_counts, typing_errors
from tunerun.dataset.near_duplicates import MOST_CHARACTERS, near_duplicates
from tunerun.dataset.rendered_rows import RenderedRows
from tunerun.dataset.rows import first_few
from tunerun.dataset.secrets import EMAIL, secrets_in
from tunerun.template.prompt_template import OUTPUT, SYSTEM, TEXT_INPUT


class Severity(StrEnum):
    """Whether a finding stops a plan or is only reported."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Check:
    """One kind of finding: a line of the table of checks in the documentation.

    Attributes:
        meaning: what it finds, and why that matters.
        find: yields the lines of the findings; None: rows with this error are found where they are rendered
            (`rendering.py`).
    """

    name: str
    severity: Severity
    meaning: str
    find: Callable[[Inspected], Iterable[str]] | None = None


@dataclass(frozen=True)
class Finding:
    """One line of a check's result.

    Attributes:
        check: the name of the check.
        text: the line, with the places of the rows.
    """

    check: str
    severity: Severity
    text: str


ERROR, WARNING = Severity.ERROR, Severity.WARNING

_BRACES = ("{{", "}}", "{%")
_CHARACTERS_AT_ONCE = 100_000
"""Characters of texts that are searched together. Ours: most blocks then hold nothing, and one that does is soon gone
through text by text."""

ControlTokens = Callable[[str], Collection[str]]
"""Returns the base model's control tokens that occur in a text."""


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
        """Lines on near duplicates among the training inputs, and of training inputs among held-out inputs."""
        training, held_out = self.training, self.held_out
        texts = list(chain(training.inputs_of_rows, *(rows.inputs_of_rows for rows in held_out.values())))
        near = near_duplicates(texts, originals=len(training))  # one search finds both
        repeated, leaked = [], []
        within = [pair for pair in near.pairs if pair[1] < len(training)]
        if within:
            where = pairs_text([(training.place(first), training.place(second)) for first, second in within], self.most)
            repeated.append(f"near duplicates among the training inputs ({len(within):,}): {where}; keep one of each")
        if near.compared < len(texts):
            repeated.append(
                f"{training.rows.file}: near duplicates were looked for among {near.compared:,} of {len(texts):,} "
                f"inputs, evenly spread: they have more than {MOST_CHARACTERS:,} characters together"
            )
        start = len(training)
        for name, rows in held_out.items():
            pairs = [(first, second - start) for first, second in near.pairs if start <= second < start + len(rows)]
            # Inputs that differ in capitals and spaces alone are the check "leak".
            places = [
                (training.place(first), rows.place(second))
                for first, second in pairs
                if training.same_inputs[first] != rows.same_inputs[second]
            ]
            if places:
                leaked.append(
                    f"near duplicates of training inputs among the {name} inputs ({len(places):,}): "
                    f"{pairs_text(places, self.most)}; remove one of each, or the comparison flatters"
                )
            start += len(rows)
        return repeated, leaked

    def named(self, places: Sequence[str]) -> str:
        """Return the first few places as a text, with the number of the others."""
        return first_few(places, self.most)

    def by_kind(self, look: Callable[[str], Collection[str]]) -> dict[str, list[str]]:
        """Apply a function to the texts that come from the rows.

        Returns:
            For each result of the function the places of its texts, in the order of the rows.
        """
        places: dict[str, dict[str, None]] = {}
        for rows in self.everything:
            # In the order of the rows, and in a conversation in that of its turns, the last turn at the end.
            occurrences = sorted(
                (position, turn is None, turn or 0, number, kind, part)
                for texts, place_of in _columns(rows)
                for index, number, kind in _occurrences(texts, look)
                for position, turn, part in (place_of(index),)
            )
            for position, is_last, turn, _, kind, part in occurrences:
                place = rows.place_of_turn(position, None if is_last else turn, part)
                places.setdefault(kind, {})[place] = None
        return {kind: list(of_kind) for kind, of_kind in places.items()}


def inspect(
    training: RenderedRows,
    held_out: Mapping[str, RenderedRows],
    most: int = MOST_PLACES,
    control_tokens: ControlTokens | None = None,
) -> Iterator[Finding]:
    """Run the checks of the table in its order, and yield their findings.

    Args:
        training, held_out, most, control_tokens: as in `Inspected`.
    """
    inspected = Inspected(training, held_out, most, control_tokens)
    for check in CHECKS:
        for line in check.find(inspected) if check.find else ():
            yield Finding(check.name, check.severity, line)


def _imbalance(inspected: Inspected) -> Iterator[str]:
    training = inspected.training
    ends = imbalance(label_counts(training.learned_outputs_of_rows))
    if ends is not None:
        (common, often), (rare, seldom) = ends
        yield (
            f"{training.rows.file}: the output {rare!r} is in {seldom:,} training examples and {common!r} in "
            f"{often:,}; add examples of the rare one"
        )


def _label_typos(inspected: Inspected) -> Iterator[str]:
    everything = inspected.everything
    counts = label_counts(list(chain.from_iterable(rows.learned_outputs_of_rows for rows in everything)))
    for label, intended in typing_errors(counts):
        places: list[str] = []
        for rows in everything:
            turns = [each for each in rows.turns_of_rows if each.turn.is_learned and each.turn.output == label]
            places += [rows.place_of_turn(turn.position, turn.number, OUTPUT) for turn in turns]
            last = [position for position, output in enumerate(rows.outputs_of_rows) if output == label]
            places += [rows.place_of_turn(position, None, OUTPUT) for position in last]
        yield (
            f"{inspected.named(places)}: the output {label!r} looks like {intended!r}, which occurs "
            f"{counts[intended]:,} times; write one of them"
        )


def _in_texts(look: Callable[[str], Collection[str]], what: str) -> Callable[[Inspected], Iterator[str]]:
    """Return a check of the texts that come from the rows.

    Args:
        look: returns the kinds of what is wrong in a text.
        what: the line about one kind, with `{kind}` for its name.
    """

    def find(inspected: Inspected) -> Iterator[str]:
        for kind, places in inspected.by_kind(look).items():
            yield f"{inspected.named(places)}: {what.format(kind=kind)}"

    return find


def _spaces(inspected: Inspected) -> Iterator[str]:
    """Yield a line on learned outputs with white space around them, which the rows or else the template put there."""
    # The output as it is learned decides; the row's own cell says where the space is from, and so what to do.
    is_spaced = False
    places: list[str] = []
    for rows in inspected.everything:
        for turn, of_row in zip(rows.turns, rows.turns_of_rows, strict=True):
            if turn.turn.is_learned and turn.turn.output != turn.turn.output.strip():
                is_spaced = True
                if of_row.turn.output != of_row.turn.output.strip():
                    places.append(rows.place_of_turn(turn.position, turn.number, OUTPUT))
        for position, text in enumerate(rows.outputs):
            if text != text.strip():
                is_spaced = True
                if rows.outputs_of_rows[position] != rows.outputs_of_rows[position].strip():
                    places.append(rows.place_of_turn(position, None, OUTPUT))
    if places:
        yield (
            f"{inspected.named(places)}: white space around the output is learned too; "
            "write {{ output | trim }} in template.output, or remove it"
        )
    elif is_spaced:
        yield "template.output: puts white space around outputs, which is learned too; remove it if it is not meant"


def _control_tokens(inspected: Inspected) -> Iterator[str]:
    control_tokens = inspected.control_tokens
    if control_tokens is None:
        return
    template = inspected.training.template.template
    for part, text in ((TEXT_INPUT, template.text_input), (OUTPUT, template.output), (SYSTEM, template.system)):
        for token in control_tokens(text or ""):
            yield (
                f"template.{part}: holds {token}, a control token of the base model; it is encoded as text: remove "
                "it, the base model's own chat format is put around every example"
            )
    for token, places in inspected.by_kind(control_tokens).items():
        yield (
            f"{inspected.named(places)}: holds {token}, a control token of the base model; it is encoded as text: "
            "remove it if it is left over from another chat format"
        )


_Place = tuple[int, int | None, str]
"""Position of a row, number of a turn (None: the last), and a part."""


def _columns(rows: RenderedRows) -> Iterator[tuple[Sequence[str], Callable[[int], _Place]]]:
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
    # Of conversations alone: a system message that the template writes is not text of the rows.
    if rows.rows.conversations is not None:
        systems = ["" if before is None else before.system for before in rows.conversations_of_rows]
        yield systems, lambda index: (index, None, SYSTEM)


def _occurrences(texts: Sequence[str], look: Callable[[str], Collection[str]]) -> Iterator[tuple[int, int, str]]:
    """Yield position of a text, number and name of each result of `look`."""
    # Most texts have none, so texts are joined into blocks, and those of a block are looked at one by one only if the
    # block has a result. A result across two texts is then found in neither of them.
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
        _imbalance,
    ),
    Check(
        "label typo",
        WARNING,
        "a rare label that looks like a common one, or differs from it in case alone",
        _label_typos,
    ),
    Check(
        "braces",
        WARNING,
        "`{{`, `}}` or `{%` in a cell: a template inside the data",
        _in_texts(
            lambda text: ["braces"] if any(each in text for each in _BRACES) else [],
            "template {kind} are left in the text; render the rows once, or escape what is meant",
        ),
    ),
    Check("spaces", WARNING, "white space around an output: it is learned too", _spaces),
    Check(
        "characters",
        WARNING,
        "U+FFFD, NUL, a byte order mark or mojibake (`Ã©`) in a text: it was decoded wrongly",
        _in_texts(wrong_characters, "holds {kind}; write the file again as UTF-8 from its source"),
    ),
    Check(
        "control token",
        WARNING,
        "text that the base model uses as a control token (`<|im_end|>`): it stays text",
        _control_tokens,
    ),
    Check(
        "secret",
        WARNING,
        "a key or a password, by its shape; the model may repeat it. It is never shown",
        _in_texts(secrets_in, "looks like {kind}; remove it, and revoke it if it is real"),
    ),
    Check(
        "e-mail",
        WARNING,
        "an e-mail address: personal data that the model may repeat",
        # Without an `@` there is no address, and looking for the sign is much faster than the pattern.
        _in_texts(
            lambda text: ["an e-mail address"] if "@" in text and EMAIL.search(text) else [],
            "{kind}; replace it with one at example.com unless it must be learned",
        ),
    ),
)
"""All checks, errors first; the documentation's table is made from it."""
