"""`aq.quantize` against a reference written in NumPy from the specification, to the bit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as limits

import arrowquant as aq
import reference
from conftest import binary_weights, float_row

NUMPY = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
KINDS = ("normal", "heavy", "constant", "zero", "tiny", "subnormal", "huge", "any_bits", "integers")


@st.composite
def shapes(draw: st.DrawFn) -> list[int]:
    wide = st.integers(1, 70)
    return draw(
        st.one_of(
            st.just([]),
            st.tuples(wide).map(list),
            st.tuples(st.just(1), wide).map(list),
            st.tuples(wide, st.just(1)).map(list),
            st.tuples(st.integers(1, 9), wide).map(list),
            st.tuples(st.integers(1, 3), st.integers(1, 4), wide).map(list),
            st.tuples(*[st.integers(1, 4)] * 4).map(list),
        )
    )


def values(kind: str, count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    rng = np.random.default_rng(seed)
    made = {
        "normal": lambda: rng.normal(0, 0.02, count),
        "heavy": lambda: rng.standard_t(2, count),
        "constant": lambda: np.full(count, rng.normal()),
        "zero": lambda: np.where(rng.random(count) < 0.5, 0.0, -0.0),
        "tiny": lambda: rng.normal(0, 1e-30, count),
        "subnormal": lambda: rng.integers(-40, 40, count) * 2.0**-149,
        "huge": lambda: rng.uniform(-3.4e38, 3.4e38, count),
        "any_bits": lambda: rng.integers(0, 2**32, count, dtype=np.uint32).view(np.float32),
        "integers": lambda: rng.integers(-8, 8, count) / 2,
    }[kind]()
    return np.asarray(made, np.float64)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[bytes, str, list[int]]:
    shape, dtype = draw(shapes()), draw(st.sampled_from(sorted(NUMPY)))
    kind, seed = draw(st.sampled_from(KINDS)), draw(st.integers(0, 2**32))
    with np.errstate(over="ignore", invalid="ignore"):
        array = values(kind, math.prod(shape), seed).astype(NUMPY[dtype])
        finite = np.isfinite(array.astype(np.float32))
    array[~finite] = 0
    return array.tobytes(), dtype, shape


def one(data: bytes, dtype: str, shape: list[int], **options: Any) -> dict[str, Any]:
    row = {"layer_name": "w", "data": data, "dtype": dtype, "shape": shape}
    options = {"search": "none"} | options
    (quantized,) = aq.quantize(binary_weights([row]), **options).quantized.to_pylist()
    return dict(quantized)


@limits(max_examples=1500)
@given(
    tensors(),
    st.sampled_from([2, 4, 8]),
    st.one_of(st.just(-1), st.integers(1, 80)),
    st.booleans(),
    st.sampled_from(["source", "F32", "F16", "BF16"]),
)
def test_every_bit_is_the_references(
    tensor: tuple[bytes, str, list[int]], bits: int, group: int, symmetric: bool, scale_dtype: str
) -> None:
    data, dtype, shape = tensor
    theirs = reference.quantize(data, dtype, shape, bits, group, symmetric, scale_dtype)
    ours = one(
        data,
        dtype,
        shape,
        scheme=f"int{bits}",
        group_size=group,
        symmetric=symmetric,
        scale_dtype=scale_dtype,
    )
    assert ours["data"] == theirs.data
    assert np.array(ours["scales"], np.float32).tobytes() == theirs.scales.tobytes()
    points = None if theirs.zero_points is None else theirs.zero_points.tolist()
    assert ours["zero_points"] == points
    assert ours["scale_dtype"] == theirs.scale_dtype
    assert ours["group_size"] == theirs.group_size
    assert ours["bits_per_weight"] == theirs.bits_per_weight
    assert ours["max_abs_error"] == theirs.max_abs_error
    assert ours["mse"] == pytest.approx(theirs.mse, rel=reference.MSE_RELATIVE)
    if theirs.snr_db is None:
        assert ours["snr_db"] is None
    else:
        assert ours["snr_db"] == pytest.approx(theirs.snr_db, abs=reference.SNR_DB)


@pytest.mark.parametrize("group", [64, 16384, 20000, 70000, -1])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64"])
def test_long_rows_and_wide_groups_are_the_references(
    group: int, dtype: str, rng: np.random.Generator
) -> None:
    """Rows longer than a tile, groups longer than a tile, and layers of many pieces."""
    array = rng.standard_t(3, (5, 70_001)).astype(NUMPY[dtype])
    theirs = reference.quantize(array.tobytes(), dtype, list(array.shape), 4, group, False)
    ours = one(array.tobytes(), dtype, list(array.shape), group_size=group)
    assert ours["data"] == theirs.data
    assert np.array(ours["scales"], np.float32).tobytes() == theirs.scales.tobytes()
    assert theirs.zero_points is not None
    assert ours["zero_points"] == theirs.zero_points.tolist()
    assert ours["mse"] == pytest.approx(theirs.mse, rel=reference.MSE_RELATIVE)


@pytest.mark.parametrize("group", [32, 64, 128, 512, 2048])
@pytest.mark.parametrize(("bits", "symmetric"), [(4, False), (8, True), (2, False)])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_layers_of_many_tiles_are_the_references(
    dtype: str, bits: int, symmetric: bool, group: int, rng: np.random.Generator
) -> None:
    """Tiles are surveyed while the one before is encoded; some hold numbers unlike weights."""
    array = rng.standard_normal((70, 4096)).astype(np.float32)
    huge = 1e4 if dtype == "F16" else 1e30
    for row, factor in ((9, 0.0), (30, 1e-42), (31, huge), (50, 1e-20)):
        array[row, 1000:3000] *= np.float32(factor)
    array = array.astype(NUMPY[dtype])
    data, shape = array.tobytes(), list(array.shape)
    theirs = reference.quantize(data, dtype, shape, bits, group, symmetric)
    ours = one(data, dtype, shape, scheme=f"int{bits}", symmetric=symmetric, group_size=group)
    assert ours["data"] == theirs.data
    assert np.array(ours["scales"], np.float32).tobytes() == theirs.scales.tobytes()
    points = None if theirs.zero_points is None else theirs.zero_points.tolist()
    assert ours["zero_points"] == points
    assert ours["max_abs_error"] == theirs.max_abs_error
    assert ours["mse"] == pytest.approx(theirs.mse, rel=reference.MSE_RELATIVE)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("at", [0, 16_383, 16_384, 40_000, 262_143, 262_144, 280_000, 286_719])
def test_values_that_are_not_finite_are_found_in_any_tile(at: int, bad: float) -> None:
    array = np.full((70, 4096), 0.5, np.float32)
    array.reshape(-1)[at] = bad
    result = aq.quantize({"good": np.ones((1, 64), np.float32), "w": array}, continue_on_error=True)
    assert result.failed.select(["error_code", "error_element", "error_count"]).to_pylist() == [
        {"error_code": "non_finite", "error_element": at, "error_count": 1}
    ]


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F64", "F8_E4M3"])
@pytest.mark.parametrize(
    ("shape", "group"),
    [([20_000], -1), ([40_000], 20_000), ([2, 17_000], -1), ([100_000], -1), ([437, 600], 64)],
)
def test_small_layers_with_wide_groups_are_the_references(
    dtype: str, shape: list[int], group: int, rng: np.random.Generator
) -> None:
    """Groups that reach over several tiles, in layers that share a task with others."""
    array = (0.1 * rng.standard_t(4, shape)).astype(NUMPY[dtype])
    theirs = reference.quantize(array.tobytes(), dtype, shape, 4, group, False)
    row = {"layer_name": "w", "data": array.tobytes(), "dtype": dtype, "shape": shape}
    small = float_row("small", np.ones(40))
    weights = binary_weights([small, row, small | {"layer_name": "z"}])
    rows = aq.quantize(weights, group_size=group, search="none")
    ours = rows.quantized.to_pylist()[1]
    assert ours["data"] == theirs.data
    assert np.array(ours["scales"], np.float32).tobytes() == theirs.scales.tobytes()
    assert theirs.zero_points is not None
    assert ours["zero_points"] == theirs.zero_points.tolist()
    assert ours["max_abs_error"] == theirs.max_abs_error
    assert ours["mse"] == pytest.approx(theirs.mse, rel=reference.MSE_RELATIVE)


@pytest.mark.parametrize(
    ("scale_dtype", "first", "scale"),
    [("BF16", 15 * (1 + 2**-8), 0x102 / 0x100), ("F16", 15 * (1 + 2**-11), 0x1004 / 0x1000)],
)
def test_scales_are_rounded_once(scale_dtype: str, first: float, scale: float) -> None:
    """Values whose scale would come out lower if it were rounded to float32 on the way."""
    data = np.array([first, -15 * 2**-26], np.float32).tobytes()
    assert one(data, "F32", [2], scale_dtype=scale_dtype)["scales"] == [scale]


def test_the_scale_dtype_gives_way_for_a_layer_whose_scales_do_not_fit() -> None:
    array = np.array([[1.0] * 40_000, [1e7] * 40_000], np.float32)
    table = binary_weights([float_row("big", array), float_row("small", array[:1])])
    result = aq.quantize(table, scale_dtype="F16")
    assert result.quantized["scale_dtype"].to_pylist() == ["F32", "F16"]
    alone = aq.quantize(table.slice(0, 1), scale_dtype="F32").quantized
    assert result.quantized["data"][0] == alone["data"][0]
    assert result.quantized["mse"][0] == alone["mse"][0]


def test_progress_names_every_layer_once_also_where_the_scale_dtype_gives_way() -> None:
    rows = [float_row(f"l{i}", np.full((2, 700), 1e7 if i % 2 else 1.0)) for i in range(6)]
    named: list[str | None] = []
    fractions: list[float | None] = []

    def heard(name: str | None, fraction: float | None) -> None:
        named.append(name)
        fractions.append(fraction)

    aq.quantize(binary_weights(rows), scale_dtype="F16", progress=heard)
    assert sorted(str(name) for name in named) == [f"l{i}" for i in range(6)]
    assert fractions[-1] == 1.0


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16", "F64"])
@pytest.mark.parametrize("scale_dtype", ["source", "F16"])
def test_small_layers_share_tiles_but_nothing_else(
    dtype: str, scale_dtype: str, rng: np.random.Generator
) -> None:
    """Many small layers in one batch, bad ones among them, are what each is in a batch of its own,
    metrics to the last bit."""
    shapes = [[48], [48], [3, 40], [3, 40], [1], [700], [700]]
    rows = []
    for index in range(200):
        shape = shapes[index % 7] if index % 50 < 35 else [48]
        array = 0.1 * rng.standard_t(3, shape)
        array[..., 0] = {60: np.nan, 61: np.inf, 93: 6e7, 120: 0.0}.get(index, array[..., 0])
        with np.errstate(over="ignore"):
            data = array.astype(NUMPY[dtype]).tobytes()
        name = None if index == 130 else f"l{index}"
        rows.append({"layer_name": name, "data": data, "dtype": dtype, "shape": shape})
    table = binary_weights(rows)
    options: dict[str, Any] = {"scale_dtype": scale_dtype, "group_size": 16}
    together = aq.quantize(table, continue_on_error=True, threads=2, **options)
    alone = [
        aq.quantize(table.slice(index, 1), continue_on_error=True, **options)
        for index in range(len(rows))
    ]
    ours = together.quantized.drop_columns("row_index")
    assert ours.to_pylist() == [
        row for one in alone for row in one.quantized.drop_columns("row_index").to_pylist()
    ]
    assert together.errors["error_message"].to_pylist() == [
        one.errors["error_message"][0].as_py() for one in alone
    ]
    codes = set(together.failed["error_code"].to_pylist())
    assert codes == {"non_finite", "null_name"}


CASES = json.loads((Path(__file__).parent / "golden" / "compressed_tensors.json").read_text())[
    "cases"
]


@pytest.mark.parametrize("case", [c for c in CASES if c["kind"] == "quantize"], ids=str)
def test_symmetric_is_that_of_compressed_tensors(case: dict[str, Any]) -> None:
    """Scales to the bit; codes too, but for elements that lie exactly between two codes.

    compressed-tensors divides by the scale where we multiply by its inverse, so that a group's
    largest element, which divides to (2^b - 1)/2, may fall to either side.
    """
    bits, weights = case["bits"], bytes.fromhex(case["weight_f32_hex"])
    group = case["group_size"] or -1
    options = {"scheme": f"int{bits}", "group_size": group, "symmetric": True}
    ours = one(weights, "F32", case["shape"], **options)
    assert np.array(ours["scales"], "<f4").tobytes().hex() == case["scale_f32_hex"]
    rows, columns = case["shape"]
    codes = reference.unpack(ours["data"], bits, rows, columns).astype(int) - 2 ** (bits - 1)
    q = np.array(case["q"])
    scaled = np.frombuffer(weights, "<f4").reshape(rows, -1) / np.repeat(
        np.array(ours["scales"]).reshape(rows, -1), columns if group == -1 else group, axis=1
    )
    tie = np.abs(np.abs(scaled) - (2**bits - 1) / 2) < 1e-4
    assert np.array_equal(codes[~tie], q[~tie])
    assert np.abs(codes - q).max() <= 1


@pytest.mark.parametrize("case", [c for c in CASES if c["kind"] == "pack"], ids=str)
def test_packing_is_that_of_compressed_tensors(case: dict[str, Any]) -> None:
    """Codes that survive quantizing are packed into the words of `pack_to_int32`.

    With scale 1 and a zero point in the middle, w = q gives back q wherever the row spans all
    codes; so each row gets the two extreme codes in two groups' worth of columns in front.
    """
    bits, (rows, _) = case["bits"], case["shape"]
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    lead = 32  # whole words in front of the golden codes
    front = np.resize([lowest, highest], (rows, lead))
    array = np.concatenate([front, np.array(case["q"])], axis=1).astype(np.float32)
    ours = one(
        array.tobytes(),
        "F32",
        list(array.shape),
        scheme=f"int{bits}",
        group_size=-1,
        symmetric=False,
    )
    assert ours["scales"] == [1.0] * rows
    words = np.frombuffer(ours["data"], "<i4").reshape(rows, -1)[:, lead * bits // 32 :]
    assert words.tolist() == case["packed"]


def checkpoint_like(rng: np.random.Generator) -> pa.Table:
    shapes = [(300, 1000), (7,), (64, 64), (1, 600_000), (3, 5, 129), (2, 384), (1, 1)]
    return binary_weights(
        [float_row(f"layer.{i}", rng.normal(0, 1, shape)) for i, shape in enumerate(shapes)]
    )


def test_bytes_do_not_depend_on_threads_or_batching(rng: np.random.Generator) -> None:
    table = checkpoint_like(rng)
    expected = aq.quantize(table, threads=1).quantized.combine_chunks()
    rows = [table.slice(row, 1).combine_chunks().to_batches()[0] for row in range(len(table))]
    variants = [(table, 2), (table, 7), (pa.Table.from_batches(rows), 2)]
    padded = pa.concat_tables([table.slice(3, 2), table]).combine_chunks()
    variants.append((padded.slice(2), 2))
    for variant, threads in variants:
        got = aq.quantize(variant, threads=threads).quantized.combine_chunks()
        assert got.equals(expected)


def test_plan_columns_come_before_the_plan_and_the_plan_before_the_call() -> None:
    table = binary_weights([float_row(name, np.ones((2, 64))) for name in "abcd"])
    table = table.append_column("scheme", pa.array(["int2", None, None, None], pa.string()))
    table = table.append_column("group_size", pa.array([16, None, None, None], pa.int32()))
    plan = pa.table(
        {
            "layer_name": ["a", "b", "c"],
            "scheme": ["none", "int8", None],
            "group_size": pa.array([8, None, 32], pa.int16()),
            "is_symmetric": pa.array([None, False, True]),
        }
    )
    rows = aq.quantize(table, plan=plan, scheme="int4", group_size=64).quantized.to_pylist()
    what = [(row["scheme"], row["group_size"], row["is_symmetric"]) for row in rows]
    assert what == [
        ("int2", 16, False),
        ("int8", 64, False),
        ("int4", 32, True),
        ("int4", 64, False),
    ]


def test_a_plan_that_contradicts_itself_is_refused() -> None:
    table = binary_weights([float_row("x", np.ones((2, 64))), float_row("x", np.ones(64))])
    with pytest.raises(ValueError, match="the plan says two things of layer 'x'"):
        aq.quantize(table, plan=aq.plan(table))
    same = pa.table({"layer_name": ["x", "x"], "scheme": ["int8", "int8"]})
    assert aq.quantize(table, plan=same).quantized["scheme"].to_pylist() == ["int8", "int8"]


def test_defaults_belong_to_the_scheme() -> None:
    weights = {"w": np.ones((2, 300), np.float32)}
    for scheme, symmetric in (("int8", True), ("int4", False), ("int2", False)):
        (row,) = aq.quantize(weights, scheme=scheme).quantized.to_pylist()
        assert (row["group_size"], row["is_symmetric"]) == (128, symmetric)


def test_kept_layers_come_out_as_they_went_in() -> None:
    data = b"\xff\x7f\x00\x01" * 3  # NaNs as F16: a kept layer's values are not looked at
    for dtype, shape, bits in (("F16", [6], 16), ("I32", [3, 1], 32), ("MX9", [11], 96 / 11)):
        row = one(data, dtype, shape, scheme="none")
        assert (row["data"], row["dtype"], row["shape"]) == (data, dtype, shape)
        assert row["bits_per_weight"] == pytest.approx(bits)
        assert (row["mse"], row["max_abs_error"], row["snr_db"]) == (0, 0, None)
        assert (
            row["scales"] is row["zero_points"] is row["group_size"] is row["scale_dtype"] is None
        )
    assert one(b"", "F32", [0, 4], scheme="none")["bits_per_weight"] is None


def test_the_quantized_relation_has_its_columns_and_carries_the_others() -> None:
    table = binary_weights([float_row("w", np.ones(8))])
    table = table.append_column("block", pa.array(["x"]).dictionary_encode())
    result = aq.quantize(table)
    assert [(f.name, str(f.type)) for f in result.quantized.schema] == [
        ("row_index", "int64"),
        ("layer_name", "string"),
        ("dtype", "string"),
        ("shape", "large_list<item: int64>"),
        ("scheme", "string"),
        ("group_size", "int64"),
        ("group_rows", "int64"),
        ("is_symmetric", "bool"),
        ("data", "large_binary"),
        ("scales", "large_list<item: float>"),
        ("scale_dtype", "string"),
        ("signed_scales", "bool"),
        ("zero_points", "large_list<item: uint8>"),
        ("biases", "large_list<item: float>"),
        ("tensor_scale", "float"),
        ("search", "string"),
        ("bits_per_weight", "double"),
        ("mse", "double"),
        ("max_abs_error", "double"),
        ("snr_db", "double"),
        ("scale_spread", "double"),
        ("block", "dictionary<values=string, indices=int32, ordered=0>"),
    ]
    assert result.quantized.schema.metadata[b"arrowquant.format"] == b"2"
    assert result.schema.names == [
        *result.quantized.schema.names,
        "error_code",
        "error_message",
        "error_element",
        "error_count",
    ]


def test_kinds_of_container_come_back() -> None:
    table = binary_weights([float_row(name, np.ones(8)) for name in "abc"])
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    result = aq.quantize(chunked)
    assert isinstance(result.quantized, pa.Table)
    assert [len(batch) for batch in result.quantized.to_batches()] == [1, 2]
    single = aq.quantize(table.combine_chunks().to_batches()[0])
    assert isinstance(single.quantized, pa.RecordBatch)
    assert isinstance(single.errors, pa.RecordBatch)
    assert len(aq.quantize(table.schema.empty_table())) == 0
    assert len(aq.quantize({})) == 0
