"""`tunerun predict --chat`: a conversation on the terminal, or line by line from another program."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from tunerun.errors import InputError

if TYPE_CHECKING:
    from tunerun.chat import Chat

RESET = "/reset"


def talk(chat: Chat) -> None:
    """Answer each line of standard input as one conversation, until its end; `/reset` starts a new one.

    Raises:
        BackendError: the model cannot be called.
        InputError: a line cannot be answered; in a terminal this is printed instead.
    """
    # From another program nothing but answers is printed, one for each line, and the first error ends the conversation.
    is_terminal = sys.stdin.isatty()
    for warning in chat.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    if is_terminal:
        sys.stderr.write(f"{chat.name}: a line is a message, {RESET} forgets what was said, Ctrl-D ends\n")
    for line in _lines(is_terminal):
        if line.strip() == RESET:
            chat.reset()
            continue
        try:
            sys.stdout.write(f"{chat.say(line)}\n")
            sys.stdout.flush()  # a pipe is buffered, and the program at its other end waits for this answer
        except InputError as error:  # such as a message too long for the context, which a shorter one can follow
            if not is_terminal:
                raise
            sys.stderr.write("".join(f"error: {problem}; {RESET} begins again\n" for problem in error.problems))


def _lines(is_terminal: bool) -> Iterator[str]:
    """Yield what is typed or piped in, without blank lines."""
    if not is_terminal:
        yield from (line for line in map(str.rstrip, sys.stdin) if line)
        return
    with suppress(ImportError):
        import readline  # noqa: F401 - gives `input` arrow keys and a history
    while True:
        try:
            line = input("> ")
        except EOFError:
            sys.stderr.write("\n")
            return
        if line.strip():
            yield line
