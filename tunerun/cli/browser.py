"""Opening a file in the user's browser."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path


def open_in_browser(file: Path) -> bool:
    """Open a file in the browser of this machine's user; whether one was started.

    Without a display none is: Python would choose a browser for terminals, which shows no plot and takes the terminal.
    `BROWSER` chooses another program, as Python's `webbrowser` reads it.
    """
    has_display = os.name == "nt" or sys.platform == "darwin" or _is_set("DISPLAY") or _is_set("WAYLAND_DISPLAY")
    if not has_display and not _is_set("BROWSER"):
        return False
    try:
        return webbrowser.open(file.absolute().as_uri())
    except (webbrowser.Error, OSError):
        return False


def _is_set(name: str) -> bool:
    return bool(os.environ.get(name))
