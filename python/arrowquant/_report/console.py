"""Where the command line prints, and how values look."""

from __future__ import annotations

import json
import math
import os
import sys
from typing import Any

from rich.console import Console
from rich.filesize import decimal

_PIPE_WIDTH = 240
"""Wide enough that no name is shortened where nobody's screen sets the width."""


class _Console(Console):
    """Standard output. A reader that has seen enough and closed the pipe is no error."""

    def on_broken_pipe(self) -> None:
        """Write what remains to nowhere, so that the exit status is the work's own."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console() -> Console:
    """Return standard output; its width is the terminal's."""
    terminal = sys.stdout.isatty()
    return _Console(
        highlight=False, markup=False, emoji=False, width=None if terminal else _PIPE_WIDTH
    )


def print_json(value: Any) -> None:
    """Print a value for machines."""
    console().out(json.dumps(_plain(value), indent=2, allow_nan=False), highlight=False)


def _plain(value: Any) -> Any:
    """As JSON can say it: carried columns may hold anything, and JSON knows no NaN."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def printable(text: str) -> str:
    """Return a name with what a terminal would obey shown, not sent."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(count: int | None) -> str:
    """Bytes in decimal units."""
    return "?" if count is None else decimal(count)


def many(count: int, what: str) -> str:
    """A number of things."""
    return f"{count} {what}" + ("" if count == 1 else "s")


def layers(count: int) -> str:
    """A number of layers."""
    return many(count, "layer")


def number(value: float | None, digits: int = 2) -> str:
    """A number, or nothing."""
    return "" if value is None else f"{value:.{digits}f}"
