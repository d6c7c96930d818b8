"""`tunerun serve`: tuning and answers on the embedded engine, over the wires of the Gemini API and of OpenAI's.

A request goes down this list; nothing below knows what is above it:

    server            uvicorn, signals, where it may listen
    guard             who asks, how much is read and for how long, logs and metrics; before anything is parsed
    gemini/, openai/  a wire each: requests -> the core's types; what is there -> the wire's own JSON
    page/             the page "My library"
    core/             tuned models, the queue and its engines, answers, keys, files; SQLite

What this service decides by itself, because no document of the wire says it, is said where it is decided.
"""
