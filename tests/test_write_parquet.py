"""`aq.write_parquet`: good rows in one file, failed ones beside it, nothing half-written."""

from __future__ import annotations

import datetime
import decimal
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import arrowquant as aq
from conftest import binary_weights, float_row

ROWS = [float_row(f"l{i}", np.full((2, 40), i + 1.0)) for i in range(4)]
BAD = ROWS[1] | {"layer_name": "bad", "shape": None}


def _sources(table: pa.Table) -> dict[str, Any]:
    def options() -> dict[str, Any]:
        return {"continue_on_error": True}

    return {
        "result": aq.quantize(table, **options()),
        "stream": aq.quantize_stream(table, **options()),
        "table": pa.table(aq.quantize(table, **options())),
        "polars": pl.DataFrame(aq.quantize(table, **options())),
    }


@pytest.mark.parametrize("kind", ["result", "stream", "table", "polars"])
@pytest.mark.parametrize("rows", [ROWS, [ROWS[0], BAD, *ROWS[1:]], [BAD], []])
def test_good_rows_here_and_failed_rows_beside(
    tmp_path: Path, kind: str, rows: list[dict[str, Any]]
) -> None:
    table = binary_weights(rows)
    expected = aq.quantize(table, continue_on_error=True)
    aq.write_parquet(_sources(table)[kind], tmp_path / "m.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.failed.parquet", "m.parquet"]
    good = pq.read_table(tmp_path / "m.parquet")
    failed = pq.read_table(tmp_path / "m.failed.parquet")
    assert good.to_pylist() == expected.succeeded.to_pylist()
    assert failed["row_index"].to_pylist() == expected.failed["row_index"].to_pylist()
    if kind in {"result", "stream"}:
        assert failed.to_pylist() == expected.failed.to_pylist()
        assert good.schema.metadata[b"arrowquant.format"] == b"2"


def test_other_engines_read_the_same(tmp_path: Path) -> None:
    result = aq.quantize(binary_weights(ROWS))
    path = tmp_path / "m.parquet"
    aq.write_parquet(result, path)
    wanted = result.succeeded.select(["layer_name", "data", "scales", "zero_points"]).to_pylist()
    columns = "layer_name, data, scales, zero_points"
    query = f"select {columns} from '{path}' order by row_index"
    assert duckdb.sql(query).to_arrow_table().to_pylist() == wanted
    assert pl.read_parquet(path).select(columns.split(", ")).to_dicts() == wanted


def test_layout_of_the_columns(tmp_path: Path) -> None:
    table = binary_weights([float_row(f"l{i}", np.full((1024, 2048), i)) for i in range(3)])
    batches = pa.Table.from_batches(table.to_batches(max_chunksize=1))
    aq.write_parquet(aq.quantize(batches), tmp_path / "m.parquet")
    metadata = pq.ParquetFile(tmp_path / "m.parquet").metadata
    assert metadata.num_row_groups == 3
    group = metadata.row_group(0)
    chunks = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
    assert chunks["data"].compression == "UNCOMPRESSED"
    assert not chunks["data"].is_stats_set
    assert "RLE_DICTIONARY" not in chunks["data"].encodings
    assert "BYTE_STREAM_SPLIT" in chunks["scales.list.element"].encodings
    assert "RLE_DICTIONARY" in chunks["zero_points.list.element"].encodings


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    aq.write_parquet(aq.quantize(binary_weights(ROWS)), path)
    before = path.read_bytes()
    stream = aq.quantize_stream(binary_weights([ROWS[0], BAD]))
    with pytest.raises(aq.QuantizationError, match="invalid_shape: layer 'bad'"):
        aq.write_parquet(stream, path, overwrite=True)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    aq.write_parquet(aq.quantize(binary_weights(ROWS)), tmp_path / "m.parquet")
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_wrong_calls(tmp_path: Path) -> None:
    result = aq.quantize(binary_weights(ROWS))
    with pytest.raises(FileNotFoundError, match=r"does not exist. Make it"):
        aq.write_parquet(result, tmp_path / "none" / "m.parquet")
    with pytest.raises(IsADirectoryError, match="Name a file in it"):
        aq.write_parquet(result, tmp_path)
    with pytest.raises(ValueError, match="needs the one relation, with its error_ columns"):
        aq.write_parquet(result.succeeded, tmp_path / "m.parquet")


def test_write_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    arrays = {
        "b": np.arange(6, dtype=np.float16).reshape(2, 3),
        "a": np.arange(3),
        "c": np.array(True),
        "e": np.zeros((0, 3), np.float32),
    }
    aq.write_safetensors(aq.quantize(arrays, scheme="none").quantized, tmp_path / "m.safetensors")
    back = load_file(tmp_path / "m.safetensors")
    assert back.keys() == arrays.keys()
    assert all(back[k].dtype == v.dtype and np.array_equal(back[k], v) for k, v in arrays.items())
    failed = aq.dequantize(aq.quantize(binary_weights([BAD]), continue_on_error=True))
    with pytest.raises(ValueError, match="layers without data can't be written: 'bad'"):
        aq.write_safetensors(failed, tmp_path / "n.safetensors")
    twice = pa.concat_tables(
        [pa.table(aq.quantize({"x": np.ones(3)}, scheme="none").quantized)] * 2
    )
    with pytest.raises(ValueError, match="layer 'x' comes twice"):
        aq.write_safetensors(twice, tmp_path / "n.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_large_rows_among_small_ones(tmp_path: Path) -> None:
    small = [float_row(f"small.{index}", np.ones(32)) for index in range(2000)]
    large = [float_row(f"large.{index}", np.ones((64, 65536))) for index in range(3)]
    quantized = aq.quantize(binary_weights([*small, *large, *small]))
    assert quantized.quantized["data"][2000].as_buffer().size > 2**20
    path = tmp_path / "m.parquet"
    aq.write_parquet(quantized, path)
    file = pq.ParquetFile(path)
    assert file.metadata.num_row_groups == 1
    assert file.read().to_pylist() == quantized.quantized.to_pylist()
    sums = "select sum(octet_length(data)), count(*) from "
    wanted = sum(len(data) for data in quantized.quantized["data"].to_pylist())
    assert duckdb.sql(f"{sums} '{path}'").fetchall() == [(wanted, 4003)]
    assert pl.read_parquet(path)["data"].to_list() == quantized.quantized["data"].to_pylist()


def test_small_batches_share_row_groups(tmp_path: Path) -> None:
    rows = [float_row(f"l{i}", np.full((2, 40), i + 1.0)) for i in range(500)]
    table = pa.Table.from_batches(binary_weights(rows).to_batches(max_chunksize=1))
    stream = aq.quantize_stream(table)
    aq.write_parquet(stream, tmp_path / "m.parquet")
    file = pq.ParquetFile(tmp_path / "m.parquet")
    assert file.metadata.num_row_groups == 1
    assert file.read().to_pylist() == aq.quantize(table).succeeded.to_pylist()


def test_a_column_that_parquet_cannot_store_is_refused_before_any_work(tmp_path: Path) -> None:
    row = float_row("w", np.ones(32))
    months = pa.array([None], pa.month_day_nano_interval())
    (batch,) = binary_weights([row]).append_column("months", months).to_batches()
    pulled = []

    def source() -> Iterator[pa.RecordBatch]:
        pulled.append(1)
        yield batch

    reader = pa.RecordBatchReader.from_batches(batch.schema, source())
    with pytest.raises(ValueError, match=r"column 'months' has type .*Cast it or drop it"):
        aq.write_parquet(aq.quantize_stream(reader), tmp_path / "m.parquet")
    assert not pulled
    assert list(tmp_path.iterdir()) == []


_DAY, _OLD = datetime.date(2020, 2, 29), datetime.date(1, 1, 1)
_WHOLE = [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.uint64()]
_TIMES = [
    *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
    *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
    *(pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")),
    *(pa.timestamp("us", "Europe/Berlin"), pa.timestamp("s", "UTC")),
]
_DECIMALS = [pa.decimal32(5, 2), pa.decimal64(12, 2), pa.decimal128(38, 2), pa.decimal256(60, 2)]
_CARRIED = [
    *(pa.array([1, None, 5], kind) for kind in (*_WHOLE, *_TIMES)),
    *(pa.array([decimal.Decimal("1.23"), None, decimal.Decimal(-4)], kind) for kind in _DECIMALS),
    *(pa.array([_DAY, None, _OLD], kind) for kind in (pa.date32(), pa.date64())),
    pa.array([2**64 - 1, None, 0], pa.uint64()),
    pa.nulls(3),
    pa.array([True, None, False]),
    pa.array(np.array([1, 2, 65504], np.float16)),
    pa.array([1.5, None, -0.0]),
    pa.array([b"ab", None, b"cd"], pa.binary(2)),
    pa.array(["a", None, "a"]).dictionary_encode(),
    pa.array([[1, None], None, []], pa.list_(pa.int32())),
    pa.array([[1, None], None, []], pa.list_(pa.timestamp("s"))),
    pa.array([["a"], None, []], pa.large_list(pa.string())),
    pa.array([[1, 2], None, [3, None]], pa.list_(pa.int16(), 2)),
    pa.array([[[1], []], None, [None]], pa.list_(pa.list_(pa.int8()))),
    pa.array([{"a": 1, "b": [1.5]}, None, {"a": None, "b": None}]),
    pa.array([{"a": _DAY}, None, {"a": None}], pa.struct([("a", pa.date64())])),
    pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32())),
    pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([b"x" * 16, None, b"y" * 16], pa.binary(16))
    ),
    pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None, 0], pa.int8())),
]


@pytest.mark.parametrize("column", _CARRIED, ids=lambda column: str(column.type))
def test_carried_columns_are_as_pyarrows_own_writer_has_them(
    tmp_path: Path, column: pa.Array
) -> None:
    own = io.BytesIO()
    pq.write_table(pa.table({"carried": column}), own)
    wanted = pq.read_table(own)["carried"]
    table = binary_weights(ROWS[:3]).append_column("carried", column)
    aq.write_parquet(aq.quantize(table), tmp_path / "m.parquet")
    read = pq.read_table(tmp_path / "m.parquet")["carried"]
    assert read.type == wanted.type
    assert read.to_pylist() == wanted.to_pylist() == column.to_pylist()


def test_a_time_that_parquet_has_no_room_for_is_said(tmp_path: Path) -> None:
    seconds = pa.array([2**60, 0, 0, 0], pa.timestamp("s"))
    table = binary_weights(ROWS).append_column("seconds", seconds)
    with pytest.raises(ValueError, match=r"column 'seconds': .*[Oo]verflow"):
        aq.write_parquet(aq.quantize(table), tmp_path / "m.parquet")
    assert list(tmp_path.iterdir()) == []
