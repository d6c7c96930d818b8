"""A chat format as a chat template: Jinja text for any program that renders one, so that it writes what was trained.

The base model's own template may write more: a thought that is opened, today's date, a turn of tools. This one writes
exactly the chat format around an input, and refuses what the format has no place for. Light: text alone.
"""

from __future__ import annotations

import json

from tunerun.engine.chat import ChatFormat, EarlierTurns

_CONTENT = "message['content']"
_PARTS = f"{_CONTENT} | map(attribute='text') | join"  # as clients send what may also hold images


def template_of(chat: ChatFormat, turns: EarlierTurns) -> str:
    """Return a chat template that gives `chat.prompt(text)` for one turn of the user, with or without a prompt added.

    Args:
        turns: what is around earlier turns; where it has a problem, the template takes one input and its answer.
    """
    lines = [
        "{%- for message in messages -%}",
        "{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}",
        _refuse("This model was tuned for turns of user and assistant alone, and the user's comes first."),
        "{%- endif -%}",
        f"{{%- set text = {_CONTENT} if {_CONTENT} is string else {_PARTS} -%}}",
        "{%- if message['role'] == 'user' -%}",
        *_of_user(chat, turns),
        "{%- elif loop.last -%}",
        "{{- " + f"{_literal(chat.start)} ~ text ~ {_literal(chat.end)}" + " -}}",
        "{%- else -%}",
        "{{- " + f"text ~ {_literal(turns.between)}" + " -}}",
        "{%- endif -%}",
        "{%- endfor -%}",
    ]
    return "\n".join(lines)


def _of_user(chat: ChatFormat, turns: EarlierTurns) -> list[str]:
    single = "{{- " + f"{_literal(chat.prefix)} ~ text ~ {_literal(chat.suffix)}" + " -}}"
    if turns.problem is not None:
        refusal = _refuse("This model was tuned for one input and its answer, not for longer conversations.")
        return ["{%- if messages | length > 2 -%}", refusal, "{%- endif -%}", single]
    earlier = "{{- " + f"({_literal(turns.prefix)} if loop.first else '') ~ text ~ {_literal(turns.suffix)}" + " -}}"
    last = "{{- " + f"text ~ {_literal(chat.suffix)}" + " -}}"
    return [
        "{%- if messages | length < 3 -%}",
        single,
        "{%- elif loop.index0 < messages | length - 2 -%}",
        earlier,
        "{%- else -%}",
        last,
        "{%- endif -%}",
    ]


def _refuse(message: str) -> str:
    return "{{- raise_exception(" + _literal(message) + ") -}}"


def _literal(text: str) -> str:
    """A text as Jinja reads it: its escapes are Python's, which JSON's are among where no character is escaped."""
    return json.dumps(text, ensure_ascii=False)
