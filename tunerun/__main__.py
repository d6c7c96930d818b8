"""`python -m tunerun` is the same program as `tunerun`."""

from tunerun.cli import main

if __name__ == "__main__":
    main()
