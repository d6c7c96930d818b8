"""The embedded engine: trains and calls open base models on this machine.

Light, importable by `plan` and `backends/local.py`: `base_model` (find and prepare), `chat`, `tokens`, `tuned_model`
(the folder's format), `messages` and `process` (the engine's process, seen from outside).

Heavy, imported inside the engine's own process: `conversion`, `network`, `encoding`, `training`, `generation`,
`worker`. Nothing in the engine reads the ledger or an Experiment.
"""
