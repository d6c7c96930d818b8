"""What each kind of worker needs is reported before anything is submitted."""

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
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    section: registry.Workers, package: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is opened."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=line):
        registry.room(section)


def test_engines_of_one_machine_divide_it() -> None:
    """Memory and cores; what a service has beside them counts, and threads that are set stay."""
    two, alone = (local.of_each(count, EngineSettings()) for count in (2, 1))
    assert (two.engines, two.threads) == (2, max(1, len(os.sched_getaffinity(0)) // 2))
    assert alone == EngineSettings()
    assert local.of_each(2, EngineSettings(threads=3, engines=5)) == EngineSettings(threads=3, engines=5)


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


def test_a_machine_without_slurm_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the way to try it out."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"this machine has no Slurm .* backend.workers.executor=local"):
        registry.room(SLURM)


@pytest.mark.parametrize(
    ("gpus", "cpus", "count", "engines"), [(0, 1, 16, 8), (0, 4, 16, 2), (0, 1, 3, 3), (0.5, 1, 16, 2), (2, 1, 16, 1)]
)
def test_workers_of_ray_that_share_a_device_divide_its_memory(
    gpus: float, cpus: float, count: int, engines: int
) -> None:
    """Those on the largest node share its main memory, those with a part of a GPU share that GPU."""
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
    """Only the nodes need the extra local; where the engines run here, it is asked for."""
    command = [sys.executable, "-c", SUBMITS, str(tiny_folder), str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    submitted, missing = done.stdout.splitlines()
    assert submitted == "local"
    assert missing.startswith("the embedded engine needs torch, transformers, peft, safetensors, tokenizers")
