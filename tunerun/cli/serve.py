"""`tunerun serve`: tuning and answers on the embedded engine over the wires of the Gemini API and OpenAI, and keys."""

from __future__ import annotations

import gc
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunerun.cli.options import ConfigDir, Runs
from tunerun.errors import ConfigError

if TYPE_CHECKING:
    import socket

    from tunerun.backends.local import LocalSection
    from tunerun.job import BaseModelRef
    from tunerun.service.app import Service, Settings
    from tunerun.service.core.credentials import KeyFile

app = typer.Typer(help="Serve tuning and answers on the embedded engine, as the Gemini API and OpenAI do.")
keys = typer.Typer(help="Manage the keys that the service accepts.", no_args_is_help=True)
app.add_typer(keys, name="keys")

STATE = "runs/service"
DEFAULT_MODEL = "smollm2-135m"
HOSTED = "models/"
"""The prefix of a source in conf/model that names a model of a hosted service, whose weights are not here."""

_NEEDED = ("fastapi", "uvicorn", "prometheus_client", "multipart")

Model = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[=SOURCE]",
        help="Base model, kept in memory: a choice of conf/model, a folder, a file, a hub name; NAME=: its name.",
    ),
]
Tuned = Annotated[
    list[str] | None,
    typer.Option(
        metavar="tunedModels/NAME", help="Tuned model of --runs to answer with, or its MLflow run id; several."
    ),
]
From = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="SWEEP", help="A sweep, or an experiment's newest: its tuned models; several."),
]
State = Annotated[Path, typer.Option("--state", help="Folder of the service's keys, queue and tuned models.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")]
Workers = Annotated[
    str,
    typer.Option(
        metavar="N|SECTION",
        help="Engines that tune side by side, each with its base model in memory; or where they run, as "
        "backend.workers: '{kind: ray, address: auto, gpus_per_worker: 1}'.",
    ),
]
Packing = Annotated[
    str, typer.Option(metavar="auto|off|N", help="Waiting jobs of one base model that an engine trains together.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of each engine.")]
Cache = Annotated[Path | None, typer.Option(help="Converted base models; the user's cache directory.")]
AllowRemote = Annotated[bool, typer.Option("--allow-remote", help="Listen on other addresses than loopback.")]
AllowedHost = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Host name that requests may have, besides addresses and localhost."),
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN", help="Origin whose web pages may call it from a browser, as https://app.example.org."
    ),
]
Proxy = Annotated[
    list[str] | None,
    typer.Option(metavar="ADDRESS", help="Proxy whose X-Forwarded-For and X-Forwarded-Proto are believed."),
]


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Workers = "1",
    packing: Packing = "auto",
    model: Model = None,
    tuned: Tuned = None,
    from_: From = None,
    runs: Runs = "runs",
    state: State = Path(STATE),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Threads = None,
    cache: Cache = None,
    config_dir: ConfigDir = None,
    allow_remote: AllowRemote = False,
    allowed_host: AllowedHost = None,
    allow_origin: AllowOrigin = None,
    proxy: Proxy = None,
) -> None:
    """Serve tuning as the Gemini API and OpenAI do, until Ctrl-C; queued jobs wait for the next start."""
    if context.invoked_subcommand is not None:
        return
    from tunerun.engine import packages
    from tunerun.engine.base_model import cache_folder
    from tunerun.locks import held

    packages.require(*_NEEDED, extra="serve", what="tunerun serve")
    from tunerun.service.app import Settings
    from tunerun.service.core.selection import Selection, select
    from tunerun.service.screening import check_proxies
    from tunerun.service.server import listening
    from tunerun.service.server import serve as serve_forever

    check_proxies(proxy or [])
    engines = engines_of(workers, packing, device, threads, config_dir)
    place = cache or cache_folder(None)
    sweeps, tuned = from_ or [], tuned or []
    named = model or ([] if tuned or sweeps else [DEFAULT_MODEL])
    models = [model_of(name, config_dir) for name in named]
    selection = Selection(tuple(models))
    if tuned or sweeps:
        selection = select(tuned, sweeps, Path(runs), models, place)
    settings = Settings(
        state.absolute(),
        selection.models,
        place,
        workers=engines.workers,
        device=engines.device,
        threads=engines.threads,
        packing=engines.packing,
        allowed_hosts=[host, *(allowed_host or [])],
        allowed_origins=allow_origin or [],
        sweep_models=selection.sweep_models,
    )
    with listening(host, port, allow_remote=allow_remote) as listener, held(settings.state, "service"):
        service = _ready(settings)
        serve_forever(service, listener, lambda: _announce(settings, listener, state), proxy or [])


def engines_of(
    workers: str, packing: str, device: str, threads: int | None, config_dir: list[str] | None
) -> LocalSection:
    """Return the engines' options as a `backend` section, checked like that of an experiment.

    Args:
        workers: a number of engines, or a section in Hydra's grammar.
        packing, device, threads: values of the section.
        config_dir: directories of YAML files.

    Raises:
        ConfigError: a value is not allowed.
    """
    from tunerun.backends.local import LocalSection
    from tunerun.compose import load

    section = f"{{kind: local, count: {workers}}}" if workers.isdecimal() else workers
    values = {"workers": section, "packing": packing, "device": device, "threads": threads or "null"}
    overrides = [f"backend.{name}={value}" for name, value in values.items()]
    base = ["name=serve", "dataset.path=none", "model=huggingface", "model.name=none", "backend=local"]
    backend = load([*base, *overrides], config_dir).backend
    assert isinstance(backend, LocalSection)  # noqa: S101 - `backend=local` is always one
    return backend


def _ready(settings: Settings) -> Service:
    """Create the service and load every base model into memory, showing which one, and in a terminal for how long."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from tunerun.cli import tables
    from tunerun.service.app import Service

    tables.err.print(f"making ready {', '.join(model.name for model in settings.models)}")
    service = Service(settings)
    numbers = itertools.count(1)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=tables.err, transient=True, disable=not tables.err.is_terminal) as progress:
        task = progress.add_task("")

        def show(model: BaseModelRef) -> None:
            text = f"loading {model.name} into memory ({next(numbers)} of {len(settings.models)})"
            progress.reset(task, description=text)
            if not tables.err.is_terminal:
                tables.err.print(text)

        service.answerer.load(show)
    gc.freeze()  # models live to the end: no garbage collection need look at them
    return service


def _announce(settings: Settings, listener: socket.socket, state: Path) -> None:
    """Print the address, the models and where the keys are."""
    from tunerun.cli import tables
    from tunerun.service.app import KEYS_FILE
    from tunerun.service.server import address_of

    names = ", ".join(model.name for model in settings.models)
    address, keys_file = address_of(listener), tables.plain(str(state / KEYS_FILE))
    tables.out.print(f"tunerun serves {names} at {address}")
    for one in settings.sweep_models:
        tables.out.print(f"tunedModels/{one.row.id} is {one.trial}", soft_wrap=True)
    tables.out.print(f"OpenAI clients take base_url={address}/v1, Gemini clients the address alone.", soft_wrap=True)
    tables.out.print(f"The API key is in {keys_file}; `tunerun serve keys` adds and revokes.")
    tables.out.print(f"My library: {address}/   Ctrl-C ends it; the queue waits for the next start.")


def model_of(text: str, config_dir: list[str] | None) -> BaseModelRef:
    """Return the base model of NAME[=SOURCE]; each of the two may be a choice of conf/model.

    NAME=SOURCE serves the source under this name, even if another model has it, so that programs written for a hosted
    model run here. A source alone is named by its last part.

    Args:
        text: the value of --model.
        config_dir: directories of YAML files.

    Raises:
        ConfigError: the model's weights are at a service, or its name cannot be used in a URL.
    """
    from tunerun.compose import choices, load
    from tunerun.service.core.catalogue import WIRE_NAME

    shipped = choices("model", config_dir)
    name, _, source = text.partition("=")
    source = source or name
    chosen = [f"model={source}"] if source in shipped else ["model=huggingface", "model.name=none"]
    model = load(["name=serve", "dataset.path=none", *chosen], config_dir).model
    if source in shipped and model.source.startswith(HOSTED):
        raise ConfigError(
            f"--model {text}: is a hosted service's model, whose weights are not here; say what to serve under its "
            f"name, such as --model {name}=smollm2-135m"
        )
    if source not in shipped:
        model = model.model_copy(update={"source": source})
    if source not in shipped or name != source:
        model = model.model_copy(update={"name": Path(name).name})
    if not WIRE_NAME.fullmatch(model.name):
        raise ConfigError(
            f"--model {text}: models/{model.name} cannot be a name on the wire; use letters, digits, dots, dashes "
            "and underscores, as --model my-model=SOURCE"
        )
    return model.reference()


@keys.command("list")
def list_keys(state: State = Path(STATE)) -> None:
    """List the keys and their owners; the secrets are in the file."""
    from tunerun.cli import tables

    file = _key_file(state)
    tables.keys_table(file.keys())


@keys.command()
def add(
    owner: Annotated[str, typer.Option(help="E-mail address, to which permissions are granted.")],
    scope: Annotated[list[str] | None, typer.Option(help="tuning, cloud-platform, or a URL; tuning.")] = None,
    state: State = Path(STATE),
) -> None:
    """Add a key and print it."""
    from tunerun.service.core.credentials import CLOUD_SCOPE, TUNING_SCOPE

    names = {"tuning": TUNING_SCOPE, "cloud-platform": CLOUD_SCOPE}
    scopes = [names.get(text, text) for text in scope or ["tuning"]]
    unknown = [text for text in scopes if not text.startswith("https://")]
    if unknown:
        raise ConfigError(
            [f"--scope {text}: use {', '.join(names)}, or a URL that begins with https://" for text in unknown]
        )
    typer.echo(_key_file(state).add(owner, scopes).secret)


@keys.command()
def revoke(
    identifier: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `keys list` shows it.")],
    state: State = Path(STATE),
) -> None:
    """Revoke a key; a running service refuses it at once."""
    from tunerun.cli import tables

    key = _key_file(state).revoke(identifier)
    tables.out.print(f"revoked {key.id} of {tables.plain(key.owner)}")


def _key_file(state: Path) -> KeyFile:
    from tunerun.service.app import KEYS_FILE
    from tunerun.service.core.credentials import KeyFile

    return KeyFile(state / KEYS_FILE)
