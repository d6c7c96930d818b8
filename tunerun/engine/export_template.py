"""Writes a chat format as a chat template, so that other programs render a prompt as it was in training.

The base model's own template may write more: the opening of a thought, today's date, a turn of tools. This one writes
exactly the chat format around an input, and refuses conversations that the format does not support.
"""

from __future__ import annotations

import json

from tunerun.engine.chat_format import ChatFormat, EarlierTurns, SystemMessage


def template_of(chat: ChatFormat, turns: EarlierTurns) -> str:
    """Return a chat template that renders one turn of the user as `chat.prompt(text)`.

    It does so with and without `add_generation_prompt`.

    Args:
        chat: the chat format of the last turn.
        turns: the chat format of earlier turns and a system message; if it has a problem, the template refuses them.
    """
    lines = [
        *_system_message(turns.system),
        "{%- for message in rest -%}",
        "{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}",
        _refuse("This model was tuned for turns of user and assistant alone, and the user's comes first."),
        "{%- endif -%}",
        _set("text", "message"),
        "{%- if message['role'] == 'user' -%}",
        *_user_turn(chat, turns),
        "{%- elif loop.last -%}",
        "{{- " + f"{_literal(chat.start)} ~ text ~ {_literal(chat.end)}" + " -}}",
        "{%- else -%}",
        "{{- " + f"text ~ {_literal(turns.between)}" + " -}}",
        "{%- endif -%}",
        "{%- endfor -%}",
    ]
    return "\n".join(lines)


def _system_message(system: SystemMessage) -> list[str]:
    """Return the lines that set `rest`, the messages after a system message, and `opening`, the text for it.

    An empty system message is ignored, as in training.
    """
    nothing = ["{%- set rest = messages -%}", "{%- set opening = '' -%}"]
    if system.problem is not None:
        return nothing
    return [
        "{%- if messages[0]['role'] == 'system' -%}",
        _set("text", "messages[0]"),
        "{%- set rest = messages[1:] -%}",
        f"{{%- set opening = ({_literal(system.before)} ~ text ~ {_literal(system.after)}) if text else '' -%}}",
        "{%- else -%}",
        *nothing,
        "{%- endif -%}",
    ]


def _set(name: str, message: str) -> str:
    content = f"{message}['content']"
    parts = f"{content} | map(attribute='text') | join"  # the form of clients that can also send images
    return "{%- set " + f"{name} = {content} if {content} is string else {parts}" + " -%}"


def _user_turn(chat: ChatFormat, turns: EarlierTurns) -> list[str]:
    single = "{{- " + f"(opening if opening else {_literal(chat.prefix)}) ~ text ~ {_literal(chat.suffix)}" + " -}}"
    if turns.problem is not None:
        refusal = _refuse("This model was tuned for one input and its answer, not for longer conversations.")
        return ["{%- if rest | length > 2 -%}", refusal, "{%- endif -%}", single]
    first = f"((opening if opening else {_literal(turns.prefix)}) if loop.first else '')"
    return [
        "{%- if rest | length < 3 -%}",
        single,
        "{%- elif loop.index0 < rest | length - 2 -%}",
        "{{- " + f"{first} ~ text ~ {_literal(turns.suffix)}" + " -}}",
        "{%- else -%}",
        "{{- " + f"text ~ {_literal(chat.suffix)}" + " -}}",
        "{%- endif -%}",
    ]


def _refuse(message: str) -> str:
    return "{{- raise_exception(" + _literal(message) + ") -}}"


def _literal(text: str) -> str:
    # Jinja has Python's escapes. JSON's are among them unless characters outside of ASCII are escaped.
    return json.dumps(text, ensure_ascii=False)
