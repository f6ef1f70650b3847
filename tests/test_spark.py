"""`aq.spark`: tables quantized where they are. Needs `pip install '.[spark]'` and Java."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import arrowquant as aq

pytest.importorskip("pyspark", reason="of the extra 'spark'")
if shutil.which("java") is None:
    pytest.skip("Spark needs Java", allow_module_level=True)

from pyspark.sql import SparkSession

os.environ["PYSPARK_PYTHON"] = sys.executable  # Workers would take whatever python3 is in PATH.

pytestmark = pytest.mark.filterwarnings("default")  # Spark's own are many


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "3")
        .getOrCreate()
    )
    yield session
    session.stop()


@pytest.fixture(scope="module")
def weights() -> pa.Table:
    rng = np.random.default_rng(4)
    arrays = {f"l{i}": rng.normal(size=(4, 64)).astype(np.float32) for i in range(10)}
    arrays["l7"][1, 2] = np.nan
    table = pa.table(aq.quantize(arrays, scheme="none").quantized)
    return table.select(["layer_name", "dtype", "shape", "data"]).append_column(
        "owner", pa.array(["me"] * 10)
    )


def test_the_same_bytes_as_the_plain_call(spark: Any, weights: pa.Table) -> None:
    frame = spark.createDataFrame(weights).repartition(3)
    out = aq.spark.quantize(frame, scheme="int4", continue_on_error=True)
    assert out.schema == aq.spark.schema(frame, scheme="int4", continue_on_error=True)
    got = {row["layer_name"]: row.asDict() for row in out.collect()}
    expected = pa.table(aq.quantize(weights, scheme="int4", continue_on_error=True)).to_pylist()
    assert len(got) == 10
    for row in expected:
        own = got[row["layer_name"]]
        assert own.pop("row_index") is None
        row.pop("row_index")
        assert {name: bytes(v) if name == "data" and v else v for name, v in own.items()} == row
    failed = out.where("error_code is not null").select("layer_name", "error_code").collect()
    assert [tuple(row) for row in failed] == [("l7", "non_finite")]


def test_there_and_back(spark: Any, weights: pa.Table) -> None:
    frame = spark.createDataFrame(weights.slice(0, 5))
    back = aq.spark.dequantize(aq.spark.quantize(frame, scheme="int8")).collect()
    expected = aq.to_numpy(aq.dequantize(aq.quantize(weights.slice(0, 5), scheme="int8")))
    assert {row["layer_name"]: bytes(row["data"]) for row in back} == {
        name: array.tobytes() for name, array in expected.items()
    }


def test_vectors_in_a_column(spark: Any) -> None:
    frame = spark.sql(
        "select cast(id as string) layer_name, array(1f, cast(id as float)) data from range(9)"
    )
    rows = aq.spark.quantize(frame, scheme="int8").collect()
    assert sorted(row["layer_name"] for row in rows) == [str(i) for i in range(9)]
    assert {tuple(row["shape"]) for row in rows} == {(2,)}


def test_failures(spark: Any, weights: pa.Table) -> None:
    frame = spark.createDataFrame(weights)
    with pytest.raises(Exception, match="non_finite: layer 'l7'"):
        aq.spark.quantize(frame).collect()
    with pytest.raises(ValueError, match="'q4' is 'int4' here"):
        aq.spark.quantize(frame, scheme="q4")
    with pytest.raises(ValueError, match="Weights need a column 'layer_name'"):
        aq.spark.quantize(spark.sql("select 1 a"))


def test_instants_are_carried(spark: Any) -> None:
    frame = spark.sql("select 'a' layer_name, array(1f) data, timestamp'2026-11-25 03:00:00' at")
    (row,) = aq.spark.quantize(frame, scheme="int8").collect()
    assert row["at"] == frame.collect()[0]["at"]


def test_layers_that_share_a_scale(spark: Any) -> None:
    """Parts of a layer and layers that runtimes fuse know the largest magnitude of them all."""
    rng = np.random.default_rng(4)
    rows = []
    for name, size in (("q_proj", 1.0), ("k_proj", 300.0), ("o_proj", 0.01)):
        whole = (rng.normal(size=(8, 64)) * size).astype(np.float32)
        for part in range(2):
            rows.append(
                {
                    "layer_name": f"layers.0.self_attn.{name}.weight",
                    "dtype": "F32",
                    "shape": [4, 64],
                    "data": whole[4 * part : 4 * part + 4].tobytes(),
                    "part_index": part,
                    "part_count": 2,
                    "part_offset": 256 * part,
                    "layer_shape": [8, 64],
                    "tensor_absmax": float(np.abs(whole).max()),
                }
            )
    most = max(row["tensor_absmax"] for row in rows if "o_proj" not in row["layer_name"])
    known = [
        row | ({} if "o_proj" in row["layer_name"] else {"tensor_absmax": most}) for row in rows
    ]
    expected = pa.table(aq.quantize(pa.Table.from_pylist(known), scheme="nvfp4").quantized)
    wanted = {
        (row["layer_name"], row["part_index"]): (row["data"], row["tensor_scale"])
        for row in expected.to_pylist()
    }
    frame = spark.createDataFrame(pa.Table.from_pylist(rows).drop_columns(["tensor_absmax"]))
    out = aq.spark.quantize(frame.repartition(3), scheme="nvfp4").collect()
    found = {
        (row["layer_name"], row["part_index"]): (bytes(row["data"]), row["tensor_scale"])
        for row in out
    }
    assert found == wanted
    assert len({scale for _, scale in found.values()}) == 2
