"""Where the engine runs: in a process on this machine, or on a node of a cluster.

`base` has the Protocol of a worker, `registry` the kinds, `remote` and `node` the two ends of a connection to another
machine. To add a kind, write a module that conforms to `registry.WorkersModule` and register it there in one line.
"""
