"""What the command line prints: tables for people, JSON for machines."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from arrowquant._checkpoint import manifest
from arrowquant._checkpoint.dataset import Dataset
from arrowquant._dequantize import dequantize
from arrowquant._parquet import failed_path
from arrowquant._scan import scan
from arrowquant._summary import PART_COLUMNS, layers_of

if TYPE_CHECKING:
    from arrowquant._checkpoint.verify import Verification
    from arrowquant._summary import Summary

_PIPE_WIDTH = 240
"""Wide enough that no name is broken where nobody's screen sets the width."""


class _Console(Console):
    """Standard output. A reader that has seen enough and closed the pipe is no error."""

    def on_broken_pipe(self) -> None:
        """Write what remains to nowhere, so that the exit status is the work's own."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _console() -> _Console:
    terminal = sys.stdout.isatty()
    return _Console(
        highlight=False, markup=False, emoji=False, width=None if terminal else _PIPE_WIDTH
    )


def _print_json(value: Any) -> None:
    _console().out(json.dumps(_plain(value), indent=2, allow_nan=False), highlight=False)


def _plain(value: Any) -> Any:
    """As JSON can say it: carried columns may hold anything, and JSON knows no NaN."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        name, _, right = column.partition(">")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    return table


def _row(table: Table, *cells: str | None) -> None:
    """Add a row. Names may hold anything: what a terminal would obey is shown, not sent."""
    table.add_row(*(None if cell is None else _printable(cell) for cell in cells))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _size(size: int | None) -> str:
    return "?" if size is None else decimal(size)


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def plan(table: pa.Table, *, as_json: bool) -> None:
    """Print a plan, row by row, and its sums."""
    rows = table.to_pylist()
    if as_json:
        _print_json(rows)
        return
    shown = _table(
        "", "layer", "dtype", "shape", "scheme", "group>r", "bytes>r", "becomes>r", "why"
    )
    for row in rows:
        size = "" if row["group_size"] is None else str(row["group_size"])
        bytes_after = row["predicted_bytes"]
        _row(
            shown,
            "(null)" if row["layer_name"] is None else row["layer_name"],
            row["dtype"],
            str(row["shape"]),
            row["scheme"],
            size,
            f"{row['source_bytes']:,}" if row["source_bytes"] is not None else "?",
            f"{bytes_after:,}" if bytes_after is not None else "?",
            row["reason"] or row["note"],
        )
    before = sum(row["source_bytes"] or 0 for row in rows)
    after = sum(row["predicted_bytes"] or 0 for row in rows)
    kept = sum(row["scheme"] == "none" for row in rows)
    unknown = sum(row["predicted_bytes"] is None for row in rows)
    console = _console()
    console.print(shown)
    console.print(
        f"\n{_layers(len(rows) - kept)} to quantize, {kept} to keep: "
        f"{_size(before)} become {_size(after)}"
        + (f", less {unknown} that may fail." if unknown else ".")
    )


def summary(summary: Summary, *, as_json: bool) -> None:
    """Print what became of a checkpoint."""
    if as_json:
        _print_json(summary.as_json())
        return
    console = _console()
    console.print(
        f"{_layers(len(summary.quantized))} quantized, {len(summary.kept)} kept, "
        f"{len(summary.failed)} failed, in {summary.seconds:.1f} s"
        + (f"; {summary.finished_before} were finished before" if summary.finished_before else "")
    )
    bits = summary.bits_per_weight
    console.print(
        f"{_size(summary.source_bytes)} became {_size(summary.output_bytes)}"
        + (f", {bits:.2f} bits a weight" if bits else "")
        + f"; {summary.output} has {_size(summary.file_bytes)}"
    )
    if summary.unfinished:
        console.print(kept(summary.output))
    if summary.worst:
        shown = _table("\nLowest SNR", "layer", "scheme", "bits a weight>r", "SNR dB>r")
        for row in summary.worst:
            bits_text = _number(row["bits_per_weight"])
            _row(shown, row["layer_name"], row["scheme"], bits_text, _number(row["snr_db"]))
        console.print(shown)
    if summary.failed:
        is_dataset = summary.output.is_dir()
        failed = summary.output / "failed" if is_dataset else failed_path(summary.output)
        _failures(console, summary.failed, failed)


def _failures(console: Console, rows: list[dict[str, Any]], path: Path | None) -> None:
    where = f", in {path}" if path else ""
    shown = _table(f"\nFailed ({len(rows)}{where})", "code", "what")
    for row in rows:
        _row(shown, row["error_code"], row["error_message"])
    console.print(shown)


_INSPECTED: tuple[str, ...] = (
    "layer_name",
    "dtype",
    "shape",
    "scheme",
    "group_size",
    "is_symmetric",
)
_INSPECTED += ("scale_dtype", "bits_per_weight", "mse", "max_abs_error", "snr_db")


def inspect(path: Path, *, as_json: bool) -> None:
    """Print a quantized file or dataset without reading its codes.

    Raises:
        ValueError: It is no quantized relation, or of a newer format.
    """
    source = scan(path)
    if not {"scheme", "scales"} <= set(source.schema.names):
        raise ValueError(f"{path}: is no dataset, nor a Parquet file that quantize wrote.")
    dequantize(source.schema.empty_table())
    reader = source.without_data()
    table = pa.Table.from_batches(list(reader), reader.schema)
    shown_columns = [n for n in (*_INSPECTED, *PART_COLUMNS) if n in table.schema.names]
    layers = layers_of(table.select(shown_columns).to_pylist())
    # Exact layers have no SNR and come last.
    rows = sorted(layers, key=lambda row: (row["snr_db"] is None, row["snr_db"]))
    failed = missing(path)
    if as_json:
        plain = [{name: row[name] for name in _INSPECTED} for row in rows]
        _print_json({"layers": plain, "failures": failed})
        return
    shown = _table(
        "",
        "layer",
        "dtype",
        "shape",
        "scheme",
        "group>r",
        "symmetric",
        "scales",
        "bits a weight>r",
        "max error>r",
        "SNR dB>r",
    )
    for row in rows:
        _row(
            shown,
            row["layer_name"],
            row["dtype"],
            str(row["shape"]),
            row["scheme"],
            "" if row["group_size"] is None else str(row["group_size"]),
            {True: "yes", False: "no", None: ""}[row["is_symmetric"]],
            row["scale_dtype"] or "",
            _number(row["bits_per_weight"]),
            "" if row["max_abs_error"] is None else f"{row['max_abs_error']:.3g}",
            _number(row["snr_db"]),
        )
    console = _console()
    console.print(shown)
    console.print(f"\n{_layers(len(rows))}")
    if isinstance(source, Dataset) and source.layers is None:
        console.print(kept(path))
    if failed:
        _failures(console, failed, None if path.is_dir() else failed_path(path))


def missing(path: Path) -> list[dict[str, Any]]:
    """The failed rows of a dataset, or in the file beside `path`, if there is one."""
    if path.is_dir():
        rows: list[dict[str, Any]] = Dataset(path).failed.to_pylist()
        return rows
    beside = failed_path(path)
    return pq.read_table(beside).to_pylist() if beside.exists() else []


def kept(path: Path) -> str:
    """How much of a dataset's job is done."""
    if not manifest.exists(path):
        return "nothing was written."
    dataset = Dataset(path)
    return (
        f"{dataset.finished_layers} of {dataset.manifest.layers} layers are finished and kept in "
        f"{path}; the same command goes on."
    )


def verification(path: Path, found: Verification, *, as_json: bool) -> None:
    """Print what `aq.verify` looked at and found."""
    counts = {
        "files": found.files,
        "rows": found.rows,
        "failed_rows": found.failed_rows,
        "compared": found.compared,
    }
    if as_json:
        _print_json({"dataset": str(path), "ok": found.ok, **counts, "problems": found.found})
        return
    console = _console()
    against = f", {found.compared} compared with the source" if found.compared else ""
    console.print(
        f"{path}: {found.files} files, {found.rows} rows decoded{against}, {found.failed_rows} "
        "failed rows"
    )
    if found.ok:
        console.print("no problems")
        return
    shown = _table(f"\nProblems ({len(found.found)})", "file", "row>r", "layer", "problem")
    for row in found.found:
        index = "" if row["row_index"] is None else str(row["row_index"])
        _row(shown, row["file"] or "", index, row["layer_name"] or "", row["problem"])
    console.print(shown)


def exported(folder: Path, *, as_json: bool) -> None:
    """Print what an exported directory holds."""
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
    if as_json:
        _print_json({"output": str(folder), "files": sizes})
        return
    console = _console()
    console.print(f"{folder}: {len(sizes)} files, {_size(sum(sizes.values()))}")
    for name, size in sizes.items():
        console.print(f"  {_printable(name)}  {_size(size)}")


def left_out(output: Path, rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print where the checkpoint is and which layers it lacks."""
    if as_json:
        _print_json({"output": str(output), "failures": rows})
        return
    console = _console()
    console.print(f"{output} has {_size(output.stat().st_size)}")
    if rows:
        console.print(f"{_layers(len(rows))} left out:")
        _failures(console, rows, None)
