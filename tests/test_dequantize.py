"""`aq.dequantize`: one row for each row, and what the codes stand for."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given

import arrowquant as aq
import reference
from conftest import binary_weights, float_row
from test_quantize import NUMPY, tensors


@given(tensors(), st.sampled_from([2, 4, 8]), st.integers(1, 80), st.booleans())
def test_values_are_the_references_and_metrics_are_true(
    tensor: tuple[bytes, str, list[int]], bits: int, group: int, symmetric: bool
) -> None:
    data, dtype, shape = tensor
    table = binary_weights([{"layer_name": "w", "data": data, "dtype": dtype, "shape": shape}])
    options = {"scheme": f"int{bits}", "group_size": group, "symmetric": symmetric}
    result = aq.quantize(table, search="none", **options)
    (back,) = aq.dequantize(result, dtype="F32").weights.to_pylist()
    theirs = reference.quantize(data, dtype, shape, bits, group, symmetric)
    assert back["data"] == theirs.decoded.tobytes()
    assert (back["dtype"], back["shape"]) == ("F32", shape)

    source = reference.to_float(data, dtype)
    error = source - np.frombuffer(back["data"], np.float32).astype(np.float64)
    (row,) = result.quantized.to_pylist()
    assert row["max_abs_error"] == np.abs(error).max()
    assert row["mse"] == pytest.approx(math.fsum(error**2) / error.size, rel=reference.MSE_RELATIVE)
    widths = {"F32": 32, "F16": 16, "BF16": 16}
    total = 8 * len(row["data"]) + len(row["scales"]) * widths[row["scale_dtype"]]
    total += bits * len(row["zero_points"] or [])
    assert row["bits_per_weight"] == total / math.prod(shape)


@pytest.mark.parametrize("dtype", sorted(NUMPY))
def test_source_is_the_f32_values_rounded(dtype: str, rng: np.random.Generator) -> None:
    array = rng.normal(0, 1, (9, 100)).astype(NUMPY[dtype])
    row = {"layer_name": "w", "data": array.tobytes(), "dtype": dtype, "shape": [9, 100]}
    result = aq.quantize(binary_weights([row]))
    wide = aq.to_numpy(aq.dequantize(result, dtype="F32"))["w"]
    back = aq.to_numpy(aq.dequantize(result))["w"]
    assert back.dtype == NUMPY[dtype]
    assert back.tobytes() == wide.astype(NUMPY[dtype]).tobytes()


def test_values_beyond_the_source_type_become_its_largest() -> None:
    array = np.array([[65504.0, -65504.0]], np.float16)
    row = {"layer_name": "w", "data": array.tobytes(), "dtype": "F16", "shape": [1, 2]}
    result = aq.quantize(binary_weights([row]), scheme="int2", symmetric=True, scale_dtype="F32")
    (back,) = aq.dequantize(result).weights.to_pylist()
    restored = np.frombuffer(back["data"], np.float16)
    assert np.isfinite(restored).all()
    assert restored[1] == -65504


@pytest.mark.parametrize("columns", [40_000, 262_144])
@pytest.mark.parametrize("group", [100, 30_000, -1])
def test_long_rows(columns: int, group: int, rng: np.random.Generator) -> None:
    array = rng.normal(0, 1, (3, columns)).astype(np.float32)
    result = aq.quantize({"w": array}, group_size=group, search="none")
    back = aq.to_numpy(aq.dequantize(result))["w"]
    theirs = reference.quantize(array.tobytes(), "F32", [3, columns], 4, group, False)
    assert back.tobytes() == theirs.decoded.tobytes()


def _mixed() -> pa.Table:
    ones = float_row("good", np.linspace(-1, 1, 64).reshape(2, 32))
    rows = [ones, ones | {"layer_name": "bad", "dtype": "I32"}, ones | {"layer_name": "kept"}]
    table = binary_weights(rows).append_column("owner", pa.array(["a", "b", "c"]))
    return table.append_column("scheme", pa.array([None, None, "none"], pa.string()))


def test_one_row_for_each_row() -> None:
    result = aq.quantize(_mixed(), continue_on_error=True)
    restored = aq.dequantize(result)
    rows = restored.weights.to_pylist()
    assert list(rows[0]) == ["layer_name", "dtype", "shape", "data", "owner"]
    assert [row["data"] is None for row in rows] == [False, True, False]
    assert rows[2]["data"] == _mixed()["data"][2].as_py()
    assert restored.errors["error_code"].to_pylist() == [None, "unsupported_dtype", None]
    assert restored.failed["error_message"] == result.failed["error_message"]
    again = aq.quantize(restored, scheme="int8", continue_on_error=False)
    assert again.errors["error_code"].to_pylist() == [None, "unsupported_dtype", None]
    assert again.quantized["scheme"].to_pylist() == ["int8", None, "int8"]


def test_without_error_columns_as_from_a_file() -> None:
    result = aq.quantize(_mixed(), continue_on_error=True)
    restored = aq.dequantize(result.succeeded)
    assert restored.weights["layer_name"].to_pylist() == ["good", "kept"]


def _replace(table: pa.Table, name: str, values: Any) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, name, pa.array(values, table.schema.field(name).type))


DAMAGE: dict[str, tuple[str, Any, str]] = {
    "data cut short": ("data", b"\0" * 12, "bytes of data: 12, but the shape asks for 32"),
    "data null": ("data", None, "data is null"),
    "a scale missing": ("scales", [1.0], "scales: 1, but the shape asks for 2"),
    "a scale not finite": ("scales", [1.0, math.inf], "the scale of group 1 is not finite"),
    "a scale null": ("scales", [1.0, None], "scales have a null at 1"),
    "scales null": ("scales", None, "scales are null"),
    "zero points null": ("zero_points", None, "zero_points are null"),
    "a zero point too large": ("zero_points", [16, 0], "zero point 16 of group 0 is beyond 15"),
    "another shape": ("shape", [3, 32], "bytes of data: 32, but the shape asks for 48"),
    "a negative shape": ("shape", [-2, -32], "dimension -2"),
    "an impossible shape": ("shape", [2**62, 2**62], "overflows"),
    "no elements": ("shape", [0, 5], "no elements"),
    "a foreign scheme": ("scheme", "nf5", "unknown scheme 'nf5'"),
    "a foreign dtype": ("dtype", "I32", "dtype 'I32' is none that is quantized"),
    "a group size of zero": ("group_size", 0, "invalid group_size 0"),
    "no symmetry": ("is_symmetric", None, "is_symmetric is null"),
    "a foreign scale dtype": ("scale_dtype", "F8", "scale_dtype 'F8' is unknown"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_an_error_of_its_row(what: str) -> None:
    column, value, message = DAMAGE[what]
    array = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    table = pa.table(aq.quantize({"a": array, "b": array}).quantized)
    damaged = _replace(table, column, [value, table[column][1].as_py()])
    with pytest.raises(aq.QuantizationError, match=r"^invalid_quantized: layer 'a'"):
        aq.dequantize(damaged)
    restored = aq.dequantize(damaged, continue_on_error=True)
    assert restored.errors["error_code"].to_pylist() == ["invalid_quantized", None]
    assert message in restored.failed["error_message"][0].as_py()
    assert restored.weights["data"].is_null().to_pylist() == [True, False]


@pytest.mark.parametrize(
    ("scheme", "column", "value", "message"),
    [
        ("mlx4", "biases", [1.0], "biases: 1, but the shape asks for 2"),
        ("mlx4", "biases", [1.0, math.nan], "the bias of group 1 is not finite"),
        ("mlx4", "biases", [None, 1.0], "biases have a null at 0"),
        ("mlx4", "biases", None, "biases is null"),
        ("nvfp4", "biases", [1.0], "biases is given, but scheme 'nvfp4' has none"),
        ("nvfp4", "tensor_scale", None, "tensor_scale is null"),
        ("nvfp4", "tensor_scale", 0.0, "tensor_scale is 0, not a positive number"),
        ("nvfp4", "tensor_scale", math.inf, "tensor_scale is inf, not a positive number"),
        ("q4_k", "tensor_scale", 0.5, "tensor_scale is given, but scheme 'q4_k' has none"),
        ("q4_k", "data", b"123", "bytes of data: 3, but the shape asks for 288"),
    ],
)
def test_damage_to_what_few_schemes_have(
    scheme: str, column: str, value: Any, message: str
) -> None:
    shape = (2, 256) if scheme == "q4_k" else (1, 128)
    array = np.linspace(-1, 1, math.prod(shape), dtype=np.float32).reshape(shape)
    table = pa.table(aq.quantize({"a": array, "b": array}, scheme=scheme).quantized)
    damaged = _replace(table, column, [value, table[column][1].as_py()])
    restored = aq.dequantize(damaged, continue_on_error=True)
    assert restored.errors["error_code"].to_pylist() == ["invalid_quantized", None]
    assert message in restored.failed["error_message"][0].as_py()


@pytest.mark.parametrize(("column", "value"), [("data", b"123"), ("shape", [7, 7]), ("data", None)])
def test_damage_to_kept_rows(column: str, value: Any) -> None:
    table = pa.table(aq.quantize({"a": np.ones(8, np.float32)}, scheme="none").quantized)
    restored = aq.dequantize(_replace(table, column, [value]), continue_on_error=True)
    assert restored.errors["error_code"].to_pylist() == ["invalid_quantized"]


def test_a_kept_row_of_an_unknown_dtype_comes_back() -> None:
    table = pa.table({"layer_name": ["x"], "data": [b"abc"], "dtype": ["MX9"]})
    restored = aq.dequantize(aq.quantize(table, scheme="none")).weights.to_pylist()
    assert [(row["dtype"], row["data"]) for row in restored] == [("MX9", b"abc")]


def test_wrong_calls() -> None:
    table = pa.table(aq.quantize({"a": np.ones(8, np.float32)}).quantized)
    with pytest.raises(ValueError, match=r"unknown dtype 'F16'\. Choose one of source, F32"):
        aq.dequantize(table, dtype="F16")
    with pytest.raises(ValueError, match="Quantized relations need a column 'scales'"):
        aq.dequantize(table.drop_columns(["scales"]))
    with pytest.raises(TypeError, match="column 'zero_points' has type"):
        aq.dequantize(
            table.set_column(
                table.schema.get_field_index("zero_points"),
                "zero_points",
                pa.array([[1.0]], pa.list_(pa.float64())),
            )
        )
    newer = table.replace_schema_metadata({"arrowquant.format": "3"})
    with pytest.raises(ValueError, match="format '3', newer than the '2'"):
        aq.dequantize(newer)
    older = table.replace_schema_metadata({"arrowquant.format": "1"})
    with pytest.raises(ValueError, match=r"format '1', older than the '2'.* Quantize its source"):
        aq.dequantize(older)
    with pytest.raises(ValueError, match="older than the '2'"):
        aq.quantize(older, scheme="int8")
    assert len(aq.dequantize(table.replace_schema_metadata({"arrowquant.format": "2.7"}))) == 1


def test_to_numpy() -> None:
    result = aq.quantize(_mixed(), continue_on_error=True)
    with pytest.warns(aq.QuantizationWarning, match="left out: 'bad'") as warned:
        arrays = aq.to_numpy(aq.dequantize(result))
    assert list(arrays) == ["good", "kept"]
    assert arrays.failed["layer_name"].to_pylist() == ["bad"]
    assert warned[0].message.result is arrays
    assert arrays["good"].shape == (2, 32)
    twice = pa.concat_tables([aq.dequantize(result).succeeded] * 2)
    with pytest.raises(ValueError, match="layer 'good' comes twice"):
        aq.to_numpy(twice)


def test_to_numpy_of_sliced_and_bfloat16_tables() -> None:
    array = np.arange(8).astype(ml_dtypes.bfloat16)
    table = pa.table(aq.dequantize(aq.quantize({"a": array, "b": array}, scheme="none")))
    arrays = aq.to_numpy(table.slice(1))
    assert list(arrays) == ["b"]
    assert arrays["b"].dtype == ml_dtypes.bfloat16
    assert pc.equal(table["data"][0], table["data"][1]).as_py()
    assert (arrays["b"] == array).all()


def _decoded(row: dict[str, Any], bits: int) -> Any:
    """The values of a quantized row in groups of 128, by NumPy."""
    *rest, columns = row["shape"]
    rows, groups = math.prod(rest), -(-columns // 128)
    packed = np.frombuffer(row["data"], np.uint8).reshape(rows, -1)
    if bits == 4:
        packed = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, -1)

    def spread(numbers: Any) -> Any:
        return np.repeat(np.reshape(numbers, (rows, groups)), 128, axis=1)[:, :columns]

    zero = 2 ** (bits - 1) if row["is_symmetric"] else spread(row["zero_points"])
    codes = packed[:, :columns].astype(np.float32) - np.float32(zero)
    return codes * spread(np.array(row["scales"], np.float32))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("scheme", ["int4", "int8", "none"])
def test_much_output(dtype: str, scheme: str) -> None:
    """From 4 MiB on it is written past the caches, in whole lines as far as rows allow."""
    rng = np.random.default_rng(5)
    shapes = [(700, 2048), (1, 100), (333, 1001), (3, 64), (17, 40_000), (64,)]
    layers = {
        f"layer.{at}": rng.standard_normal(shape, np.float32).astype(NUMPY[dtype])
        for at, shape in enumerate(shapes)
    }
    quantized = aq.quantize(layers, scheme=scheme).quantized
    back = aq.dequantize(quantized).weights["data"].to_pylist()
    assert sum(map(len, back)) >= 1 << 22
    for row, found, array in zip(quantized.to_pylist(), back, layers.values(), strict=True):
        expected = array if scheme == "none" else _decoded(row, int(scheme[-1]))
        assert found == expected.astype(array.dtype).tobytes(), array.shape
