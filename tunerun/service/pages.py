"""The page "My library"."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.staticfiles import StaticFiles

from tunerun.service.api import Methods
from tunerun.service.credentials import KeyFile
from tunerun.service.state import State


def routes(methods: Methods, state: State, keys: KeyFile) -> APIRouter:
    """The page and its forms."""
    return APIRouter(include_in_schema=False)


def static_files() -> StaticFiles:
    """What the page loads."""
    return StaticFiles(directory=Path(__file__).parent / "static")
