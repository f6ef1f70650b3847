"""`aq.write_parquet`: good rows in one file, failed ones beside it, nothing half-written."""

from __future__ import annotations

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
from arrowquant import _parquet
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
        assert good.schema.metadata[b"arrowquant.format"] == b"1"


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
    table = binary_weights(ROWS)
    batches = pa.Table.from_batches(table.to_batches(max_chunksize=2))
    aq.write_parquet(aq.quantize(batches), tmp_path / "m.parquet")
    metadata = pq.ParquetFile(tmp_path / "m.parquet").metadata
    assert metadata.num_row_groups == 2
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
        aq.write_parquet(stream, path)
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


def test_a_page_ends_with_a_large_row_whatever_came_before(tmp_path: Path) -> None:
    """Pages are put together in memory and can't exceed 2 GiB."""
    small = [float_row(f"small.{index}", np.ones(32)) for index in range(2000)]
    large = [float_row(f"large.{index}", np.ones((64, 65536))) for index in range(3)]
    quantized = aq.quantize(binary_weights([*small, *large, *small]))
    (batch,) = quantized.quantized.to_batches()
    pages = list(_parquet._pages(batch))
    assert pa.Table.from_batches(pages).equals(pa.Table.from_batches([batch]))
    size = batch["data"][2000].as_buffer().size
    assert size > 2**20
    assert all(page["data"].nbytes <= 2**20 + size for page in pages)
    assert max(page.num_rows for page in pages) == 2001
    aq.write_parquet(quantized, tmp_path / "m.parquet")
    file = pq.ParquetFile(tmp_path / "m.parquet")
    assert file.metadata.num_row_groups == 1
    assert file.read().to_pylist() == quantized.quantized.to_pylist()


def test_a_column_that_parquet_cannot_store_is_refused_before_any_work(tmp_path: Path) -> None:
    row = float_row("w", np.ones(32))
    months = pa.array([None], pa.month_day_nano_interval())
    (batch,) = binary_weights([row]).append_column("months", months).to_batches()
    pulled = []

    def source() -> Iterator[pa.RecordBatch]:
        pulled.append(1)
        yield batch

    reader = pa.RecordBatchReader.from_batches(batch.schema, source())
    with pytest.raises(pa.ArrowNotImplementedError):
        aq.write_parquet(aq.quantize_stream(reader), tmp_path / "m.parquet")
    assert not pulled
    assert list(tmp_path.iterdir()) == []
