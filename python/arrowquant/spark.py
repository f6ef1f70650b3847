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
from arrowquant._facts import add, may_need, needs_of, shared
from arrowquant._options import Options
from arrowquant._plan import read_plan

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
        options: Of `aq.quantize_stream`. Schemes with one scale for all of a layer, such as
            `nvfp4`, need the largest magnitude of layers that are in several rows, or that
            runtimes put together: then the frame is read once more, at once, for these layers,
            unless it has a column `tensor_absmax`. With `continue_on_error`, failed rows have their
            `error_code`; without it, Spark's job fails, and the message names code and layer.

    Raises:
        TypeError, ValueError: The call is wrong; raised at once.
    """
    return _mapped(_with_facts(frame, options), aq.quantize_stream, options)


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


_OUTLINE: tuple[str, ...] = ("layer_name", "dtype", "shape", "role", "part_count", "scheme")
_OUTLINE += ("group_size", "group_rows")


def _with_facts(frame: DataFrame, options: dict[str, Any]) -> DataFrame:
    """The frame with the largest magnitudes that its layers need to know, where some do."""
    if "tensor_absmax" in frame.columns or not {"shape", "dtype"} <= set(frame.columns):
        return frame
    names = {"scheme", "threads", "continue_on_error"}
    settings = {name: value for name, value in options.items() if name not in {*names, "plan"}}
    asked = Options(options.get("scheme"), settings)
    plan = read_plan(options.get("plan"))
    if plan is None and "scheme" not in frame.columns and not may_need(asked).absmax:
        return frame
    outline = frame.select([name for name in _OUTLINE if name in frame.columns]).toArrow()
    groups = needs_of(outline, plan, asked).absmax
    wanted = pa.array(sorted({name for names in groups.values() for name in names}), pa.string())
    if not len(wanted):
        return frame
    given = _given(frame)
    kind = pa.schema({"layer_name": pa.string(), "absmax": pa.float64()})

    def measure(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        found: dict[str, float] = {}
        add(found, (batch.cast(given) for batch in batches), wanted, None)
        yield pa.record_batch([list(found), list(found.values())], schema=kind)

    rows = frame.mapInArrow(measure, from_arrow_schema(kind)).toArrow().to_pylist()
    own: dict[str, float] = {}
    for row in rows:
        own[row["layer_name"]] = max(own.get(row["layer_name"], 0.0), row["absmax"])
    known = shared(groups, own)
    schema = given.append(pa.field("tensor_absmax", pa.float64()))

    def annotate(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            values = [known.get(name) for name in batch["layer_name"].to_pylist()]
            columns = [*batch.columns, pa.array(values, pa.float64())]
            yield pa.RecordBatch.from_arrays(columns, names=schema.names)

    return frame.mapInArrow(annotate, from_arrow_schema(_storable(schema)))


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
