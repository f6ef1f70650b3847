"""Progress: a bar for `progress=True`, or the caller's own callable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ProgressCallback = Callable[[str | None, float | None], Any]
"""`callback(layer_name, fraction)` for each finished layer, on the thread of the call.

`fraction` never falls and ends at 1.0; it is None where the source does not tell how much there
is. An exception stops the work and reaches the caller.
"""

_CoreCallback = Callable[[bool, str | None, float | None, int], Any]


@contextmanager
def listener(progress: bool | ProgressCallback) -> Iterator[_CoreCallback | None]:
    """The callback that the core calls, for the user's `progress`.

    Raises:
        TypeError: It is neither a bool nor callable.
        ImportError: A bar is asked for and rich is not installed.
    """
    if progress is False or progress is None:
        yield None
    elif progress is True:
        with _bar() as callback:
            yield callback
    elif callable(progress):
        function = progress

        def finished_layers(
            finished: bool, name: str | None, fraction: float | None, _bytes: int
        ) -> None:
            if finished:
                function(name, fraction)

        yield finished_layers
    else:
        raise TypeError(f"progress must be True, False or callable, got {progress!r}.")


@contextmanager
def _bar() -> Iterator[_CoreCallback]:
    """A bar on standard error that goes by bytes; on a pipe nothing is shown."""
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
    except ImportError as error:
        raise ImportError(
            "progress=True needs rich: pip install 'arrowquant[cli]'. Or pass a callable."
        ) from error
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
    with bar:
        task = bar.add_task("", total=None)

        def update(_finished: bool, name: str | None, fraction: float | None, done: int) -> None:
            if fraction:
                bar.update(task, total=done / fraction)
            bar.update(task, completed=done)
            if name is not None:
                bar.update(task, description=name)

        yield update
