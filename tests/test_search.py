"""Scales that are searched for: what they gain, and that others decode them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import arrowquant as aq
from conftest import run

gguf = pytest.importorskip("gguf")

Array = np.ndarray[Any, Any]
HALF = {"scale_dtype": "F16"}
GAINS: list[tuple[str, dict[str, Any], float]] = [
    ("int8", {"group_size": 128, **HALF}, 0.1),
    ("int4", {"group_size": 128, "symmetric": True, **HALF}, 0.7),
    ("int4", {"group_size": 64, "symmetric": False, **HALF}, 0.3),
    ("int4", {"group_size": -1, "symmetric": True, **HALF}, 0.7),
    ("int2", {"group_size": 64, "symmetric": False, **HALF}, 2.0),
    ("mlx8", HALF, 0.6),
    ("mlx4", HALF, 0.8),
    ("mlx2", HALF, 1.6),
    ("nf4", {}, 0.6),
    ("bnb_fp4", {}, 0.5),
    ("nvfp4", {}, 0.9),
    ("mxfp4", {}, 0.2),
    ("mxfp8", {}, -1e-6),
    ("q8_0", {}, 0.2),
    ("q5_1", {}, 0.8),
    ("q5_0", {}, 0.3),
    ("q4_1", {}, 0.9),
    ("q4_0", {}, 0.3),
    ("iq4_nl", {}, 0.5),
    ("iq4_xs", {}, 0.4),
    ("q6_k", {}, 0.4),
    ("q5_k", {}, 0.4),
    ("q4_k", {}, 0.8),
    ("q3_k", {}, 0.5),
    ("q2_k", {}, 1.6),
]
"""What a search gains at least on any of these weights, in dB."""


@pytest.fixture(scope="module")
def weights() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        "Gaussian": rng.standard_normal((256, 1024)).astype(np.float32),
        "Student": rng.standard_t(5, (256, 1024)).astype(np.float32),
    }


def quantized(array: Array, search: str, scheme: str, **options: Any) -> dict[str, Any]:
    result = aq.quantize({"a": array}, scheme=scheme, search=search, **options)  # type: ignore[arg-type]
    row: dict[str, Any] = result.quantized.to_pylist()[0]
    assert row["search"] == search
    return row


@pytest.mark.parametrize(("scheme", "options", "gain"), GAINS)
def test_a_search_gains(
    scheme: str,
    options: dict[str, Any],
    gain: float,
    weights: dict[str, Array],
    checkpoint: Path,
) -> None:
    real = aq.scan(checkpoint)["encoder.layer.3.output.dense.weight"]
    for name, array in (weights | {"MiniLM": real}).items():
        usual, found = (quantized(array, x, scheme, **options) for x in ("none", "mse"))
        assert found["snr_db"] >= usual["snr_db"] + gain, name
        assert found["bits_per_weight"] == usual["bits_per_weight"]


TARGETS: list[tuple[str, dict[str, Any], tuple[float, float]]] = [
    ("int4", {"group_size": 128, "symmetric": True, **HALF}, (19.8, 16.5)),
    ("mlx4", HALF, (21.7, 19.9)),
    ("mlx2", HALF, (9.7, 8.2)),
    ("nvfp4", {}, (21.7, 21.6)),
    ("nf4", {}, (21.6, 20.2)),
    ("iq4_xs", {}, (22.5, 21.2)),
    ("iq4_nl", {}, (22.6, 21.3)),
    ("q4_k", {}, (22.95, 21.65)),
    ("q3_k", {}, (16.8, 15.4)),
    ("q2_k", {}, (11.5, 10.75)),
]
"""SNR on normal and Student-t numbers."""


@pytest.mark.parametrize(("scheme", "options", "targets"), TARGETS)
def test_what_a_search_reaches(
    scheme: str, options: dict[str, Any], targets: tuple[float, float]
) -> None:
    rng = np.random.default_rng(1)
    normal = rng.standard_normal((1024, 2048)).astype(np.float32)
    heavy = rng.standard_t(5, (1024, 2048)).astype(np.float32)
    for array, target in zip((normal, heavy), targets, strict=True):
        assert quantized(array, "mse", scheme, **options)["snr_db"] >= target


GGML = [name for name, *_ in GAINS if name[0] in "qi" and not name.startswith("int")]


@pytest.mark.parametrize("scheme", GGML)
def test_ggml_decodes_what_was_searched_for(scheme: str, weights: dict[str, Array]) -> None:
    array = weights["Student"]
    row = quantized(array, "mse", scheme)
    kind = gguf.GGMLQuantizationType[scheme.upper()]
    data = np.frombuffer(row["data"], np.uint8).reshape(len(array), -1)
    error = gguf.quants.dequantize(data, kind).astype(np.float64) - array
    signal = np.square(array.astype(np.float64)).sum()
    assert 10 * np.log10(signal / np.square(error).sum()) == pytest.approx(row["snr_db"], abs=1e-4)


@pytest.mark.parametrize(("scheme", "options", "_"), GAINS)
def test_the_same_bytes_whatever_is_beside(
    scheme: str, options: dict[str, Any], _: float, weights: dict[str, Array]
) -> None:
    both = aq.quantize(weights, scheme=scheme, search="mse", threads=2, **options)
    for row in both.quantized.to_pylist():
        alone = quantized(weights[row["layer_name"]], "mse", scheme, threads=1, **options)
        for column in ("data", "scales", "zero_points", "biases", "mse"):
            assert row[column] == alone[column], column


@pytest.mark.parametrize("symmetric", [True, False])
def test_groups_of_long_rows(symmetric: bool, rng: np.random.Generator) -> None:
    for array in (
        rng.standard_normal((3, 40_000)),
        rng.random((2, 300_000)),
        1 + 0.05 * rng.standard_normal((8, 28_672)),
    ):
        for scheme in ("int8", "int4"):
            options = {"group_size": -1, "symmetric": symmetric}
            usual, found = (
                quantized(array.astype(np.float32), x, scheme, **options) for x in ("none", "mse")
            )
            assert found["mse"] <= usual["mse"] * 1.000001
            assert len(found["scales"]) == len(array)


@pytest.mark.parametrize(("scheme", "options", "_"), GAINS)
def test_what_is_hard_to_improve(
    scheme: str, options: dict[str, Any], _: float, rng: np.random.Generator
) -> None:
    """Layers that rounding holds exactly or nearly so."""
    noise = rng.random((8, 1024))
    decoded = aq.to_numpy(aq.dequantize(aq.quantize({"a": noise - 0.5}, scheme=scheme, **options)))
    for array in (
        np.full((8, 1024), 0.3),
        np.full((8, 1024), -0.3),
        1 + 1e-4 * noise,
        1 + 1e-6 * noise,
        np.sign(noise - 0.5) * (1 + 1e-3 * noise),
        decoded["a"],
    ):
        usual, found = (
            quantized(array.astype(np.float32), x, scheme, **options) for x in ("none", "mse")
        )
        assert found["mse"] <= usual["mse"] * 1.00001


def test_a_fallback_without_a_search_takes_the_layer(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    from safetensors.numpy import save_file

    save_file({"m.up_proj.weight": rng.random((64, 96), np.float32)}, tmp_path / "m.safetensors")
    aq.quantize_checkpoint(
        tmp_path / "m.safetensors",
        tmp_path / "d",
        scheme="q4_k",
        fallback=["fp8_e4m3"],
        search="mse",
    )
    (row,) = aq.scan(tmp_path / "d").outline().to_pylist()
    assert (row["scheme"], row["search"]) == ("fp8_e4m3", "none")


def test_a_runtime_whose_scheme_has_no_search(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="transformers takes nf4_dq, whose scales are not searched"
    ):
        aq.quantize_checkpoint(
            checkpoint.parent, tmp_path / "o", target="transformers", search="mse"
        )
    assert not list(tmp_path.iterdir())


def test_magnitudes_near_the_limit(rng: np.random.Generator) -> None:
    array = (rng.uniform(-1, 1, (4, 2048)) * 3.4e38).astype(np.float32)
    for search in ("none", "mse"):
        row = quantized(array, search, "nvfp4")
        assert np.isfinite(row["mse"])
        assert row["snr_db"] > 15


def test_where_there_is_no_search(weights: dict[str, Array]) -> None:
    for scheme in ("fp8_e4m3", "nf4_dq", "bnb_fp4_dq"):
        with pytest.raises(
            aq.QuantizationError, match=f"search of '{scheme}' must be none, got mse"
        ):
            aq.quantize(weights, scheme=scheme, search="mse")
        assert quantized(weights["Gaussian"], "none", scheme)["snr_db"] > 15
    with pytest.raises(ValueError, match="unknown search 'best'"):
        aq.quantize(weights, search="best")  # type: ignore[arg-type]


def test_a_plan_says_it_layer_by_layer(weights: dict[str, Array]) -> None:
    plan = pa.table({"layer_name": ["Gaussian"], "search": ["mse"]})
    result = aq.quantize(weights, scheme="mlx4", plan=plan)
    found = {row["layer_name"]: row["search"] for row in result.quantized.to_pylist()}
    assert found == {"Gaussian": "mse", "Student": "none"}


def test_on_the_command_line(checkpoint: Path, tmp_path: Path) -> None:
    run("quantize", checkpoint, "-o", tmp_path / "d", "--scheme", "q4_1", "--search", "mse")
    rows = aq.scan(tmp_path / "d").outline().to_pylist()
    assert {row["search"] for row in rows} == {"mse", None}
    # What is quantized already has its numbers again, to the bit.
    with pytest.warns(aq.QuantizationWarning, match="is quantized already"):
        again = aq.quantize(aq.scan(tmp_path / "d"), scheme="q4_1", search="mse")
    assert {row["search"] for row in again.quantized.to_pylist()} == {"kept", None}
