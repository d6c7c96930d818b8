"""Warnings about examples that can be used: too few, too big, repeated, contradictory, leaked, half used."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from tunerun.dataset.checks import GUIDE, RenderedRow
from tunerun.dataset.conversations import conversation_columns
from tunerun.dataset.rows import MOST_OF_A_KIND, Findings, Rows, listed
from tunerun.job import Example

FEWEST_EXAMPLES = 20
"""The guide: start with at least 20 examples."""

ADVISED_EXAMPLES = (100, 500)
"""The guide: between 100 and 500 examples."""

MOST_TRAINING_BYTES = 4_000_000
"""The guide: the training file can be at most 4 MB; read as decimal megabytes, the smaller reading."""

MOST_INPUT_CHARACTERS, MOST_OUTPUT_CHARACTERS = 40_000, 5_000
"""The guide: of an example's text_input and of its output."""

MOST_PLACES = 3
"""Places that one warning names, unless all are asked for."""


def advice_on_size(training: Sequence[RenderedRow]) -> Iterator[str]:
    """Yield what the guide advises about the number of examples and the bytes of their texts."""
    file, count = training[0].row.file, len(training)
    byte_count = sum(len((each.example.text_input + each.example.output).encode()) for each in training)
    few, many = ADVISED_EXAMPLES
    if count < FEWEST_EXAMPLES:
        yield f"{file}: {_examples(count)} to train on; at least {FEWEST_EXAMPLES} are advised ({GUIDE}); add more"
    elif count < few:
        yield f"{file}: {_examples(count)} to train on; {few} to {many} are advised ({GUIDE}); add more"
    if byte_count > MOST_TRAINING_BYTES:
        has, limit = byte_count / 1e6, MOST_TRAINING_BYTES / 1e6
        yield f"{file}: {has:.1f} MB to train on; the Gemini API takes {limit:.0f} MB ({GUIDE}); dataset.limit cuts it"


def advice_on_length(training: Sequence[RenderedRow], most: int) -> Iterator[str]:
    """Yield one line about examples that this backend takes and the Gemini API does not."""
    long = [
        each.row.place
        for each in training
        if len(each.example.text_input) > MOST_INPUT_CHARACTERS or len(each.example.output) > MOST_OUTPUT_CHARACTERS
    ]
    if long:
        places = ", ".join(long[:most]) + (f" and {len(long) - most:,} more" if len(long) > most else "")
        limits = f"{MOST_INPUT_CHARACTERS:,} characters of text_input and {MOST_OUTPUT_CHARACTERS:,} of output"
        yield f"{places}: longer than the Gemini API takes: {limits} ({GUIDE}); backend=gemini would refuse the rows"


def _examples(count: int) -> str:
    return "1 example" if count == 1 else f"{count} examples"


def exact_duplicates(training: Sequence[RenderedRow], most: int) -> Iterator[str]:
    """Yield one line about training examples that stand twice."""
    repeated = [found for found in _by_example(training).values() if len(found) > 1]
    if repeated:
        count = sum(map(len, repeated)) - len(repeated)
        what = f"exact duplicates among the training examples ({count:,})"
        yield f"{what}: {_pairs(repeated, most)}; remove them unless they shall weigh more"


def contradictions(training: Sequence[RenderedRow], most: int) -> Iterator[str]:
    """Yield one line about equal inputs with different outputs."""
    firsts: dict[str, list[str]] = {}
    for example, found in _by_example(training).items():
        firsts.setdefault(example.text_input, []).append(found[0])
    contradicting = [found for found in firsts.values() if len(found) > 1]
    if contradicting:
        what = f"different outputs for one text_input among the training examples ({len(contradicting):,})"
        yield f"{what}: {_pairs(contradicting, most)}; keep one, or let the template tell them apart"


def _by_example(rows: Sequence[RenderedRow]) -> dict[Example, list[str]]:
    places: dict[Example, list[str]] = {}
    for each in rows:
        places.setdefault(each.example, []).append(each.row.place)
    return places


def _pairs(groups: Sequence[Sequence[str]], most: int) -> str:
    told = ", ".join(f"{group[0]} and {group[1]}" for group in groups[:most])
    return told + (", ..." if len(groups) > most else "")


def leaks(training: Sequence[RenderedRow], held_out: Mapping[str, Sequence[RenderedRow]], most: int) -> tuple[str, ...]:
    """A line for each held-out example that is trained on, or held out twice; all but the first few are counted."""
    known = {each.example: (each.row.place, "trained on") for each in reversed(training)}
    findings = Findings(max(most, MOST_OF_A_KIND))
    for name, rows in held_out.items():
        for each in rows:
            if each.example in known:
                place, use = known[each.example]
                where = f"{place} and {each.row.place}"
                findings.add("leak", f"{where} are the same example, {use} and held out; remove one of them")
        known = {**{each.example: (each.row.place, f"held out ({name})") for each in reversed(rows)}, **known}
    return findings.lines


def advice_on_columns(rows: Rows, used: Collection[str]) -> Iterator[str]:
    """Yield one warning about the columns that nothing uses.

    Args:
        rows: of one file, as they were read, all of them good.
        used: columns that the template or the split needs.
    """
    used = {*used, *conversation_columns(rows, used)}
    unused = [column for column in rows.columns if column not in used]
    if unused:
        yield f"{rows.file}: nothing uses the columns {listed(unused)}; name them in the template if they matter"
