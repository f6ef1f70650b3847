"""The two kinds of wrong: rows become error rows, calls raise before any work."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import arrowquant as aq
from arrowquant import _core
from conftest import binary_weights, float_row

GOOD = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)


def _row(name: str = "bad", **changed: Any) -> dict[str, Any]:
    return float_row(name, GOOD) | changed


def _with(value: float, *at: int) -> bytes:
    array = GOOD.copy().reshape(-1)
    array[list(at)] = value
    return array.tobytes()


# Code -> rows of binary weights that have it, with the error's element and count.
ROWS: dict[str, list[tuple[dict[str, Any], int | None, int | None]]] = {
    "null_name": [(_row(layer_name=None), None, None)],
    "null_data": [(_row(data=None), None, None)],
    "empty": [(_row(data=b"", shape=[0, 4]), None, None)],
    "unsupported_dtype": [
        (_row(dtype="I32"), None, None),
        (_row(dtype=None), None, None),
        (_row(dtype="float99"), None, None),
    ],
    "shape_mismatch": [
        (_row(shape=[2, 31]), None, None),
        (_row(data=GOOD.tobytes()[:-1]), None, None),
    ],
    "invalid_shape": [
        (_row(shape=None), None, None),
        (_row(shape=[-2, -32]), None, None),
        (_row(shape=[2, None]), None, None),
        (_row(shape=[2**62, 2**62]), None, None),
        (_row(shape=[0, 2**62, 2**62]), None, None),
    ],
    "non_finite": [
        (_row(data=_with(np.nan, 42)), 42, 1),
        (_row(data=_with(-np.inf, 0, 5, 63)), 0, 3),
        (_row(data=np.full(64, 1e39).tobytes(), dtype="F64"), 0, 64),
        (_row(data=b"\x01" * 10 + b"\x7f" + b"\x01" * 53, dtype="F8_E4M3"), 10, 1),
    ],
}
# Code -> the test in which a row of its own kind comes by it: dictionaries, damage, a panic.
ELSEWHERE = {
    "not_contiguous": "tests/test_errors.py::test_arrays_that_are_not_contiguous",
    "invalid_setting": "tests/test_schemes.py::test_what_a_row_asks_and_a_scheme_lacks",
    "unsupported_shape": "tests/test_schemes.py::test_a_shape_that_does_not_fit",
    "out_of_range": "tests/test_schemes.py::test_a_value_whose_scale_does_not_fit",
    "missing_fact": "tests/test_schemes.py::test_one_scale_for_a_layer_in_parts",
    "invalid_fact": "tests/test_schemes.py::test_one_scale_for_a_layer_in_parts",
    "invalid_quantized": "tests/test_dequantize.py::test_damage_is_an_error_of_its_row",
    "internal": "rust/core/tests/partial_success.rs::a_panic_in_a_row_is_that_rows_internal_error",
}
FILES_AND_PARTS = {"too_large", "source_unreadable", "incomplete_layer"}


def test_every_code_is_reached_by_a_test_and_documented() -> None:
    codes = set(_core.error_codes())
    assert codes == ROWS.keys() | LISTED.keys() | ELSEWHERE.keys() | FILES_AND_PARTS
    for place in ELSEWHERE.values():
        file, name = place.split("::")
        assert f"{name}(" in (Path(__file__).parents[1] / file).read_text(), place
    table = (Path(__file__).parents[1] / "docs" / "errors.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == _core.error_codes()


def _cases() -> list[Any]:
    cases = [(code, *case) for code, rows in ROWS.items() for case in rows]
    return [pytest.param(*case, id=f"{case[0]}-{i}") for i, case in enumerate(cases)]


@pytest.mark.parametrize(("code", "row", "element", "count"), _cases())
@pytest.mark.parametrize("place", ["alone", "first", "last", "middle"])
def test_a_bad_row_is_an_error_row_and_harms_no_other(
    code: str, row: dict[str, Any], element: int | None, count: int | None, place: str
) -> None:
    good = [_row(f"good.{i}") for i in range(3)]
    rows = {"alone": [row], "first": [row, *good], "last": [*good, row]}
    rows["middle"] = [*good[:2], row, *good[2:]]
    result = aq.quantize(binary_weights(rows[place]), continue_on_error=True)
    at = rows[place].index(row)
    _check_accounted(result, len(rows[place]), {at: code})
    error = result.errors.to_pylist()[at]
    assert (error["error_element"], error["error_count"]) == (element, count)
    if row["layer_name"] is not None:
        assert f"layer '{row['layer_name']}'" in error["error_message"]
    quantized = result.quantized.to_pylist()[at]
    kept = {"row_index", "layer_name", "dtype", "shape"}
    assert all(value is None for name, value in quantized.items() if name not in kept)
    alone = aq.quantize(binary_weights([good[0]])).quantized["data"].to_pylist()
    assert result.succeeded["data"].to_pylist() == alone * (len(rows[place]) - 1)


def _check_accounted(result: aq.QuantizationResult, rows: int, failed: dict[int, str]) -> None:
    """Every row that went in comes out once, and `row_index` joins the tables."""
    assert result.quantized["row_index"].to_pylist() == list(range(rows))
    assert result.errors["row_index"].to_pylist() == list(range(rows))
    codes = result.errors["error_code"].to_pylist()
    assert codes == [failed.get(row) for row in range(rows)]
    assert result.failed["row_index"].to_pylist() == list(failed)
    assert result.failed["error_code"].to_pylist() == list(failed.values())
    good = [row for row in range(rows) if row not in failed]
    assert result.succeeded["row_index"].to_pylist() == good
    assert len(result) == rows


ALL_BAD = [row for rows in ROWS.values() for row, _, _ in rows]
ALL_CODES = [code for code, rows in ROWS.items() for _ in rows]


@pytest.mark.parametrize("good", [0, 3])
@pytest.mark.parametrize("through", ["table", "batch", "batches", "reader"])
def test_all_errors_together(good: int, through: str) -> None:
    rows = [*ALL_BAD, *(_row(f"good.{i}") for i in range(good))]
    table = binary_weights(rows)
    weights = {
        "table": table,
        "batch": table.combine_chunks().to_batches()[0],
        "batches": pa.Table.from_batches(table.to_batches(max_chunksize=2)),
        "reader": pa.RecordBatchReader.from_batches(
            table.schema, table.to_batches(max_chunksize=3)
        ),
    }[through]
    result = aq.quantize(weights, continue_on_error=True)
    _check_accounted(result, len(rows), dict(enumerate(ALL_CODES)))


LIST = pa.list_(pa.float32())
# Rows of lists with plan columns, which reach the codes that binary rows alone do not.
LISTED: dict[str, dict[str, Any]] = {
    "null_element": {"data": [1.0, None]},
    "unknown_scheme": {"scheme": "q4"},
    "invalid_group_size": {"group_size": 0},
    "unsupported_dtype": {"dtype": "F16"},
    "null_data": {"data": None},
    "null_name": {"layer_name": None},
    "empty": {"data": [], "shape": [0]},
    "non_finite": {"data": [1.0, float("nan")]},
    "invalid_shape": {"shape": None},
    "shape_mismatch": {"shape": [3]},
}


def _listed(codes: list[str | None]) -> pa.Table:
    base = {"layer_name": "l", "data": [1.0, 2.0], "shape": [2]}
    base |= {"scheme": None, "group_size": None, "dtype": None}
    rows = [base | (LISTED[code] if code else {}) for code in codes]
    kinds = [pa.string(), LIST, pa.list_(pa.int64()), pa.string(), pa.int64(), pa.string()]
    return pa.Table.from_pylist(rows, pa.schema(list(zip(base, kinds, strict=True))))


@pytest.mark.parametrize("code", LISTED)
@pytest.mark.parametrize("place", [[0], [0, 1, 1], [1, 1, 0], [1, 0, 1]], ids=str)
def test_rows_of_lists_fail_alike_everywhere(code: str, place: list[int]) -> None:
    codes = [None if good else code for good in place]
    failed = {row: code for row, good in enumerate(place) if not good}
    table = _listed(codes)
    _check_accounted(aq.quantize(table, continue_on_error=True), len(codes), failed)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_all_errors_of_lists_together_and_through_a_stream(size: int) -> None:
    codes: list[str | None] = [None, *LISTED, None, *reversed(LISTED)]
    table = pa.Table.from_batches(_listed(codes).to_batches(max_chunksize=size))
    failed = {row: code for row, code in enumerate(codes) if code}
    result = aq.quantize(table, continue_on_error=True)
    _check_accounted(result, len(codes), failed)
    stream = aq.quantize_stream(table, continue_on_error=True)
    assert pa.table(stream).to_pylist() == pa.table(result).to_pylist()
    assert stream.failed.to_pylist() == result.failed.to_pylist()


def test_no_row_fails() -> None:
    _check_accounted(aq.quantize(binary_weights([_row("a"), _row("b")])), 2, {})


def test_failed_says_what_was_asked() -> None:
    table = binary_weights([_row("a", dtype="I32"), _row("b")])
    table = table.append_column("owner", pa.array(["x", "y"]))
    result = aq.quantize(table, scheme="int8", group_size=-1, continue_on_error=True)
    (row,) = result.failed.to_pylist()
    assert list(row) == [
        *("row_index", "layer_name", "shape", "dtype", "scheme", "group_size", "is_symmetric"),
        *("error_code", "error_message", "error_element", "error_count", "owner"),
    ]
    asked = (row["scheme"], row["group_size"], row["is_symmetric"], row["owner"])
    assert asked == ("int8", -1, True, "x")


def test_failfast_lists_all_metadata_errors_before_any_value_is_read() -> None:
    rows = [_row("nan", data=_with(np.nan, 1)), _row("int", dtype="I32"), _row("empty", data=b"")]
    with pytest.raises(aq.QuantizationError, match=r"^unsupported_dtype: layer 'int'") as caught:
        aq.quantize(binary_weights(rows))
    assert caught.value.failed["layer_name"].to_pylist() == ["int", "empty"]
    assert "'empty' (shape_mismatch)" in str(caught.value)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_failfast_on_values_lists_the_lowest_row_first(threads: int) -> None:
    """Layers of a mebibyte: each is a task of its own, and tasks end in any order."""
    array = np.linspace(-1, 1, 1 << 18, dtype=np.float32)
    bad = array.copy()
    bad[-1] = np.nan  # found last
    early = array.copy()
    early[0] = np.nan  # found first
    arrays = {f"l{i}": {5: bad, 6: early, 12: early, 19: bad}.get(i, array) for i in range(24)}
    for _ in range(5):
        with pytest.raises(aq.QuantizationError, match=r"^non_finite: layer 'l5' ") as caught:
            aq.quantize(arrays, threads=threads)
        failed = caught.value.failed.to_pylist()
        assert failed[0]["row_index"] == 5
        assert (failed[0]["error_element"], failed[0]["error_count"]) == ((1 << 18) - 1, 1)
        assert [row["row_index"] for row in failed] == sorted(row["row_index"] for row in failed)
        assert isinstance(caught.value, ValueError)


def test_non_finite_values_are_counted_over_all_pieces() -> None:
    array = np.ones(3_000_000, np.float32)
    array[[7, 8, 1_500_000, 2_999_999]] = np.inf
    failed = aq.quantize({"w": array}, continue_on_error=True).failed.to_pylist()
    assert [(row["error_element"], row["error_count"]) for row in failed] == [(7, 4)]


def test_the_exception_survives_pickling() -> None:
    with pytest.raises(aq.QuantizationError) as caught:
        aq.quantize(binary_weights([_row(dtype="I32")]))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.failed) == (str(caught.value), caught.value.failed)


@pytest.mark.parametrize("single", [False, True])
def test_results_survive_pickling(single: bool) -> None:
    weights: Any = binary_weights([_row(), _row(layer_name="bad", dtype="I32")])
    if single:
        (weights,) = weights.to_batches()
    result = aq.quantize(weights, continue_on_error=True)
    copy = pickle.loads(pickle.dumps(result))
    assert (copy.quantized, copy.errors) == (result.quantized, result.errors)
    assert (copy.failed, copy.succeeded) == (result.failed, result.succeeded)
    assert copy.failed.num_rows == len(copy) - 1 == 1
    assert isinstance(copy.quantized, pa.RecordBatch if single else pa.Table)


@pytest.mark.parametrize("scheme", ["int4", "none"])
def test_nulls_among_elements(scheme: str) -> None:
    lists = [[1.0, 2.0], [1.0, None, None, 4.0], None, [5.0]]
    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float64())):
        table = pa.table({"layer_name": list("abcd"), "data": pa.array(lists, kind)})
        result = aq.quantize(table, scheme=scheme, continue_on_error=True)
        errors = result.errors.to_pylist()
        assert [e["error_code"] for e in errors] == [None, "null_element", "null_data", None]
        assert (errors[1]["error_element"], errors[1]["error_count"]) == (1, 2)


def test_plan_columns_can_be_wrong_row_by_row() -> None:
    table = binary_weights([_row(name) for name in "abcde"])
    schemes = ["int4", "q4", "int5", None, None]
    table = table.append_column("scheme", pa.array(schemes, pa.string()))
    table = table.append_column("group_size", pa.array([None, None, None, 0, -2], pa.int8()))
    errors = aq.quantize(table, continue_on_error=True).errors.to_pylist()
    codes = [error["error_code"] for error in errors]
    assert codes == [None, "unknown_scheme", "unknown_scheme", *["invalid_group_size"] * 2]
    assert "What other tools call 'q4' is 'int4' here" in errors[1]["error_message"]
    assert "Choose one of 'int8', 'int4', 'int2', 'fp8_e4m3', " in errors[2]["error_message"]
    assert "-1 for one group a row" in errors[3]["error_message"]


def test_arrays_that_are_not_contiguous() -> None:
    arrays = {"a": GOOD, "b": GOOD.T, "c": GOOD.astype(">f4"), "d": [1.0], "e": GOOD.astype("U4")}
    result = aq.quantize(arrays, continue_on_error=True)
    codes = result.errors["error_code"].to_pylist()
    assert codes == [None, "not_contiguous", *["unsupported_dtype"] * 3]
    with pytest.raises(TypeError, match="layer names must be strings, got 7"):
        aq.quantize({7: GOOD})  # type: ignore[dict-item]


def test_the_message_names_layer_dtype_shape_file_and_fix() -> None:
    table = binary_weights([_row("model.layers.7.up", data=_with(np.inf, 42, 43, 50))])
    table = table.append_column("source_file", pa.array(["model-00009-of-00030.safetensors"]))
    result = aq.quantize(table, continue_on_error=True)
    assert result.failed["error_message"].to_pylist() == [
        "layer 'model.layers.7.up' (F32 [2, 32], model-00009-of-00030.safetensors): NaN or Inf at "
        "element 42 (3 in all). Clean the data, or keep the layer with scheme 'none'. "
        "The first is at [1, 10]."
    ]


@pytest.mark.parametrize("continue_on_error", [False, True])
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"scheme": "W4A16"}, ValueError, "'W4A16' is 'int4' here"),
        ({"scheme": "4bit"}, ValueError, "'4bit' is 'int4' here"),
        ({"scheme": "int3"}, ValueError, "Choose one of 'int8', 'int4', 'int2', 'fp8_e4m3', "),
        ({"scheme": 4}, TypeError, "scheme must be str"),
        ({"group_size": 0}, ValueError, "invalid group_size 0"),
        ({"group_size": True}, TypeError, "group_size must be int or None, got True"),
        ({"symmetric": 1}, TypeError, "symmetric must be bool or None"),
        ({"scale_dtype": "F8"}, ValueError, "Choose one of source, F32, F16, BF16"),
        ({"threads": 0}, ValueError, "threads must be a positive number, got 0"),
        ({"progress": 3}, TypeError, "progress must be True, False or callable"),
        ({"plan": pa.table({"name": ["a"]})}, ValueError, "Plans need a column 'layer_name'"),
    ],
)
def test_wrong_options_raise_before_any_work(
    options: dict[str, Any], kind: type[Exception], message: str, continue_on_error: bool
) -> None:
    def batches() -> Any:
        raise AssertionError("work began")
        yield

    table = binary_weights([_row()])
    weights = pa.RecordBatchReader.from_batches(table.schema, batches())
    with pytest.raises(kind, match=re.escape(message)):
        aq.quantize(weights, continue_on_error=continue_on_error, **options)


@pytest.mark.parametrize(
    ("table", "kind", "message"),
    [
        (pa.table({"data": [[1.0]]}), ValueError, "need a column 'layer_name'"),
        (pa.table({"layer_name": ["a"]}), ValueError, "need a column 'data'"),
        (pa.table({"layer_name": ["a"], "data": [b""]}), ValueError, "need a column 'dtype'"),
        (pa.table({"layer_name": ["a"], "data": [[1]]}), TypeError, "column 'data' has type"),
        (pa.table({"layer_name": [1], "data": [[1.0]]}), TypeError, "column 'layer_name' has type"),
        (
            pa.table({"layer_name": ["a"], "data": [[1.0]], "shape": [1.0]}),
            TypeError,
            "expected a list of any integer type",
        ),
        (
            pa.table({"layer_name": ["a"], "data": [[1.0]], "MSE": [1]}),
            ValueError,
            "column 'MSE' has the name of an output column",
        ),
        (
            pa.table([pa.array(["a"]), pa.array([[1.0]]), pa.array([1]), pa.array([1])],
                     names=["layer_name", "data", "x", "X"]),
            ValueError,
            "columns 'x' and 'X' are given twice",
        ),
    ],
)  # fmt: skip
def test_wrong_columns_raise(table: pa.Table, kind: type[Exception], message: str) -> None:
    for verb in (aq.quantize, aq.quantize_stream):
        with pytest.raises(kind, match=re.escape(message)):
            verb(table, continue_on_error=True)  # type: ignore[operator]


def test_what_speaks_no_arrow_is_refused() -> None:
    with pytest.raises(TypeError, match=r"PyCapsule interface .* got ndarray"):
        aq.quantize(GOOD)  # type: ignore[arg-type]


def test_errors_of_the_source_reach_the_caller() -> None:
    table = binary_weights([_row()])

    def batches() -> Any:
        yield table.to_batches()[0]
        raise RuntimeError("the disk is gone")

    with pytest.raises(Exception, match="the disk is gone"):
        aq.quantize(pa.RecordBatchReader.from_batches(table.schema, batches()))
