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
    from tunerun.backends.local import LocalSection
    from tunerun.job import BaseModelRef
    from tunerun.service.app import Service, Settings
    from tunerun.service.core.credentials import KeyFile

app = typer.Typer()
keys = typer.Typer(help="Manage the keys that the service accepts.", no_args_is_help=True)
app.add_typer(keys, name="keys")

STATE = "runs/service"
DEFAULT_MODEL = "smollm2-135m"
HOSTED = "models/"
"""The prefix of a source in conf/model that names a model of a hosted service, whose weights are not here."""

_NEEDED = ("fastapi", "uvicorn", "prometheus_client", "multipart")

Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")]
Port = Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port to listen on; 0: any that is free.")]
Workers = Annotated[
    str,
    typer.Option(
        metavar="N|SECTION",
        help="Number of engines that tune side by side, each with its base model in memory; or where they run, written "
        "as backend.workers: '{kind: ray, address: auto, gpus_per_worker: 1}'.",
    ),
]
Packing = Annotated[
    str,
    typer.Option(
        metavar="auto|off|N",
        help="Most waiting jobs of one base model that an engine trains together; auto: as many as fit into memory.",
    ),
]
Model = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[=SOURCE]",
        help="Base model, kept in memory: a choice of conf/model, a folder, a file or a name on the hub. NAME=SOURCE "
        f"serves SOURCE as NAME. May be repeated; {DEFAULT_MODEL} if no model is named.",
    ),
]
Tuned = Annotated[
    list[str] | None,
    typer.Option(metavar="RUN", help="Tuned model of --runs: tunedModels/NAME or MLflow run id; may be repeated."),
]
From = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="SWEEP",
        help="All tuned models of a sweep: sweep id, or experiment name for its newest sweep; may be repeated.",
    ),
]
State = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the service's keys, queue and tuned models.")]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="Where engines compute: auto, cpu, cuda or mps.")]
Threads = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="CPU threads of each engine; torch's own default if not given.")
]
Cache = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Folder of converted base models; the user's cache folder if not given."),
]
AllowRemote = Annotated[bool, typer.Option("--allow-remote", help="Allow a --host that other machines can reach.")]
AllowedHost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="Host name that requests may have, besides addresses and localhost; may be repeated."
    ),
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        help="Origin whose web pages may call the service, such as https://app.example.org; may be repeated.",
    ),
]
Proxy = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDRESS",
        help="Proxy whose X-Forwarded-For and X-Forwarded-Proto headers are trusted; may be repeated.",
    ),
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
    runs: Runs = Path("runs"),
    state: State = Path(STATE),
    device: Device = "auto",
    threads: Threads = None,
    cache: Cache = None,
    config_dir: ConfigDir = None,
    allow_remote: AllowRemote = False,
    allowed_host: AllowedHost = None,
    allow_origin: AllowOrigin = None,
    proxy: Proxy = None,
) -> None:
    """Serve tuning and answers over the APIs of Gemini and OpenAI.

    The embedded engine trains and answers, until Ctrl-C; queued jobs wait for the next start.
    """
    if context.invoked_subcommand is not None:
        return
    from tunerun.cli import tables
    from tunerun.engine import packages
    from tunerun.engine.base_model import cache_folder
    from tunerun.locks import held

    # Before the imports that need them, so that an error names the extra to install.
    packages.require(*_NEEDED, extra="serve", what="tunerun serve")
    from tunerun.service.app import KEYS_FILE, Settings
    from tunerun.service.core.selection import Selection, select
    from tunerun.service.screening import check_proxies
    from tunerun.service.server import address_of, listening
    from tunerun.service.server import serve as serve_forever

    check_proxies(proxy or [])
    engines = engines_of(workers, packing, device, threads, config_dir)
    cache = cache or cache_folder(None)
    sweeps, tuned = from_ or [], tuned or []
    # Tuned models bring the base models that they need, so the default is not loaded beside them.
    named = model or ([] if tuned or sweeps else [DEFAULT_MODEL])
    models = [model_of(name, config_dir) for name in named]
    # Only tuned models are looked up in a ledger; a service that just tunes needs no runs folder.
    selection = select(tuned, sweeps, runs, models, cache) if tuned or sweeps else Selection(tuple(models))
    settings = Settings(
        state.absolute(),
        selection.models,
        cache,
        workers=engines.workers,
        device=engines.device,
        threads=engines.threads,
        packing=engines.packing,
        allowed_hosts=[host, *(allowed_host or [])],
        allowed_origins=allow_origin or [],
        sweep_models=selection.sweep_models,
    )

    # Before the models are loaded, which can take minutes: a port or a folder in use is reported at once.
    with listening(host, port, allow_remote=allow_remote) as listener, held(settings.state, "service"):
        service = _loaded_service(settings)

        def announce() -> None:
            names, address = ", ".join(model.name for model in settings.models), address_of(listener)
            tables.out.print(f"tunerun serves {names} at {address}")
            for each in settings.sweep_models:
                tables.out.print(f"tunedModels/{each.row.id} is {each.trial}", soft_wrap=True)
            tables.out.print(
                f"OpenAI clients take base_url={address}/v1, Gemini clients the address alone.", soft_wrap=True
            )
            keys_file = tables.plain(str(state / KEYS_FILE))
            tables.out.print(f"The API key is in {keys_file}; `tunerun serve keys` adds and revokes.")
            tables.out.print(f"My library: {address}/   Ctrl-C ends it; the queue waits for the next start.")

        serve_forever(service, listener, announce, proxy or [])


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

    # An experiment has a name and a data set; those of the service are placeholders that nothing reads.
    section = f"{{kind: local, count: {workers}}}" if workers.isdecimal() else workers
    values = {"workers": section, "packing": packing, "device": device, "threads": threads or "null"}
    overrides = [f"backend.{name}={value}" for name, value in values.items()]
    base = ["name=serve", "dataset.path=none", "model=huggingface", "model.name=none", "backend=local"]
    backend = load([*base, *overrides], config_dir).backend
    assert isinstance(backend, LocalSection)  # noqa: S101 - `backend=local` is always one
    return backend


def _loaded_service(settings: Settings) -> Service:
    """Create the service and load its base models into memory; stderr shows which one, in a terminal with a clock."""
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
    gc.freeze()  # models live to the end: garbage collection need not scan them
    return service


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
    """List the ids, owners and scopes of the keys, not the keys themselves."""
    from tunerun.cli import tables

    tables.keys_table(_key_file(state).keys())


@keys.command()
def add(
    owner: Annotated[
        str, typer.Option(metavar="ADDRESS", help="E-mail address of the owner, to which permissions are granted.")
    ],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE", help="tuning (if not given), cloud-platform, or the URL of a scope; may be repeated."
        ),
    ] = None,
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
    identifier: Annotated[
        str, typer.Argument(metavar="KEY_ID", help="Id of a key, as `tunerun serve keys list` shows it.")
    ],
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
