"""SQL functions for DuckDB, for rows of moderate size and columns of vectors.

    import arrowquant as aq

    aq.duckdb.register(connection)
    connection.sql("select id, aq_quantize(id::varchar, embedding, null, 'int8') from vectors")

DuckDB calls a function with up to 2,048 rows at once, which are in memory together: for layers of
megabytes take `aq.quantize_stream` and read it by its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import arrowquant as aq
from arrowquant import _core
from arrowquant._options import Settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["register"]

_WEIGHTS = """STRUCT(
    layer_name VARCHAR, dtype VARCHAR, shape BIGINT[], data FLOAT[],
    error_code VARCHAR, error_message VARCHAR, error_element BIGINT, error_count BIGINT
)"""


def register(
    connection: DuckDBPyConnection,
    *,
    threads: int | None = 1,
    **settings: Unpack[Settings],
) -> None:
    """Add SQL functions to a connection.

    `aq_quantize(layer_name VARCHAR, data FLOAT[], shape BIGINT[], scheme VARCHAR)` returns a struct
    of the one relation's columns, the error columns among them. `shape` NULL: one-dimensional.
    Whatever is wrong with a row, a NULL for its data too, is in its own `error_code`; no row is
    lost and none raises. `row_index` is NULL: a function does not know where its rows are.

    `aq_quantize_bytes(layer_name VARCHAR, data BLOB, dtype VARCHAR, shape BIGINT[], scheme
    VARCHAR)` is the same for raw bytes, such as BF16.

    `aq_dequantize(quantized STRUCT)` returns `layer_name, dtype, shape, data FLOAT[]` and the error
    columns.

    Args:
        connection: Of DuckDB.
        threads: Of each call; DuckDB calls from all of its own threads.
        settings: As for `aq.quantize`.

    Raises:
        duckdb.Error: The connection has functions of these names already.
        TypeError, ValueError: An option is wrong.
    """
    empty = pa.table({"layer_name": pa.array([], pa.string()), "data": _NO_VECTORS})
    one = aq.quantize(empty).to_table().schema
    struct, weights = connection.type(_struct(one)), connection.type(_WEIGHTS)

    def quantized(columns: dict[str, Any], shapes: pa.ChunkedArray) -> pa.ChunkedArray:
        table = pa.table(columns | _shapes(shapes, columns["data"], columns.get("dtype")))
        result = aq.quantize(
            table,
            threads=threads,
            continue_on_error=True,
            **settings,
        )
        return _as_struct(_without_place(result.to_table()))

    def aq_quantize(names: Any, data: Any, shapes: Any, schemes: Any) -> Any:
        return quantized({"layer_name": names, "data": data, "scheme": schemes}, shapes)

    def aq_quantize_bytes(names: Any, data: Any, dtypes: Any, shapes: Any, schemes: Any) -> Any:
        columns = {"layer_name": names, "data": data, "dtype": dtypes, "scheme": schemes}
        return quantized(columns, shapes)

    def aq_dequantize(structs: pa.ChunkedArray) -> Any:
        table = pa.Table.from_batches(
            [pa.RecordBatch.from_struct_array(chunk) for chunk in structs.chunks]
        )
        result = aq.dequantize(table, dtype="F32", threads=threads, continue_on_error=True)
        return _as_struct(_with_floats(result.to_table()))

    # A wrong option is a wrong call, and raises here.
    quantized({"layer_name": pa.chunked_array([["a"]]), "data": pa.chunked_array([[[1.0]]])}, None)

    vectors = ["VARCHAR", "FLOAT[]", "BIGINT[]", "VARCHAR"]
    raw = ["VARCHAR", "BLOB", "VARCHAR", "BIGINT[]", "VARCHAR"]
    for function, parameters, returns in (
        (aq_quantize, vectors, struct),
        (aq_quantize_bytes, raw, struct),
        (aq_dequantize, [struct], weights),
    ):
        # Names work in every version; the enums have moved from module to module.
        connection.create_function(  # type: ignore[call-overload]
            function.__name__,
            function,
            parameters,
            returns,
            type="arrow",
            null_handling="special",
        )


_NO_VECTORS = pa.array([], pa.list_(pa.float32()))
_TYPES = {
    pa.int64(): "BIGINT",
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.large_binary(): "BLOB",
    pa.float64(): "DOUBLE",
    pa.float32(): "FLOAT",
    pa.uint8(): "UTINYINT",
}


def _struct(schema: pa.Schema) -> str:
    """DuckDB's type of a row of that schema."""

    def of(kind: pa.DataType) -> str:
        return f"{of(kind.value_type)}[]" if pa.types.is_large_list(kind) else _TYPES[kind]

    return f"STRUCT({', '.join(f'{field.name} {of(field.type)}' for field in schema)})"


def _shapes(
    shapes: pa.ChunkedArray | None, data: pa.ChunkedArray, dtypes: pa.ChunkedArray | None
) -> dict[str, Any]:
    """The shape column; a null stands for one dimension, as long as the data."""
    if shapes is None or shapes.null_count == len(shapes):
        return {}
    if not shapes.null_count:
        return {"shape": shapes}
    if dtypes is None:
        lengths = pc.list_value_length(data).to_pylist()
    else:
        sizes = zip(pc.binary_length(data).to_pylist(), dtypes.to_pylist(), strict=True)
        lengths = [_count(size, dtype) for size, dtype in sizes]
    pairs = zip(shapes.to_pylist(), lengths, strict=True)
    filled = [shape if shape is not None or length is None else [length] for shape, length in pairs]
    return {"shape": pa.array(filled, pa.list_(pa.int64()))}


def _count(size: int | None, dtype: str | None) -> int | None:
    """How many elements bytes hold; of a type that nobody knows that can't be told."""
    try:
        return None if size is None else _core.dtype_elements(dtype or "", size)
    except ValueError:
        return None


def _without_place(table: pa.Table) -> pa.Table:
    """The one relation without row indices, which would count from each call's first row."""
    at = table.schema.get_field_index("row_index")
    return table.set_column(at, "row_index", pa.nulls(table.num_rows, pa.int64()))


def _with_floats(table: pa.Table) -> pa.Table:
    """Weights as lists of float32; a kept layer of another type is an error of its row."""
    codes, messages = (table[name].to_pylist() for name in ("error_code", "error_message"))
    vectors: list[Any] = []
    rows = zip(
        table["layer_name"].to_pylist(), table["dtype"].to_pylist(), table["data"], strict=True
    )
    for index, (name, dtype, data) in enumerate(rows):
        is_float = dtype == "F32" and data.is_valid
        vectors.append(np.frombuffer(data.as_buffer(), np.float32) if is_float else None)
        if data.is_valid and not is_float:
            codes[index] = "unsupported_dtype"
            messages[index] = f"layer '{name}' ({dtype}): was kept, and is no vector of float32."
    columns = {
        "data": pa.array(vectors, pa.large_list(pa.float32())),
        "error_code": pa.array(codes, pa.string()),
        "error_message": pa.array(messages, pa.string()),
    }
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def _as_struct(table: pa.Table) -> pa.ChunkedArray:
    return pa.chunked_array([table.combine_chunks().to_struct_array().combine_chunks()])
