"""What every wire of the service shares: base models, tuned models, the queue, keys, files, answers and what is stored.

Nothing here knows how a wire writes a request or an answer: a wire reads a request into the types of this package
(`NewModel`, `Prompt`), and writes rows and refusals in its own words.
"""
