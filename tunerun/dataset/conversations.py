"""Reads rows in the shapes of other training tools: conversations of one or more turns, and Alpaca's columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunerun.dataset.findings import Findings
from tunerun.dataset.messages import (
    CONVERSATIONS,
    INSTRUCTIONS,
    Message,
    Note,
    UnsuitableError,
    from_text,
    is_empty,
    is_list,
    read_messages,
)
from tunerun.dataset.rows import ABSENT, RowConversation, Rows
from tunerun.examples import Conversation, Turn
from tunerun.template.absent_cells import is_null
from tunerun.template.prompt_template import OUTPUT, SYSTEM, TEXT_INPUT

_ALPACA = ("instruction", "input", "history")
"""Stanford Alpaca's columns beside `output`; LLaMA-Factory adds earlier turns as `history`, whose answers it learns."""

_NAMES = {TEXT_INPUT: "the user", OUTPUT: "the assistant"}

_Pair = tuple[Message, Message | None]
"""A message of the user and the answer to it; None: there is no answer."""


def conversation_columns(rows: Rows, wanted: Collection[str]) -> frozenset[str]:
    """Return the columns that `with_conversations` reads in these rows; empty where they need no conversation."""
    # A file may mix rows with columns of their own and conversations: one row without a column is enough.
    lacking = [n for n in (TEXT_INPUT, OUTPUT) if n in wanted and ABSENT in rows.columns.get(n, (ABSENT,))]
    if not lacking:
        return frozenset()
    if any(name in rows.columns for name in CONVERSATIONS):
        return frozenset(rows.columns.keys() & {*CONVERSATIONS, *INSTRUCTIONS, SYSTEM})
    if lacking == [TEXT_INPUT] and _ALPACA[0] in rows.columns:
        return frozenset(rows.columns.keys() & {*_ALPACA, SYSTEM})
    return frozenset()


def with_conversations(rows: Rows, wanted: Collection[str]) -> tuple[Rows, Findings]:
    """Return the rows with the columns and turns of their conversations; unchanged where they need none.

    `messages` (OpenAI), `contents` (Gemini, Vertex AI) or `conversations` (ShareGPT), as lists or as their JSON in a
    cell, give `text_input` and `output` where the template wants them and the row has no such columns: the last turn
    that is learned. The turns before it and the system message are in `Rows.conversations`; the system message is also
    the column `system`, empty where there is none, if the template names it. Alpaca's `instruction` and `input` give
    `text_input`, its `history` the earlier turns. A column `system` beside any of these is the system message, as
    LLaMA-Factory has it.

    Messages after the last answer of weight 1 teach nothing and are left out; messages of one role in a row are joined
    with a line break; keys of a message other than its role, its text and its weight are ignored. Each is a warning.

    Args:
        rows: as they were read.
        wanted: the columns that the template names. Where `output` is not among them, as for `predict`, or is a column
            of the row, the last message of the user is the input, and an answer to it is ignored.

    Returns:
        The rows, and findings on those that are left out, each with the message's place: the conversation holds
        something other than text, a tool call, an unknown role, a weight other than 0 and 1, a system message after
        the first turn, an answer before any question, or nothing to learn.
    """
    findings = Findings(rows.file, rows.counted_in)
    used = conversation_columns(rows, wanted)
    if not used:
        return rows, findings
    # Of each change that was made to messages: how many rows have it, and the first one's place and message.
    counts: Counter[str] = Counter()
    firsts: dict[str, tuple[str, str]] = {}
    kept: list[int] = []
    added: dict[str, list[Any]] = {name: [] for name in (TEXT_INPUT, OUTPUT, SYSTEM) if name in wanted}
    conversations: list[RowConversation | None] = []
    for index in range(len(rows)):
        cells = {name: rows.columns[name][index] for name in (*used, *added) if name in rows.columns}
        notes_of_row: dict[str, str] = {}  # `setdefault` keeps the first message of each change
        try:
            columns_of_row, conversation = _read(
                {name: cell for name, cell in cells.items() if cell is not ABSENT}, wanted, notes_of_row.setdefault
            )
        except UnsuitableError as error:
            findings.add_row("conversation", rows.lines[index], str(error))
            continue
        finally:
            for what, message in sorted(notes_of_row.items()):
                counts[what] += 1
                firsts.setdefault(what, (rows.place(index), message))
        kept.append(index)
        conversations.append(conversation)
        for name, column in added.items():
            column.append(columns_of_row.get(name, ABSENT))
    for what, (place, message) in firsts.items():
        where = place if counts[what] == 1 else f"{place} and {counts[what] - 1:,} more rows"
        findings.warn("message", f"{where}: {what}{f' ({message})' if message else ''}")
    read = (rows if len(kept) == len(rows) else rows.take(kept)).with_columns(added)
    return replace(read, conversations=conversations) if any(conversations) else read, findings


def _read(
    cells: Mapping[str, Any], wanted: Collection[str], note: Note
) -> tuple[Mapping[str, Any], RowConversation | None]:
    """Return a row's columns with those of its conversation (its own take precedence), and the earlier turns."""
    missing = {TEXT_INPUT, OUTPUT} & set(wanted) - cells.keys()
    if not missing:  # the row's own columns take precedence
        return cells, None

    name = next((each for each in CONVERSATIONS if each in cells), None)
    if name is not None:
        system, pairs = _pairs(read_messages(cells, name, note), OUTPUT in missing, note)
    elif _ALPACA[0] in cells:
        system, pairs = "", _alpaca(cells)
    else:
        return cells, None

    of_column = cells.get(SYSTEM)
    if not is_null(of_column) and of_column != "":
        if system:
            raise UnsuitableError("has a system message and a column 'system'; keep one of them")
        if not isinstance(of_column, str):
            raise UnsuitableError("its column 'system' is not text; write the system message as text")
        system = of_column

    question, answer = pairs[-1]
    columns = {TEXT_INPUT: question.text}
    if answer is not None:
        columns[OUTPUT] = answer.text
    columns = {**columns, **cells, SYSTEM: system}
    if not system and len(pairs) == 1:
        return columns, None
    earlier = tuple(
        Turn(input_.text, output.text, output.is_learned) for input_, output in pairs[:-1] if output is not None
    )
    places = tuple((input_.place, output.place if output else "") for input_, output in pairs)
    return columns, RowConversation(Conversation(question.text, system, earlier), places)


def _pairs(messages: Sequence[Message], is_learned: bool, note: Note) -> tuple[str, list[_Pair]]:
    """Return the system message and the turns, up to the last that is learned.

    Args:
        is_learned: whether the last turn needs an answer to learn; else the last message of the user is asked.
    """
    # Chat templates put the system message first, and several refuse one that comes later.
    count = next((n for n, message in enumerate(messages) if message.column != SYSTEM), len(messages))
    late = next((message for message in messages[count:] if message.column == SYSTEM), None)
    if late is not None:
        raise UnsuitableError(f"{late.place}: is a system message after the first turn; put it at the beginning")
    spoken = _joined(messages[count:], note)
    if not spoken:
        raise UnsuitableError("its conversation has no message of the user; write a user's and an assistant's")
    if spoken[0].column == OUTPUT:
        raise UnsuitableError(
            f"{spoken[0].place}: the assistant speaks first; begin with a message of the user, or remove this one"
        )
    answers: list[Message | None] = [*spoken[1::2]]
    pairs = list(zip(spoken[::2], answers + [None] * (len(spoken) % 2), strict=True))
    system = "\n".join(message.text for message in messages[:count])
    if not is_learned:
        return system, pairs

    last = max((n for n, (_, answer) in enumerate(pairs) if answer is not None and answer.is_learned), default=None)
    if last is None and pairs[0][1] is None:
        raise UnsuitableError("its conversation has no answer to learn; end it with a message of the assistant")
    if last is None:
        raise UnsuitableError(
            "no answer of its conversation has weight 1, so there is nothing to learn: remove the row, "
            "or set dataset.on_bad_row=skip"
        )
    if last + 1 < len(pairs):
        what = "messages after the last answer of weight 1 are left out: nothing is learned from them"
        note(what, pairs[last + 1][0].place)
    return system, pairs[: last + 1]


def _joined(messages: Sequence[Message], note: Note) -> list[Message]:
    """Return the messages with those of one role in a row as one, because chat templates want the roles in turn."""
    joined: list[Message] = []
    for message in messages:
        before = joined[-1] if joined else None
        if before is None or before.column != message.column:
            joined.append(message)
            continue
        # An answer is learned as a whole or not at all.
        if before.is_learned != message.is_learned:
            raise UnsuitableError(f"{message.place}: is a second answer in a row with another weight; join them")
        note(f"messages of {_NAMES[message.column]} in a row are joined with a line break", message.place)
        joined[-1] = replace(before, text=f"{before.text}\n{message.text}")
    return joined


def _alpaca(cells: Mapping[str, Any]) -> list[_Pair]:
    """Return the earlier turns, and the instruction with its input on a line of its own, as in LLaMA-Factory."""
    instruction, context = cells["instruction"], cells.get("input")
    question = instruction if context is None or context == "" else f"{instruction}\n{context}"
    history = from_text(cells.get("history"))
    history = [] if is_empty(history) or is_null(history) else history if is_list(history) else [history]
    earlier: list[_Pair] = []
    for number, turn in enumerate(history):
        place = f"history[{number}]"
        if not is_list(turn) or len(turn) != 2 or not all(isinstance(text, str) for text in turn):
            raise UnsuitableError(f"{place}: is not an instruction and its answer; write a list of two texts")
        earlier.append((Message(TEXT_INPUT, turn[0], place), Message(OUTPUT, turn[1], place)))
    return [*earlier, (Message(TEXT_INPUT, question, "instruction"), None)]
