"""`python -m tunerun` is the same program as `tunerun`."""

from tunerun.cli import program

if __name__ == "__main__":
    program()
