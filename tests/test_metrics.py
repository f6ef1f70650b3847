"""Metrics of many numbers are those of exact sums, however the numbers are spread."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import arrowquant as aq
import reference
from conftest import binary_weights

SHAPE = (96, 4096)
Array = np.ndarray[Any, np.dtype[np.float64]]
Rng = np.random.Generator

SPREADS: dict[str, Callable[[Rng], Array]] = {
    "normal": lambda rng: rng.standard_normal(SHAPE),
    "constant": lambda _: np.full(SHAPE, 0.1234567),
    "outliers": lambda rng: rng.standard_normal(SHAPE) * np.where(rng.random(SHAPE) < 1e-5, 1e4, 1),
    "one in a group": lambda rng: np.where(rng.random(SHAPE) < 1 / 128, 1.0, 1e-20),
    "rows of every magnitude": lambda rng: (
        rng.standard_normal(SHAPE) * np.exp(np.linspace(-30, 30, SHAPE[0]))[:, None]
    ),
    "numbers of every magnitude": lambda rng: np.exp(10 * rng.standard_normal(SHAPE)),
    "three values": lambda rng: rng.integers(-1, 2, SHAPE) * 0.02,
    "codes": lambda rng: rng.integers(0, 16, SHAPE) / 64 + rng.normal(0, 1e-9, SHAPE),
    "squares below float32": lambda rng: 1e-30 * rng.standard_normal(SHAPE),
    "squares beyond float32": lambda rng: 1e30 * rng.standard_normal(SHAPE),
}


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("scheme", ["int8", "int4", "int2"])
@pytest.mark.parametrize("group_size", [32, 100, -1])
def test_metrics_are_those_of_exact_sums(
    spread: str, scheme: str, group_size: int, rng: np.random.Generator
) -> None:
    weights = SPREADS[spread](rng).astype(np.float32)
    table = binary_weights(
        [{"layer_name": "w", "data": weights.tobytes(), "dtype": "F32", "shape": list(SHAPE)}]
    )
    result = aq.quantize(table, scheme=scheme, group_size=group_size, search="none")
    (row,) = result.quantized.to_pylist()
    decoded = aq.to_numpy(aq.dequantize(result))["w"].astype(np.float64).reshape(-1)
    wide = weights.astype(np.float64).reshape(-1)
    error = wide - decoded
    squared_error = math.fsum(error**2)
    assert row["mse"] == pytest.approx(squared_error / error.size, rel=reference.MSE_RELATIVE)
    assert row["max_abs_error"] == np.abs(error).max()
    if squared_error == 0:
        assert row["snr_db"] is None
    else:
        snr = 10 * math.log10(math.fsum(wide**2) / squared_error)
        assert row["snr_db"] == pytest.approx(snr, abs=reference.SNR_DB)


@pytest.mark.parametrize("first", [15.0, 0.3])
@pytest.mark.parametrize("tiny", [1e-20, 1e-23, 1e-25, 1e-40])
@pytest.mark.parametrize(("columns", "group_size"), [(32768, -1), (65536, -1), (65536, 20000)])
def test_errors_too_small_for_float32_are_counted_in_wide_groups(
    columns: int, group_size: int, tiny: float, first: float
) -> None:
    """A scale that comes from one tile, and other tiles that hold nothing but dust."""
    for start in (1, 16384):
        weights = np.zeros((1, columns), np.float32)
        weights[0, 0] = first
        weights[0, start:] = tiny
        result = aq.quantize({"w": weights}, scheme="int4", group_size=group_size)
        (row,) = result.quantized.to_pylist()
        decoded = aq.to_numpy(aq.dequantize(result))["w"].astype(np.float64)
        wide = weights.astype(np.float64)
        squared_error = math.fsum((wide - decoded)[0] ** 2)
        assert row["mse"] == pytest.approx(squared_error / columns, rel=reference.MSE_RELATIVE)
        snr = 10 * math.log10(math.fsum(wide[0] ** 2) / squared_error)
        assert row["snr_db"] == pytest.approx(snr, abs=reference.SNR_DB)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("scheme", ["int8", "int4", "int2"])
def test_of_a_million_weights_seven_digits_are_true(
    scheme: str, dtype: str, rng: np.random.Generator
) -> None:
    array = (0.02 * rng.standard_normal((1024, 1024))).astype(reference.DTYPES[dtype])
    row = {"layer_name": "w", "data": array.tobytes(), "dtype": dtype, "shape": [1024, 1024]}
    result = aq.quantize(binary_weights([row]), scheme=scheme)
    decoded = aq.dequantize(result, dtype="F32").weights.to_pylist()[0]["data"]
    error = array.astype(np.float64).reshape(-1) - np.frombuffer(decoded, np.float32)
    (ours,) = result.quantized.to_pylist()
    assert ours["mse"] == pytest.approx(math.fsum(error**2) / error.size, rel=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(5,), (3, 70), (2, 64), (1, 128), (7, 256), (40, 1)])
@pytest.mark.parametrize("options", [{}, {"scheme": "int8"}, {"group_size": 32, "symmetric": True}])
def test_a_layer_among_others_has_the_figures_that_it_has_alone(
    dtype: Any, shape: tuple[int, ...], options: dict[str, Any], rng: np.random.Generator
) -> None:
    """Small layers of one shape are encoded together; every bit must be the same as without."""

    def layer(index: int) -> dict[str, Any]:
        spread = [1.0, 1e-3, 0.0, 2.0 ** -(index % 20)][index % 4]
        weights = (spread * rng.standard_normal(shape)).astype(dtype)
        if index % 7 == 0:
            weights.flat[0] *= dtype(40)
        names = {np.float32: "F32", np.float16: "F16", ml_dtypes.bfloat16: "BF16"}
        return {"data": weights.tobytes(), "dtype": names[dtype], "shape": list(shape)}

    rows = [{"layer_name": f"l{index}"} | layer(index) for index in range(150)]
    together = aq.quantize(binary_weights(rows), **options).quantized.to_pylist()
    for index, row in enumerate(rows):
        (alone,) = aq.quantize(binary_weights([row]), **options).quantized.to_pylist()
        assert together[index] == alone | {"row_index": index}


@pytest.mark.parametrize("bad", [0, 7, 8, 9, 15, 16, 17, 31, 32, 148, 149])
@pytest.mark.parametrize("shape", [(16, 64), (8, 256), (5, 128), (1, 16384)])
def test_a_bad_layer_among_others_is_found_and_leaves_them_as_they_are(
    shape: tuple[int, ...], bad: int, rng: np.random.Generator
) -> None:
    """A tile of small layers is surveyed while the one before it is encoded."""
    arrays = [rng.standard_normal(shape).astype(np.float32) for _ in range(150)]
    rows = [
        {"layer_name": f"l{i}", "data": a.tobytes(), "dtype": "F32", "shape": list(shape)}
        for i, a in enumerate(arrays)
    ]
    good = aq.quantize(binary_weights(rows)).quantized.to_pylist()
    arrays[bad].flat[-1] = np.nan
    rows[bad]["data"] = arrays[bad].tobytes()
    result = aq.quantize(binary_weights(rows), continue_on_error=True)
    assert result.failed.select(["row_index", "error_code", "error_element"]).to_pylist() == [
        {"row_index": bad, "error_code": "non_finite", "error_element": arrays[bad].size - 1}
    ]
    others = [row for row in result.quantized.to_pylist() if row["row_index"] != bad]
    assert others == good[:bad] + good[bad + 1 :]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("scheme", "times"), [("int8", 1), ("int4", 2)])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_large_batch_gives_what_its_layers_give_alone(
    dtype: Any, threads: int, scheme: str, times: int, rng: np.random.Generator
) -> None:
    """From 4 MiB on codes are written past the caches, where they lie at multiples of 16 bytes."""
    rows = [(1600, 1024), (1, 36), (700, 2048), (3, 64), (1900, 1056)]
    shapes: list[tuple[int, ...]] = [(times * count, columns) for count, columns in rows]
    shapes.append((64,))
    layers = {
        f"layer.{at}": rng.standard_normal(shape, np.float32).astype(dtype)
        for at, shape in enumerate(shapes)
    }
    layers["layer.2"][350, 9] = np.nan
    options: dict[str, Any] = {"scheme": scheme, "continue_on_error": True}
    together = aq.quantize(layers, threads=threads, **options)
    assert sum(array.size for array in layers.values()) >= times << 22
    assert together.failed["layer_name"].to_pylist() == ["layer.2"]
    found = together.quantized.to_pylist()
    for index, (name, array) in enumerate(layers.items()):
        (alone,) = aq.quantize({name: array}, **options).quantized.to_pylist()
        assert found[index] == alone | {"row_index": index}
    assert len(found) == len(layers)
