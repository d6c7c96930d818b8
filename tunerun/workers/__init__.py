"""Where the engine runs: a process on this machine, or one on a cluster's node; start, send, receive, end.

`base` is what every worker does, `registry` lists the kinds, `pool` shares the work among several. A new kind is a
module with what `registry.WorkersModule` asks for, and a line there.
"""
