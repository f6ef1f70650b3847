"""`aq.quantize_stream`: lazy, bounded, read once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import arrowquant as aq
from conftest import binary_weights, float_row

GOOD = [float_row(f"l{i}", np.full((2, 40), i + 1.0)) for i in range(6)]


def _reader(rows: list[dict[str, Any]], pulled: list[int]) -> pa.RecordBatchReader:
    table = binary_weights(rows)

    def batches() -> Iterator[pa.RecordBatch]:
        for index, batch in enumerate(table.to_batches(max_chunksize=2)):
            pulled.append(index)
            yield batch

    return pa.RecordBatchReader.from_batches(table.schema, batches())


def test_nothing_is_read_before_it_is_asked_for() -> None:
    pulled: list[int] = []
    stream = aq.quantize_stream(_reader(GOOD, pulled))
    assert "error_code" in stream.schema.names
    pa.schema(stream)
    assert pulled == []
    reader = stream.reader()
    first = reader.read_next_batch()
    assert pulled == [0]
    with pytest.raises(ValueError, match="not read to its end"):
        _ = stream.failed
    rest = reader.read_all()
    table = pa.concat_tables([pa.Table.from_batches([first]), rest])
    assert table["row_index"].to_pylist() == list(range(6))
    assert stream.failed.num_rows == 0
    eager = pa.table(aq.quantize(binary_weights(GOOD)))
    assert table.combine_chunks() == eager.combine_chunks()


def test_it_can_be_read_once() -> None:
    stream = aq.quantize_stream(binary_weights(GOOD))
    pa.table(stream)
    with pytest.raises(ValueError, match="can be read once, and was"):
        pa.table(stream)


def test_failed_rows_are_kept_for_the_end() -> None:
    rows = [*GOOD[:3], GOOD[3] | {"dtype": "I8"}, *GOOD[4:]]
    stream = aq.quantize_stream(_reader(rows, []), continue_on_error=True)
    table = pa.table(stream)
    assert table["error_code"].to_pylist() == [None] * 3 + ["shape_mismatch"] + [None] * 2
    assert stream.failed["row_index"].to_pylist() == [3]
    assert stream.failed["scheme"].to_pylist() == ["int4"]
    assert stream.error is None


def test_a_failure_ends_the_stream() -> None:
    pulled: list[int] = []
    rows = [*GOOD[:2], GOOD[2] | {"layer_name": "a\0b", "dtype": None}, *GOOD[3:]]
    stream = aq.quantize_stream(_reader(rows, pulled))
    reader = stream.reader()
    assert len(reader.read_next_batch()) == 2
    with pytest.raises(pa.ArrowInvalid, match="unsupported_dtype: layer 'a"):
        reader.read_next_batch()
    assert pulled == [0, 1]
    assert isinstance(stream.error, aq.QuantizationError)
    assert stream.error.failed["row_index"].to_pylist() == [2]
    assert stream.error.failed["layer_name"].to_pylist() == ["a\0b"]


def test_iterating_raises_our_own_error() -> None:
    stream = aq.quantize_stream(binary_weights([GOOD[0] | {"data": None}]))
    with pytest.raises(aq.QuantizationError, match="null_data"):
        list(stream)


def test_dequantize_stream() -> None:
    stream = aq.quantize_stream(_reader(GOOD, []))
    back = pa.table(aq.dequantize_stream(stream))
    expected = pa.table(aq.dequantize(aq.quantize(binary_weights(GOOD))))
    assert back.combine_chunks() == expected.combine_chunks()
