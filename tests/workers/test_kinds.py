"""Missing requirements of each kind of worker are reported before anything is submitted."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tunerun.engine.settings import EngineSettings
from tunerun.errors import AccessError, InputError, MissingPackageError
from tunerun.workers import local, registry
from tunerun.workers.ray import RayWorkers, sharing
from tunerun.workers.slurm import SlurmWorkers

REPOSITORY = Path(__file__).parents[2]
RAY = RayWorkers(kind="ray", address="auto")
SLURM = SlurmWorkers(kind="slurm")


@pytest.mark.parametrize(
    ("section", "package", "line"),
    [(RAY, "ray", r"pip install 'tunerun\[ray\]'"), (SLURM, "submitit", r"pip install 'tunerun\[slurm\]'")],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    section: registry.Workers, package: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes before a worker is opened."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=line):
        registry.room(section)


def test_engines_of_one_machine_share_memory_and_cores() -> None:
    """A larger number of engines, and threads, that are set already are kept."""
    two, alone = (local.of_each(count, EngineSettings()) for count in (2, 1))
    assert (two.engines, two.threads) == (2, max(1, len(os.sched_getaffinity(0)) // 2))
    assert alone == EngineSettings()
    assert local.of_each(2, EngineSettings(threads=3, engines=5)) == EngineSettings(threads=3, engines=5)


def test_auto_requires_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is the value of RAY_ADDRESS, and an error without it."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match="RAY_ADDRESS is not set; set it, or give the cluster's host:port"):
        registry.room(RAY)
    monkeypatch.setenv("RAY_ADDRESS", "ray://somewhere")
    with pytest.raises(InputError, match="ray://somewhere; give host:port"):
        registry.room(RAY)


def test_a_cluster_that_does_not_answer_is_named() -> None:
    """The error comes at once, and says what to do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(AccessError, match=f"the Ray cluster at {address} cannot be reached: .*Connection refused"):
        registry.room(RAY.model_copy(update={"address": address}))


def test_a_machine_without_slurm_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to try the kind out without Slurm."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"this machine has no Slurm .* backend.workers.executor=local"):
        registry.room(SLURM)


@pytest.mark.parametrize(
    ("gpus", "cpus", "count", "engines"), [(0, 1, 16, 8), (0, 4, 16, 2), (0, 1, 3, 3), (0.5, 1, 16, 2), (2, 1, 16, 1)]
)
def test_workers_of_ray_that_share_a_device_share_its_memory(
    gpus: float, cpus: float, count: int, engines: int
) -> None:
    """Without GPUs as many as fit on the largest node, with a part of a GPU those of that GPU."""
    section = RAY.model_copy(update={"gpus_per_worker": gpus, "cpus_per_worker": cpus, "count": count})
    nodes = [
        {"Alive": alive, "Resources": {"CPU": cores}} for alive, cores in ((True, 8.0), (True, 2.0), (False, 64.0))
    ]
    assert sharing(section, nodes, EngineSettings()) == EngineSettings(engines=engines)


SUBMITS = """
import sys

sys.modules |= dict.fromkeys(("torch", "peft", "transformers", "safetensors", "tokenizers"))  # none can be imported
from pathlib import Path

from tests.engine.tiny_model import model_of, request_of
from tunerun.backends.local import LocalBackend
from tunerun.engine.settings import EngineSettings
from tunerun.errors import MissingPackageError
from tunerun.workers.slurm import SlurmWorkers

model, runs = model_of(Path(sys.argv[1])), Path(sys.argv[2])
with LocalBackend(runs, runs / "cache", workers=SlurmWorkers(kind="slurm", executor="local")) as backend:
    backend.prepare([])
    print(backend.submit(request_of(model)).backend)
with LocalBackend(runs, runs / "cache") as backend:
    try:
        backend.prepare([])
    except MissingPackageError as error:
        print(error)
"""


def test_a_machine_that_submits_to_a_cluster_needs_no_torch(tmp_path: Path, tiny_folder: Path) -> None:
    """Only the nodes need the extra `local`; a machine that runs engines needs it too."""
    command = [sys.executable, "-c", SUBMITS, str(tiny_folder), str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    submitted, missing = done.stdout.splitlines()
    assert submitted == "local"
    assert missing.startswith("the embedded engine needs torch, transformers, peft, safetensors, tokenizers")
