"""Differences in packages, CPU and threads between a record's machine and this one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tunerun.provenance import Environment
from tunerun.record.sources import OpenRecord

_MOST_NAMED = 8
"""Packages or instruction sets in one note, which is a line in the terminal; `tunerun diff` lists all of them."""


def environment_notes(record: OpenRecord, now: Environment) -> Iterator[str]:
    """Yield differences that may change the bits of a result, one line each; none is an error.

    Args:
        record: of the sweep.
        now: the environment of this machine.
    """
    then = record.facts.environment
    jobs = record.ledger.last_jobs(record.sweep.id)
    trained = [on for t in record.trials if t.key in jobs and (on := jobs[t.key].trained_on) is not None]
    if not then.packages and not trained:
        yield (
            "environment: an earlier tunerun wrote the record, without packages, CPU and threads; results are still "
            "compared, but the cause of a difference cannot be named"
        )
        return
    # The packages that compute come first: `verify` counts another version of torch as a difference, one of rich not.
    computing = {name: version for on in trained for name, version in on.packages.items()}
    others = {name: version for name, version in then.packages.items() if name not in computing}
    if now.packages:
        yield from _packages("packages that compute", computing, now.packages)
        yield from _packages("other packages", others, now.packages)
    if then.python and now.python and then.python != now.python:
        yield f"environment: Python {then.python} -> {now.python}"
    # The instruction set decides in what order numbers are added, and so the last bits of each sum.
    missing, more = (
        sorted({*a} - {*b}) for a, b in ((then.instructions, now.instructions), (now.instructions, then.instructions))
    )
    if then.instructions and (missing or more):
        sets = [
            f"{what} {' '.join(each[:_MOST_NAMED])}" for what, each in (("without", missing), ("with", more)) if each
        ]
        yield f"environment: {then.processor} -> {now.processor}, {' and '.join(sets)}"
    threads = max((on.threads for on in trained), default=0)
    if now.cores and threads > now.cores:
        yield (
            f"environment: it uses {threads} threads as in training, to add in the same order; this "
            f"machine has {now.cores} cores, so backend.threads={now.cores} may be faster, with other last bits"
        )


def _packages(what: str, then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    differing = package_differences(then, now)
    if differing:
        more = f" and {len(differing) - _MOST_NAMED} more" if len(differing) > _MOST_NAMED else ""
        yield f"environment: {what} differ: {', '.join(differing[:_MOST_NAMED])}{more}"


def package_differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Describe the packages of a record that have another version now or are missing.

    Args:
        then: the recorded versions by name.
        now: the installed versions by name.
    """
    return [
        f"{name} {version} -> {now.get(name, 'not installed')}"
        for name, version in sorted(then.items())
        if now.get(name) != version
    ]
