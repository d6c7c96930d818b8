"""`tunerun predict`: calls a tuned model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tunerun.cli.options import Json, Runs
from tunerun.cli.printing import print_json
from tunerun.errors import InputError


def predict(
    columns: Annotated[list[str] | None, typer.Argument(metavar="COLUMN=VALUE", help="One row.")] = None,
    run_: Annotated[
        str, typer.Option("--run", metavar="RUN", help="tunedModels/NAME, or MLflow run id. Required.")
    ] = "",
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="File of rows: JSON, JSONL, CSV, TSV, Parquet or Arrow."),
    ] = None,
    runs: Runs = Path("runs"),
    max_output_tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Longest answer, in tokens; as in the experiment if not given."),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Answer each line of standard input, as one conversation.")
    ] = False,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="With --chat: the system message; as in training if not given.")
    ] = None,
    base: Annotated[
        bool, typer.Option("--base", help="With --chat: the base model answers, not the tuned model.")
    ] = False,
    json_: Json = False,
) -> None:
    """Answer rows with a tuned model, or chat with it.

    A row is rendered with the template that the model was trained with.
    """
    if not run_:
        raise InputError(
            "--run is missing; give an MLflow run id or tunedModels/NAME, as `tunerun status --json` shows them"
        )

    if chat:
        if file is not None or json_:
            raise InputError("--chat: reads messages from standard input and prints answers; omit --file and --json")
        from tunerun.chat import Chat
        from tunerun.cli.chat import talk
        from tunerun.prediction import open_model, training_of

        row = _typed_row(columns or [])
        with open_model(run_, runs=runs, max_output_tokens=max_output_tokens) as model:
            training = training_of(run_, runs)
            talk(Chat(model, system=system, columns=row, is_base=base, training=training))
        return

    if system is not None or base:
        raise InputError("--system and --base are for --chat; a row of messages has its own system message")
    if (file is None) == (not columns):
        raise InputError("give one row as COLUMN=VALUE, or rows with --file, or start a conversation with --chat")
    from tunerun.prediction import predict as call

    rows = file if file is not None else [_typed_row(columns or [])]
    answered = call(run_, rows, runs=runs, max_output_tokens=max_output_tokens)
    sys.stderr.writelines(f"warning: {warning}\n" for warning in answered.warnings)
    if json_:
        print_json({"tuned_model": answered.tuned_model, "outputs": list(answered.outputs)})
    else:
        sys.stdout.writelines(f"{output}\n" for output in answered.outputs)


def _typed_row(columns: list[str]) -> dict[str, str]:
    wrong = [column for column in columns if "=" not in column]
    if wrong:
        raise InputError([f"{column!r}: write COLUMN=VALUE, such as text_input='twenty two'" for column in wrong])
    return dict(column.split("=", 1) for column in columns)  # a value may contain the sign, too
