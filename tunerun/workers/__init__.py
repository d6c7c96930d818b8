"""Where the engine runs: a process on this machine, or one on a node of a cluster; start, send, receive, end.

`base` has the Protocol of a worker, `registry` the kinds, and `remote` and `node` the two ends of a connection to
another machine. A new kind is a module that offers what `registry.WorkersModule` requires, and a line there.
"""
