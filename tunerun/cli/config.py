"""`tunerun config`: the composed config, a key's description, or the JSON Schema."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tunerun.cli.options import ConfigDir, Json, Overrides
from tunerun.cli.printing import print_json


def config(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    explain: Annotated[
        str | None, typer.Option(metavar="KEY", help="Describe a dotted key, and say where its value was written.")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of an experiment.")] = False,
    json_: Json = False,
) -> None:
    """Print the composed config as YAML, or describe one key of it."""
    from tunerun import compose
    from tunerun.compose.explanation import text_of

    if explain:
        explained = compose.explain(explain, overrides or (), config_dir)
        if json_:
            print_json(explained)
        else:
            sys.stdout.write(text_of(explained) + "\n")
    elif schema:
        from tunerun.schema import json_schema

        print_json(json_schema())
    elif json_:
        import yaml

        # From the YAML, in which secrets are masked already.
        print_json(yaml.safe_load(compose.compose_yaml(overrides or (), config_dir)))
    else:
        sys.stdout.write(compose.compose_yaml(overrides or (), config_dir))
