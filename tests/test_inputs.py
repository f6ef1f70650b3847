"""Weights as people hold them: dictionaries of any arrays, any Arrow object, files, paths."""

from __future__ import annotations

import io
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

import arrowquant as aq
from conftest import binary_weights, float_row

GOOD = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)


class Dlpack:
    """An array of a library that has nothing but DLPack."""

    def __init__(self, array: np.ndarray[Any, Any], device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **_: Any) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


class Arraylike:
    """An array of a library that has nothing but NumPy's protocol."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return GOOD if dtype is None else GOOD.astype(dtype, copy=copy)


# What can't be weights, with the code and the way out.
BAD: dict[str, tuple[Any, str, str]] = {
    "list": ([[1.0, 2.0]], "unsupported_dtype", "np.asarray"),
    "none": (None, "unsupported_dtype", "np.asarray"),
    "text": ("weights", "unsupported_dtype", "np.asarray"),
    "transposed": (GOOD.T, "not_contiguous", "np.ascontiguousarray"),
    "strided": (GOOD[:, ::2], "not_contiguous", "np.ascontiguousarray"),
    "big-endian": (GOOD.astype(">f4"), "unsupported_dtype", "newbyteorder"),
    "masked": (np.ma.array(GOOD), "unsupported_dtype", "filled"),
    "objects": (np.array([{}]), "unsupported_dtype", "np.float32"),
    "text array": (np.array(["a"]), "unsupported_dtype", "np.float32"),
    "on a GPU": (Dlpack(GOOD, (2, 0)), "unsupported_dtype", ".cpu()"),
    "DLPack, strided": (Dlpack(GOOD[:, ::2]), "not_contiguous", "contiguous copy"),
    "int64": (np.arange(64), "unsupported_dtype", "scheme 'none'"),
    "empty": (np.empty((0, 4), np.float32), "empty", "scheme 'none'"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a good one"])
def test_a_value_that_is_no_weights_raises_in_every_verb(
    kind: str, beside: bool, tmp_path: Path
) -> None:
    value, code, remedy = BAD[kind]
    weights = {"good": GOOD, "bad": value} if beside else {"bad": value}
    path = tmp_path / "m.parquet"
    verbs = {
        "quantize": lambda: aq.quantize(weights),
        "stream": lambda: list(aq.quantize_stream(weights)),
        "write": lambda: aq.write_parquet(aq.quantize_stream(weights), path),
        "reader": lambda: aq.quantize_stream(weights).reader().read_all(),
        "dictionary": lambda: aq.ArrowQuantV2().quantize_batch(weights),
        "with progress": lambda: aq.ArrowQuantV2().quantize_batch_with_progress(weights),
    }
    for name, verb in verbs.items():
        # An engine or reader wraps our error in one of its own.
        with pytest.raises(Exception, match=f"{code}|layer 'bad'") as caught:
            verb()
        if name != "reader":
            assert isinstance(caught.value, aq.QuantizationError), name
            assert caught.value.failed["layer_name"].to_pylist() == ["bad"]
        if name == "quantize":
            assert remedy in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", BAD)
def test_with_continue_on_error_the_others_come_out(kind: str) -> None:
    value, code, _ = BAD[kind]
    result = aq.quantize({"a": GOOD, "bad": value, "z": GOOD}, continue_on_error=True)
    assert result.errors["error_code"].to_pylist() == [None, code, None]
    assert result.succeeded["layer_name"].to_pylist() == ["a", "z"]
    # What was returned once is an error of an earlier step, and raises nothing anew.
    again = aq.quantize(aq.dequantize(result.quantized.slice(0, 1)), continue_on_error=False)
    assert len(again) == 1
    one = result.to_table().select(["layer_name", "dtype", "shape", "data", "error_code"])
    assert aq.quantize(one.slice(1, 1), scheme="none").failed["error_code"].to_pylist() == [code]


def test_a_file_of_arrays_that_are_no_weights_raises(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", a=GOOD, b=np.array([{}], dtype=object))
    with pytest.raises(aq.QuantizationError, match="holds Python objects"):
        aq.quantize(tmp_path / "m.npz")


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_arrays_by_dlpack_are_the_same(dtype: str) -> None:
    """NumPy's DLPack knows no other floats; JAX's and torch's are tested with these libraries."""
    array = GOOD.astype(dtype)
    expected = aq.quantize({"w": array}).quantized
    assert aq.quantize({"w": Dlpack(array)}).quantized == expected


def test_arrays_by_numpys_protocol_are_the_same() -> None:
    assert aq.quantize({"w": Arraylike()}).quantized == aq.quantize({"w": GOOD}).quantized


def test_dlpack_memory_is_read_where_it_lies_and_let_go() -> None:
    import gc
    import weakref

    from arrowquant._inputs import as_table, mapping_to_table

    class Traced(np.ndarray[Any, Any]):
        pass

    array = GOOD.copy().view(Traced)
    gone = weakref.ref(array)
    table = as_table(mapping_to_table({"w": Dlpack(array)}))
    assert table["data"].chunk(0).buffers()[2].address == array.ctypes.data
    del array
    gc.collect()
    assert gone() is not None
    assert table["data"][0].as_py() == GOOD.tobytes()
    del table
    gc.collect()
    assert gone() is None


TABLE = binary_weights([float_row("a", GOOD), float_row("b", GOOD * 2)])
EXPECTED = aq.quantize(TABLE).quantized.select(["layer_name", "data", "scales"]).to_pylist()


class MyTable(pa.Table):
    pass


class Wrapper:
    """An object that only wraps a table."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def to_arrow(self) -> pa.Table:
        """Return the table."""
        return self._table


class Lazy:
    """A Delta table, as far as it is one to us."""

    def to_pyarrow_dataset(self) -> ds.Dataset:
        """Return a dataset."""
        return ds.dataset(TABLE)


class Reader:
    """Somebody's own stream."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return TABLE.__arrow_c_stream__(requested_schema)


def _opened(path: Path) -> Any:
    """A file that is closed with the test that opened it: it is one in memory with a name."""
    file = io.BytesIO(path.read_bytes())
    file.name = str(path)
    return file


def _kinds(folder: Path) -> dict[str, Any]:
    pq.write_table(TABLE, folder / "w.parquet")
    frame: Any = pl.DataFrame(TABLE)

    class MyFrame(pl.LazyFrame):
        pass

    mine = MyFrame._from_pyldf(frame.lazy()._ldf)  # type: ignore[attr-defined]
    return {
        "table": TABLE,
        "reader": TABLE.to_reader(),
        "polars": frame,
        "lazy": frame.lazy(),
        "a subclass of a lazy frame": mine,
        "dataset": ds.dataset(TABLE),
        "dataset of files": ds.dataset(folder / "w.parquet"),
        "scanner": ds.dataset(TABLE).scanner(),
        "delta": Lazy(),
        "somebody's stream": Reader(),
        "path": folder / "w.parquet",
        "text path": str(folder / "w.parquet"),
        "list of paths": [folder / "w.parquet"],
        "open file": _opened(folder / "w.parquet"),
        "bytes": io.BytesIO((folder / "w.parquet").read_bytes()),
        "scan": aq.scan(folder / "w.parquet"),
    }


KINDS = ["table", "reader", "polars", "lazy", "a subclass of a lazy frame", "dataset"]
KINDS += ["dataset of files", "scanner", "delta", "somebody's stream", "path", "text path"]
KINDS += ["list of paths", "open file", "bytes", "scan"]


@pytest.mark.parametrize("kind", KINDS)
def test_any_arrow_object_is_weights(kind: str, tmp_path: Path) -> None:
    columns = ["layer_name", "data", "scales"]
    result = aq.quantize(_kinds(tmp_path)[kind])
    assert pa.table(result).select(columns).to_pylist() == EXPECTED
    stream = pa.table(aq.quantize_stream(_kinds(tmp_path)[kind]))
    assert stream.select(columns).to_pylist() == EXPECTED
    assert aq.plan(_kinds(tmp_path)[kind])["layer_name"].to_pylist() == ["a", "b"]


def _as_kind(table: pa.Table, kind: str, folder: Path) -> Any:
    frame: Any = pl.DataFrame(table)
    pq.write_table(table, folder / "t.parquet")
    return {
        "table": table,
        "lazy": frame.lazy(),
        "dataset": ds.dataset(table),
        "scanner": ds.dataset(table).scanner(),
        "reader": table.to_reader(),
        "path": folder / "t.parquet",
    }[kind]


@pytest.mark.parametrize("kind", ["table", "lazy", "dataset", "scanner", "reader", "path"])
def test_one_rule_at_every_door(kind: str, tmp_path: Path) -> None:
    plan = pa.table({"layer_name": ["a"], "scheme": ["int8"]})
    planned = aq.quantize(TABLE, plan=_as_kind(plan, kind, tmp_path))
    assert planned.quantized["scheme"].to_pylist() == ["int8", "int4"]
    rules = aq.plan(TABLE, rules=_as_kind(plan, kind, tmp_path))
    assert rules["scheme"].to_pylist() == ["int8", "int4"]
    one = pa.table(aq.quantize(TABLE))
    assert len(aq.dequantize(_as_kind(one, kind, tmp_path))) == 2
    if kind != "path":  # A path is a file's, which has no error columns.
        aq.write_parquet(_as_kind(one, kind, tmp_path), tmp_path / "out.parquet")
        assert pq.read_table(tmp_path / "out.parquet").num_rows == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (3, "plan must be a table"),
        ("none.parquet", "plan: none.parquet: no such file"),
        (Wrapper(TABLE), r"Hand over what its \.to_arrow\(\) returns"),
        (pa.table({"layer": ["a"]}), "Rename 'layer' to 'layer_name'"),
        (pa.table({"layer_name": ["a"], "group_size": [1.5]}), "'group_size' has 1.5.*bigint"),
    ],
)
def test_a_wrong_plan_says_that_it_is_the_plan(wrong: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError, OSError), match=message):
        aq.quantize(TABLE, plan=wrong)


def test_columns_with_other_names() -> None:
    theirs = TABLE.rename_columns(["name", "weights", "kind", "dims"])
    columns = {"name": "layer_name", "weights": "data", "kind": "dtype", "dims": "shape"}
    for weights in (theirs, theirs.to_reader(), pl.DataFrame(theirs), theirs.to_batches()[0]):
        result = aq.quantize(weights, columns=columns)
        assert pa.table(result).select(["layer_name", "data", "scales"]).to_pylist() == EXPECTED
    assert isinstance(result.quantized, pa.RecordBatch)
    assert aq.plan(theirs, columns=columns)["layer_name"].to_pylist() == ["a", "b"]
    with pytest.raises(ValueError, match="Rename 'name' to 'layer_name'"):
        aq.quantize(theirs)
    with pytest.raises(ValueError, match=r"there is no column 'nme'; there are 'name'"):
        aq.quantize(theirs, columns={"nme": "layer_name"})
    with pytest.raises(ValueError, match="two columns would be called 'dims'"):
        aq.quantize(theirs, columns={"name": "dims"})
    with pytest.raises(TypeError, match=r"name a mapping's keys instead"):
        aq.quantize({"a": GOOD}, columns=columns)


class TestTypesThatEnginesLose:
    one = pa.table(aq.quantize(TABLE, scheme="int4", group_size=32))
    expected = aq.dequantize(one).weights["data"].to_pylist()

    def _with(self, name: str, array: Any) -> pa.Table:
        return self.one.set_column(self.one.schema.get_field_index(name), name, array)

    @pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.decimal128(38, 4), pa.uint8()])
    def test_group_sizes(self, kind: pa.DataType) -> None:
        table = self._with("group_size", pa.array([32, 32]).cast(kind))
        assert aq.dequantize(table).weights["data"].to_pylist() == self.expected

    @pytest.mark.parametrize("kind", [pa.float64(), pa.decimal128(38, 4), pa.int16(), pa.uint64()])
    def test_shapes(self, kind: pa.DataType) -> None:
        shapes = self.one["shape"].combine_chunks().cast(pa.list_(kind))
        result = aq.dequantize(self._with("shape", shapes))
        assert result.weights["data"].to_pylist() == self.expected
        weights = TABLE.set_column(3, "shape", shapes)
        assert aq.quantize(weights).quantized["shape"].to_pylist() == [[2, 64]] * 2

    @pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int64(), pa.uint32()])
    def test_zero_points(self, kind: pa.DataType) -> None:
        points = self.one["zero_points"].combine_chunks().cast(pa.large_list(kind))
        result = aq.dequantize(self._with("zero_points", points))
        assert result.weights["data"].to_pylist() == self.expected

    def test_scales_of_float64(self) -> None:
        scales = self.one["scales"].combine_chunks().cast(pa.list_(pa.float64()))
        assert (
            aq.dequantize(self._with("scales", scales)).weights["data"].to_pylist() == self.expected
        )

    @pytest.mark.parametrize(
        ("name", "values", "cast"),
        [
            ("group_size", pa.array([32.5, 32.0]), "bigint"),
            ("group_size", pa.array([Decimal("32.5"), Decimal(32)]), "bigint"),
            ("shape", pa.array([[2.5, 64.0], [2.0, 64.0]]), "bigint"),
            ("zero_points", pa.array([[256] * 4] * 2, pa.list_(pa.int16())), "utinyint"),
            ("zero_points", pa.array([[-1] * 4] * 2, pa.list_(pa.int8())), "utinyint"),
            ("scales", pa.array([[0.1] * 4] * 2, pa.list_(pa.float64())), "float"),
        ],
    )
    def test_what_would_change_is_refused_with_the_cast(
        self, name: str, values: Any, cast: str
    ) -> None:
        with pytest.raises(ValueError, match=rf"column '{name}' has .* Cast it to {cast}"):
            aq.dequantize(self._with(name, values))

    def test_plan_columns_of_nothing_but_nulls(self) -> None:
        table = TABLE.append_column("scheme", pa.nulls(2)).append_column("group_size", pa.nulls(2))
        assert aq.quantize(table).quantized["scheme"].to_pylist() == ["int4", "int4"]

    def test_through_pandas_and_back(self) -> None:
        weights = TABLE.append_column("scheme", pa.array(["int8", "none"]))
        frame = pd.DataFrame.from_arrow(pa.table(aq.quantize(weights)))
        assert frame["group_size"].dtype == np.float64  # a null made it so
        assert len(aq.dequantize(frame)) == 2


class TestNullStructs:
    def _stream(self, mask: list[bool]) -> pa.ChunkedArray:
        columns = [column.combine_chunks() for column in TABLE.columns]
        hidden = pa.StructArray.from_arrays(columns, TABLE.column_names, mask=pa.array(mask))
        return pa.chunked_array([hidden])

    def test_a_null_struct_is_an_error_row(self) -> None:
        result = aq.quantize(self._stream([False, True]), continue_on_error=True)
        assert result.errors["error_code"].to_pylist() == [None, "null_name"]
        assert result.quantized["data"].to_pylist()[1] is None
        with pytest.raises(aq.QuantizationError, match="null_name"):
            aq.quantize(self._stream([False, True]))

    def test_without_nulls_they_are_rows(self) -> None:
        result = aq.quantize(self._stream([False, False]))
        assert pa.table(result).select(["layer_name", "data", "scales"]).to_pylist() == EXPECTED

    def test_a_single_array_with_them_is_refused(self) -> None:
        with pytest.raises(ValueError, match="null"):
            aq.quantize(self._stream([False, True]).chunk(0))

    def test_a_stream_of_no_structs_is_refused(self) -> None:
        with pytest.raises(TypeError, match="a stream of record batches is needed"):
            aq.quantize(pa.chunked_array([pa.array([[1.0]])]))


def test_a_batch_of_another_schema_names_both() -> None:
    other = TABLE.append_column("more", pa.array([1, 2]))

    def batches() -> Any:
        yield TABLE.to_batches()[0]
        yield other.to_batches()[0]

    reader = pa.RecordBatchReader.from_batches(TABLE.schema, batches())
    with pytest.raises(Exception, match=r"more|schema") as caught:
        aq.quantize(reader)
    assert "fault of arrowquant's own" not in str(caught.value)


def test_an_exception_of_the_source_is_the_callers() -> None:
    class OwnError(Exception):
        pass

    def batches() -> Any:
        yield TABLE.to_batches()[0]
        raise OwnError("the disk is gone")

    def reader() -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(TABLE.schema, batches())

    with pytest.raises(OwnError, match=r"^the disk is gone$"):
        aq.quantize(reader())
    with pytest.raises(OwnError, match=r"^the disk is gone$"):
        list(aq.quantize_stream(reader()))


def test_tiny_batches_come_together_and_no_row_is_lost() -> None:
    count = 5_000
    schema = pa.schema([("layer_name", pa.string()), ("data", pa.list_(pa.float32()))])

    def batches() -> Any:
        for row in range(count):
            yield pa.record_batch([[f"l{row}"], [[1.0, float(row + 1)]]], schema=schema)

    result = aq.quantize(pa.RecordBatchReader.from_batches(schema, batches()), scheme="int8")
    assert result.quantized["row_index"].to_pylist() == list(range(count))
    assert result.quantized["layer_name"].to_pylist() == [f"l{row}" for row in range(count)]
    assert result.quantized["data"].num_chunks < count / 10
    whole = pa.Table.from_batches(list(batches()))
    together = aq.quantize(whole.combine_chunks(), scheme="int8").quantized
    assert result.quantized.to_pylist() == together.to_pylist()


def test_tiny_batches_with_dictionaries_of_their_own() -> None:
    kind = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema([("layer_name", kind), ("data", pa.list_(pa.float32()))])

    def batches() -> Any:
        for row in range(1_500):
            names = pa.array([f"l{row}"]).dictionary_encode().cast(kind)
            yield pa.record_batch(
                [names, pa.array([[1.0, 2.0]], pa.list_(pa.float32()))], schema=schema
            )

    result = aq.quantize(pa.RecordBatchReader.from_batches(schema, batches()))
    assert result.quantized["layer_name"].to_pylist() == [f"l{row}" for row in range(1_500)]


def test_unions_are_refused_before_any_work(tmp_path: Path) -> None:
    union = pa.UnionArray.from_dense(
        pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), pa.array(["x"])]
    )
    table = TABLE.append_column("u", union)

    def batches() -> Any:
        raise AssertionError("work began")
        yield

    stream = aq.quantize_stream(pa.RecordBatchReader.from_batches(table.schema, batches()))
    with pytest.raises(ValueError, match="column 'u' has type Union"):
        aq.write_parquet(stream, tmp_path / "m.parquet")
    assert list(tmp_path.iterdir()) == []


class TestFiles:
    def test_numpy_files(self, tmp_path: Path) -> None:
        arrays = {
            "a/b": GOOD,
            "t": np.asfortranarray(GOOD),
            "e": GOOD.astype(">f8"),
            "i": np.arange(3),
        }
        np.savez(tmp_path / "m.npz", **arrays)
        np.savez_compressed(tmp_path / "c.npz", **arrays)
        np.save(tmp_path / "one.npy", GOOD)
        for name in ("m.npz", "c.npz"):
            for mmap in (True, False):
                restored = aq.to_numpy(aq.scan(tmp_path / name, mmap=mmap))
                assert list(restored) == list(arrays)
                assert all(np.array_equal(restored[key], arrays[key]) for key in arrays)
        assert np.array_equal(aq.scan(tmp_path / "one.npy")["one"], GOOD)
        parts = pa.table(aq.scan(tmp_path / "one.npy", part_bytes=256))
        assert parts["part_count"].to_pylist() == [2, 2]
        assert np.array_equal(aq.to_numpy(parts)["one"], GOOD)

    def test_a_numpy_file_goes_through_a_job(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "m.npz", a=GOOD, b=GOOD[0])
        dataset = aq.quantize_checkpoint(tmp_path / "m.npz", tmp_path / "out")
        assert pa.table(dataset)["scheme"].to_pylist() == ["int4", "none"]
        assert aq.verify(tmp_path / "out", tmp_path / "m.npz").ok

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"x" * 100])
    def test_damaged_numpy_files_name_themselves(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "m.npz").write_bytes(content)
        with pytest.raises(OSError, match=r"m\.npz: is no file that np\.save"):
            aq.scan(tmp_path / "m.npz")

    @pytest.mark.parametrize("kind", ["safetensors", "parquet", "arrow", "npz", "npy"])
    def test_open_files_of_every_kind(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / f"m.{kind}"
        if kind == "safetensors":
            save_file({"m": GOOD}, path)
        elif kind == "npz":
            np.savez(path, m=GOOD)
        elif kind == "npy":
            np.save(path, GOOD)
        else:
            table = binary_weights([float_row("m", GOOD)])
            if kind == "parquet":
                pq.write_table(table, path)
            else:
                with pa.ipc.new_file(path, table.schema) as writer:
                    writer.write_table(table)
        name = "open file" if kind == "npy" else "m"
        in_memory = aq.scan(io.BytesIO(path.read_bytes()))
        assert np.array_equal(in_memory[name], GOOD)
        assert len(aq.quantize(in_memory)) == 1
        with path.open("rb") as file:
            assert np.array_equal(aq.scan(file)["m"], GOOD)

    def test_members_of_an_archive_are_told_apart(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "m.npz", **{"w": GOOD, "w.npy": GOOD * 2, "v": GOOD * 3})
        scan = aq.scan(tmp_path / "m.npz")
        assert scan.layer_names == ["w", "w.npy", "v"]
        data = pa.table(scan)["data"].to_pylist()
        assert data == [(GOOD * n).tobytes() for n in (1, 2, 3)]

    def test_a_damaged_member_costs_its_own_layer(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        arrays = {name: rng.normal(size=(64, 64)).astype("f4") for name in "abc"}
        np.savez(tmp_path / "m.npz", **arrays)
        content = bytearray((tmp_path / "m.npz").read_bytes())
        at = content.index(arrays["b"].tobytes()[:64])
        content[at + 100] ^= 255
        (tmp_path / "m.npz").write_bytes(content)
        with pytest.raises(OSError, match=r"m\.npz: layer 'b' can't be read"):
            aq.quantize(tmp_path / "m.npz")
        dataset = aq.quantize_checkpoint(
            tmp_path / "m.npz", tmp_path / "out", part_bytes=1 << 14, continue_on_error=True
        )
        assert pa.table(dataset)["layer_name"].to_pylist() == ["a", "c"]
        assert dataset.failed["error_code"].to_pylist() == ["source_unreadable"]

    def test_an_empty_open_file_is_not_one_on_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        pq.write_table(TABLE, "w.parquet")
        empty = io.BytesIO(b"")
        empty.name = "w.parquet"
        with pytest.raises(OSError, match=r"w\.parquet"):
            aq.quantize(aq.scan(empty))

    def test_a_compressed_open_file(self, tmp_path: Path) -> None:
        import gzip

        np.savez(tmp_path / "m.npz", m=GOOD)
        (tmp_path / "m.npz.gz").write_bytes(gzip.compress((tmp_path / "m.npz").read_bytes()))
        with gzip.open(tmp_path / "m.npz.gz") as file:
            assert np.array_equal(aq.scan(file)["m"], GOOD)

    def test_a_stream_that_was_cut_is_told(self, tmp_path: Path) -> None:
        table = binary_weights([float_row(f"l{i}", GOOD) for i in range(4)])
        path = tmp_path / "s.arrow"
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=1)
        whole = path.read_bytes()
        path.write_bytes(whole[:-8])
        with pytest.raises(OSError, match=r"s\.arrow: .*batches may be missing"):
            aq.quantize(path)
        path.write_bytes(whole)
        dataset = aq.quantize_checkpoint(path, tmp_path / "out")
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table.slice(0, 2), max_chunksize=1)
        assert not aq.verify(dataset.path, path).ok

    def test_files_that_cannot_seek_or_are_text(self, tmp_path: Path) -> None:
        save_file({"m": GOOD}, tmp_path / "m.safetensors")
        with (tmp_path / "m.safetensors").open("r") as text, pytest.raises(TypeError, match="'rb'"):
            aq.scan(text)  # type: ignore[arg-type]
        read, write = os.pipe()
        os.close(write)
        with os.fdopen(read, "rb") as pipe, pytest.raises(TypeError, match=r"io\.BytesIO"):
            aq.scan(pipe)

    def test_a_home_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        save_file({"m": GOOD}, tmp_path / "m.safetensors")
        assert aq.scan("~/m.safetensors").layers == 1
        aq.write_parquet(aq.quantize("~/m.safetensors"), "~/m.parquet")
        assert (tmp_path / "m.parquet").exists()

    def test_lists_of_files(self, tmp_path: Path) -> None:
        for name in "ab":
            save_file({name: GOOD}, tmp_path / f"{name}.safetensors")
        paths = [tmp_path / "b.safetensors", str(tmp_path / "a.safetensors")]
        assert aq.scan(paths).layer_names == ["b", "a"]
        (tmp_path / "c").mkdir()
        save_file({"c": GOOD}, tmp_path / "c" / "a.safetensors")
        with pytest.raises(ValueError, match=r"two of the files are called a\.safetensors"):
            aq.scan([*paths, tmp_path / "c" / "a.safetensors"])

    def test_ipc_streams(self, tmp_path: Path) -> None:
        table = binary_weights([float_row(f"l{i}", GOOD * (i + 1)) for i in range(5)])
        with pa.ipc.new_stream(tmp_path / "s.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        for mmap in (True, False):
            scan = aq.scan(tmp_path / "s.arrow", mmap=mmap)
            assert [piece.rows for piece in scan.pieces()] == [2, 2, 1]
            assert pa.table(aq.quantize(scan))["layer_name"].to_pylist() == [
                f"l{i}" for i in range(5)
            ]
            back = scan.stretch(scan.key, 1, 1).read_all()["layer_name"].to_pylist()
            assert back == ["l2", "l3"]
        dataset = aq.quantize_checkpoint(tmp_path / "s.arrow", tmp_path / "out", part_bytes=600)
        assert pa.table(dataset).num_rows == 5
        assert aq.verify(tmp_path / "out", tmp_path / "s.arrow").ok

    def test_every_message_about_a_file_has_its_path(self, tmp_path: Path) -> None:
        table = binary_weights([float_row(f"l{i}", GOOD) for i in range(3)])
        pq.write_table(table, tmp_path / "good.parquet")
        whole = (tmp_path / "good.parquet").read_bytes()
        damaged = {
            "cut.parquet": whole[:-10],
            "pointer.parquet": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "pointer.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "nothing.arrow": b"",
            "noise.arrow": b"ARROW1\0\0" + b"\xff" * 100,
        }
        for name, content in damaged.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(OSError, match=re.escape(name)) as caught:
                aq.quantize(tmp_path / name)
            assert ("git lfs pull" in str(caught.value)) == name.startswith("pointer"), name
            assert "Traceback" not in str(caught.value)

    def test_lying_offsets_of_an_ipc_file(self, tmp_path: Path) -> None:
        table = binary_weights([float_row(f"l{i}", GOOD) for i in range(3)], pa.binary())
        with pa.ipc.new_file(tmp_path / "m.arrow", table.schema) as writer:
            writer.write_table(table)
        content = bytearray((tmp_path / "m.arrow").read_bytes())
        offsets = np.array([0, 512, 1024, 1536], np.int32).tobytes()
        at = content.index(offsets)
        content[at + 4 : at + 8] = (10**9).to_bytes(4, "little")
        (tmp_path / "m.arrow").write_bytes(content)
        with pytest.raises(OSError, match=r"m\.arrow: can't be read") as caught:
            aq.quantize(tmp_path / "m.arrow")
        assert "Traceback" not in str(caught.value)

    def test_a_directory_of_partitions_is_explained(self, tmp_path: Path) -> None:
        pq.write_to_dataset(
            TABLE.append_column("year", pa.array([1, 2])), tmp_path / "d", partition_cols=["year"]
        )
        with pytest.raises(ValueError, match=r"directories of them, such as year=1") as caught:
            aq.scan(tmp_path / "d")
        (code,) = re.findall(r"pyarrow\.dataset\.dataset\(.*?\)", str(caught.value))
        dataset = eval(code, {"pyarrow": __import__("pyarrow.dataset")})
        assert len(aq.quantize(dataset)) == 2

    def test_encrypted_parquet(self, tmp_path: Path) -> None:
        import base64

        import pyarrow.parquet.encryption as pe

        class Kms(pe.KmsClient):
            def __init__(self, _config: Any) -> None:
                super().__init__()

            def wrap_key(self, key: bytes, _master: str) -> bytes:
                return base64.b64encode(key)

            def unwrap_key(self, key: bytes, _master: str) -> bytes:
                return base64.b64decode(key)

        factory = pe.CryptoFactory(Kms)
        config = pe.EncryptionConfiguration(footer_key="f", column_keys={"c": ["layer_name"]})
        properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
        path = tmp_path / "m.parquet"
        with pq.ParquetWriter(path, TABLE.schema, encryption_properties=properties) as writer:
            writer.write_table(TABLE)
        with pytest.raises(OSError, match=r"m\.parquet: is encrypted"):
            aq.quantize(path)


def test_layers_by_name(tmp_path: Path, checkpoint: Path) -> None:
    scan = aq.scan(checkpoint)
    name = "encoder.layer.3.output.dense.weight"
    assert name in scan
    assert scan[name].shape == (384, 1536)
    with pytest.raises(KeyError, match=r"Did you mean 'encoder.layer.3.output.dense.weight'"):
        scan["encoder.layer.3.output.dense.wight"]
    dataset = aq.quantize_checkpoint(checkpoint, tmp_path / "out", scheme="int8")
    assert np.abs(dataset[name] - scan[name]).max() < 0.05
    assert set(dataset.layer_names) == set(scan.layer_names)
    assert scan._ipython_key_completions_() == scan.layer_names
    with pytest.raises(ValueError, match="is a dataset"):
        aq.scan([tmp_path / "out"])


def test_a_layer_without_data_by_name(tmp_path: Path) -> None:
    table = TABLE.set_column(1, "data", pa.array([GOOD.tobytes(), None], pa.large_binary()))
    pq.write_table(table, tmp_path / "w.parquet")
    scan = aq.scan(tmp_path / "w.parquet")
    assert np.array_equal(scan["a"], GOOD)
    with pytest.raises(ValueError, match="layer 'b' has no data"):
        scan["b"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_jax_arrays(dtype: str) -> None:
    jnp = pytest.importorskip("jax.numpy")
    array = GOOD.astype(getattr(ml_dtypes, dtype, dtype))
    ours = aq.quantize({"w": jnp.asarray(array)}).quantized
    assert ours == aq.quantize({"w": array}).quantized


def test_hugging_face_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    dataset = datasets.Dataset(TABLE)
    columns = ["layer_name", "data", "scales"]
    assert pa.table(aq.quantize(dataset)).select(columns).to_pylist() == EXPECTED
    # Rows that were chosen, in their order.
    chosen = aq.quantize(dataset.select([1, 0]))
    assert pa.table(chosen).select(columns).to_pylist() == EXPECTED[::-1]
    dataset.save_to_disk(tmp_path / "d")
    (file,) = (tmp_path / "d").glob("*.arrow")
    assert pa.table(aq.quantize(file)).select(columns).to_pylist() == EXPECTED


def test_delta_tables(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    deltalake.write_deltalake(tmp_path / "t", TABLE)
    columns = ["layer_name", "data", "scales"]
    result = aq.quantize(deltalake.DeltaTable(tmp_path / "t"))
    assert pa.table(result).select(columns).to_pylist() == EXPECTED
    deltalake.write_deltalake(tmp_path / "q", aq.quantize(TABLE))
    back = aq.dequantize(deltalake.DeltaTable(tmp_path / "q"))
    expected = aq.dequantize(aq.quantize(TABLE))
    assert back.weights["data"].to_pylist() == expected.weights["data"].to_pylist()
