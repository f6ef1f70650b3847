"""Formats of groups beside decoders of NumPy's, `ml_dtypes`' and gguf's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

import arrowquant as aq
from test_schemes import KINDS, check_metrics

gguf = pytest.importorskip("gguf")
MLX = [(bits, size) for bits in (2, 3, 4, 5, 6, 8) for size in (32, 64, 128)]


def quantized(source: Any, scheme: str, **settings: Any) -> tuple[dict[str, Any], Any]:
    """The one row, and what it decodes to; scales are those of the extremes."""
    result = aq.quantize({"w": source}, scheme=scheme, **({"search": "none"} | settings)).quantized
    (row,) = pa.table(result).to_pylist()
    decoded = aq.to_numpy(aq.dequantize(result, dtype="F32"))["w"]
    check_metrics(row, source, decoded)
    return row, decoded


def fp4(row: dict[str, Any], shape: Any) -> Any:
    """E2M1 codes, the first of a pair in the low half."""
    pairs = np.frombuffer(row["data"], np.uint8)
    codes = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(shape)
    return codes.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)


def scales(row: dict[str, Any], shape: Any, size: int) -> Any:
    """A scale for each element, as it is."""
    grid = np.asarray(row["scales"], np.float32).reshape(shape[0], -1)
    return grid.repeat(size, axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_mxfp4_is_ocps(kind: str) -> None:
    source = KINDS[kind]
    row, decoded = quantized(source, "mxfp4")
    expected = fp4(row, source.shape) * scales(row, source.shape, 32)
    assert np.array_equal(decoded, expected)
    exponents = np.asarray(row["scales"], np.float32)
    assert np.array_equal(exponents.astype(ml_dtypes.float8_e8m0fnu).astype(np.float32), exponents)
    assert (row["scale_dtype"], row["bits_per_weight"]) == ("F8_E8M0", 4.25)
    # ggml's blocks: the exponent, then codes in halves.
    pairs = np.frombuffer(row["data"], np.uint8)
    codes = np.stack([pairs & 15, pairs >> 4], -1).reshape(-1, 2, 16)
    bits = exponents.astype(ml_dtypes.float8_e8m0fnu).view(np.uint8).reshape(-1, 1)
    blocks = np.concatenate([bits, codes[:, 0] | codes[:, 1] << 4], 1).astype(np.uint8)
    found = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.MXFP4)
    assert np.array_equal(found.reshape(source.shape), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_mxfp8_is_ocps(kind: str) -> None:
    source = KINDS[kind]
    row, decoded = quantized(source, "mxfp8")
    codes = np.frombuffer(row["data"], ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.array_equal(decoded, codes.reshape(source.shape) * scales(row, source.shape, 32))
    assert row["bits_per_weight"] == 8.25


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8"])
def test_the_largest_value_is_not_cut_off(name: str) -> None:
    """The lower exponent would make 7 of 7 a 6: then the next is taken."""
    top = {"mxfp4": 6.0, "mxfp8": 448.0}[name]
    source = np.zeros((2, 32), np.float32)
    source[0, 0], source[1, 0] = top, top * 1.1
    row, decoded = quantized(source, name)
    assert row["scales"] == [1.0, 2.0]
    assert decoded[0, 0] == top
    assert decoded[1, 0] >= top


@pytest.mark.parametrize("kind", KINDS)
def test_nvfp4_is_what_others_decode(kind: str) -> None:
    source = KINDS[kind]
    row, decoded = quantized(source, "nvfp4")
    found = scales(row, source.shape, 16)
    assert np.array_equal(found.astype(ml_dtypes.float8_e4m3fn).astype(np.float32), found)
    tensor_scale = np.float32(row["tensor_scale"])
    expected = (fp4(row, source.shape) * found) * tensor_scale
    assert np.array_equal(decoded, expected)
    # A power of two: its reciprocal is exact, so that who divides by that decodes the same bits.
    assert np.frexp(tensor_scale)[0] == 0.5
    assert np.array_equal(
        fp4(row, source.shape) * (found / (np.float32(1) / tensor_scale)), expected
    )
    assert found.max() <= 256
    if source.any() and kind != "subnormal":
        assert found.max() >= 128
    size = source.size
    assert row["bits_per_weight"] == (4.5 * size + 32) / size
    # ggml's blocks of 64 have no scale of the tensor.
    pairs = np.frombuffer(row["data"], np.uint8)
    codes = np.stack([pairs & 15, pairs >> 4], -1).reshape(-1, 4, 2, 8)
    bits = np.asarray(row["scales"], np.float32).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    halves = (codes[:, :, 0] | codes[:, :, 1] << 4).reshape(-1, 32)
    blocks = np.concatenate([bits.reshape(-1, 4), halves], 1).astype(np.uint8)
    found = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.NVFP4) * tensor_scale
    assert np.array_equal(found.reshape(source.shape), expected)


TABLES = {
    "nf4": [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    "bnb_fp4": [x / 12 for x in (0, 0.0625, 8, 12, 4, 6, 2, 3)],
}
"""bitsandbytes' `get_4bit_type`."""
TABLES["bnb_fp4"] += [-x for x in TABLES["bnb_fp4"]]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("shape", [(64, 512), (7, 9), (5, 96), (3, 20_001), (1, 1)])
def test_blocks_over_the_flattened_matrix_are_bitsandbytes(name: str, shape: Any) -> None:
    source = np.random.default_rng(0).standard_t(3, size=shape).astype(np.float32)
    row, decoded = quantized(source, name)
    pairs = np.frombuffer(row["data"], np.uint8)
    codes = np.stack([pairs >> 4, pairs & 15], -1).reshape(-1)[: source.size]
    table = np.asarray(TABLES[name], np.float32)
    absmax = np.asarray(row["scales"], np.float32)
    assert len(absmax) == -(-source.size // 64)
    expected = table[codes] * absmax.repeat(64)[: source.size]
    assert np.array_equal(decoded, expected.reshape(shape))
    # The nearest of the table.
    scaled = source.reshape(-1) / absmax.repeat(64)[: source.size]
    best = np.abs(table - scaled[:, None]).min(1)
    assert np.allclose(np.abs(table[codes] - scaled), best, atol=1e-6)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("shape", [(64, 512), (7, 9), (300, 96), (1, 1), (2, 64 * 300)])
def test_scales_are_codes_themselves(name: str, shape: Any) -> None:
    """bitsandbytes' double quantization, without an offset: a map of 256 numbers, runs of 256."""
    source = np.random.default_rng(0).standard_t(3, size=shape).astype(np.float32)
    row, decoded = quantized(source, f"{name}_dq")
    plain, usual = quantized(source, name)
    scales, absmax = (np.asarray(r["scales"], np.float64) for r in (row, plain))
    orders = [
        (0.1 + 0.9 * (2 * step + 1) / (2 * steps)) * 10.0 ** (order - 6)
        for order, steps in enumerate((1, 2, 4, 8, 16, 32, 64))
        for step in range(steps)
    ]
    numbers = np.array(sorted([0.0, 1.0, *orders, *(-x for x in orders)]))
    assert len(numbers) == 256
    for start in range(0, len(scales), 256):
        run, own = scales[start : start + 256], absmax[start : start + 256]
        most = own.max()
        assert run.max() == most
        nearest = np.abs(numbers - (own / most)[:, None]).min(1)
        assert np.allclose(np.abs(run - own) / most, nearest, atol=1e-7)
    pairs = np.frombuffer(row["data"], np.uint8)
    codes = np.stack([pairs >> 4, pairs & 15], -1).reshape(-1)[: source.size]
    table = np.asarray(TABLES[name], np.float32)
    grid = np.asarray(row["scales"], np.float32).repeat(64)[: source.size]
    assert np.array_equal(decoded, (table[codes] * grid).reshape(shape))
    runs = -(-len(scales) // 256)
    bits = 8 * (-(-source.size // 2)) + 8 * len(scales) + 32 * (runs + 1)
    assert row["bits_per_weight"] == pytest.approx(bits / source.size)
    if source.size > 1000:
        errors = [np.mean((source - values) ** 2) for values in (decoded, usual)]
        assert errors[0] < 1.03 * errors[1]


@pytest.mark.parametrize(("bits", "size"), MLX)
@pytest.mark.parametrize("kind", KINDS)
def test_mlx_is_affine_with_a_bias(bits: int, size: int, kind: str) -> None:
    source = KINDS[kind]
    if source.shape[1] % size:
        return
    row, decoded = quantized(source, f"mlx{bits}", group_size=size)
    stream = np.unpackbits(np.frombuffer(row["data"], np.uint8), bitorder="little")
    codes = stream.reshape(-1, bits) @ (1 << np.arange(bits))
    biases = np.asarray(row["biases"], np.float32).repeat(size).reshape(source.shape)
    grid = scales(row, source.shape, size)
    assert np.array_equal(decoded, codes.reshape(source.shape).astype(np.float32) * grid + biases)
    assert row["bits_per_weight"] == bits + 64 / size
    step = np.abs(grid)
    assert (np.abs(source - decoded) <= step * np.float32(1.02) + 1e-44).all()


@pytest.mark.parametrize(
    "name", ["mxfp4", "mxfp8", "nvfp4", "nf4", "nf4_dq", "bnb_fp4", "mlx4", "mlx3"]
)
def test_real_weights(name: str, checkpoint: Path) -> None:
    at_least = {"mxfp8": 28, "mlx4": 18, "nf4": 19, "nvfp4": 19, "mlx3": 12}.get(name, 15)
    for layer, source in load_file(checkpoint).items():
        if source.ndim == 2 and source.dtype == np.float32 and "embed" not in layer:
            row, _ = quantized(source, name)
            assert row["snr_db"] > at_least, layer


@pytest.mark.parametrize("name", ["nf4", "mlx4", "nvfp4", "q4_k", "mxfp8"])
def test_codes_do_not_depend_on_threads_or_parts(name: str, tmp_path: Path) -> None:
    source = np.random.default_rng(0).standard_t(3, size=(1024, 512)).astype(np.float32)
    one = aq.quantize({"w": source}, scheme=name, threads=1).quantized
    two = aq.quantize({"w": source}, scheme=name, threads=2).quantized
    assert pa.table(one) == pa.table(two)
    aq.write_safetensors({"w": source}, tmp_path / "w.safetensors")
    parts = aq.scan(tmp_path / "w.safetensors", part_bytes=256 * 512 * 4)
    found = pa.table(aq.quantize(parts, scheme=name).quantized)
    whole = pa.table(one)
    assert len(found) == 4
    assert b"".join(found["data"].to_pylist()) == whole["data"][0].as_py()
    for column in ("scales", "biases"):
        lists = [value for value in found[column].to_pylist() if value is not None]
        assert [x for one in lists for x in one] == (whole[column][0].as_py() or [])


WHOLE: list[tuple[str, dict[str, Any]]] = [
    ("nvfp4", {}),
    ("fp8_e4m3", {"group_rows": -1}),
    ("fp8_e4m3", {"group_rows": -1, "group_size": -1}),
    ("fp8_e4m3", {"group_rows": 4, "group_size": 128}),
    ("nf4", {}),
    ("mxfp4", {}),
    ("mlx4", {}),
    ("q4_k", {}),
]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize(("scheme", "settings"), WHOLE)
def test_what_is_not_finite_is_found_in_every_row(
    scheme: str, settings: dict[str, Any], dtype: Any, bad: float
) -> None:
    rng = np.random.default_rng(0)
    for row in (0, 1, 5, 60, 63):
        source = rng.normal(size=(64, 256)).astype(dtype)
        source[row, 3] = bad
        result = aq.quantize({"w": source}, scheme=scheme, continue_on_error=True, **settings)
        (error,) = result.errors.to_pylist()
        assert (error["error_code"], error["error_element"]) == ("non_finite", row * 256 + 3)
