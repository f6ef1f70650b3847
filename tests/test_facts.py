"""What layers know of their parts and siblings, and what is taken for shapes that don't fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

import arrowquant as aq
from conftest import run

BASE = "model.layers.0"
PART = 256 * 256 * 4


def checkpoint(folder: Path, **scales: float) -> dict[str, Any]:
    """A layer whose projections have magnitudes far apart."""
    rng = np.random.default_rng(0)
    names = {"self_attn.q_proj": 1.0, "self_attn.k_proj": 40.0, "self_attn.v_proj": 0.01}
    names |= {"mlp.gate_proj": 1.0, "mlp.up_proj": 3.0, "mlp.down_proj": 500.0}
    weights = {
        f"{BASE}.{name}.weight": rng.normal(size=(512, 256)).astype(np.float32)
        * np.float32(scales.get(name, scale))
        for name, scale in names.items()
    }
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    return weights


def tensor_scales(relation: Any) -> dict[str, set[float]]:
    """The scales of the tensor that the rows of each layer have."""
    found: dict[str, set[float]] = {}
    for row in pa.table(relation).select(["layer_name", "tensor_scale"]).to_pylist():
        short = row["layer_name"].removeprefix(f"{BASE}.").removesuffix(".weight")
        found.setdefault(short.split(".")[1], set()).add(row["tensor_scale"])
    return found


def expected(weights: dict[str, Any]) -> dict[str, set[float]]:
    most = {n.split(".")[-2]: float(np.abs(v).max()) for n, v in weights.items()}
    groups = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",)]
    return {
        name: {2.0 ** np.ceil(np.log2(max(most[member] for member in group) / 6 / 256))}
        for group in groups
        for name in group
    }


@pytest.mark.parametrize("part_bytes", [PART, 1 << 28])
def test_scales_of_the_tensor_are_shared(part_bytes: int, tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "m")
    scan = aq.scan(tmp_path / "m", part_bytes=part_bytes)
    direct = aq.quantize(scan, scheme="nvfp4")
    assert tensor_scales(direct.quantized) == expected(weights)
    job = aq.quantize_checkpoint(
        tmp_path / "m", tmp_path / "d", scheme="nvfp4", part_bytes=part_bytes
    )
    assert tensor_scales(job) == expected(weights)
    stream = aq.quantize_stream(scan, scheme="nvfp4")
    assert tensor_scales(stream) == expected(weights)
    manifest = json.loads((tmp_path / "d/manifest.json").read_text())
    assert set(manifest["absmax"]) == {
        name for name in weights if part_bytes == PART or "down_proj" not in name
    }
    columns = ["data", "scales", "tensor_scale"]
    assert pa.table(direct.quantized).select(columns) == pa.table(job).select(columns)
    assert aq.verify(tmp_path / "d", tmp_path / "m").ok


def test_parts_of_a_layer_with_one_scale(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "m")
    scan = aq.scan(tmp_path / "m", part_bytes=PART)
    result = aq.quantize(scan, scheme="fp8_e4m3", group_rows=-1, group_size=-1)
    rows = pa.table(result.quantized).to_pylist()
    for row in rows:
        most = np.abs(weights[row["layer_name"]]).max()
        assert row["scales"] == [np.float32(most / np.float64(448))]


def test_a_retry_that_shares_a_scale(tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "m")
    name = f"{BASE}.self_attn.v_proj.weight"
    bad = {**weights, name: weights[name].copy()}
    bad[name][0, 0] = np.nan
    save_file(bad, tmp_path / "m/model.safetensors")
    out = tmp_path / "d"
    first = aq.quantize_checkpoint(tmp_path / "m", out, scheme="nvfp4", continue_on_error=True)
    assert first.failed["layer_name"].to_pylist() == [name]
    # Values that the siblings' scale does not hold.
    larger = {**weights, name: weights[name] * np.float32(1e6)}
    save_file(larger, tmp_path / "m/model.safetensors")
    changed = pytest.warns(aq.QuantizationWarning, match="changed since")
    message = r"v_proj.*shares a scale with .*k_proj.*q_proj"
    with changed, pytest.raises(ValueError, match=message):
        aq.quantize_checkpoint(tmp_path / "m", out, retry_failed=True)
    save_file(weights, tmp_path / "m/model.safetensors")
    with pytest.warns(aq.QuantizationWarning, match="changed since"):
        dataset = aq.quantize_checkpoint(tmp_path / "m", out, retry_failed=True)
    assert dataset.failed.num_rows == 0
    assert tensor_scales(dataset) == expected(weights)


def test_a_dataset_in_parts_is_quantized_again(tmp_path: Path) -> None:
    checkpoint(tmp_path / "m")
    aq.quantize_checkpoint(tmp_path / "m", tmp_path / "d", scheme="int8", part_bytes=PART)
    with pytest.warns(aq.QuantizationWarning, match="quantized again"):
        again = aq.quantize(aq.scan(tmp_path / "d"), scheme="nvfp4")
    assert all(len(scales) == 1 for scales in tensor_scales(again.quantized).values())
    assert len({*map(frozenset, tensor_scales(again.quantized).values())}) == 3


@pytest.mark.parametrize(
    ("scheme", "columns", "becomes"),
    [
        ("q4_k", 288, "q5_0"),
        ("q5_k", 288, "q5_1"),
        ("q6_k", 288, "q8_0"),
        ("q2_k", 288, "q4_0"),
        ("q3_k", 288, "q4_0"),
        ("iq4_xs", 288, "iq4_nl"),
        ("q4_k", 272, "none"),
        ("q4_k", 512, "q4_k"),
    ],
)
def test_what_does_not_fit_falls_back(
    scheme: str, columns: int, becomes: str, tmp_path: Path
) -> None:
    weight = np.random.default_rng(0).normal(size=(64, columns)).astype(np.float32)
    save_file({f"{BASE}.mlp.up_proj.weight": weight}, tmp_path / "m.safetensors")
    (row,) = aq.plan(tmp_path / "m.safetensors", scheme=scheme).to_pylist()
    assert row["scheme"] == becomes
    assert row["note"] == (None if becomes in {scheme, "none"} else f"falls back from {scheme}")
    assert row["reason"] == ("unsupported_shape" if becomes == "none" else None)
    for relation in (
        aq.quantize(tmp_path / "m.safetensors", scheme=scheme).quantized,
        aq.quantize_checkpoint(tmp_path / "m.safetensors", tmp_path / "d", scheme=scheme),
    ):
        assert pa.table(relation)["scheme"].to_pylist() == [becomes]
    # Asked for literally, it is an error.
    result = aq.quantize({"w": weight}, scheme=scheme, continue_on_error=True)
    assert result.failed.num_rows == (scheme != becomes)


def test_what_to_fall_back_to_can_be_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fits, fallen = (rng.normal(size=(64, n)).astype(np.float32) for n in (512, 288))
    weights = {f"{BASE}.mlp.up_proj.weight": fits, f"{BASE}.mlp.down_proj.weight": fallen}
    save_file(weights, tmp_path / "m.safetensors")
    command = ("--scheme", "q4_k", "--fallback", "q2_k", "--fallback", "q8_0")
    out = run("plan", tmp_path / "m.safetensors", *command).stdout
    assert "36% of the quantized weights fall back, q4_k to q8_0: their rows don't fit." in out
    done = run("quantize", tmp_path / "m.safetensors", "-o", tmp_path / "d", *command).stdout
    assert "36% of the quantized weights fall back, q4_k to q8_0" in done
    # The same job goes on, another one does not.
    run("quantize", tmp_path / "m.safetensors", "-o", tmp_path / "d", *command, "--quiet")
    text = run(
        "quantize", tmp_path / "m.safetensors", "-o", tmp_path / "d", "--scheme", "q4_k", status=2
    ).stderr
    assert "another call began" in text
    assert sorted(pa.table(aq.scan(tmp_path / "d"))["scheme"].to_pylist()) == ["q4_k", "q8_0"]
    (row,) = aq.plan({f"{BASE}.a.weight": fallen}, scheme="q4_k", fallback=[]).to_pylist()
    assert row["reason"] == "unsupported_shape"
    with pytest.raises(ValueError, match="unknown scheme 'q9'"):
        aq.plan({"w": fallen}, scheme="q4_k", fallback=["q9"])
    with pytest.raises(TypeError, match="fallback must be a list"):
        aq.plan({"w": fallen}, scheme="q4_k", fallback="q8_0")


@pytest.mark.parametrize("part_bytes", [PART, 1 << 28])
def test_what_is_not_finite_is_no_false_fact(part_bytes: int, tmp_path: Path) -> None:
    weights = checkpoint(tmp_path / "m")
    weights[f"{BASE}.self_attn.q_proj.weight"][400, 7] = np.inf
    save_file(weights, tmp_path / "m/model.safetensors")
    scan = aq.scan(tmp_path / "m", part_bytes=part_bytes)
    for settings in ({"scheme": "nvfp4"}, {"scheme": "fp8_e4m3", "group_rows": -1}):
        result = aq.quantize(scan, continue_on_error=True, **settings)  # type: ignore[arg-type]
        assert result.failed["error_code"].to_pylist() == ["non_finite"]
        assert result.failed["error_element"].to_pylist() == [400 * 256 + 7]
