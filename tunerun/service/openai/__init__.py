"""The wire of OpenAI's API, as its clients for Python and Node speak it: files, fine-tuning jobs, models and answers.

It follows what openai 3.57 for Python and 7.57 for Node send and read. Fields that are not supported are refused in
OpenAI's envelope, by name; `service.core` does not know this package.
"""
