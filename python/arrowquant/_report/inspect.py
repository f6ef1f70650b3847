"""The layers of a quantized file or dataset, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from arrowquant._checkpoint.dataset import Dataset
from arrowquant._dequantize import dequantize
from arrowquant._options import SETTINGS
from arrowquant._parquet import failed_path
from arrowquant._report.console import console, layers, number, print_json
from arrowquant._report.failures import failures, finished, missing
from arrowquant._report.summary import LOWEST, OUTLIERS, WIDEST
from arrowquant._report.tables import Column, grouped, show
from arrowquant._scan import scan
from arrowquant._summary import PART_COLUMNS, layers_of, outlying

_INSPECTED: tuple[str, ...] = ("layer_name", "dtype", "shape", "scheme", *SETTINGS.values())
_INSPECTED += ("bits_per_weight", "mse", "max_abs_error", "snr_db", "scale_spread")


def _kind(row: dict[str, Any], name: str) -> Any:
    """What layers that share a line have in common."""
    found = row.get(name)
    return bool(found) if name == "signed_scales" else found


def _scales(row: dict[str, Any]) -> str | None:
    """What scales are; relations of earlier builds do not say whether they may be negative."""
    said: str | None = row["scale_dtype"]
    return f"{said} signed" if row.get("signed_scales") else said


_COLUMNS = (
    Column("layer", lambda row: row["layer_name"], name=True),
    Column("layers", lambda row: str(row["layers"]), right=True, keep=3),
    Column("dtype", lambda row: row["dtype"], keep=2),
    Column("shape", lambda row: str(row["shape"]), keep=5),
    Column("scheme", lambda row: row["scheme"]),
    Column("group", lambda row: _text(row["group_size"]), right=True, keep=4),
    Column("symmetric", lambda row: {True: "yes", False: "no"}.get(row["is_symmetric"]), keep=0),
    Column("scales", _scales, keep=1),
    Column("bits per weight", lambda row: number(row["bits_per_weight"]), right=True, keep=6),
    Column("max error", lambda row: _general(row["max_abs_error"]), right=True, keep=5),
    Column("SNR dB", lambda row: number(row["snr_db"]), right=True),
)


def inspect(path: Path, *, top: int, as_json: bool) -> None:
    """Print a quantized file or dataset without reading its codes, and the `top` worst layers.

    Raises:
        ValueError: It is no quantized relation, or of a newer format.
    """
    source = scan(path)
    if not {"scheme", "scales"} <= set(source.schema.names):
        raise ValueError(not_quantized(path, source.schema.names))
    dequantize(source.schema.empty_table())
    reader = source.without_data()
    table = pa.Table.from_batches(list(reader), reader.schema)
    shown_columns = [n for n in (*_INSPECTED, *PART_COLUMNS) if n in table.schema.names]
    found = layers_of(table.select(shown_columns).to_pylist())
    # Exact layers have no SNR and come last.
    rows = sorted(found, key=lambda row: (row["snr_db"] is None, row["snr_db"]))
    failed = missing(path)
    if as_json:
        plain = [{name: row.get(name) for name in _INSPECTED} for row in rows]
        print_json({"layers": plain, "failures": failed})
        return
    out = console()
    same = ("dtype", "shape", "scheme", *SETTINGS.values())
    show(out, grouped(rows, lambda row: tuple(str(_kind(row, n)) for n in same), _merged), _COLUMNS)
    worst = [row for row in rows if row["snr_db"] is not None][:top]
    if worst:
        out.print("\nLowest SNR")
        show(out, worst, LOWEST)
    far = outlying(rows)
    if far:
        out.print(f"\n{OUTLIERS}", soft_wrap=True)
        show(out, far[:top], WIDEST)
    if failed:
        failures(out, failed, None if path.is_dir() else failed_path(path))
    out.print(f"\n{layers(len(rows))}" + (f", and {len(failed)} failed" if failed else ""))
    if isinstance(source, Dataset) and source.layers is None:
        out.print(finished(path), soft_wrap=True)
    else:
        out.print(f"Next: arrowquant dequantize {path} -o BACK.safetensors", soft_wrap=True)


def not_quantized(path: Path, columns: list[str]) -> str:
    """What is wrong with a path that should have been a quantized relation."""
    if {"error_code", "error_message"} <= set(columns) and "data" not in columns:
        return f"{path}: holds failed rows. Read it as any Parquet file, or inspect the good rows'."
    return (
        f"{path}: is not quantized. Name a dataset or a Parquet file that `arrowquant quantize` "
        "wrote."
    )


def _merged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The worst of layers that are alike."""
    one = dict(rows[0])
    for name, worst in (("snr_db", min), ("max_abs_error", max), ("bits_per_weight", max)):
        values = [row[name] for row in rows if row[name] is not None]
        one[name] = worst(values) if values else None
    return one


def _text(value: int | None) -> str:
    return "" if value is None else str(value)


def _general(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
