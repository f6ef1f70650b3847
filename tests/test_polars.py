"""`df.quant` and `lf.quant`: Polars' own way of asking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from polars.io.plugins import register_io_source

import arrowquant as aq
import arrowquant.polars
from conftest import binary_weights, float_row

ROWS = [float_row(f"l{i}", np.linspace(-i - 1, 1, 80).reshape(2, 40)) for i in range(6)]
ROWS[3] |= {"data": np.full(80, np.nan, np.float32).tobytes()}
TABLE = binary_weights(ROWS)


def test_a_frame_quantizes_itself() -> None:
    frame = pl.DataFrame(TABLE)
    got = frame.quant.quantize(scheme="int8", continue_on_error=True)
    expected = aq.quantize(TABLE, scheme="int8", continue_on_error=True)
    assert got.equals(pl.DataFrame(expected))
    restored = got.quant.dequantize()
    assert restored["data"].to_list() == pa.table(aq.dequantize(expected))["data"].to_pylist()
    with pytest.raises(aq.QuantizationError, match="non_finite: layer 'l3'"):
        frame.quant.quantize()


def test_a_lazy_frame_is_lazy_and_knows_its_schema(tmp_path: Path) -> None:
    collected = []

    def note(frame: pl.DataFrame) -> pl.DataFrame:
        collected.append(len(frame))
        return frame

    source = pl.DataFrame(TABLE).lazy().map_batches(note, validate_output_schema=False)
    lazy = source.quant.quantize(continue_on_error=True)
    expected = pl.DataFrame(aq.quantize(TABLE, continue_on_error=True))
    assert lazy.collect_schema() == expected.schema
    assert collected == []
    assert lazy.collect().equals(expected)
    assert lazy.collect().equals(expected), "as often as wanted"
    lazy.filter(pl.col("error_code").is_null()).sink_parquet(tmp_path / "good.parquet")
    good = pl.read_parquet(tmp_path / "good.parquet")
    assert good.equals(expected.filter(pl.col("error_code").is_null()))
    back = pl.scan_parquet(tmp_path / "good.parquet").quant.dequantize().collect()
    assert back["layer_name"].to_list() == [f"l{i}" for i in (0, 1, 2, 4, 5)]


def test_what_is_pushed_down_is_applied() -> None:
    lazy = pl.DataFrame(TABLE).lazy().quant.quantize(continue_on_error=True)
    expected = pl.DataFrame(aq.quantize(TABLE, continue_on_error=True))
    some = lazy.filter(pl.col("snr_db") > 25).select("layer_name", "snr_db").head(2)
    wanted = expected.filter(pl.col("snr_db") > 25).select("layer_name", "snr_db").head(2)
    assert some.collect().equals(wanted)
    assert lazy.head(3).collect().equals(expected.head(3))
    assert lazy.select(pl.len()).collect().item() == 6


def test_batches_do_not_show(tmp_path: Path) -> None:
    pl.DataFrame(TABLE).write_parquet(tmp_path / "w.parquet", row_group_size=2)
    expected = pl.DataFrame(aq.quantize(TABLE, continue_on_error=True))
    lazy = pl.scan_parquet(tmp_path / "w.parquet").quant.quantize(continue_on_error=True)
    assert lazy.collect().equals(expected)
    assert lazy.collect(engine="streaming").equals(expected)
    assert lazy.collect()["row_index"].to_list() == list(range(6))


def test_a_failure_reaches_the_caller() -> None:
    lazy = pl.DataFrame(TABLE).lazy().quant.quantize()
    with pytest.raises(Exception, match="non_finite: layer 'l3'"):
        lazy.collect()
    with pytest.raises(ValueError, match="'q4' is 'int4' here"):
        pl.DataFrame(TABLE).lazy().quant.quantize(scheme="q4")


@pytest.mark.parametrize(
    "kind", [pl.List(pl.Float32), pl.Array(pl.Float32, 48), pl.List(pl.Float64)]
)
def test_a_column_of_vectors(kind: Any) -> None:
    vectors = np.random.default_rng(0).normal(size=(7, 48)).astype(np.float32)
    values: list[Any] = vectors.tolist()
    values[2] = None
    values[5][7] = float("nan")
    frame = pl.DataFrame({"id": range(7), "vector": pl.Series(values, dtype=kind)})
    out = frame.quant.quantize_column("vector", continue_on_error=True)
    assert out.columns == ["id", "vector", "vector_quantized"]
    struct = out["vector_quantized"].struct.unnest()
    assert struct["error_code"].to_list() == [
        None,
        None,
        "null_data",
        None,
        None,
        "non_finite",
        None,
    ]
    assert struct["layer_name"][5] == "vector[5]"
    assert struct["error_element"][5] == 7
    good = [i for i in range(7) if i not in {2, 5}]
    alone = aq.quantize({str(i): np.asarray(values[i], vectors.dtype) for i in good}, scheme="int8")
    assert struct["data"][good].to_list() == alone.quantized["data"].to_pylist()
    with pytest.raises(aq.QuantizationError, match=r"null_data: layer 'vector\[2\]'"):
        frame.quant.quantize_column("vector")
    named = frame.quant.quantize_column("vector", into="q", scheme="int4", continue_on_error=True)
    assert set(named["q"].struct.field("scheme").drop_nulls()) == {"int4"}


def test_wrong_columns() -> None:
    frame = pl.DataFrame({"id": [1], "text{}": ["a"]})
    with pytest.raises(ValueError, match="there is no column 'vector'"):
        frame.quant.quantize_column("vector")
    with pytest.raises(TypeError, match="column 'data' has type"):
        frame.quant.quantize_column("text{}")


def test_the_package_finds_the_module() -> None:
    assert aq.polars is arrowquant.polars


def test_a_query_that_ends_early_stops_the_work() -> None:
    given = []

    def source(*_: Any) -> Iterator[pl.DataFrame]:
        for index in range(1000):
            given.append(index)
            yield pl.DataFrame(binary_weights(ROWS[:1]))

    schema = pl.DataFrame(binary_weights(ROWS[:1])).schema
    lazy = register_io_source(source, schema=schema).quant.quantize().head(1)
    assert lazy.collect()["layer_name"].to_list() == ["l0"]
    assert len(given) < 1000
