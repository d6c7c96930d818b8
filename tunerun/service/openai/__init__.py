"""The wire of OpenAI's API: files, fine-tuning jobs, models, chat completions and completions.

Facts of the wire: the types of openai-python 3.57, its requests as recorded on 2026-11-25, and stored public output of
the real service. What this service decides by itself is said where it is decided.
"""
