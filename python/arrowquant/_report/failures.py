"""Failed rows, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from arrowquant._checkpoint import manifest
from arrowquant._checkpoint.dataset import Dataset
from arrowquant._parquet import failed_path
from arrowquant._report.tables import Column, show

_COLUMNS = (
    Column("code", lambda row: row["error_code"]),
    Column("what", lambda row: row["error_message"], text=True),
)


def failures(console: Console, rows: list[dict[str, Any]], path: Path | None) -> None:
    """Print what failed, and where it is kept."""
    where = f", in {path}" if path else ""
    console.print(f"\nFailed ({len(rows)}{where})", soft_wrap=True)
    show(console, rows, _COLUMNS)


def missing(path: Path) -> list[dict[str, Any]]:
    """The failed rows of a dataset, or in the file beside `path`, if there is one."""
    if path.is_dir():
        rows: list[dict[str, Any]] = Dataset(path).failed.to_pylist()
        return rows
    beside = failed_path(path)
    return pq.read_table(beside).to_pylist() if beside.exists() else []


def finished(path: Path) -> str:
    """How much of a dataset's job is done."""
    if not manifest.exists(path):
        return "nothing was written."
    dataset = Dataset(path)
    return (
        f"{dataset.finished_layers} of {dataset.manifest.layers} layers are finished and kept in "
        f"{path}; the same command goes on."
    )
