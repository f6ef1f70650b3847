"""Every way in which weights may lie in Arrow is read alike, and without a copy of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import arrowquant as aq

ROWS = 5
COLUMNS = 40
VALUES = np.random.default_rng(7).normal(0, 1, (ROWS, COLUMNS)).astype(np.float32)
NAMES = [f"layer.{row}" for row in range(ROWS)]


def _lists(kind: pa.DataType) -> pa.Array:
    return pa.array(VALUES.astype(np.float64).tolist()).cast(kind)


def _bytes(kind: pa.DataType) -> pa.Array:
    return pa.array([row.tobytes() for row in VALUES], kind)


def _odd_addresses() -> pa.Array:
    """Binary values that all begin at an odd address."""
    blob = b"".join(b"x" + row.tobytes() for row in VALUES)
    whole = np.frombuffer(b"y" * (1 + len(blob) % 2) + blob, np.uint8)
    step = 4 * COLUMNS + 1
    views = [pa.py_buffer(whole[-len(blob) :])]
    offsets = np.arange(ROWS + 1, dtype=np.int64) * step
    array = pa.Array.from_buffers(pa.large_binary(), ROWS, [None, pa.py_buffer(offsets), *views])
    return pc.binary_slice(array, 1)


DATA: dict[str, pa.Array] = {
    "list<float32>": _lists(pa.list_(pa.float32())),
    "large_list<float32>": _lists(pa.large_list(pa.float32())),
    "fixed_size_list<float32>": _lists(pa.list_(pa.float32(), COLUMNS)),
    "list of other child name": _lists(pa.list_(pa.field("element", pa.float32(), nullable=False))),
    "list<float64>": _lists(pa.list_(pa.float64())),
    "binary": _bytes(pa.binary()),
    "large_binary": _bytes(pa.large_binary()),
    "binary_view": _bytes(pa.binary_view()),
    "odd addresses": _odd_addresses(),
}
TEXT = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]


def _table(data: pa.Array, text: pa.DataType = TEXT[0]) -> pa.Table:
    columns: dict[str, Any] = {"layer_name": pa.array(NAMES).cast(text), "data": data}
    is_binary = "binary" in str(data.type)
    dtype = "F32" if is_binary else None
    columns["dtype"] = pa.array([dtype] * ROWS, pa.string()).cast(text)
    return pa.table(columns)


EXPECTED = aq.quantize(_table(DATA["large_binary"])).quantized.to_pylist()


def _same(got: Any, rows: slice = slice(None)) -> None:
    wanted = EXPECTED[rows]
    for column in ("layer_name", "shape", "data", "scales", "zero_points", "snr_db"):
        assert got.quantized[column].to_pylist() == [row[column] for row in wanted]


@pytest.mark.parametrize("name", DATA)
def test_types_of_data(name: str) -> None:
    _same(aq.quantize(_table(DATA[name])))


@pytest.mark.parametrize("text", TEXT, ids=str)
def test_types_of_text(text: pa.DataType) -> None:
    _same(aq.quantize(_table(DATA["large_binary"], text)))


@pytest.mark.parametrize("name", DATA)
def test_slices_and_chunks(name: str) -> None:
    table = _table(DATA[name])
    _same(aq.quantize(table.slice(1, 3)), slice(1, 4))
    _same(aq.quantize(table.slice(2).to_batches()[0]), slice(2, None))
    _same(aq.quantize(pa.concat_tables([table.slice(0, 2), table.slice(2)])))
    chunked = pa.chunked_array([table["data"].chunk(0)[:1], table["data"].chunk(0)[1:]])
    _same(aq.quantize(table.set_column(1, "data", chunked)))


@pytest.mark.parametrize("name", ["list<float32>", "large_binary", "fixed_size_list<float32>"])
def test_null_bitmaps(name: str) -> None:
    data = DATA[name]
    mask = pa.array([False, True, False, False, True])
    with_nulls = pc.if_else(mask, pa.scalar(None, data.type), data)
    result = aq.quantize(_table(with_nulls), continue_on_error=True)
    assert result.errors["error_code"].is_null().to_pylist() == [True, False, True, True, False]
    assert result.succeeded["data"].to_pylist() == [EXPECTED[row]["data"] for row in (0, 2, 3)]
    sliced = aq.quantize(_table(with_nulls).slice(1, 2), continue_on_error=True)
    assert sliced.errors["error_code"].to_pylist() == ["null_data", None]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.int8()),
        pa.large_list(pa.uint64()),
        pa.list_(pa.int32(), 2),
        pa.list_view(pa.int64()),
        pa.large_list_view(pa.uint16()),
    ],
    ids=str,
)
def test_types_of_shapes(kind: pa.DataType) -> None:
    shape = pa.array([[5, 8]] * ROWS, kind)
    table = _table(DATA["large_binary"]).append_column("shape", shape)
    assert aq.quantize(table).quantized["shape"].to_pylist() == [[5, 8]] * ROWS


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int64(), pa.null()], ids=str)
def test_types_of_plan_columns(kind: pa.DataType) -> None:
    table = _table(DATA["large_binary"])
    sizes = pa.nulls(ROWS) if kind == pa.null() else pa.array([16] * ROWS, kind)
    table = table.append_column("group_size", sizes)
    expected = 40 if kind == pa.null() else 16
    assert aq.quantize(table).quantized["group_size"].to_pylist() == [expected] * ROWS


def test_a_dtype_column_must_agree_with_lists() -> None:
    table = _table(DATA["list<float32>"])
    dtypes = pa.array(["F32", None, "F16", "F32", "BF16"])
    table = table.set_column(table.schema.get_field_index("dtype"), "dtype", dtypes)
    codes = aq.quantize(table, continue_on_error=True).errors["error_code"].to_pylist()
    assert codes == [None, None, "unsupported_dtype", None, "unsupported_dtype"]


def test_float16_lists() -> None:
    half = VALUES.astype(np.float16)
    flat = pa.array(half.reshape(-1), pa.float16())
    lists = pa.ListArray.from_arrays(
        pa.array(range(0, ROWS * COLUMNS + 1, COLUMNS), pa.int32()), flat
    )
    got = aq.quantize(pa.table({"layer_name": NAMES, "data": lists})).quantized
    assert got["dtype"].to_pylist() == ["F16"] * ROWS
    binary = [row.tobytes() for row in half]
    raw = pa.table({"layer_name": NAMES, "data": pa.array(binary), "dtype": ["F16"] * ROWS})
    assert got["data"].to_pylist() == aq.quantize(raw).quantized["data"].to_pylist()


def test_list_views_of_data_are_refused_with_the_fix() -> None:
    table = _table(pa.array(VALUES.tolist(), pa.list_view(pa.float32())))
    with pytest.raises(TypeError, match="Cast list views to large_list first"):
        aq.quantize(table)


def test_a_mapping_is_read_where_it_lies() -> None:
    """The views' buffers are the arrays' memory."""
    from arrowquant._inputs import as_table, mapping_to_table

    arrays = {name: VALUES[row].copy() for row, name in enumerate(NAMES)}
    arrays["short"] = np.ones(3, np.float32)  # up to 12 bytes lie in the view itself
    table = as_table(mapping_to_table(arrays))
    (chunk,) = table["data"].chunks
    addresses = [buffer.address for buffer in chunk.buffers()[2:]]
    assert addresses == [arrays[name].ctypes.data for name in NAMES]
    chunk.validate(full=True)
    result = aq.quantize(arrays).quantized
    assert result["data"].to_pylist()[:ROWS] == [row["data"] for row in EXPECTED]
    assert result["shape"].to_pylist()[-1] == [3]


@pytest.mark.parametrize(("buffer", "offset", "length"), [(1, 0, 32), (0, 40, 64), (0, 2**30, 32)])
def test_views_that_reach_beyond_their_buffers_are_refused(
    buffer: int, offset: int, length: int
) -> None:
    """Nothing is read there: the memory is somebody else's."""
    view = np.array([length, 0, buffer, offset], np.int32)
    buffers = [None, pa.py_buffer(view), pa.py_buffer(bytes(96))]
    data = pa.Array.from_buffers(pa.binary_view(), 1, buffers)
    table = pa.table({"layer_name": ["a"], "data": data, "dtype": ["U8"]})
    with pytest.raises(ValueError, match=r"Invalid buffer (index|slice) at 0"):
        aq.quantize(table, scheme="none", continue_on_error=True)


def test_names_whose_offsets_lie_are_refused() -> None:
    offsets = pa.py_buffer(np.array([0, 2**30, 4], np.int32))
    names = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"abcd")])
    table = pa.table({"layer_name": names, "data": [[1.0], [2.0]]})
    with pytest.raises(ValueError, match=r"(?i)offset"):
        aq.quantize(table)


def test_group_sizes_beyond_int64_mean_the_whole_row() -> None:
    table = _table(DATA["large_binary"])
    sizes = pa.array([2**63 + 5, 2**64 - 1, 8, None, 40], pa.uint64())
    got = aq.quantize(table.append_column("group_size", sizes), group_size=10).quantized
    assert got["group_size"].to_pylist() == [40, 40, 8, 10, 40]


@pytest.mark.parametrize("start", [0, 1, 2])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_an_empty_slice_of_a_record_batch(kind: pa.DataType, start: int) -> None:
    """Arrow hands it over with offsets that point behind values which it leaves out."""
    names, dtypes = (pa.array(values).cast(kind) for values in (["aaaa", "bbbb"], ["F32", "F32"]))
    data = pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32()))
    batch = pa.record_batch({"layer_name": names, "dtype": dtypes, "data": data})
    assert len(aq.quantize(batch.slice(start, 0))) == 0
    quantized = aq.quantize(batch).quantized
    assert len(aq.dequantize(quantized.slice(start, 0))) == 0


def test_an_empty_record_batch() -> None:
    empty = _table(DATA["large_binary"]).schema.empty_table().to_batches()
    batch = (
        empty[0] if empty else pa.RecordBatch.from_pylist([], _table(DATA["large_binary"]).schema)
    )
    result = aq.quantize(batch)
    assert isinstance(result.quantized, pa.RecordBatch)
    assert len(result) == len(aq.dequantize(result.quantized)) == 0


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_masked_arrays_and_matrices() -> None:
    masked = np.ma.masked_array(VALUES, VALUES > 1)
    weights = {"masked": masked, "matrix": VALUES.view(np.matrix), "plain": VALUES}
    result = aq.quantize(weights, continue_on_error=True)
    assert result.errors["error_code"].to_pylist() == ["unsupported_dtype", None, None]
    assert "arr.filled" in result.failed["error_message"][0].as_py()
    assert result.quantized["data"][1] == result.quantized["data"][2]
