"""`aq.write_safetensors`: a checkpoint from a weights relation, tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from arrowquant import _core
from arrowquant._dequantize import dequantize_stream
from arrowquant._inputs import as_arrow, as_table

Tensors = Sequence[tuple[str, str, list[int]]]


def write_safetensors(weights: Any, path: str | os.PathLike[str]) -> None:
    """Write a weights relation with binary data as a safetensors file.

    The file is written under a temporary name, synced and renamed. `weights` is held in memory as
    it is given; no further copy is made.

    Args:
        weights: An `aq.dequantize` result, or any table `layer_name, dtype, shape, data`.
        path: The file, overwritten where it exists.

    Raises:
        ValueError: A layer has no data, a name comes twice, or data and shape disagree.
        OSError: The file can't be written.
    """
    table = as_table(as_arrow(weights))
    rows = zip(table["layer_name"].to_pylist(), table["data"].is_null().to_pylist(), strict=True)
    missing = [name for name, absent in rows if absent]
    if missing:
        names = ", ".join(repr(name) for name in missing)
        raise ValueError(f"layers without data can't be written: {names}. Filter them out.")
    columns = (table[name].to_pylist() for name in ("layer_name", "dtype", "shape"))
    write_tensors(path, list(zip(*columns, strict=True)), table.to_batches())


def write_tensors(
    path: str | os.PathLike[str], tensors: Tensors, batches: Iterable[pa.RecordBatch]
) -> None:
    """Write the announced tensors from batches in any order, holding one batch at a time."""
    writer = _core.SafetensorsWriter(Path(path), tensors)
    try:
        for batch in batches:
            writer.write(batch)
        writer.finish()
    finally:
        writer.abort()


def dequantize_to_safetensors(
    quantized: Any, path: str | os.PathLike[str], *, dtype: str, threads: int | None
) -> pa.Table:
    """Write a quantized relation that can be read twice as a checkpoint; return the failed rows.

    The first reading tells which rows can be decoded and what they are, since the header comes
    first in the file. Rows that can't are left out.
    """

    def stream() -> Any:
        return dequantize_stream(quantized, dtype=dtype, threads=threads, continue_on_error=True)

    tensors = []
    first = stream()
    for batch in first:
        good = _good(batch)
        columns = (good[name].to_pylist() for name in ("layer_name", "dtype", "shape"))
        tensors += list(zip(*columns, strict=True))
    write_tensors(path, tensors, map(_good, stream()))
    return first.failed


def _good(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.record_batch(_core.select(batch, batch, False))
