"""The wire of OpenAI's API, as its clients for Python and Node speak it: files, fine-tuning jobs, models and answers.

Facts of the wire that this follows: recorded with openai 3.57 for Python and 7.57 for Node. What is not offered is
refused in OpenAI's envelope with the field named; nothing of this package is known to `service.core`.
"""
