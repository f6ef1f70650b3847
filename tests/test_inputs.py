"""Weights as people hold them: dictionaries of any arrays, any Arrow object, files, paths."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

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
    rules = aq.plan(TABLE, plan=_as_kind(plan, kind, tmp_path))
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


NAMES = {
    "torch.float32": "F32",
    "float32": "F32",
    "<f4": "F32",
    "numpy.float32": "F32",
    "torch.bfloat16": "BF16",
    "bfloat16": "BF16",
    "BF16": "BF16",
    "torch.float16": "F16",
    "half": "F16",
    "float8_e4m3fn": "F8_E4M3",
    "torch.float64": "F64",
    "int8": "I8",
    "torch.int64": "I64",
    "bool": "BOOL",
}


@pytest.mark.parametrize(("name", "ours"), NAMES.items())
def test_other_libraries_names_of_dtypes_are_understood(
    name: str, ours: str, tmp_path: Path
) -> None:
    numpy = {"F64": "f8", "I64": "i8", "F32": "f4", "F16": "f2", "I8": "i1", "BOOL": "?"}
    kind = {"BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn}.get(ours)
    array = np.ones((64, 64), kind or numpy[ours])
    table = pa.table(
        {
            "layer_name": ["a.weight"],
            "dtype": [name],
            "shape": [[64, 64]],
            "data": [array.tobytes()],
        }
    )
    (row,) = aq.quantize(table, scheme="none").quantized.to_pylist()
    assert row["dtype"] == ours
    pq.write_table(table, tmp_path / "w.parquet")
    dataset = aq.quantize_checkpoint(tmp_path / "w.parquet", tmp_path / "out")
    (row,) = pa.table(dataset).to_pylist()
    is_weights = ours in {"F64", "F32", "F16", "BF16"}
    assert (row["dtype"], row["scheme"]) == (ours, "int4" if is_weights else "none")
    assert aq.verify(tmp_path / "out", tmp_path / "w.parquet").ok
    aq.write_safetensors(aq.dequantize(aq.scan(tmp_path / "out")), tmp_path / "b.safetensors")
    assert pa.table(aq.scan(tmp_path / "b.safetensors"))["dtype"].to_pylist() == [ours]


@pytest.mark.parametrize("name", ["float99", "f8", "i8", "torch.", "", "object", "float128"])
def test_an_unknown_dtype_is_an_error_row(name: str, tmp_path: Path) -> None:
    table = pa.table(
        {
            "layer_name": ["a.weight", "b.weight"],
            "dtype": [name, "float32"],
            "shape": [[64, 64]] * 2,
            "data": [b"\0" * 16384] * 2,
        }
    )
    pq.write_table(table, tmp_path / "w.parquet")
    for source in (table, tmp_path / "w.parquet"):
        result = aq.quantize(source, continue_on_error=True)
        (failed,) = result.failed.to_pylist()
        assert (failed["layer_name"], failed["error_code"]) == ("a.weight", "unsupported_dtype")
        assert f"dtype '{name}' is unknown. Correct the dtype column" in failed["error_message"]
        assert len(result.succeeded) == 1
        kept = aq.quantize(source, plan=aq.plan(source, keep=["a.weight"]))
        assert kept.failed.num_rows == 0
    (planned,) = [r for r in aq.plan(table).to_pylist() if r["layer_name"] == "a.weight"]
    assert (planned["scheme"], planned["predicted_bytes"]) == ("int4", None)


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_tensors_of_one_shape_bring_their_shape(suffix: str, tmp_path: Path) -> None:
    arrays = np.random.default_rng(0).normal(size=(2, 64, 128)).astype(np.float32)
    data = pa.FixedShapeTensorArray.from_numpy_ndarray(arrays)
    table = pa.table({"layer_name": ["a.weight", "b.weight"], "data": data})
    path = tmp_path / f"w.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    plain = aq.quantize({"a.weight": arrays[0], "b.weight": arrays[1]})
    for source in (table, path):
        assert aq.plan(source)["shape"].to_pylist() == [[64, 128]] * 2
        result = aq.quantize(source)
        for column in ("shape", "data", "scales", "zero_points"):
            found, expected = result.quantized[column], plain.quantized[column]
            assert found.to_pylist() == expected.to_pylist(), column
    dataset = aq.quantize_checkpoint(path, tmp_path / "out")
    assert pa.table(dataset)["shape"].to_pylist() == [[64, 128]] * 2
    assert aq.verify(tmp_path / "out", path).ok
    turned = pa.FixedShapeTensorArray.from_numpy_ndarray(arrays.transpose(0, 2, 1))
    if turned.type.permutation not in (None, [0, 1]):
        with pytest.raises(TypeError, match="permuted"):
            aq.quantize(pa.table({"layer_name": ["a", "b"], "data": turned}))


def test_lists_in_lists_are_refused_with_the_remedy() -> None:
    nested = pa.array([[[1.0, 2.0], [3.0, 4.0]]], pa.list_(pa.list_(pa.float32())))
    with pytest.raises(TypeError, match=r"one flat list .* column 'shape'"):
        aq.quantize(pa.table({"layer_name": ["a"], "data": nested}))
