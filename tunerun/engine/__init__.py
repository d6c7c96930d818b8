"""The embedded engine: trains and calls open base models on this machine.

Modules without torch, which `plan` and `backends/local/` import: `base_model` (find), `prepared_model`,
`chat_format`, `token_counter`, `tuned_model` (the folder's format), `messages` and `process` (the engine as a child
process).

Modules with torch, which are imported in the engine's process: `loading`, `network`, `encoding`, `training`,
`generation`, `session`. Nothing in the engine reads the ledger or an Experiment.
"""
