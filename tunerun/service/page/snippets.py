"""Programs that call a tuned model, one for each client library, to copy from its page.

Names and addresses are inserted as JSON strings, which are strings of Python and JavaScript too: names contain only
letters, digits and `:-._/`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from string import Template

KEY_VARIABLE = "TUNERUN_API_KEY"
"""The environment variable that holds the key in every snippet, so that programs do not contain it."""


@dataclass(frozen=True)
class Snippet:
    """A program to copy.

    Attributes:
        id: identifies it on the page.
        name: its client library and language.
        install: the command that installs the library; empty: not needed.
        code: the program.
    """

    id: str
    name: str
    install: str
    code: str


_OPENAI_PYTHON = """\
import os
from openai import OpenAI

client = OpenAI(base_url=$openai_url, api_key=os.environ["$key_variable"])
answer = client.chat.completions.create(
    model=$openai_name,
    messages=[{"role": "user", "content": "Hello"}],
)
print(answer.choices[0].message.content)"""

_OPENAI_NODE = """\
import OpenAI from "openai";

const client = new OpenAI({ baseURL: $openai_url, apiKey: process.env.$key_variable });
const answer = await client.chat.completions.create({
  model: $openai_name,
  messages: [{ role: "user", content: "Hello" }],
});
console.log(answer.choices[0].message.content);"""

_GEMINI_PYTHON = """\
import os
import google.generativeai as genai

genai.configure(
    api_key=os.environ["$key_variable"],
    transport="rest",
    client_options={"api_endpoint": $gemini_url},
)
model = genai.GenerativeModel($gemini_name)
print(model.generate_content("Hello").text)"""

# `$$` is a `$` in a Template: the shell reads the key from its variable.
_CURL = """\
curl $address/v1beta/$gemini_path:generateContent \\
  -H "x-goog-api-key: $$$key_variable" \\
  -H "content-type: application/json" \\
  -d '{"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}'"""

_PROGRAMS = (
    ("openai-python", "openai, Python", "pip install openai", _OPENAI_PYTHON),
    ("openai-node", "openai, Node", "npm install openai", _OPENAI_NODE),
    ("gemini-python", "google-generativeai, Python", "pip install google-generativeai", _GEMINI_PYTHON),
    ("curl", "curl, Gemini API", "", _CURL),
)


def snippets(address: str, openai_name: str, gemini_name: str) -> tuple[Snippet, ...]:
    """Return programs that call one tuned model.

    Args:
        address: of this service, such as `http://127.0.0.1:8000`.
        openai_name: the model's name on the OpenAI wire.
        gemini_name: the model's name on the Gemini wire, such as `tunedModels/router`.
    """
    # google-generativeai takes the address alone, and appends `/v1beta`; over gRPC, its default, it would need https.
    values = {
        "key_variable": KEY_VARIABLE,
        "address": address,
        "openai_url": json.dumps(f"{address}/v1"),
        "openai_name": json.dumps(openai_name),
        "gemini_url": json.dumps(address),
        "gemini_name": json.dumps(gemini_name),
        "gemini_path": gemini_name,
    }
    return tuple(
        Snippet(identifier, name, install, Template(code).substitute(values))
        for identifier, name, install, code in _PROGRAMS
    )
