"""`python -m tunerun.engine`: the engine's own process; see `worker`."""

from tunerun.engine.worker import main

if __name__ == "__main__":
    main()
