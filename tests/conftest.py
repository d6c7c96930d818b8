"""Every test starts from a clean environment, in a directory of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLES = [{"text_input": str(n), "output": str(n + 1)} for n in range(0, 60, 2)]


settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
"""A loaded machine is slow, not wrong: hypothesis by itself fails an example that takes 200 ms."""
settings.register_profile("quick", deadline=None, max_examples=10)
"""Of `make test-fast`: each law is tried, on a tenth of the examples."""

NEEDS = {
    "engine": ("engine_cache", "tiny_folder", "smollm2"),
    "mlflow": ("made_store", "store"),
    "browser": ("driver",),
}
"""The marks of what a test needs, and the fixtures that provide it; a test without such a fixture is marked where it is
written."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with what it needs, and as slow where it needs anything: `-m 'not slow'` runs while one thinks."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        for need, providers in NEEDS.items():
            if any(provider in fixtures for provider in providers):
                item.add_marker(need)
        if any(item.get_closest_marker(need) for need in (*NEEDS, "process")) or _is_repetition(item):
            item.add_marker("slow")


def _is_repetition(item: pytest.Item) -> bool:
    """Whether a test marked `thorough` is more than the first case of its table."""
    cases = getattr(item, "callspec", None)
    return item.get_closest_marker("thorough") is not None and (cases is None or any(cases.indices.values()))


@pytest.fixture(scope="session", autouse=True)
def forked_engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Engine processes are forked from one that has imported torch, for all processes of pytest-xdist together."""
    if not hasattr(os, "pidfd_open"):  # Linux
        yield
        return
    own = tmp_path_factory.getbasetemp()
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    folder, owner = (own.parent, os.getppid()) if is_worker else (own, os.getpid())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent / "forked_engines"))
        patch.setenv("TUNERUN_TEST_ENGINES", f"{owner} {folder / 'engines'}")
        yield


@pytest.fixture
def own_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each engine is the very process that is started."""
    monkeypatch.delenv("PYTHONPATH", raising=False)


@pytest.fixture(autouse=True)
def clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nothing of the user's own settings reaches a test; no test asks a model hub or reports its usage."""
    # A base model in the user's cache would make token counts exact; what a test prints must not depend on that.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.with_name(f"{tmp_path.name}-user-cache")))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp() / "matplotlib"))  # its fonts, listed once
    for name in list(os.environ):
        if name.startswith(("TUNERUN_", "MLFLOW_", "HF_")) and not name.startswith("TUNERUN_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # Engines run side by side, one a core; with two threads each they would wait for each other longer than they work.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def examples_file(tmp_path: Path) -> Path:
    """Thirty examples in a JSON Lines file."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in EXAMPLES))
    return file


@pytest.fixture(scope="session")
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of base models, for all tests; TUNERUN_TEST_CACHE keeps the converted real model between runs."""
    kept = os.environ.get("TUNERUN_TEST_CACHE")
    if kept:
        return Path(kept)
    # The processes of pytest-xdist have folders side by side: what one has converted, the others find.
    own = tmp_path_factory.getbasetemp()
    cache = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "engine_cache"
    cache.mkdir(exist_ok=True)
    return cache
