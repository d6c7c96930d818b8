"""`make clients`: third-party clients, each in an environment of its own, against a real `tunerun serve`.

The base model is the tests' tiny one, which learns the examples by heart in a second, so the answers of the tuned model
are known. Prints a table of what each client can do. Exits with 1 if one of them fails at a listed check.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI

from tests.engine import tiny_model
from tests.service.process import Process
from tunerun.job import BaseModelRef

HERE = Path(__file__).parent
CONTEXT_TOKENS = 4096
"""DSPy's prompts have some hundred tokens; the tiny model does not learn positions, so any length works."""

BASE, ALIAS = "tiny", "gpt-4o-mini-2024-07-18"
"""LlamaIndex and DSPy's LiteLLM accept OpenAI's model names only: `tunerun serve --model NAME=SOURCE`."""

CHECKS = ("tune", "base", "tuned", "stream", "two turns")


@dataclass(frozen=True)
class Client:
    """A client's script, and the packages that it needs; `.mjs` scripts are Node's."""

    script: str
    packages: tuple[str, ...]


CLIENTS = (
    Client("with_openai.py", ("openai==3.57.0",)),
    Client("with_openai.mjs", ("openai@7.57.0",)),
    Client("with_litellm.py", ("litellm==1.110.2",)),
    Client("with_langchain.py", ("langchain-openai==1.7.4",)),
    Client(
        "with_llamaindex.py",
        ("llama-index-finetuning==0.4.2", "mistralai<2", "llama-index-llms-openai-like"),
    ),
    Client("with_ai_sdk.mjs", ("ai@6.0.326", "@ai-sdk/openai@3.0.141", "@ai-sdk/openai-compatible@2.0.92")),
    Client("with_dspy.py", ("dspy==3.4.1",)),
    Client("with_google_genai.py", ("google-genai==1.10.0",)),
)


def tuned_model(folder: Path, address: str, key: str) -> dict[str, str]:
    """Tune the model that all clients call, and return the environment variables for their scripts."""
    rows = folder / "train.jsonl"
    messages = [
        [{"role": "user", "content": one.text_input}, {"role": "assistant", "content": one.output}]
        for one in tiny_model.EXAMPLES * 2  # LlamaIndex wants ten
    ]
    rows.write_text("".join(json.dumps({"messages": each}) + "\n" for each in messages))
    client = OpenAI(base_url=f"{address}/v1", api_key=key)
    with rows.open("rb") as opened:
        file = client.files.create(file=opened, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=BASE,
        training_file=file.id,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 40, "batch_size": 7, "learning_rate_multiplier": 10.0}},
        },
    )
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.2)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.fine_tuned_model is not None, job
    with httpx.Client(base_url=f"{address}/v1beta", headers={"x-goog-api-key": key}, trust_env=False) as gemini:
        (row,) = gemini.get("/tunedModels").json()["tunedModels"]
    names = {"BASE": BASE, "ALIAS": ALIAS, "TUNED": job.fine_tuned_model, "TUNED_ID": row["name"].partition("/")[2]}
    given = {"ADDRESS": address, "KEY": key, "TRAIN": str(rows), **names}
    return {f"TUNERUN_{name}": text for name, text in given.items()}


def run(client: Client, environments: Path, given: Mapping[str, str]) -> list[dict[str, Any]]:
    """Run a client's script in its environment, which is created if it does not exist; return the lines of its report."""
    home = environments / client.script.replace(".", "-")
    is_node = client.script.endswith(".mjs")
    made = home / "made"
    if not made.exists() or made.read_text() != repr(client.packages):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        (make_node if is_node else make_python)(home, client.packages)
        made.write_text(repr(client.packages))
    if is_node:
        for name in ("checks.mjs", client.script):  # Node looks for packages beside the script
            shutil.copy(HERE / name, home / name)
        command = ["node", client.script]
    else:
        command = [str(home / "bin" / "python"), str(HERE / client.script)]
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("OPENAI_", "GEMINI_"))}
    quiet = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "ANONYMIZED_TELEMETRY": "false",
        "DSPY_CACHEDIR": str(home / "cache"),
    }
    done = subprocess.run(
        command,
        cwd=home,
        env=environment | quiet | dict(given),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    if done.returncode:
        why = " ".join(done.stderr.split())[-400:]
        said.append({"check": "script", "ok": False, "why": why})
    return said


def make_python(home: Path, packages: Sequence[str]) -> None:
    """Create a virtual environment with packages, with the installed `uv`."""
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    subprocess.run(
        [str(uv), "pip", "install", "--quiet", "--python", str(home / "bin" / "python"), *packages], check=True
    )


def make_node(home: Path, packages: Sequence[str]) -> None:
    """Install packages into a folder of Node's."""
    (home / "package.json").write_text('{"private": true}\n')
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", *packages], cwd=home, check=True)


def report(client: Client, said: Sequence[Mapping[str, Any]]) -> bool:
    """Print a client's line of the table and its failures; return whether all checks passed."""
    found = {str(one["check"]): one for one in said if "check" in one}
    versions = [str(one["version"]) for one in said if "version" in one]
    marks = [("yes" if found[name]["ok"] else "NO") if name in found else "" for name in CHECKS]
    more = [f"{name}: {'yes' if one['ok'] else 'NO'}" for name, one in found.items() if name not in CHECKS]
    say(f"| {client.script} | {', '.join(versions)} | {' | '.join(marks)} | {', '.join(more)} |")
    for name, one in found.items():
        if not one["ok"]:
            say(f"    {client.script}: {name}: {one['why']}")
    return bool(found) and all(one["ok"] for one in found.values())


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the named clients, or all of them."""
    parser = argparse.ArgumentParser(prog="make clients", description=__doc__)
    known = {Path(one.script).stem.removeprefix("with_") for one in CLIENTS}
    parser.add_argument("names", nargs="*", help=f"of the clients ({', '.join(sorted(known))}); none: all")
    parser.add_argument("--environments", type=Path, default=Path(".clients"), help="kept between runs")
    options = parser.parse_args()
    if unknown := sorted({*options.names} - known):
        parser.error(f"no client is called {', '.join(unknown)}; there is {', '.join(sorted(known))}")
    chosen = [
        one for one in CLIENTS if not options.names or Path(one.script).stem.removeprefix("with_") in options.names
    ]
    with tempfile.TemporaryDirectory() as folder:
        base = tiny_model.build(Path(folder, "tiny"))
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT_TOKENS}))
        service = Process(Path(folder), BaseModelRef(name=BASE, source=str(base)), Path(folder, "cache"))
        service.command += ["--model", f"{ALIAS}={base}"]
        try:
            with service.start() as client:
                address = str(client.http.base_url).rpartition("/v1beta")[0]
                given = tuned_model(Path(folder), address, client.http.headers["x-goog-api-key"])
                say("| client | version | " + " | ".join(CHECKS) + " | more |")
                say("| --- | --- |" + " --- |" * (len(CHECKS) + 1))
                worked = [report(one, run(one, options.environments.resolve(), given)) for one in chosen]
            service.end(signal.SIGTERM)
        finally:
            service.stop()
    sys.exit(0 if all(worked) else 1)


if __name__ == "__main__":
    main()
