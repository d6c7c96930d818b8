"""What each kind of worker needs, said before anything is submitted."""

from __future__ import annotations

import socket
import sys

import pytest

from tunerun.errors import AccessError, InputError, MissingPackageError
from tunerun.workers import registry
from tunerun.workers.ray import RayWorkers
from tunerun.workers.slurm import SlurmWorkers

RAY = RayWorkers(kind="ray", address="auto")
SLURM = SlurmWorkers(kind="slurm")


@pytest.mark.parametrize(
    ("section", "package", "line"),
    [(RAY, "ray", r"pip install 'tunerun\[ray\]'"), (SLURM, "submitit", r"pip install 'tunerun\[slurm\]'")],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    section: registry.Workers, package: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is opened."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=line):
        registry.room(section)


def test_a_cluster_is_never_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is what the environment says, and nothing where it says nothing."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match="RAY_ADDRESS is not set; set it, or give the cluster's host:port"):
        registry.room(RAY)
    monkeypatch.setenv("RAY_ADDRESS", "ray://somewhere")
    with pytest.raises(InputError, match="ray://somewhere; give host:port"):
        registry.room(RAY)


def test_a_cluster_that_does_not_answer_is_named() -> None:
    """With what to do, at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(AccessError, match=f"the Ray cluster at {address} cannot be reached: .*Connection refused"):
        registry.room(RAY.model_copy(update={"address": address}))


def test_a_machine_without_slurm_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the way to try it out."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"this machine has no Slurm .* backend.workers.executor=local"):
        registry.room(SLURM)
