"""Weights that sit in Spark tables, quantized where they are by `mapInArrow`.

    import arrowquant as aq

    aq.spark.quantize(spark.table("weights"), scheme="int8").write.parquet("quantized")

Spark hands rows to Python in batches of `spark.sql.execution.arrow.maxRecordsPerBatch`, 10,000
unless set otherwise, and a batch's column of bytes must stay below 2 GiB: for large layers set it
to 1. A single cell can't exceed that at all, and fails from 0.6 GB on: layers that large are for
`aq.quantize_checkpoint`, or `aq.ray`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

import arrowquant as aq

__all__ = ["dequantize", "quantize", "schema"]


def schema(frame: DataFrame, **options: Any) -> Any:
    """Return the Spark schema of what `quantize` makes of a frame, a StructType.

    Raises:
        TypeError, ValueError: The frame's columns can't be weights, or an option is wrong.
    """
    return from_arrow_schema(_storable(_one(frame, aq.quantize_stream, options)))


def quantize(frame: DataFrame, **options: Any) -> DataFrame:
    """Return the one relation of a frame of weights, lazily, partition by partition.

    Columns are those of `aq.quantize`: `layer_name`, `data` (an array of floats, or bytes with
    `dtype`), `shape`, a plan, and any others, which are carried. `row_index` is null: a partition
    does not know where it is.

    Args:
        frame: Of Spark 4.
        options: Of `aq.quantize_stream`. With `continue_on_error`, failed rows have their
            `error_code`; without it, Spark's job fails, and the message names code and layer.

    Raises:
        TypeError, ValueError: The call is wrong; raised at once.
    """
    return _mapped(frame, aq.quantize_stream, options)


def dequantize(frame: DataFrame, **options: Any) -> DataFrame:
    """Return the weights of a quantized frame; options of `aq.dequantize_stream`.

    Raises:
        TypeError, ValueError: The call is wrong; raised at once.
    """
    return _mapped(frame, aq.dequantize_stream, options)


def _mapped(frame: DataFrame, verb: Any, options: dict[str, Any]) -> DataFrame:
    given = _given(frame)
    made = _storable(_one(frame, verb, options))

    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        reader = pa.RecordBatchReader.from_batches(given, (b.cast(given) for b in batches))
        for batch in verb(reader, **options):
            yield _stored(batch, made)

    return frame.mapInArrow(work, from_arrow_schema(made))


def _one(frame: DataFrame, verb: Any, options: dict[str, Any]) -> pa.Schema:
    """The schema of the one relation that becomes of a frame."""
    one: pa.Schema = verb(_given(frame).empty_table(), **options).schema
    return one


def _given(frame: DataFrame) -> pa.Schema:
    """The Arrow schema of a frame, with the unsigned zero points that Spark could not keep."""
    fields = []
    # Instants are in UTC, whatever the session shows.
    for field in to_arrow_schema(frame.schema, timezone="UTC"):
        is_list = field.name == "zero_points" and pa.types.is_list(field.type)
        fields.append(field.with_type(pa.list_(pa.uint8())) if is_list else field)
    return pa.schema(fields)


def _storable(schema: pa.Schema) -> pa.Schema:
    """Spark's types of the relation: it has no unsigned bytes, and 32-bit offsets."""
    return pa.schema([pa.field(field.name, _type(field.type)) for field in schema])


def _type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_list(kind):
        return pa.list_(_type(kind.value_type))
    known = {pa.large_binary(): pa.binary(), pa.uint8(): pa.int16()}
    return known.get(kind, kind)


def _stored(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        pa.nulls(batch.num_rows, field.type)
        if field.name == "row_index"
        else batch[field.name].cast(field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
