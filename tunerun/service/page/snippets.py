"""Programs that call a tuned model, one for each client library, to copy from its page.

A name is written as JSON, which is a string of Python, of JavaScript and, in single quotes, of a shell as well: names
hold letters, digits and `:-._/` alone.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass

KEY_VARIABLE = "TUNERUN_API_KEY"
"""The environment variable that holds the key in every snippet, so that programs do not contain it."""


@dataclass(frozen=True)
class Snippet:
    """A program to copy; `name` of its client, `install`: the command that installs it, empty: not needed."""

    id: str
    name: str
    install: str
    code: str


def snippets(address: str, openai_name: str, gemini_name: str) -> tuple[Snippet, ...]:
    """Return programs that call one tuned model.

    Args:
        address: of this service, such as `http://127.0.0.1:8000`.
        openai_name: as the OpenAI wire calls it; gemini_name: as the Gemini wire does.
    """
    base, model, named = json.dumps(f"{address}/v1"), json.dumps(openai_name), json.dumps(gemini_name)
    body = json.dumps({"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]})
    return (
        _snippet(
            "openai-python",
            "openai, Python",
            "pip install openai",
            f"""
            import os
            from openai import OpenAI

            client = OpenAI(base_url={base}, api_key=os.environ["{KEY_VARIABLE}"])
            answer = client.chat.completions.create(
                model={model},
                messages=[{{"role": "user", "content": "Hello"}}],
            )
            print(answer.choices[0].message.content)
            """,
        ),
        _snippet(
            "openai-node",
            "openai, Node",
            "npm install openai",
            f"""
            import OpenAI from "openai";

            const client = new OpenAI({{ baseURL: {base}, apiKey: process.env.{KEY_VARIABLE} }});
            const answer = await client.chat.completions.create({{
              model: {model},
              messages: [{{ role: "user", content: "Hello" }}],
            }});
            console.log(answer.choices[0].message.content);
            """,
        ),
        _snippet(
            "gemini-python",
            "google-generativeai, Python",
            "pip install google-generativeai",
            f"""
            import os
            import google.generativeai as genai

            genai.configure(
                api_key=os.environ["{KEY_VARIABLE}"],
                transport="rest",
                client_options={{"api_endpoint": {json.dumps(address)}}},
            )
            model = genai.GenerativeModel({named})
            print(model.generate_content("Hello").text)
            """,
        ),
        _snippet(
            "curl",
            "curl, Gemini's words",
            "",
            f"""
            curl {address}/v1beta/{gemini_name}:generateContent \\
              -H "x-goog-api-key: ${KEY_VARIABLE}" \\
              -H "content-type: application/json" \\
              -d '{body}'
            """,
        ),
    )


def _snippet(identifier: str, name: str, install: str, code: str) -> Snippet:
    return Snippet(identifier, name, install, textwrap.dedent(code).strip("\n"))
