"""`tunerun serve`: the tuning methods of the Gemini API on the embedded engine, and the keys that open them."""

from __future__ import annotations

import gc
import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunerun.errors import ConfigError

if TYPE_CHECKING:
    from tunerun.job import BaseModelRef
    from tunerun.service.credentials import KeyFile

app = typer.Typer(help="Serve the tuning methods of the Gemini API on this machine's embedded engine.")
keys = typer.Typer(help="The keys that the service accepts.", no_args_is_help=True)
app.add_typer(keys, name="keys")

STATE = "runs/service"
_WIRE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
HOSTED = "models/"
"""How the source of a choice begins that names a hosted service's model and nothing that is on this machine."""

_NEEDED = ("fastapi", "uvicorn", "prometheus_client", "multipart")

State = Annotated[Path, typer.Option("--state", help="Folder of the service's keys, queue and tuned models.")]


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Tuning jobs at once; each has its base model in memory.")] = 1,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=SOURCE]",
            help="Base model, kept in memory: a choice of conf/model, a folder, a file, a hub name; NAME=: its name.",
        ),
    ] = None,
    state: State = Path(STATE),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each engine.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Converted base models; the user's cache directory.")] = None,
    config_dir: Annotated[str | None, typer.Option("--config-dir", "-cd", help="Directory of YAML files.")] = None,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Listen on other than loopback.")] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name by which it may be asked, besides addresses and localhost."),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Proxy whose X-Forwarded-For and X-Forwarded-Proto are believed."),
    ] = None,
) -> None:
    """Serve the tuning methods of the Gemini API, v1beta, until Ctrl-C; what is queued waits for the next start."""
    if context.invoked_subcommand is not None:
        return
    from tunerun.cli import tables
    from tunerun.engine import packages
    from tunerun.engine.base_model import cache_folder
    from tunerun.holding import held

    packages.require(*_NEEDED, extra="serve", what="tunerun serve")
    from tunerun.service.app import KEYS_FILE, Service, Settings
    from tunerun.service.screening import check_proxies
    from tunerun.service.server import address_of, listening
    from tunerun.service.server import serve as serve_forever

    check_proxies(proxy or [])
    models = [model_of(name, config_dir) for name in model or ["smollm2-135m"]]
    settings = Settings(
        state.absolute(),
        models,
        cache or cache_folder(None),
        workers=workers,
        device=device,
        threads=threads,
        allowed_hosts=[host, *(allowed_host or [])],
    )
    with listening(host, port, allow_remote=allow_remote) as listener, held(settings.state, "service"):
        names = ", ".join(m.name for m in models)
        tables.err.print(f"making ready {names}")
        service = Service(settings)
        with _loading(len(models)) as say_loading:
            service.answerer.load(say_loading)
        gc.freeze()
        address, keys_file = address_of(listener), tables.plain(str(state / KEYS_FILE))

        def say() -> None:
            tables.out.print(f"tunerun serves {names} at {address}")
            tables.out.print(f"The API key lies in {keys_file}; `tunerun serve keys` adds and revokes.")
            tables.out.print(f"My library: {address}/   Ctrl-C ends it; the queue waits for the next start.")

        serve_forever(service, listener, say, proxy or [])


@contextmanager
def _loading(count: int) -> Iterator[Callable[[BaseModelRef], None]]:
    """A context that says which base model is loaded, and in a terminal for how long already."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from tunerun.cli import tables

    numbers = itertools.count(1)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=tables.err, transient=True, disable=not tables.err.is_terminal) as progress:
        task = progress.add_task("")

        def say(model: BaseModelRef) -> None:
            text = f"loading {model.name} into memory ({next(numbers)} of {count})"
            progress.reset(task, description=text)
            if not tables.err.is_terminal:
                tables.err.print(text)

        yield say


def model_of(given: str, config_dir: str | None) -> BaseModelRef:
    """A base model as NAME[=SOURCE]; each of the two may be a choice of conf/model.

    NAME=SOURCE serves the source under that name, also where it is a choice's, so that what was written for another
    place's model runs here; a source alone is named by its last part.
    """
    from tunerun.compose import choices, load

    shipped = choices("model", config_dir)
    name, _, source = given.partition("=")
    source = source or name
    chosen = [f"model={source}"] if source in shipped else ["model=huggingface", "model.name=none"]
    model = load(["name=serve", "dataset.path=none", *chosen], config_dir).model
    if source in shipped and model.source.startswith(HOSTED):
        raise ConfigError(
            f"--model {given}: is a hosted service's model, whose weights are not here; say what to serve under its "
            f"name, such as --model {name}=smollm2-135m"
        )
    if source not in shipped:
        model = model.model_copy(update={"source": source})
    if source not in shipped or name != source:
        model = model.model_copy(update={"name": Path(name).name})
    if not _WIRE_NAME.fullmatch(model.name):
        raise ConfigError(
            f"--model {given}: models/{model.name} cannot be a name on the wire; use letters, digits, dots, dashes "
            "and underscores, as --model my-model=SOURCE"
        )
    return model.reference()


@keys.command("list")
def list_keys(state: State = Path(STATE)) -> None:
    """Show whose keys there are; the keys themselves are in the file."""
    from tunerun.cli import tables

    file = _key_file(state)
    tables.keys_table(file.keys())


@keys.command()
def add(
    owner: Annotated[str, typer.Option(help="E-mail address: who has what permission is said by it.")],
    scope: Annotated[list[str] | None, typer.Option(help="tuning, cloud-platform, or a URL; tuning.")] = None,
    state: State = Path(STATE),
) -> None:
    """Make a key and print it."""
    from tunerun.service.credentials import CLOUD_SCOPE, TUNING_SCOPE

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
    """Take a key away; a running service refuses it at once."""
    from tunerun.cli import tables

    key = _key_file(state).revoke(identifier)
    tables.out.print(f"revoked {key.id} of {tables.plain(key.owner)}")


def _key_file(state: Path) -> KeyFile:
    from tunerun.service.app import KEYS_FILE
    from tunerun.service.credentials import KeyFile

    return KeyFile(state / KEYS_FILE)
