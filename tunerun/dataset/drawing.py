"""Few-shot examples for a prompt: training rows drawn by seed, never a held-out one."""

from __future__ import annotations

from collections.abc import Collection

from tunerun.dataset.rendered_rows import RenderedRows
from tunerun.dataset.split import ranks_of
from tunerun.examples import Example


def draw(training: RenderedRows, held_out: Collection[RenderedRows], seed: int, most: int) -> tuple[Example, ...]:
    """Return up to `most` training examples in the order of the draw; a smaller draw is a prefix of a larger one.

    The order is that of `dataset.limit`: the first k are the rows that a limit of k trains on, whatever the template.
    Rows whose input occurred before, and inputs of held-out rows, are left out; inputs that differ in capitals and
    white space alone are the same. A conversation is drawn with its turns but without its system message, because the
    system message of the prompt's own row applies.

    Args:
        training: the rows to draw from.
        held_out: rows that are measured.
        seed: `dataset.split_seed`.
        most: how many to draw.
    """
    if most == 0:
        return ()
    ranks = ranks_of(training.contents, seed)
    # A prompt that holds the answer to a held-out row would measure copying.
    taken = {text for rows in held_out for text in rows.same_inputs}
    drawn: list[Example] = []
    for position in sorted(range(len(training)), key=ranks.__getitem__):
        same = training.same_inputs[position]
        if same not in taken:
            taken.add(same)
            earlier = training.earlier[position] if training.earlier else ()
            drawn.append(Example(training.text_inputs[position], training.outputs[position], earlier=earlier))
            if len(drawn) == most:
                break
    return tuple(drawn)
