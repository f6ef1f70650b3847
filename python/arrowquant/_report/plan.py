"""A plan, for people."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa

from arrowquant import _core
from arrowquant._options import SETTINGS
from arrowquant._report.console import console, layers, print_json, size
from arrowquant._report.summary import again, explained, fell_back
from arrowquant._report.tables import Column, grouped, show


def _why(row: dict[str, Any]) -> str | None:
    """Why a layer is kept, in few words; of one that its role keeps, which."""
    reason: str | None = row["reason"] or row["note"]
    if row["companion_of"] is not None:
        return f"{reason}, of {row['companion_of']}"
    if row["reason"] == "kept_by_role":
        return f"role:{row['role']}"
    if reason is not None and explained([reason]):
        return reason.partition(" (")[0]
    return reason


_COLUMNS = (
    Column("layer", lambda row: row["layer_name"], name=True),
    Column("layers", lambda row: str(row["layers"]), right=True, keep=3),
    Column("dtype", lambda row: row["dtype"], keep=2),
    Column("shape", lambda row: _shape(row["shape"]), keep=4),
    Column("scheme", lambda row: row["scheme"]),
    Column("group", lambda row: _text(row["group_size"]), right=True, keep=1),
    Column("bytes", lambda row: _bytes(row["source_bytes"]), right=True, keep=5),
    Column("becomes", lambda row: _bytes(row["predicted_bytes"]), right=True),
    Column("why", _why, keep=6),
)


def plan(table: pa.Table, following: str, *, as_json: bool) -> None:
    """Print a plan, layers that are alike together, its sums, and the command to go on with."""
    rows = table.to_pylist()
    if as_json:
        print_json(rows)
        return
    same = ("dtype", "shape", "role", "scheme", *SETTINGS.values(), "reason", "note")
    shown = grouped(rows, lambda row: tuple(str(row[name]) for name in same), _merged)
    out = console()
    show(out, shown, _COLUMNS)
    out.print()
    for line in sums(rows):
        out.print(line, soft_wrap=True)
    decodable = sum(is_decodable(row) for row in rows)
    if decodable:
        out.print(again(decodable), soft_wrap=True)
    for reason in explained(row["reason"] for row in rows):
        out.print(reason, soft_wrap=True, markup=False)
    out.print(f"Next: {following}", soft_wrap=True)


def sums(rows: list[dict[str, Any]]) -> list[str]:
    """What a plan comes to: how many layers, how many bytes, and what falls back."""
    before = sum(row["source_bytes"] or 0 for row in rows)
    after = sum(row["predicted_bytes"] or 0 for row in rows)
    kept = sum(row["scheme"] == "none" or _is_copied(row) for row in rows)
    unknown = sum(row["predicted_bytes"] is None for row in rows)
    first = (
        f"{layers(len(rows) - kept)} to quantize, {kept} to keep: "
        f"{size(before)} become {size(after)}"
        + (f", less {unknown} that may fail." if unknown else ".")
    )
    ways, share = _fallen(rows)
    return [first, *([fell_back(ways, share)] if ways else [])]


def _fallen(rows: list[dict[str, Any]]) -> tuple[list[str], float]:
    """Which schemes layers fall back from and to, and their share of the quantized weights."""

    def weights(some: list[dict[str, Any]]) -> int:
        return sum(math.prod(row["shape"] or ()) for row in some)

    mark = "falls back from "
    fallen = [row for row in rows if (row["note"] or "").startswith(mark)]
    ways = {f"{row['note'].removeprefix(mark)} to {row['scheme']}": None for row in fallen}
    total = weights([row for row in rows if row["scheme"] != "none" and not _is_copied(row)])
    return list(ways), weights(fallen) / total if total else 0.0


def _is_copied(row: dict[str, Any]) -> bool:
    """Whether its codes are those that it has."""
    return (row["note"] or "").startswith("copied from ")


def is_decodable(row: dict[str, Any]) -> bool:
    """Whether a kept layer holds codes of one of our schemes."""
    reason = row["reason"] or ""
    if reason.startswith("decoded ("):
        return True
    return any(reason == f"already_quantized ({name})" for name in _core.schemes())


def _merged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows' sums."""
    one = dict(rows[0])
    for name in ("source_bytes", "predicted_bytes"):
        values = [row[name] for row in rows]
        one[name] = None if None in values else sum(values)
    return one


def _shape(shape: list[int] | None) -> str:
    return "" if shape is None else str(shape)


def _text(value: int | None) -> str:
    return "" if value is None else str(value)


def _bytes(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"
