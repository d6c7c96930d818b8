"""OpenAI's API, as its Python and Node clients use it: files, fine-tuning jobs, models and completions.

It follows what openai 3.57 for Python and 7.57 for Node send and read. Unsupported fields are refused by name, in
OpenAI's error envelope. `service.core` does not depend on this package.
"""
