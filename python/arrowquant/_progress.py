"""Progress: a bar for `progress=True`, or the caller's own callable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

ProgressCallback = Callable[[str | None, float | None], Any]
"""`callback(layer_name, fraction)` for each finished layer, on the thread of the call.

`fraction` never falls and ends at 1.0; it is None where the source does not tell how much there
is. An exception stops the work and reaches the caller.
"""

_CoreCallback = Callable[[bool, str | None, float | None, int], Any]
"""Whether a layer is finished, its name, the fraction that is done, and how much that is."""


@contextmanager
def listener(
    progress: bool | ProgressCallback, *, unit: str = "bytes"
) -> Iterator[_CoreCallback | None]:
    """The callback that the core calls, for the user's `progress`.

    Args:
        progress: True for a bar, or a callable.
        unit: What the bar counts: `bytes` or `layers`.

    Raises:
        TypeError: `progress` is neither a bool nor callable.
        ImportError: A bar is asked for and rich is not installed.
    """
    if progress is False or progress is None:
        yield None
    elif progress is True:
        with _bar(unit) as callback:
            yield callback
    elif callable(progress):
        function = progress

        def finished_layers(
            finished: bool, name: str | None, fraction: float | None, _done: int
        ) -> None:
            if finished:
                function(name, fraction)

        yield finished_layers
    else:
        raise TypeError(f"progress must be True, False or callable, got {progress!r}.")


@contextmanager
def counted(
    progress: bool | ProgressCallback, total: int
) -> Iterator[Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]]:
    """Batches of `total` layers that are counted as they pass; a part is a share of its layer."""
    with listener(progress, unit="layers") as report:
        furthest = 0.0

        def passed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            nonlocal furthest
            done = 0.0
            for batch in batches:
                yield batch
                if report is None or not batch.num_rows:
                    continue
                is_cut = "part_count" in batch.schema.names
                parts = batch["part_count"].to_pylist() if is_cut else [1] * batch.num_rows
                for name, count in zip(batch["layer_name"].to_pylist(), parts, strict=True):
                    done += 1 / max(count or 1, 1)
                    # Shares of parts add up to a whole only nearly; a second pass begins anew.
                    share = 1.0 if total - done < _NEARLY else done / total
                    furthest = max(furthest, share)
                    report(True, name, furthest, round(furthest * total))

        yield passed


_NEARLY = 1e-6
_SETTLED = 0.5
"""Seconds before a speed is shown."""
_NAME = 30
"""How much of a layer's name fits beside a bar on 80 columns: its end."""


@contextmanager
def _bar(unit: str) -> Iterator[_CoreCallback]:
    """A bar on standard error; on a pipe nothing is shown."""
    try:
        from rich.console import Console
        from rich.filesize import decimal
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            Task,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text
    except ImportError as error:
        raise ImportError(
            "progress=True needs rich: pip install rich. Or pass a callable."
        ) from error

    class Speed(ProgressColumn):
        """Bytes a second since the bar began, once that says something."""

        def render(self, task: Task) -> Text:
            done = task.completed - task.fields["base"]
            elapsed = task.elapsed or 0
            shown = f"{decimal(int(done / elapsed))}/s" if elapsed > _SETTLED else ""
            return Text(shown, style="progress.data.speed")

    console = Console(stderr=True)
    amounts: list[ProgressColumn] = (
        [DownloadColumn(), Speed()] if unit == "bytes" else [MofNCompleteColumn()]
    )
    columns = (
        BarColumn(),
        *amounts,
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
    with bar:
        task = bar.add_task("", total=None, visible=False, base=0)
        began = False

        def update(_finished: bool, name: str | None, fraction: float | None, done: int) -> None:
            nonlocal began
            if fraction:
                bar.update(task, total=done / fraction)
            if not began:
                # What an earlier run did is not this one's speed.
                began = True
                bar.reset(task, completed=done, total=bar.tasks[0].total, visible=True, base=done)
            bar.update(task, completed=done)
            if name is not None:
                bar.update(task, description=name[-_NAME:])

        yield update
