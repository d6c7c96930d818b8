"""The wire-independent core of the service: models, the job queue, API keys, files, answers, and the database.

Nothing here depends on the format of requests and responses: a wire parses a request into types of this package
(`NewModel`, `Prompt`), and serialises rows and errors in its own format.
"""
