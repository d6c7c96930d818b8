"""Engine processes for tests, forked from one that has imported torch and transformers.

An engine spends 4 to 6 s of CPU on imports before it reads its first command, and the suite starts some two hundred.
Here one process imports once for all tests (`server`). The folder is on PYTHONPATH in tests, so that Python runs
`sitecustomize` first: in `python -m tunerun.engine` it has the server fork the engine, hands it its streams, and stays
as the process that tunerun knows: a signal that ends it ends the engine, and it ends as the engine ends.

A test that needs the engine in the very process that was started, for a limit on it, asks for `own_engines`.
"""
