"""`tunerun serve`: tuning and answers on the embedded engine, over the wires of the Gemini API and of OpenAI's.

A request goes down this list; nothing below imports anything above it:

    server            uvicorn, signals, the address
    middleware        authentication, limits on size and time, logs and metrics, before anything is parsed
    gemini/, openai/  a wire each: requests -> the core's types; rows -> the wire's own JSON
    page/             the page "My library"
    core/             tuned models, the queue and its engines, answers, keys, files; SQLite

Decisions of our own, where no document of a wire states a behaviour, are noted where they are made.
"""
