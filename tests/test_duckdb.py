"""`aq.duckdb.register`: SQL functions, and how they go together with threads."""

from __future__ import annotations

import threading
import time
from typing import Any

import duckdb
import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest

import arrowquant as aq

VECTORS = np.random.default_rng(1).normal(size=(5000, 24)).astype(np.float32)


def _connection(vectors: list[Any]) -> Any:
    connection = duckdb.connect()
    aq.duckdb.register(connection)
    given = pa.table({"id": range(len(vectors)), "v": pa.array(vectors, pa.list_(pa.float32()))})
    connection.register("given", given)
    connection.execute("create table vectors as select id, v::float[] v from given")
    return connection


@pytest.fixture
def connection() -> Any:
    return _connection(list(VECTORS))


@pytest.fixture(scope="module")
def expected() -> list[bytes]:
    arrays = {str(i): vector for i, vector in enumerate(VECTORS)}
    data: list[bytes] = aq.quantize(arrays, scheme="int8").quantized["data"].to_pylist()
    return data


QUERY = (
    "select id, q.data from (select id, aq_quantize(id::varchar, v, null, 'int8') q from vectors)"
)


@pytest.mark.parametrize("threads", [1, 4])
def test_the_same_bytes_however_rows_are_cut(
    connection: Any, expected: list[bytes], threads: int
) -> None:
    connection.execute(f"set threads = {threads}")
    rows = connection.sql(f"{QUERY} order by id").fetchall()
    assert [data for _, data in rows] == expected
    some = connection.sql(f"{QUERY} where id % 7 = 3 order by id").fetchall()
    assert [data for _, data in some] == expected[3::7]


def test_a_row_is_never_lost() -> None:
    vectors: list[Any] = VECTORS.tolist()
    vectors[10], vectors[12] = None, []
    vectors[11][2] = float("nan")
    connection = _connection(vectors)
    rows = connection.sql("""
        select id, q.error_code, q.error_message, q.layer_name, q.row_index from (
            select id, aq_quantize(
                case when id = 13 then null else 'v' || id end, v, null,
                case when id = 14 then 'int5' when id = 15 then null else 'int8' end) q
            from vectors
        ) where id between 9 and 16 order by id
    """).fetchall()
    assert [row[1] for row in rows] == [
        None, "null_data", "non_finite", "empty", "null_name", "unknown_scheme", None, None,
    ]  # fmt: skip
    assert rows[2][2].startswith("layer 'v11' (F32 [24]): NaN or Inf at element 2")
    assert rows[1][3] == "v10"
    assert {row[4] for row in rows} == {None}
    total = connection.sql(f"select count(*) from ({QUERY})").fetchall()
    assert total == [(5000,)]


def test_there_and_back(connection: Any) -> None:
    rows = connection.sql("""
        select v, d.data, d.error_code from (
            select id, v, aq_dequantize(aq_quantize(id::varchar, v, [2, 12], 'int8')) d from vectors
        ) order by id limit 100
    """).fetchall()
    assert {row[2] for row in rows} == {None}
    before, after = (np.array([row[i] for row in rows]) for i in (0, 1))
    assert np.abs(before - after).max() < 0.05
    # Errors go through.
    bad = connection.sql("select aq_dequantize(aq_quantize('a', null, null, 'int8'))").fetchall()
    assert bad[0][0]["error_code"] == "null_data"


def test_bytes_of_any_dtype(connection: Any) -> None:
    array = np.linspace(-1, 1, 64).reshape(2, 32).astype(ml_dtypes.bfloat16)
    query = "select aq_quantize_bytes('a', ?, 'BF16', [2, 32], 'int4')"
    ((struct,),) = connection.execute(query, [array.tobytes()]).fetchall()
    expected = aq.quantize({"a": array}, scheme="int4").quantized.to_pylist()[0]
    assert struct["error_code"] is None
    assert {
        k: struct[k] for k in ("data", "scales", "zero_points", "snr_db", "dtype", "shape")
    } == {k: expected[k] for k in ("data", "scales", "zero_points", "snr_db", "dtype", "shape")}
    ((kept,),) = connection.execute(
        "select aq_dequantize(aq_quantize_bytes('a', ?, 'BF16', [2, 32], 'none'))",
        [array.tobytes()],
    ).fetchall()
    assert kept["error_code"] == "unsupported_dtype"


def test_options_are_of_the_registration() -> None:
    connection = duckdb.connect()
    aq.duckdb.register(connection, group_size=8, symmetric=True)
    query = "select aq_quantize('a', [1, 2, 3, 4, 5, 6, 7, 8, 9]::float[], null, 'int4')"
    ((struct,),) = connection.sql(query).fetchall()
    assert (struct["group_size"], struct["is_symmetric"], len(struct["scales"])) == (8, True, 2)
    with pytest.raises(ValueError, match="invalid group_size 0"):
        aq.duckdb.register(duckdb.connect(), group_size=0)


def test_two_queries_at_once_do_not_wait_for_each_other(
    connection: Any, expected: list[bytes]
) -> None:
    found: dict[int, list[bytes]] = {}

    def run(number: int) -> None:
        rows = connection.cursor().sql(f"{QUERY} order by id").fetchall()
        found[number] = [data for _, data in rows]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == dict.fromkeys(range(4), expected)


def test_a_cancelled_query_stops(connection: Any) -> None:
    cursor = connection.cursor()
    many = QUERY.replace("from vectors", "from vectors, range(2000)")
    query = f"select sum(octet_length(data)) from ({many})"
    raised: list[BaseException] = []

    def run() -> None:
        try:
            cursor.execute(query).fetchall()
        except duckdb.Error as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive()
    cursor.interrupt()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(raised[0], duckdb.InterruptException)


def test_a_stream_and_a_copy(tmp_path: Any) -> None:
    weights = {"good": np.ones((4, 64), np.float32), "bad": np.full((4, 64), np.nan, np.float32)}
    stream = aq.quantize_stream(weights, continue_on_error=True)
    assert stream is not None
    duckdb.sql(f"copy (from stream where error_code is null) to '{tmp_path}/good.parquet'")
    names = duckdb.sql(f"select layer_name from '{tmp_path}/good.parquet'").fetchall()
    assert names == [("good",)]
    assert stream.failed["layer_name"].to_pylist() == ["bad"]


def test_a_null_shape_does_not_depend_on_other_rows() -> None:
    connection = duckdb.connect()
    aq.duckdb.register(connection)
    for large in ("false", "true"):
        connection.execute(f"set arrow_large_buffer_size = {large}")
        rows = connection.sql("""
            select q.error_code, q.shape from (
                select i, aq_quantize_bytes('a', '\\x00\\x00\\x80\\x3f'::blob, 'F32',
                    case when i = 4000 then [1, 1] end, 'int8') q from range(5000) t(i)
            ) group by all
        """).fetchall()
        assert sorted(rows) == [(None, [1]), (None, [1, 1])]
        lists = connection.sql("""
            select q.error_code, q.shape from (
                select aq_quantize(
                    'a', [1, 2]::float[], case when i = 4000 then [2, 1] end, 'int8') q
                from range(5000) t(i)
            ) group by all
        """).fetchall()
        assert sorted(lists) == [(None, [2]), (None, [2, 1])]
