"""Scales that are searched for: what they gain, and that others decode them."""

from __future__ import annotations

import re
import subprocess
import sys
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
    ("int8", {"group_size": 32, "signed_scales": True, **HALF}, 0.2),
    ("int4", {"group_size": 128, "symmetric": True, "signed_scales": True, **HALF}, 0.5),
    ("int2", {"group_size": 64, "symmetric": True, "signed_scales": True, **HALF}, 0.8),
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
    (
        "int4",
        {"group_size": 128, "symmetric": True, "signed_scales": True, **HALF},
        (20.2, 16.9),
    ),
    ("mlx4", HALF, (21.78, 19.95)),
    ("mlx2", HALF, (9.8, 8.25)),
    ("nvfp4", {}, (21.7, 21.6)),
    ("nf4", {}, (21.6, 20.2)),
    ("iq4_xs", {}, (22.55, 21.2)),
    ("iq4_nl", {}, (22.6, 21.3)),
    ("q4_k", {}, (23.1, 21.8)),
    ("q3_k", {}, (16.8, 15.4)),
    ("q2_k", {}, (11.6, 10.8)),
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
    assert found == {"Gaussian": "mse", "Student": "weighted"}


def test_on_the_command_line(checkpoint: Path, tmp_path: Path) -> None:
    run("quantize", checkpoint, "-o", tmp_path / "d", "--scheme", "q4_1", "--search", "mse")
    rows = aq.scan(tmp_path / "d").outline().to_pylist()
    assert {row["search"] for row in rows} == {"mse", None}
    # What is quantized already has its numbers again, to the bit.
    with pytest.warns(aq.QuantizationWarning, match="is quantized already"):
        again = aq.quantize(aq.scan(tmp_path / "d"), scheme="q4_1", search="mse")
    assert {row["search"] for row in again.quantized.to_pylist()} == {"kept", None}


def importance_of(columns: int, rng: np.random.Generator) -> Array:
    """A few columns matter far more than others, as in models."""
    return np.exp(2 * rng.standard_normal(columns)).astype(np.float32)


def weighed(array: Array, importance: Any, scheme: str, **options: Any) -> dict[str, Any]:
    table = pa.table(
        {
            "layer_name": ["a"],
            "data": pa.array([array.ravel()], pa.large_list(pa.float32())),
            "shape": [list(array.shape)],
            "importance": importance
            if isinstance(importance, pa.Array)
            else pa.array([importance], pa.list_(pa.float32())),
        }
    )
    result = aq.quantize(table, scheme=scheme, search="weighted", **options)
    row: dict[str, Any] = result.quantized.to_pylist()[0]
    assert row["search"] == "weighted"
    return row


PAYLOAD = ("data", "scales", "zero_points", "biases")


@pytest.mark.parametrize(("scheme", "options", "_"), GAINS)
def test_importance_lessens_the_error_of_what_matters(
    scheme: str, options: dict[str, Any], _: float, weights: dict[str, Array]
) -> None:
    rng = np.random.default_rng(3)
    array = weights["Student"]
    importance = importance_of(array.shape[1], rng)

    def error(result: Any) -> float:
        decoded = aq.to_numpy(aq.dequantize(result))["a"].astype(np.float64)
        return float((importance * np.square(decoded - array)).sum())

    def of(search: str, **columns: Any) -> float:
        one = {
            "layer_name": ["a"],
            "data": pa.array([array.ravel()], pa.large_list(pa.float32())),
            "shape": [list(array.shape)],
        }
        table = pa.table(one | columns)
        return error(aq.quantize(table, scheme=scheme, search=search, **options))  # type: ignore[arg-type]

    found = of("weighted", importance=pa.array([importance], pa.list_(pa.float32())))
    assert found <= of("none") * (1.000001 if scheme == "mxfp8" else 0.98)
    assert found <= of("mse") * (1.000001 if scheme in ("mxfp8", "mxfp4") else 0.997)


@pytest.mark.parametrize(("scheme", "options", "_"), GAINS)
def test_columns_that_matter_alike_are_those_of_mse(
    scheme: str, options: dict[str, Any], _: float, weights: dict[str, Array]
) -> None:
    array = weights["Gaussian"]
    usual = quantized(array, "mse", scheme, **options)
    for constant in (1.0, 2.0**-90, 2.0**40, 0.0):
        found = weighed(array, np.full(array.shape[1], constant), scheme, **options)
        assert all(found[column] == usual[column] for column in PAYLOAD), constant


@pytest.mark.parametrize("scheme", ["int4", "mlx4", "nf4", "nvfp4", "q4_k", "q4_0"])
def test_importance_of_any_type_is_the_same(scheme: str, weights: dict[str, Array]) -> None:
    array = weights["Gaussian"]
    values = np.arange(array.shape[1]) % 7 + 0.5
    wanted = weighed(array, values, scheme, threads=1)
    for kind in (
        pa.list_(pa.float64()),
        pa.large_list(pa.float16()),
        pa.list_(pa.float32(), len(values)),
    ):
        item = kind.value_type.to_pandas_dtype()
        found = weighed(array, pa.array([values.astype(item)], kind), scheme, threads=2)
        assert all(found[column] == wanted[column] for column in PAYLOAD), kind


@pytest.mark.parametrize(
    ("importance", "why"),
    [
        ([1.0] * 127, "has 127 numbers, and the layer has 128 columns"),
        ([], "has 0 numbers, and the layer has 128 columns"),
        ([1.0] * 5 + [-1.0] * 123, "is -1 at column 5"),
        ([1.0] * 127 + [float("nan")], "is NaN at column 127"),
        ([float("inf")] * 128, "is inf at column 0"),
        ([1.0] * 3 + [None] * 125, "is null at column 3"),
    ],
)
def test_importance_that_is_none(importance: list[Any], why: str) -> None:
    table = pa.table(
        {
            "layer_name": ["bad", "good"],
            "data": pa.array([np.ones(256)] * 2, pa.large_list(pa.float32())),
            "shape": [[2, 128]] * 2,
            "importance": pa.array([importance, None], pa.list_(pa.float32())),
        }
    )
    result = aq.quantize(table, scheme="int4", search="weighted", continue_on_error=True)
    assert result.errors["error_code"].to_pylist() == ["invalid_fact", None]
    message = result.errors["error_message"][0].as_py()
    assert message.startswith("layer 'bad'")
    assert f"importance {why}. Give a number of at least zero for each column" in message
    # Where nobody asks for it, it makes no difference.
    for search in ("none", "mse"):
        assert aq.quantize(table, scheme="int4", search=search).failed.num_rows == 0  # type: ignore[arg-type]


def test_a_layer_of_which_nothing_is_known_is_weighed_by_itself(weights: dict[str, Array]) -> None:
    """Columns of small weights have large inputs: where a model balances both, outputs gain."""
    rng = np.random.default_rng(4)
    array = weights["Student"]
    factor = np.exp(0.7 * rng.standard_normal(array.shape[1])).astype(np.float32)
    array = array * factor
    for scheme, options, _ in GAINS:
        if scheme in ("int8", "mlx8", "mxfp8", "q8_0", "mxfp4"):
            continue

        def error(search: str, scheme: str = scheme, options: Any = options) -> float:
            result = aq.quantize({"a": array}, scheme=scheme, search=search, **options)  # type: ignore[arg-type]
            decoded = aq.to_numpy(aq.dequantize(result))["a"].astype(np.float64)
            return float(np.square((decoded - array) / factor).sum())

        assert error("weighted") <= error("mse"), (scheme, options)
    none = pa.nulls(1, pa.list_(pa.float32()))
    with_null = weighed(array, none, "int4")
    without = quantized(array, "weighted", "int4")
    assert all(with_null[column] == without[column] for column in PAYLOAD)


@pytest.mark.parametrize("search", ["mse", "weighted"])
@pytest.mark.parametrize("scheme", ["mlx8", "mlx6", "mlx4", "mlx2", "q4_1", "q5_1", "q4_k"])
@pytest.mark.parametrize("spread", [1e-4, 3e-6])
@pytest.mark.parametrize("offset", [1.0, -1.0])
def test_values_far_from_zero_lose_no_more_than_by_rounding(
    scheme: str, search: str, spread: float, offset: float, rng: np.random.Generator
) -> None:
    array = (offset + spread * rng.standard_normal((32, 512))).astype(np.float32)
    columns = rng.lognormal(size=512).astype(np.float32)
    size = 256 if scheme == "q4_k" else 32 if scheme.startswith("q") else 64

    def left(search: Any) -> Array:
        known = pa.table({"layer_name": ["a"], "importance": [columns]})
        result = aq.quantize(
            {"a": array},
            scheme=scheme,
            search=search,
            importance=known if search == "weighted" else None,
        )
        error = np.square(aq.to_numpy(aq.dequantize(result))["a"].astype(np.float64) - array)
        matter = columns if search == "weighted" else np.ones(512)
        return (error * matter).reshape(-1, size).sum(1)

    def usual() -> Array:
        rounded = aq.quantize({"a": array}, scheme=scheme, search="none")
        decoded = aq.to_numpy(aq.dequantize(rounded))["a"]
        error = np.square(decoded.astype(np.float64) - array)
        matter = columns if search == "weighted" else np.ones(512)
        return (error * matter).reshape(-1, size).sum(1)

    # Of errors that are a float32's last digits, some are lost in sums.
    assert np.all(left(search) <= usual() * (1 + 1e-4) + 1e-18)


@pytest.mark.parametrize("shape", [(1, 4096), (5, 1), (3, 40_000), (64, 4096), (7, 96), (2, 3, 64)])
def test_weights_of_any_shape_weigh_themselves(
    shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    array = rng.standard_normal(shape).astype(np.float32)
    array[..., 1::5] = 0
    for scheme in ("int4", "nf4", "int2"):
        one, two = (
            aq.quantize({"a": array, "b": -array}, scheme=scheme, search="weighted", threads=n)
            for n in (1, 2)
        )
        assert one.quantized.equals(two.quantized)
        usual = quantized(array, "none", scheme)
        # It has none where nothing is lost.
        found = one.quantized["snr_db"][0].as_py()
        assert found is None or found > usual["snr_db"] - 3


def test_the_default_of_each_scheme_is_what_docs_say() -> None:
    weights = {"a": np.random.default_rng(0).standard_normal((32, 256)).astype(np.float32)}
    found: dict[str, list[str]] = {}
    for scheme in aq.schemes():
        if scheme != "none":
            (row,) = aq.quantize(weights, scheme=scheme).quantized.to_pylist()
            found.setdefault(row["search"], []).append(scheme)
            same = aq.quantize(weights, scheme=scheme, search=row["search"]).quantized
            assert same.to_pylist() == [row]
    page = (Path(__file__).parents[1] / "docs" / "quality.md").read_text()
    said = re.search(r"The default is `weighted`, but for ([^.]*)\.", page)
    assert said is not None
    assert sorted(found["none"]) == sorted(re.findall(r"`(\w+)`", said[1]))
    assert set(found) == {"none", "weighted"}


_WIDE_ROWS = """
import resource
import numpy as np
import arrowquant as aq

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

layer = np.ones((32, 1 << 19), np.float32)
layer[:, ::3] = np.arange(32, dtype=np.float32)[:, None]
before = peak()
options = dict(scheme="int4", symmetric=True, group_size=-1, threads=2)
aq.quantize({"a": layer}, search="weighted", **options)
print((peak() - before) / layer.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere ru_maxrss has other units")
def test_sums_of_columns_of_wide_rows_take_little_memory() -> None:
    # Rows that are one group each: of 32 at once they took five times the layer.
    done = subprocess.run(
        [sys.executable, "-c", _WIDE_ROWS], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 2.5
