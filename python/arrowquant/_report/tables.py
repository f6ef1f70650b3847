"""Tables that fit the screen: names are shortened in the middle, and columns left out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from arrowquant._report.console import printable

_GAP = 2
_SHORTEST_TEXT = 28
_SHORTEST_NAME = 44
"""Columns are left out before names become shorter than this."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    cell: Callable[[dict[str, Any]], str | None]
    right: bool = False
    name: bool = False
    """Shortened in the middle where the screen is narrow."""
    keep: int = 9
    """Columns with the lowest are left out first where the screen is narrow."""
    text: bool = False
    """A sentence, which may take several lines."""


def show(
    console: Console, rows: Sequence[dict[str, Any]], columns: Sequence[Column], title: str = ""
) -> None:
    """Print rows as a table that is no wider than the screen."""
    cells = {
        column.title: [printable(column.cell(row) or "") for row in rows] for column in columns
    }
    # A column of which nothing is known tells nothing.
    columns = [column for column in columns if any(cells[column.title]) or column.name]
    fitting = _fitting(columns, cells, console.width)
    hidden, columns = len(columns) - len(fitting), fitting
    table = Table(
        title=title, title_justify="left", box=None, pad_edge=False, padding=(0, _GAP, 0, 0)
    )
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=not column.text,
        )
    room = max(_room_for_name(columns, cells, console.width), _SHORTEST_TEXT // 2)
    for at in range(len(rows)):
        table.add_row(
            *(
                shortened(cells[column.title][at], room) if column.name else cells[column.title][at]
                for column in columns
            )
        )
    console.print(table)
    if hidden:
        what = "column is" if hidden == 1 else "columns are"
        console.print(f"{hidden} {what} hidden; a wider screen or --json shows all")


def _width(column: Column, cells: dict[str, list[str]]) -> int:
    if column.text:
        return _SHORTEST_TEXT
    return max(map(cell_len, [column.title, *cells[column.title]]))


def _room_for_name(columns: Sequence[Column], cells: dict[str, list[str]], width: int) -> int:
    others = [_width(column, cells) for column in columns if not column.name]
    return width - sum(others) - _GAP * len(others)


def _fitting(
    columns: Sequence[Column], cells: dict[str, list[str]], width: int
) -> Sequence[Column]:
    """The columns that leave room for names, the least important left out first."""
    columns = list(columns)
    names = [_width(column, cells) for column in columns if column.name]
    wanted = min(max(names, default=0), _SHORTEST_NAME) if names else 0
    droppable = sorted((column for column in columns if not column.name), key=lambda c: c.keep)
    for column in droppable:
        if _room_for_name(columns, cells, width) >= wanted or len(columns) <= 2:  # noqa: PLR2004
            break
        if column.keep < 9:  # noqa: PLR2004
            columns.remove(column)
    return columns


def shortened(name: str, room: int) -> str:
    """A name with its middle left out where there is no room for it; its end tells most."""
    if cell_len(name) <= room:
        return name
    start = max((room - 1) // 5, 1)
    return f"{name[:start]}…{name[len(name) - (room - 1 - start) :]}"


_NUMBER = re.compile(r"(?<![^.\[])\d+(?![^.\]])")
"""A number between dots or brackets: an index of a block or an expert."""


def grouped(
    rows: Iterable[dict[str, Any]],
    same: Callable[[dict[str, Any]], Any],
    merge: Callable[[list[dict[str, Any]]], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Layers that differ in one index only, and are the same otherwise, as one row each.

    Args:
        rows: With a `layer_name`.
        same: What must be equal.
        merge: One row of several; its name is set here, such as `layers.{0…5}.up.weight`.
    """
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        name = row["layer_name"]
        pattern = name if name is None else _NUMBER.sub("{}", name)
        groups.setdefault((pattern, same(row)), []).append(row)
    merged = []
    for members in groups.values():
        one = merge(members) if len(members) > 1 else dict(members[0])
        one["layer_name"] = _common_name([row["layer_name"] for row in members])
        one["layers"] = len(members)
        merged.append(one)
    return merged


def _common_name(names: list[str | None]) -> str:
    """One name for layers whose names differ in numbers."""
    first = names[0]
    if first is None:
        return "(null)"
    pieces = _NUMBER.split(first)
    found = [[int(n) for n in _NUMBER.findall(name or "")] for name in names]
    text = pieces[0]
    for at, piece in enumerate(pieces[1:]):
        text += _span(sorted({numbers[at] for numbers in found})) + piece
    return text


def _span(numbers: list[int]) -> str:
    """Such as `3`, `{0…5}` or `{0…2,4,7}`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    pair = 2
    texts = [f"{run[0]}…{run[-1]}" if len(run) > pair else ",".join(map(str, run)) for run in runs]
    return texts[0] if len(numbers) == 1 else f"{{{','.join(texts)}}}"
