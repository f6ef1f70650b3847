"""Rows on their way through a job: with the indices and layers that are theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from arrowquant import _core
from arrowquant._errors import QuantizationError
from arrowquant._options import Options

Report = Callable[[bool, str | None, float | None, int], Any]
Layer = tuple[str, str]
"""The file that a layer comes from, and its name."""


class Counted:
    """A quantizer that gives rows the indices that they have in the source."""

    def __init__(self, schema: pa.Schema, plan: _core.Plan, options: Options) -> None:
        self._quantizer = _core.Quantizer(schema, plan, options, 0)
        self._count = 0

    @property
    def schemas(self) -> tuple[pa.Schema, pa.Schema]:
        """Those of good rows and of failed ones."""
        quantized, _, failed = self._quantizer.schemas
        return pa.schema(quantized), pa.schema(failed)

    def quantize(
        self, batch: pa.RecordBatch, indices: pa.Array, report: Report | None
    ) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """The good rows and the failed ones of a batch whose rows have these indices."""
        try:
            quantized, errors, bad = map(pa.record_batch, self._quantizer.quantize(batch, report))
        except QuantizationError as error:
            error.failed = _reindexed(error.failed, indices, self._count)
            raise
        good = pa.record_batch(_core.select(quantized, errors, False))
        base, self._count = self._count, self._count + batch.num_rows
        return _reindexed(good, indices, base), _reindexed(bad, indices, base)


def _reindexed(rows: Any, indices: pa.Array, base: int) -> Any:
    """The table or batch with its rows' own indices, where they were counted from `base` on."""
    if not rows.num_rows:
        return rows
    own = indices.take(pc.subtract(rows["row_index"], base).cast(pa.int64()))
    return rows.set_column(
        rows.schema.get_field_index("row_index"), rows.schema.field("row_index"), own
    )


def layers_of(batch: pa.RecordBatch) -> list[tuple[Layer, int]]:
    """The layer of each row, and in how many parts it comes."""
    names = set(batch.schema.names)
    has_parts = "part_count" in names and pa.types.is_integer(batch["part_count"].type)
    if not has_parts or "source_file" not in names:
        return [(("", name), 1) for name in batch["layer_name"].to_pylist()]
    columns = (batch[name].to_pylist() for name in ("source_file", "layer_name", "part_count"))
    return [((file, name), count or 1) for file, name, count in zip(*columns, strict=True)]


def incomplete(good: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Good parts as failed rows."""
    told = ("layer_name", "dtype", "shape", "part_index", "part_count")
    rows = zip(*(good[name].to_pylist() for name in told), strict=True)
    messages = [
        f"layer '{name}' ({dtype} {shape}): part {index + 1} of {count} is good, but another part "
        "of the layer failed. See that part."
        for name, dtype, shape, index, count in rows
    ]
    known = {
        "error_code": pa.repeat("incomplete_layer", good.num_rows),
        "error_message": pa.array(messages, pa.string()),
    }
    known |= {name: good[name] for name in schema.names if name in good.schema.names}
    columns = [known.get(field.name, pa.nulls(good.num_rows, field.type)) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
