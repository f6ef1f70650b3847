"""Real engines give weights and take results as they are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datafusion
import duckdb
import nanoarrow as na
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest

import arrowquant as aq
from conftest import binary_weights, float_row

ROWS = [float_row(f"l{i}", np.linspace(-i - 1, 1, 80).reshape(2, 40)) for i in range(5)]
ROWS[3] |= {"data": np.full(80, np.nan, np.float32).tobytes()}
TABLE = binary_weights(ROWS)


def _duckdb(table: pa.Table) -> Any:
    return duckdb.connect().from_arrow(table)


def _datafusion(table: pa.Table) -> Any:
    return datafusion.SessionContext().from_arrow(table)


PRODUCERS: dict[str, Callable[[pa.Table], Any]] = {
    "pyarrow": lambda table: table,
    "reader": lambda table: table.to_reader(),
    "polars": pl.DataFrame,
    "duckdb": _duckdb,
    "datafusion": _datafusion,
    "pandas": lambda table: table.to_pandas(types_mapper=pd.ArrowDtype),
    "nanoarrow": na.ArrayStream,
    "lazy polars": lambda table: pl.DataFrame(table).lazy(),
    "dataset": pa.dataset.dataset,
    "scanner": lambda table: pa.dataset.dataset(table).scanner(batch_size=2),
}


def _from_duckdb(result: Any) -> pa.Table:
    assert result is not None
    return duckdb.sql("from result").to_arrow_table()


def _from_a_join(result: Any) -> pa.Table:
    plan = pa.table({"layer_name": [row["layer_name"] for row in ROWS], "owner": ["me"] * 5})
    assert (result, plan) is not None
    joined = duckdb.sql(
        "select result.* from result join plan using (layer_name) order by row_index"
    )
    return joined.to_arrow_table()


def _from_a_registered_table(result: Any) -> pa.Table:
    context = datafusion.SessionContext()
    context.register_record_batches("result", [pa.table(result).to_batches()])
    return pa.Table.from_batches(context.sql("select * from result order by row_index").collect())


def _through_a_sink(result: Any) -> pa.Table:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sunk.parquet"
        pl.DataFrame(result).lazy().sink_parquet(path)
        return pl.read_parquet(path).to_arrow()


CONSUMERS: dict[str, Callable[[Any], pa.Table]] = {
    "pyarrow": pa.table,
    "polars": lambda result: pl.DataFrame(result).to_arrow(),
    "duckdb": _from_duckdb,
    "datafusion": lambda result: pa.Table.from_batches(
        datafusion.SessionContext().from_arrow(pa.table(result)).collect()
    ),
    "pandas": lambda result: pa.table(pd.DataFrame.from_arrow(result)),
    "nanoarrow": lambda result: pa.table(na.ArrayStream(result)),
    "duckdb join": _from_a_join,
    "datafusion table": _from_a_registered_table,
    "polars sink": _through_a_sink,
}


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("producer", PRODUCERS)
@pytest.mark.parametrize("verb", [aq.quantize, aq.quantize_stream])
def test_one_answer_everywhere(producer: str, consumer: str, verb: Any) -> None:
    expected = pa.table(aq.quantize(TABLE, continue_on_error=True)).to_pylist()
    result = verb(PRODUCERS[producer](TABLE), continue_on_error=True)
    got = CONSUMERS[consumer](result).to_pylist()
    for row in got:  # NaN is what pandas makes of a null among floats
        row.update({k: None for k, v in row.items() if isinstance(v, float) and np.isnan(v)})
    assert got == expected


@pytest.mark.parametrize("producer", [name for name in PRODUCERS if name != "datafusion"])
def test_the_way_back_through_an_engine(producer: str) -> None:
    result = aq.quantize(TABLE, continue_on_error=True)
    through = PRODUCERS[producer](pa.table(result))
    restored = aq.dequantize(through)
    wanted = aq.dequantize(result).weights
    assert restored.weights["data"].to_pylist() == wanted["data"].to_pylist()
    assert restored.failed["error_code"].to_pylist() == ["non_finite"]


def test_an_engines_own_text_types_are_carried(tmp_path: Path) -> None:
    """Polars hands out string views, which Arrow's own filter does not know."""
    frame = pl.DataFrame(TABLE).with_columns(owner=pl.lit("me"), tag=pl.lit(b"x"))
    result = aq.quantize(frame, continue_on_error=True)
    assert result.succeeded["owner"].to_pylist() == ["me"] * 4
    assert result.failed["owner"].to_pylist() == ["me"]
    aq.write_parquet(result, tmp_path / "a.parquet")
    aq.write_parquet(aq.quantize_stream(frame, continue_on_error=True), tmp_path / "b.parquet")
    for name in "ab":
        assert pl.read_parquet(tmp_path / f"{name}.parquet")["tag"].to_list() == [b"x"] * 4
    with pytest.warns(aq.QuantizationWarning, match="'l3'"):
        assert len(aq.to_numpy(aq.dequantize(result))) == 4


def test_partial_success_is_a_row_filter() -> None:
    result = aq.quantize(TABLE, continue_on_error=True)
    assert result is not None
    good = duckdb.sql("select layer_name from result where error_code is null").fetchall()
    assert good == [("l0",), ("l1",), ("l2",), ("l4",)]
    frame = pl.DataFrame(result)
    failed = frame.filter(pl.col("error_code").is_not_null())
    assert failed["error_message"][0].startswith("layer 'l3' (F32 [2, 40]): NaN or Inf")


def test_a_failure_in_an_engine_names_code_and_layer() -> None:
    stream = aq.quantize_stream(TABLE)
    with pytest.raises(Exception, match="non_finite: layer 'l3'"):
        duckdb.sql("from stream").fetchall()
    assert isinstance(stream.error, aq.QuantizationError)
    again = aq.quantize_stream(TABLE)
    with pytest.raises(Exception, match="non_finite: layer 'l3'"):
        pl.DataFrame(again)
    plain = aq.quantize_stream(TABLE)
    with pytest.raises(Exception, match=r"^non_finite: layer 'l3'"):  # none of Arrow's own words
        pa.table(plain)


@pytest.mark.parametrize("read", [pa.table, pl.DataFrame, _from_duckdb])
def test_a_stream_is_read_once(read: Callable[[Any], Any]) -> None:
    stream = aq.quantize_stream(TABLE, continue_on_error=True)
    read(stream)
    with pytest.raises(Exception, match="The stream can be read once"):
        read(stream)
    assert stream.failed["layer_name"].to_pylist() == ["l3"]


@pytest.mark.parametrize("verb", [aq.quantize, aq.quantize_stream])
def test_a_result_is_read_as_often_as_wanted(verb: Any) -> None:
    result = verb(TABLE, continue_on_error=True)
    if verb is aq.quantize:
        assert pa.table(result) == pa.table(result)
        assert duckdb.sql(
            "select count(*) from result a join result b using (row_index)"
        ).fetchall()


def test_a_limit_stops_the_work() -> None:
    """An engine that wants no more lets the stream go; nothing is computed after."""
    given = []

    def batches() -> Any:
        for index in range(1000):
            given.append(index)
            yield binary_weights(ROWS[:1]).to_batches()[0]

    reader = pa.RecordBatchReader.from_batches(TABLE.schema, batches())
    stream = aq.quantize_stream(reader)
    assert duckdb.sql("select layer_name from stream limit 1").fetchall() == [("l0",)]
    del stream
    seen = len(given)
    assert seen < 1000
    assert len(given) == seen
