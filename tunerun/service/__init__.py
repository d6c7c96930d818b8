"""`tunerun serve`: the tuning methods of the Gemini API, v1beta, on the embedded engine.

A request goes down this list; nothing below knows what is above it:

    server       uvicorn, signals, where it may listen
    guard        who asks, how much is read and for how long, logs and metrics; before anything is parsed
    api, pages   the methods of the wire; the page "My library"
    wire         JSON as proto3 writes it -> what is asked; what is there -> JSON
    library      what may be done with tuned models, and by whom
    tuner        the queue of tuning jobs, and the engines that work it off
    answerer     prompts, answered together where that is possible
    state        SQLite

Facts of the wire: the API's discovery document of 2026-06-24, its tuning guide as last served (2025-04-28), and what
its clients really send. What this service decides by itself is said where it is decided.
"""
