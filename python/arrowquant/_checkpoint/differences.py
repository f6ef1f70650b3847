"""Stored rows beside their sources."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from arrowquant import _core

_CLOSE = 2e-6
"""Relative: what an `mse` may be off for its roundings to float32, see docs/format.md."""
_ROUNDED = 1e-7
"""Relative: what one rounding to float32 may change."""
_CLOSE_DB = 2e-5
"""The same of Σw² and Σe² both, in decibels."""


def difference(
    row: dict[str, Any],
    origin: dict[str, Any],
    measured: list[Any],
) -> str | None:
    """What is wrong with a row, beside its source and its metrics measured anew."""
    for name in ("layer_name", "dtype", "shape"):
        expected = origin.get(name)
        if name == "dtype" and expected is not None:
            expected = _core.dtype_name(expected) or expected
        if expected is not None and expected != row[name]:
            return f"{name} is {row[name]!r}, the source's is {expected!r}"
    identical, *metrics = measured
    if row["scheme"] == "none":
        return None if identical else "a kept layer whose bytes are not the source's"
    if row["search"] == "kept":
        return None if identical else "a kept layer whose codes are not the source's"
    for name, value in zip(("mse", "max_abs_error", "snr_db"), metrics, strict=True):
        stored = row[name]
        if (stored is None) != (value is None) or not _is_close(name, stored, value):
            return f"{name} is stored as {stored!r}, measured {value!r}"
    return None


def _is_close(name: str, stored: float | None, value: float | None) -> bool:
    if stored is None or value is None:
        return stored is value
    if name == "max_abs_error":
        return math.isclose(stored, value, rel_tol=_ROUNDED)
    if name == "snr_db":
        return abs(stored - value) <= _CLOSE_DB
    return math.isclose(stored, value, rel_tol=_CLOSE)


class RowsBelow:
    """Batches whose `row_index` rises, taken up to some index."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._next: pa.RecordBatch | None = None

    def below(self, end: int | None) -> Iterator[pa.RecordBatch]:
        """Yield what has a smaller `row_index`."""
        while True:
            batch = self._next if self._next is not None else next(self._batches, None)
            self._next = None
            if batch is None:
                return
            count = batch.num_rows
            if end is not None:
                count = pc.sum(pc.less(batch["row_index"], end)).as_py() or 0
            if count:
                yield batch.slice(0, count)
            if count < batch.num_rows:
                self._next = batch.slice(count)
                return
