"""A chat format as a chat template: Jinja text for any program that renders one, so that it writes what was trained.

The base model's own template may write more: a thought that is opened, today's date, a turn of tools. This one writes
exactly the chat format around an input, and refuses what the format has no place for. Light: text alone.
"""

from __future__ import annotations

import json

from tunerun.engine.chat import ChatFormat, EarlierTurns, SystemMessage


def template_of(chat: ChatFormat, turns: EarlierTurns) -> str:
    """Return a chat template that gives `chat.prompt(text)` for one turn of the user, with or without a prompt added.

    Args:
        turns: what is around earlier turns and a system message; where it has a problem, the template takes none.
    """
    lines = [
        *_opening(turns.system),
        "{%- for message in said -%}",
        "{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}",
        _refuse("This model was tuned for turns of user and assistant alone, and the user's comes first."),
        "{%- endif -%}",
        _set("text", "message"),
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


def _opening(system: SystemMessage) -> list[str]:
    """`said`, the messages of user and assistant, and `opening`, what a system message writes before the first input.

    An empty system message is none, as it is in training.
    """
    nothing = ["{%- set said = messages -%}", "{%- set opening = '' -%}"]
    if system.problem is not None:
        return nothing
    return [
        "{%- if messages[0]['role'] == 'system' -%}",
        _set("text", "messages[0]"),
        "{%- set said = messages[1:] -%}",
        f"{{%- set opening = ({_literal(system.before)} ~ text ~ {_literal(system.after)}) if text else '' -%}}",
        "{%- else -%}",
        *nothing,
        "{%- endif -%}",
    ]


def _set(name: str, message: str) -> str:
    content = f"{message}['content']"
    parts = f"{content} | map(attribute='text') | join"  # as clients send what may also hold images
    return "{%- set " + f"{name} = {content} if {content} is string else {parts}" + " -%}"


def _of_user(chat: ChatFormat, turns: EarlierTurns) -> list[str]:
    single = "{{- " + f"(opening if opening else {_literal(chat.prefix)}) ~ text ~ {_literal(chat.suffix)}" + " -}}"
    if turns.problem is not None:
        refusal = _refuse("This model was tuned for one input and its answer, not for longer conversations.")
        return ["{%- if said | length > 2 -%}", refusal, "{%- endif -%}", single]
    first = f"((opening if opening else {_literal(turns.prefix)}) if loop.first else '')"
    return [
        "{%- if said | length < 3 -%}",
        single,
        "{%- elif loop.index0 < said | length - 2 -%}",
        "{{- " + f"{first} ~ text ~ {_literal(turns.suffix)}" + " -}}",
        "{%- else -%}",
        "{{- " + f"text ~ {_literal(chat.suffix)}" + " -}}",
        "{%- endif -%}",
    ]


def _refuse(message: str) -> str:
    return "{{- raise_exception(" + _literal(message) + ") -}}"


def _literal(text: str) -> str:
    """A text as Jinja reads it: its escapes are Python's, which JSON's are among where no character is escaped."""
    return json.dumps(text, ensure_ascii=False)
