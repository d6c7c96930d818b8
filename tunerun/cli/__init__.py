"""The commands, one module each, with their output and exit codes.

0: all trials succeeded, or there was nothing to do. 1: at least one failed. 2: the config, the examples or the command
line are wrong, and nothing was submitted. 3: a limit refused, and nothing was submitted. 130: interrupted; resumable.

Slow imports are inside the functions that need them, so that `tunerun --help` takes a fraction of a second.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from typing import Annotated, NoReturn

import typer

from tunerun import __version__
from tunerun.cli import (
    appendix,
    bundle,
    cancel,
    compare,
    config,
    data,
    diff,
    export,
    init,
    plan,
    predict,
    promote,
    report,
    rerun,
    run,
    serve,
    status,
    sync,
    ui,
    verify,
)
from tunerun.cli.invocation import INTERRUPTED, leave_at_once
from tunerun.errors import InputError, TunerunError
from tunerun.files import lacks_descriptors

app = typer.Typer(
    name="tunerun",
    help="One declarative experiment in, many supervised tuning jobs and one honest comparison out.",
    epilog="KEY=VALUE overrides the config as in Hydra, and several values are a sweep: "
    "tunerun run experiment=next_number hyperparameters.learning_rate=1e-3,5e-4",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # In typer 0.29 help made by rich prints `<bool>` beside every flag, as if it took a value, and types and frames
    # take a third of 80 columns.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; exits with the codes of this package's docstring."""
    # MLflow's usage reports are not sent on the user's behalf.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("stamina").setLevel(logging.ERROR)  # the runner itself reports retries
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, so that the run can be resumed
    try:
        app()
    except TunerunError as error:
        text = f"error: {error}\n"
        if isinstance(error, InputError) and len(error.problems) > 1:
            text = f"{len(error.problems)} problems:\n" + "".join(f"  {problem}\n" for problem in error.problems)
        sys.stderr.write(text)
        sys.exit(error.exit_code)
    except OSError as error:
        if not lacks_descriptors(error):
            raise
        sys.stderr.write(
            f"error: {error}; raise the limit of open files (ulimit -n), then run the same command again\n"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        leave_at_once(INTERRUPTED)


def program() -> NoReturn:
    """The console script: runs `main`, and exits at once if a thread of ours is still busy, such as a slow tracker."""
    try:
        main()
    except SystemExit as end:
        code = end.code
    else:
        code = 0
    # Python cannot stop a daemon thread inside a C library: unloading the library beneath such a thread once ended in a
    # segmentation fault, on a loaded machine.
    if isinstance(code, int) and any(thread.name.startswith("tunerun-") for thread in threading.enumerate()):
        leave_at_once(code)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"tunerun {__version__}\n")
        raise typer.Exit


# In the order of `--help` and of the table in README: as a project goes through them.
for each in (
    init.init,
    plan.plan,
    run.run,
    status.status,
    cancel.cancel,
    compare.compare,
    report.report,
    predict.predict,
    export.export,
    promote.promote,
    rerun.rerun,
    verify.verify,
    bundle.bundle,
    diff.diff,
    appendix.appendix,
    config.config,
    ui.ui,
    sync.sync,
):
    app.command()(each)
app.add_typer(data.app, name="data")
app.add_typer(serve.app, name="serve")
