"""How objects look where they are shown: one line as text, a small table in a notebook."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

_ROWS = 20


def html_table(title: str, names: Sequence[str], rows: Iterable[Sequence[Any]], total: int) -> str:
    """Return a table for a notebook: its title, and the first rows."""
    shown = list(islice(rows, _ROWS))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(cell))}</td>" for cell in row) + "</tr>"
        for row in shown
    )
    more = f"<p>… and {total - len(shown)} more</p>" if total > len(shown) else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if shown else ""
    return f"<p><b>{html.escape(title)}</b></p>{table}{more}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def arrow_html(title: str, table: pa.Table | pa.RecordBatch, names: Sequence[str]) -> str:
    """The same of an Arrow table's columns, as far as it has them."""
    known = [name for name in names if name in table.schema.names]
    rows = table.select(known).slice(0, _ROWS).to_pylist()
    return html_table(title, known, (list(row.values()) for row in rows), table.num_rows)


def some(names: Iterable[str], count: int) -> str:
    """The first few of many names."""
    shown = ", ".join(islice(map(str, names), 3))
    return shown + (", …" if count > 3 else "")  # noqa: PLR2004


_PLAN = ("layer_name", "shape", "dtype", "scheme", "group_size", "predicted_bytes", "reason")
_FAILED = ("layer_name", "dtype", "shape", "scheme", "error_code", "error_message")


def _as_ours(table: pa.Table) -> tuple[str, Sequence[str]] | None:
    """What a table of ours is called, and its columns to show; none where it is anybody's."""
    names = set(table.schema.names)
    if {"predicted_bytes", "reason", "note"} <= names:
        kept = table["scheme"].to_pylist().count("none")
        return f"plan: {table.num_rows - kept} layers to quantize, {kept} to keep", _PLAN
    if {"row_index", "error_code", "error_message", "group_size"} <= names and "data" not in names:
        return f"{table.num_rows} failed rows", _FAILED
    return None


def _table_html(table: pa.Table) -> str | None:
    ours = _as_ours(table)
    return arrow_html(ours[0], table, ours[1]) if ours else None


def _table_text(table: pa.Table, printer: Any, _cycle: bool) -> None:
    ours = _as_ours(table)
    if ours is None:
        printer.text(repr(table))
        return
    title, names = ours
    rows = table.select([n for n in names if n in table.schema.names]).slice(0, _ROWS).to_pylist()
    lines = ["  ".join(_cell(value) for value in row.values()) for row in rows]
    more = [f"… and {table.num_rows - _ROWS} more"] if table.num_rows > _ROWS else []
    printer.text("\n".join([title, *lines, *more]))


def register() -> None:
    """Have a notebook show plans and failed rows, which are pyarrow's tables, as what they are."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = get_ipython() if get_ipython else None
    if shell is None:
        return
    formatters = shell.display_formatter.formatters
    formatters["text/html"].for_type(pa.Table, _table_html)
    formatters["text/plain"].for_type(pa.Table, _table_text)
