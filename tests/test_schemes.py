"""Schemes beside independent decoders, and what a row may ask of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_type_hints

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save_file

import arrowquant as aq
from arrowquant import _core
from arrowquant._options import Settings
from arrowquant._summary import WIDE
from conftest import run

gguf = pytest.importorskip("gguf")
GGML = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]
"""Blocks that gguf encodes, too, in the same way."""
DECODED = [*GGML, "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"]
FP8 = [
    {},
    {"group_rows": -1},
    {"group_size": 128, "group_rows": 128},
    {"group_size": 100, "group_rows": 7},
    {"scale_dtype": "BF16"},
]


def kinds() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(64, 512)).astype(np.float32)
    powers = np.float32(2) ** rng.integers(-40, 10, size=(64, 1)).astype(np.float32)
    outlier = (normal * 0.01).copy()
    outlier[3, 7] = 50
    return {
        "normal": normal * np.float32(0.05),
        "heavy": rng.standard_t(3, size=(64, 512)).astype(np.float32),
        # Codes that lie between two numbers, and two of the largest magnitude.
        "ties": rng.integers(-8, 9, size=(64, 512)).astype(np.float32),
        "powers": (normal * powers).astype(np.float32),
        "binary16": normal.astype(np.float16).astype(np.float32),
        "zeros": np.zeros((4, 64), np.float32),
        "constant": np.full((4, 64), 0.1, np.float32),
        "outlier": outlier,
        "subnormal": (normal * np.float32(1e-39)).astype(np.float32),
    }


KINDS = kinds()


def blocks(name: str) -> Any:
    return gguf.GGMLQuantizationType[name.upper()]


def check_metrics(row: dict[str, Any], source: Any, decoded: Any) -> None:
    error = source.astype(np.float64) - decoded
    assert row["mse"] == pytest.approx(np.mean(error**2), rel=2e-6, abs=1e-290)
    assert row["max_abs_error"] == pytest.approx(np.abs(error).max(), rel=1e-7, abs=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DECODED)
def test_blocks_are_ggmls(name: str, kind: str) -> None:
    source = KINDS[kind]
    source = source.reshape(-1, max(256, source.shape[1]))
    quantized = aq.quantize({"w": source}, scheme=name, search="none").quantized
    row = pa.table(quantized).to_pylist()[0]
    data = np.frombuffer(row["data"], np.uint8).reshape(len(source), -1)
    decoded = gguf.quants.dequantize(data, blocks(name))
    assert np.array_equal(aq.to_numpy(aq.dequantize(quantized))["w"], decoded)
    check_metrics(row, source, decoded)
    # Of subnormal numbers the reference divides by zero.
    if name in GGML and kind != "subnormal":
        assert np.array_equal(data, gguf.quants.quantize(source, blocks(name)))
    bits = gguf.GGML_QUANT_SIZES[blocks(name)]
    assert row["bits_per_weight"] == 8 * bits[1] / bits[0]
    assert (row["group_size"], row["is_symmetric"], row["scales"]) == (None, None, None)


def coded(table: pa.Table, **columns: Any) -> pa.Table:
    """A quantized relation with other bytes."""
    for name, value in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.field(at), pa.array([value], table.field(at).type))
    return table


@pytest.mark.parametrize("search", ["none", "mse", "weighted"])
@pytest.mark.parametrize(("name", "at"), [("q4_k", 2), ("q5_k", 2), ("q2_k", 82)])
def test_a_minimum_of_zero_has_no_sign(name: str, at: int, search: str) -> None:
    # Of values above zero. ggml writes it so. Which of two zeros `f32::max` returns is not defined.
    values = np.random.default_rng(1).uniform(0.99, 1.01, (16, 256)).astype(np.float32)
    quantized = aq.quantize({"a": values}, scheme=name, search=search).quantized
    (data,) = quantized["data"].to_pylist()
    minima = np.frombuffer(data, np.uint8).reshape(16, -1)[:, at : at + 2].copy().view("<f2")
    assert (minima == 0).any()
    assert not np.signbit(minima).any()


@pytest.mark.parametrize("name", DECODED)
def test_any_bytes_decode_as_ggmls(name: str) -> None:
    rng = np.random.default_rng(1)
    elements, size = gguf.GGML_QUANT_SIZES[blocks(name)]
    data = rng.integers(0, 256, (16, 512 // elements, size), np.uint8)
    # Scales are finite float16 numbers, wherever they lie.
    data[..., 1::2] &= 0xBF
    source = np.ones((16, 512), np.float32)
    made = coded(pa.table(aq.quantize({"w": source}, scheme=name).quantized), data=data.tobytes())
    found = aq.to_numpy(aq.dequantize(made))["w"]
    expected = gguf.quants.dequantize(data.reshape(16, -1), blocks(name))
    assert np.isfinite(expected).all()
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", GGML)
def test_blocks_of_real_weights_are_ggmls(name: str, checkpoint: Path) -> None:
    for layer, source in load_file(checkpoint).items():
        if source.ndim != 2 or source.dtype != np.float32 or "embed" in layer:
            continue
        found = pa.table(aq.quantize({layer: source}, scheme=name, search="none").quantized)
        data = np.frombuffer(found["data"][0].as_buffer(), np.uint8).reshape(len(source), -1)
        assert np.array_equal(data, gguf.quants.quantize(source, blocks(name))), layer


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("name", [*GGML, "fp8_e4m3"])
def test_other_sources_have_the_codes_of_their_numbers(name: str, dtype: Any) -> None:
    source = (KINDS["normal"]).astype(dtype)
    found = pa.table(aq.quantize({"w": source}, scheme=name).quantized)
    same = pa.table(aq.quantize({"w": source.astype(np.float32)}, scheme=name).quantized)
    assert found["data"] == same["data"]
    assert found["scales"] == same["scales"]


def spread(scales: Any, shape: tuple[int, int], rows: int, columns: int) -> Any:
    """A scale for each element."""
    grid = np.asarray(scales, np.float32).reshape(-(-shape[0] // rows), -(-shape[1] // columns))
    return grid.repeat(rows, 0)[: shape[0]].repeat(columns, 1)[:, : shape[1]]


@pytest.mark.parametrize("settings", FP8)
@pytest.mark.parametrize("shape", [(300, 200), (5, 33), (130, 20_000), (1, 7)])
@pytest.mark.parametrize("threads", [1, 2])
def test_fp8_is_what_others_decode(
    settings: dict[str, Any], shape: tuple[int, int], threads: int
) -> None:
    source = np.random.default_rng(0).standard_t(4, size=shape).astype(np.float32) * 0.02
    quantized = aq.quantize({"w": source}, scheme="fp8_e4m3", threads=threads, **settings).quantized
    row = pa.table(quantized).to_pylist()[0]
    sizes = [
        shape[at] if n == -1 else n for at, n in enumerate((row["group_rows"], row["group_size"]))
    ]
    scales = spread(row["scales"], shape, *sizes)
    codes = np.frombuffer(row["data"], ml_dtypes.float8_e4m3fn).reshape(shape)
    decoded = codes.astype(np.float32) * scales
    assert np.array_equal(aq.to_numpy(aq.dequantize(quantized))["w"], decoded)
    check_metrics(row, source, decoded)
    nearest = np.clip(source / scales, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    assert np.mean(nearest != codes) < 1e-4  # A division rounds otherwise than a product.
    absmax = spread(np.abs(decoded).max(initial=0), shape, *shape)
    assert np.abs(codes.astype(np.float32)).max() == 448 or absmax.max() == 0
    if not settings:
        exact = np.abs(source).max(1) / 448
        assert np.allclose(row["scales"], exact, rtol=1e-6)


def test_what_a_row_asks_and_a_scheme_lacks() -> None:
    weights = pa.table(
        {
            "layer_name": list("abcd"),
            "data": [np.ones(64, np.float32)] * 4,
            "scheme": ["q8_0", "q8_0", "int4", "fp8_e4m3"],
            "group_size": [None, 64, 32, 32],
            "scale_dtype": [None, None, "F8", "BF16"],
        }
    )
    result = aq.quantize(weights, continue_on_error=True)
    codes = result.errors["error_code"].to_pylist()
    assert codes == [None, "invalid_setting", "invalid_setting", None]
    messages = result.failed["error_message"].to_pylist()
    assert "scheme 'q8_0' has no group_size. Leave it out" in messages[0]
    assert "scale_dtype 'F8' is unknown. Choose one of source, F32" in messages[1]
    with pytest.raises(ValueError, match="scheme 'q8_0' has no group_size"):
        aq.quantize({"a": np.ones(64, np.float32)}, scheme="q8_0", group_size=64)
    with pytest.raises(TypeError, match=r"there is no option 'groupsize'. Settings are group_size"):
        aq.quantize({"a": np.ones(64, np.float32)}, groupsize=64)  # type: ignore[call-arg]


def test_a_setting_of_the_call_reaches_the_rows_whose_scheme_has_it() -> None:
    weights = {name: np.ones((2, 64), np.float32) for name in "ab"}
    plan = pa.table({"layer_name": ["b"], "scheme": ["q8_0"]})
    rows = pa.table(aq.quantize(weights, scheme="int4", group_size=32, plan=plan).quantized)
    assert rows["scheme"].to_pylist() == ["int4", "q8_0"]
    assert rows["group_size"].to_pylist() == [32, None]


def test_a_shape_that_does_not_fit() -> None:
    weights = {"a": np.ones((2, 33), np.float32), "b": np.ones((2, 64), np.float32)}
    result = aq.quantize(weights, scheme="q4_0", continue_on_error=True)
    assert result.errors["error_code"].to_pylist() == ["unsupported_shape", None]
    (message,) = result.failed["error_message"].to_pylist()
    assert "rows of a multiple of 32 elements, and these have 33" in message
    assert (
        "Schemes that fit: 'int8', 'int4', 'int2', 'fp8_e4m3', 'nf4', 'bnb_fp4', 'nf4_dq', "
        "'bnb_fp4_dq', 'none'." in message
    )


def test_a_value_whose_scale_does_not_fit() -> None:
    large = np.ones((2, 64), np.float32)
    large[1, 3] = -1e9
    weights = {"a": large, "b": np.ones((2, 64), np.float32)}
    result = aq.quantize(weights, scheme="q8_0", continue_on_error=True)
    (failed,) = result.failed.to_pylist()
    assert (failed["error_code"], failed["error_element"], failed["error_count"]) == (
        "out_of_range",
        67,
        1,
    )
    assert "The first is at [1, 3]" in failed["error_message"]
    large[0, 0] = np.nan
    result = aq.quantize(weights, scheme="q8_0", continue_on_error=True)
    assert result.failed["error_code"].to_pylist() == ["non_finite"]


def test_one_scale_for_a_layer_in_parts(tmp_path: Path) -> None:
    source = np.random.default_rng(0).normal(size=(512, 64)).astype(np.float32)
    save_file({"w": source}, tmp_path / "m.safetensors")
    parts = pa.table(aq.scan(tmp_path / "m.safetensors", part_bytes=40_000))
    assert parts.num_rows > 1
    asked = {"scheme": "fp8_e4m3", "group_rows": -1, "continue_on_error": True}
    result = aq.quantize(parts, **asked)  # type: ignore[arg-type]
    assert set(result.errors["error_code"].to_pylist()) == {"missing_fact"}

    def with_fact(absmax: float) -> Any:
        fact = pa.array([absmax] * parts.num_rows, pa.float32())
        return aq.quantize(parts.append_column("tensor_absmax", fact), **asked)  # type: ignore[arg-type]

    rows = pa.table(with_fact(float(np.abs(source).max())).quantized)
    scales = {scale for row in rows["scales"].to_pylist() for scale in row}
    whole = pa.table(aq.quantize({"w": source}, scheme="fp8_e4m3", group_rows=-1).quantized)
    assert scales == set(whole["scales"][0].as_py())
    assert b"".join(rows["data"].to_pylist()) == whole["data"][0].as_py()
    for wrong in (float("nan"), 0.1):
        codes = set(with_fact(wrong).errors["error_code"].to_pylist())
        assert "invalid_fact" in codes


def test_settings_are_the_cores() -> None:
    said = {name: (kind, words) for name, _, kind, words, _, _ in _core.settings()}
    assert get_type_hints(Settings).keys() == said.keys()
    text = " ".join(run("quantize", "--help").stdout.split())
    for name in said:
        assert f"--{name.replace('_', '-')}" in text, name


def test_a_quantized_relation_is_quantized_again_where_that_is_asked() -> None:
    weights = {"a": KINDS["normal"], "b": KINDS["heavy"]}
    plan = pa.table({"layer_name": ["b"], "scheme": ["none"]})
    first = pa.table(aq.quantize(weights, scheme="q8_0", plan=plan).quantized)
    with pytest.raises(ValueError, match="Quantize it again with"):
        aq.quantize(first)
    decoded = aq.to_numpy(aq.dequantize(first))
    with pytest.warns(aq.QuantizationWarning, match="quantized again"):
        again = pa.table(aq.quantize(first, scheme="int4").quantized)
    expected = pa.table(aq.quantize(decoded, scheme="int4").quantized)
    for name in ("data", "scales", "mse", "snr_db", "scheme"):
        assert again[name] == expected[name], name
    kept = pa.table(aq.quantize(first, scheme="none").quantized)
    assert kept["data"] == first["data"]
    assert kept["scheme"].to_pylist() == ["q8_0", "none"]
    assert kept["search"].to_pylist() == ["kept", None]
    assert (kept["mse"][0].as_py(), kept["snr_db"][0].as_py()) == (0, None)
    planned = aq.plan(first).to_pylist()
    assert [row["reason"] for row in planned] == ["already_quantized (q8_0)", None]


def test_a_dataset_is_quantized_again(checkpoint: Path, tmp_path: Path) -> None:
    aq.quantize_checkpoint(checkpoint, tmp_path / "out", scheme="int8")
    dataset = aq.scan(tmp_path / "out")
    with pytest.warns(aq.QuantizationWarning, match="quantized again"):
        again = aq.quantize(dataset, scheme="int4")
    assert again.failed.num_rows == 0
    assert len(pa.table(again.quantized)) == dataset.row_count


def ggufs(path: Path) -> dict[str, Any]:
    """A GGUF file of blocks and floats; what its tensors decode to."""
    writer = gguf.GGUFWriter(path, "llama")
    rng, decoded = np.random.default_rng(0), {}
    for name, kind in (("attn_q", "q8_0"), ("attn_k", "q4_0"), ("ffn_up", "q5_1")):
        weight = rng.normal(size=(256, 512)).astype(np.float32)
        data = gguf.quants.quantize(weight, blocks(kind))
        decoded[f"blk.0.{name}.weight"] = gguf.quants.dequantize(data, blocks(kind))
        writer.add_tensor(f"blk.0.{name}.weight", data, raw_dtype=blocks(kind))
    writer.add_tensor("blk.0.ffn_down.weight", rng.normal(size=(256, 512)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return decoded


@pytest.mark.parametrize("part_bytes", [1 << 28, 100_000])
def test_ggufs_blocks_are_packed_rows(part_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    decoded = ggufs(path)
    scan = aq.scan(path, part_bytes=part_bytes)
    for name, weight in decoded.items():
        assert np.array_equal(scan[name], weight)
    assert {row["reason"] for row in aq.plan(scan).to_pylist()} == {
        None,
        *(f"already_quantized ({name})" for name in ("q8_0", "q4_0", "q5_1")),
    }
    kept = aq.quantize_checkpoint(path, tmp_path / "kept", part_bytes=part_bytes)
    assert aq.verify(tmp_path / "kept", path).ok
    assert set(pa.table(kept)["search"].to_pylist()) == {"kept", "none"}
    assert set(pa.table(kept)["scheme"].to_pylist()) == {"q8_0", "q4_0", "q5_1", "int4"}
    again = aq.quantize_checkpoint(path, tmp_path / "int4", scheme="int4", part_bytes=part_bytes)
    assert aq.verify(tmp_path / "int4", path).ok
    assert set(pa.table(again)["scheme"].to_pylist()) == {"int4"}
    expected = aq.to_numpy(aq.dequantize(aq.quantize(decoded, scheme="int4")))
    for name, weight in expected.items():
        assert np.array_equal(again[name], weight)
    out = run("plan", path, "--scheme", "int4").stdout
    assert "decoded from q5_1" in out
    assert "4 layers to quantize, 0 to keep" in out
    run("dequantize", tmp_path / "kept", "-o", tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert all(np.array_equal(back[name], weight) for name, weight in decoded.items())


def fp8_model(folder: Path, scales: str) -> dict[str, Any]:
    """A model of Qwen3's layout with scales in another shard; what it decodes to, in float32."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {}
    others: dict[str, Any] = {}
    decoded = {}
    for layer in range(2):
        for part, shape in (("self_attn.q_proj", (300, 256)), ("mlp.down_proj", (256, 384))):
            name = f"model.layers.{layer}.{part}.weight"
            weight = rng.normal(size=shape).astype(np.float32) * 0.05
            rows, columns = {"blocks": (128, 128), "rows": (1, shape[1]), "one": shape}[scales]
            grid = [
                [
                    np.abs(weight[i : i + rows, j : j + columns]).max() / 448
                    for j in range(0, shape[1], columns)
                ]
                for i in range(0, shape[0], rows)
            ]
            scale = np.array(grid, np.float32)
            codes = (weight / spread(scale, shape, rows, columns)).astype(ml_dtypes.float8_e4m3fn)
            decoded[name] = codes.astype(np.float32) * spread(scale, shape, rows, columns)
            tensors[name] = codes
            suffix = "weight_scale_inv" if scales == "blocks" else "weight_scale"
            others[name.replace("weight", suffix)] = scale if scales != "one" else scale[0]
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = np.ones(256, ml_dtypes.bfloat16)
    save_file(tensors, folder / "model-00001-of-00002.safetensors")
    save_file(others, folder / "model-00002-of-00002.safetensors")
    quantization = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    said = {"model_type": "qwen3", "torch_dtype": "bfloat16", "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(said))
    return decoded


@pytest.mark.parametrize("scales", ["blocks", "rows", "one"])
@pytest.mark.parametrize("part_bytes", [1 << 28, 150_000])
def test_an_fp8_model_comes_out_as_int4(scales: str, part_bytes: int, tmp_path: Path) -> None:
    decoded = fp8_model(tmp_path / "m", scales)
    kept = {row["reason"] for row in aq.plan(tmp_path / "m").to_pylist()}
    assert kept == {"already_quantized (fp8_e4m3)", "one_dimensional"}
    scan = aq.scan(tmp_path / "m", part_bytes=part_bytes)
    assert {name for name in scan.layer_names if "norm" not in name} == decoded.keys()
    for name, weight in decoded.items():
        assert np.array_equal(scan[name], weight.astype(ml_dtypes.bfloat16))
    out = tmp_path / "out"
    dataset = aq.quantize_checkpoint(tmp_path / "m", out, scheme="int4", part_bytes=part_bytes)
    found = aq.verify(out, tmp_path / "m")
    assert found.ok, found.problems.to_pylist()
    expected = aq.quantize(decoded, scheme="int4", scale_dtype="BF16")
    arrays = aq.to_numpy(aq.dequantize(expected, dtype="F32"))
    for name, weight in arrays.items():
        assert np.array_equal(dataset[name], weight.astype(ml_dtypes.bfloat16)), name
    assert set(pa.table(dataset)["scheme"].to_pylist()) == {"int4", "none"}


def test_one_outlier_is_named(tmp_path: Path) -> None:
    hidden = KINDS["normal"].copy()
    hidden[0, 0] = 1e20
    save_file({"bad.weight": hidden, "good.weight": KINDS["normal"]}, tmp_path / "m.safetensors")
    done = run("quantize", tmp_path / "m.safetensors", "-o", tmp_path / "out").stdout
    assert "Scales far apart" in done
    shown = run("inspect", tmp_path / "out").stdout
    assert shown.count("bad.weight") == 3
    table = pa.table(aq.scan(tmp_path / "out"))
    by_name = dict(
        zip(table["layer_name"].to_pylist(), table["scale_spread"].to_pylist(), strict=True)
    )
    assert by_name["bad.weight"] > 1e6
    assert by_name["good.weight"] < 10


@pytest.mark.parametrize("scheme", [*_core.schemes()[:-1]])
def test_no_real_layer_has_scales_far_apart(scheme: str, checkpoint: Path) -> None:
    result = aq.quantize(checkpoint, scheme=scheme, continue_on_error=True)
    assert max(x for x in pa.table(result.quantized)["scale_spread"].to_pylist() if x) < WIDE
