"""Exceptions of the engine, and the failure of a job that each exception leads to."""

from __future__ import annotations

import traceback

from tunerun.errors import InputError
from tunerun.job import Failure, FailureKind

# torch on cuda, mps and CPU; errno.ENOMEM; the dynamic linker
_OUT_OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "failed to map segment")


class DivergedError(Exception):
    """The loss or the adapter has become NaN or infinite."""


class CancelledJobError(Exception):
    """The job was cancelled between two steps."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of a library or of the operating system reports that memory ran out."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def failure_of(error: Exception) -> Failure:
    """Return the failure of a job that ended with an exception; the traceback is kept for unexpected exceptions."""
    if isinstance(error, DivergedError):
        return Failure(FailureKind.DIVERGED, str(error))
    if isinstance(error, InputError):
        return Failure(FailureKind.INVALID, str(error))
    trace = "".join(traceback.format_exception(error))
    first_line = (str(error).strip().splitlines() or [""])[0]
    if is_out_of_memory(error):
        message = f"out of memory: {first_line}; lower hyperparameters.batch_size, or choose a smaller base model"
        return Failure(FailureKind.OUT_OF_MEMORY, message, trace)
    return Failure(FailureKind.CRASHED, f"{type(error).__name__}: {first_line}", trace)
