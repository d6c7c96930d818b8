"""Warnings about examples that can be used: too few, too large, repeated, contradictory, leaked, or unused columns."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import chain

from tunerun.dataset.conversations import conversation_columns
from tunerun.dataset.findings import MOST_OF_A_KIND, with_count
from tunerun.dataset.rendered_rows import RenderedRows
from tunerun.dataset.rows import Rows, first_few, listed, nearest
from tunerun.template import PromptTemplate
from tunerun.template.prompt_template import SYSTEM, TEXT_INPUT
from tunerun.tuning_guide import (
    ADVISED_EXAMPLES,
    FEWEST_EXAMPLES,
    GUIDE,
    MOST_INPUT_CHARACTERS,
    MOST_OUTPUT_CHARACTERS,
    SAFE_TRAINING_BYTES,
)

MOST_PLACES = 3
"""Places that one warning names, unless the caller wants more."""


def advice_on_size(training: RenderedRows) -> Iterator[str]:
    """Yield warnings where the number of examples or the bytes of their texts are outside what the guide advises."""
    file, count = training.rows.file, len(training)
    turns = [text for each in training.turns for text in (each.turn.text_input, each.turn.output)]
    texts = chain(training.text_inputs, training.outputs, turns, training.systems or ())
    byte_count = sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
    examples = "1 example" if count == 1 else f"{count} examples"
    few, many = ADVISED_EXAMPLES
    if count < FEWEST_EXAMPLES:
        yield f"{file}: {examples} to train on; at least {FEWEST_EXAMPLES} are advised ({GUIDE}); add more"
    elif count < few:
        yield f"{file}: {examples} to train on; {few} to {many} are advised ({GUIDE}); add more"
    if byte_count > SAFE_TRAINING_BYTES:
        has, limit = byte_count / 1e6, SAFE_TRAINING_BYTES / 1e6
        yield f"{file}: {has:.1f} MB to train on; the Gemini API takes {limit:.0f} MB ({GUIDE}); dataset.limit cuts it"


def advice_on_length(training: RenderedRows, most: int) -> Iterator[str]:
    """Yield one line about examples that are too long for the Gemini API, though not for this backend."""
    long = [
        position
        for position, (text_input, output) in enumerate(zip(training.text_inputs, training.outputs, strict=True))
        if len(text_input) > MOST_INPUT_CHARACTERS or len(output) > MOST_OUTPUT_CHARACTERS
    ]
    if long:
        places = first_few([training.place(position) for position in long], most)
        limits = f"{MOST_INPUT_CHARACTERS:,} characters of text_input and {MOST_OUTPUT_CHARACTERS:,} of output"
        yield f"{places}: longer than the Gemini API takes: {limits} ({GUIDE}); backend=gemini would refuse the rows"


def advice_on_system(training: RenderedRows, most: int) -> Iterator[str]:
    """Yield warnings where the template drops or repeats the system messages of conversations."""
    template, conversations = training.template, training.conversations_of_rows
    dropped = [position for position, each in enumerate(conversations) if each is not None and each.system]
    if SYSTEM in template.parts and dropped and SYSTEM not in template.columns_of(SYSTEM):
        places = ", ".join(map(training.place, dropped[:most])) + (", ..." if len(dropped) > most else "")
        what = (
            f"template.system replaces the system message of {len(dropped):,} {'row' if len(dropped) == 1 else 'rows'}"
        )
        yield f"{places}: {what}; name {{{{ system }}}} in it to keep it"
    if training.turns and dropped and SYSTEM in template.columns_of(TEXT_INPUT):
        yield (
            "template.text_input: names {{ system }}, which repeats the system message in each turn of a conversation; "
            "remove it, and the message is sent once, as a system message"
        )


def exact_duplicates(training: RenderedRows, most: int) -> Iterator[str]:
    """Yield one line about training examples that occur more than once."""
    # Most files have none, and a set of all examples is much smaller than lists of where each of them occurs.
    if len(set(zip(training.inputs, training.outputs, strict=True))) == len(training):
        return
    repeated = [positions for positions in _by_example(training).values() if len(positions) > 1]
    count = sum(map(len, repeated)) - len(repeated)
    what = f"exact duplicates among the training examples ({count:,})"
    yield f"{what}: {pairs_text(_places(training, repeated), most)}; remove them unless they should weigh more"


def contradictions(training: RenderedRows, most: int) -> Iterator[str]:
    """Yield one line about equal inputs with different outputs."""
    if len(set(training.inputs)) == len(training):
        return
    firsts: dict[Hashable, list[int]] = {}
    for (text_input, _), positions in _by_example(training).items():
        firsts.setdefault(text_input, []).append(positions[0])
    contradicting = [positions for positions in firsts.values() if len(positions) > 1]
    if contradicting:
        what = f"different outputs for one text_input among the training examples ({len(contradicting):,})"
        where = pairs_text(_places(training, contradicting), most)
        yield f"{what}: {where}; keep one, or let the template tell them apart"


def _by_example(rows: RenderedRows) -> dict[tuple[Hashable, str], list[int]]:
    positions: dict[tuple[Hashable, str], list[int]] = {}
    for position, example in enumerate(zip(rows.inputs, rows.outputs, strict=True)):
        positions.setdefault(example, []).append(position)
    return positions


def _places(rows: RenderedRows, groups: Sequence[Sequence[int]]) -> list[tuple[str, str]]:
    return [(rows.place(group[0]), rows.place(group[1])) for group in groups]


def pairs_text(pairs: Sequence[tuple[str, str]], most: int) -> str:
    """Return pairs of places as a text, the first few of them."""
    return ", ".join(f"{first} and {second}" for first, second in pairs[:most]) + (", ..." if len(pairs) > most else "")


def leaks(training: RenderedRows, held_out: Mapping[str, RenderedRows], most: int) -> Sequence[str]:
    """Return a line for each held-out input that is trained on, or held out twice; all but the first few are counted.

    Inputs are the same if the rows' cells differ at most in capitals and white space, or if the template makes
    the same of them; what their outputs are does not matter.

    Args:
        training: rows to train on.
        held_out: `validation` and `test` rows, by name.
        most: lines to return; fewer than `MOST_OF_A_KIND` count as that.
    """
    most = max(most, MOST_OF_A_KIND)
    lines: list[str] = []
    count = 0
    earlier = [(training, "trained on")]
    for name, rows in held_out.items():
        inputs = rows.inputs
        # By the cells, and by the rendered text: a template may leave out what differs between two rows.
        same, equal = _firsts(rows.same_inputs, earlier, "same_inputs"), _firsts(inputs, earlier, "inputs")
        for position in range(len(rows)):
            first = same.get(rows.same_inputs[position]) or equal.get(inputs[position])
            if first:
                count += 1
                if len(lines) < most:
                    where = f"{first[0]} and {rows.place(position)}"
                    lines.append(f"{where} have the same input, {first[1]} and held out; remove one of them")
        earlier.append((rows, f"held out ({name})"))
    return with_count(lines, count)


def _firsts(
    wanted: Sequence[Hashable], earlier: Sequence[tuple[RenderedRows, str]], texts: str
) -> dict[Hashable, tuple[str, str]]:
    """Return where each input occurs first, and what that row is used for."""
    # Only inputs of the held-out set are looked up, so that a large training set needs no dict of its own.
    left, firsts = set(wanted), {}
    for rows, use in earlier:
        for position, text in enumerate(getattr(rows, texts)):
            if text in left:
                left.remove(text)
                firsts[text] = (rows.place(position), use)
    return firsts


def advice_on_columns(rows: Rows, template: PromptTemplate, others: Sequence[str]) -> Iterator[str]:
    """Yield warnings about unused columns, and about optional columns that no row has.

    Args:
        rows: of one file, as they were read.
        template: some of the columns it names may be optional.
        others: columns that the split uses.
    """
    used = {*template.columns, *others}
    from_conversations = conversation_columns(rows, used)
    if not from_conversations:  # a conversation gives the columns that the file does not have
        for column in sorted(template.columns - rows.columns.keys()):
            part = next(part for part in template.parts if column in template.columns_of(part))
            what = f"no row has the column {column!r}, which template.{part} names where it is optional"
            yield f"{rows.file}: {what}; {nearest(column, list(rows.columns))}"
    unused = [column for column in rows.columns if column not in used | from_conversations]
    if unused and not template.uses_row:
        yield f"{rows.file}: nothing uses the columns {listed(unused)}; name them in the template if they matter"
