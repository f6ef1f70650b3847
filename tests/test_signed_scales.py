"""Scales of symmetric integers that may be negative: what they are, where they go and where not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import arrowquant as aq
from conftest import run

Array = np.ndarray[Any, Any]
SIGNED: dict[str, Any] = {"scheme": "int4", "symmetric": True, "signed_scales": True}


def quantized(array: Array, **options: Any) -> dict[str, Any]:
    row: dict[str, Any] = aq.quantize({"a": array}, **options).quantized.to_pylist()[0]
    return row


def unpacked(row: dict[str, Any], bits: int) -> Array:
    """The codes of rows of whole words, less the middle one."""
    found = np.frombuffer(row["data"], np.uint8)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (found[:, None] >> shifts & ((1 << bits) - 1)).reshape(row["shape"])
    return codes.astype(np.int64) - (1 << (bits - 1))


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.sampled_from([2, 4, 8]),
    size=st.sampled_from([16, 32, 160]),
    exponent=st.integers(-30, 30),
    scale_dtype=st.sampled_from(["F32", "BF16"]),
)
def test_the_largest_magnitude_becomes_the_lowest_code(
    seed: int, bits: int, size: int, exponent: int, scale_dtype: Any
) -> None:
    """Rounding, recomputed by NumPy."""
    rng = np.random.default_rng(seed)
    array = np.ldexp(rng.standard_normal((3, 320)), exponent).astype(np.float32)
    row = quantized(
        array,
        scheme=f"int{bits}",
        group_size=size,
        symmetric=True,
        signed_scales=True,
        search="none",
        scale_dtype=scale_dtype,
    )
    groups = array.reshape(-1, size)
    extremes = np.take_along_axis(groups, np.abs(groups).argmax(1)[:, None], 1)
    half = 1 << (bits - 1)
    scales = extremes / -np.float32(half)
    if scale_dtype == "BF16":
        rounded = scales.view(np.uint32)
        rounded += 0x7FFF + (rounded >> 16 & 1)
        scales = (rounded & 0xFFFF0000).view(np.float32)
    assert np.array_equal(np.array(row["scales"], np.float32), scales[:, 0])
    codes = np.rint(groups * (np.float32(1) / scales)).clip(-half, half - 1)
    assert np.array_equal(unpacked(row, bits).reshape(codes.shape), codes)
    decoded = aq.to_numpy(aq.dequantize(pa.Table.from_pylist([row], quantized_schema())))["a"]
    assert np.array_equal(decoded.reshape(groups.shape), codes.astype(np.float32) * scales)
    assert row["mse"] == pytest.approx(np.square(decoded - array.astype(np.float64)).mean(), 2e-6)


def quantized_schema() -> pa.Schema:
    return aq.quantize({"a": np.ones((2, 32), np.float32)}).quantized.schema


@pytest.mark.parametrize("search", ["none", "mse", "weighted"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_less_is_lost_than_by_positive_ones(
    bits: int, search: Any, checkpoint: Path, rng: np.random.Generator
) -> None:
    real = aq.scan(checkpoint)["encoder.layer.3.output.dense.weight"]
    options: dict[str, Any] = {"scheme": f"int{bits}", "symmetric": True, "search": search}
    for array in (real, rng.standard_normal((256, 1024)).astype(np.float32)):
        positive = quantized(array, **options)
        signed = quantized(array, **options, signed_scales=True)
        assert (positive["signed_scales"], signed["signed_scales"]) == (False, True)
        assert min(positive["scales"]) > 0 > min(signed["scales"])
        assert signed["snr_db"] > positive["snr_db"] + (0.02 if bits == 8 else 0.3)
        assert signed["bits_per_weight"] == positive["bits_per_weight"]


def test_extremes_of_all_kinds() -> None:
    array = np.zeros((6, 32), np.float32)
    array[1] = -0.0
    array[2, 3], array[2, 4] = 3e38, -3.4e38
    array[3, 3], array[3, 4] = 3.4028235e38, -1
    array[4, 0] = 1e-45
    array[5] = -2.5
    for search in ("none", "mse", "weighted"):
        for dtype in ("F32", "BF16"):
            row = quantized(array, **SIGNED, search=search, scale_dtype=dtype)
            assert row["scales"][:2] == [1, 1]
            assert np.isfinite(row["mse"])
            found = aq.to_numpy(aq.dequantize(pa.Table.from_pylist([row], quantized_schema())))["a"]
            assert np.isfinite(found).all()
            assert not found[:2].any()
            assert found[2, 4] == pytest.approx(array[2, 4], rel=0.01)
            assert found[3, 3] == pytest.approx(array[3, 3], rel=0.01)
            assert np.array_equal(found[5], array[5])


def test_zero_points_go_with_positive_scales(rng: np.random.Generator) -> None:
    array = rng.standard_normal((4, 64)).astype(np.float32)
    why = r"signed_scales.*zero points.*--symmetric"
    with pytest.raises(ValueError, match=why):
        aq.quantize({"a": array}, scheme="int4", signed_scales=True)
    rules = pa.table({"layer_name": ["a"], "signed_scales": [True]})
    with pytest.raises(aq.QuantizationError, match=why):
        aq.quantize({"a": array}, plan=rules, scheme="int4")
    assert quantized(array, scheme="int4")["signed_scales"] is None
    assert quantized(array, scheme="nf4")["signed_scales"] is None
    with pytest.raises(ValueError, match="'nf4' has no signed_scales"):
        aq.quantize({"a": array}, scheme="nf4", signed_scales=True)
    plan = pa.table({"layer_name": ["a"], "scheme": ["nf4"], "signed_scales": [True]})
    with pytest.raises(aq.QuantizationError, match="'nf4' has no signed_scales"):
        aq.quantize({"a": array}, plan=plan)


def test_zero_points_of_a_plan_go_before_signed_scales_of_the_call(
    rng: np.random.Generator,
) -> None:
    weights = {name: rng.standard_normal((64, 64)).astype(np.float32) for name in "ab"}
    plan = pa.table({"layer_name": ["a"], "is_symmetric": [False]})
    rows = aq.quantize(weights, plan=plan, **SIGNED).quantized.to_pylist()
    assert [row["signed_scales"] for row in rows] == [None, True]
    assert [row["is_symmetric"] for row in rows] == [False, True]
    assert aq.plan(weights, plan=plan, **SIGNED)["signed_scales"].to_pylist() == [False, True]


def test_any_part_with_negative_scales_is_refused_to_vllm(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    array = rng.standard_normal((64, 64)).astype(np.float32)
    for said in ([False, True], [True, False]):
        table = pa.table(
            {
                "layer_name": ["l.weight"] * 2,
                "data": [half.tobytes() for half in np.split(array, 2)],
                "dtype": ["F32"] * 2,
                "shape": [[32, 64]] * 2,
                "scheme": ["int4"] * 2,
                "is_symmetric": [True] * 2,
                "signed_scales": said,
                "part_index": pa.array([0, 1], pa.int32()),
                "part_count": pa.array([2, 2], pa.int32()),
                "part_offset": pa.array([0, 32 * 64], pa.int64()),
                "layer_shape": [[64, 64]] * 2,
            }
        )
        aq.write_parquet(aq.quantize(table), tmp_path / "x.parquet", overwrite=True)
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(ValueError, match="it has signed_scales"):
            aq.export(
                tmp_path / "x.parquet", tmp_path / "o", to="compressed-tensors", source=tmp_path
            )
        assert not (tmp_path / "o").exists()


def test_what_a_relation_says_of_zero_points_is_not_asked_for(rng: np.random.Generator) -> None:
    array = rng.standard_normal((4, 64)).astype(np.float32)
    row = quantized(array, scheme="int4", scale_dtype="F16")
    wanted = aq.to_numpy(aq.dequantize(pa.Table.from_pylist([row], quantized_schema())))["a"]
    row["signed_scales"] = True
    found = aq.to_numpy(aq.dequantize(pa.Table.from_pylist([row], quantized_schema())))["a"]
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("bits", [2, 4])
def test_scales_of_half_precision_reach_as_far_as_they_are_numbers(bits: int) -> None:
    half = 1 << (bits - 1)
    array = np.ones((1, 64), np.float32)
    for largest, dtype in ((65504 * half, "F16"), (65536 * half, "F32")):
        array[0, 5] = largest
        options: dict[str, Any] = {"symmetric": True, "signed_scales": True, "search": "none"}
        row = quantized(array, scheme=f"int{bits}", scale_dtype="F16", **options)
        assert (row["scale_dtype"], row["scales"]) == (dtype, [-largest / half])


def test_a_plan_says_it(rng: np.random.Generator) -> None:
    weights = {name: rng.standard_normal((64, 64)).astype(np.float32) for name in "ab"}
    plan = aq.plan(weights, **SIGNED)
    assert plan["signed_scales"].to_pylist() == [True, True]
    plan = plan.set_column(
        plan.schema.get_field_index("signed_scales"), "signed_scales", pa.array([True, None])
    )
    rows = aq.quantize(weights, plan=plan).quantized.to_pylist()
    assert [row["signed_scales"] for row in rows] == [True, False]


def test_codes_stay_where_they_are_what_is_asked(rng: np.random.Generator) -> None:
    """Scales that may be negative need not be. Where positive ones are asked, they must be."""
    array = rng.standard_normal((8, 256)).astype(np.float32)
    positive: dict[str, Any] = SIGNED | {"signed_scales": False}
    for before, after, kept in (
        (SIGNED, SIGNED, True),
        (positive, positive, True),
        (positive, SIGNED, True),
        (SIGNED, positive, False),
    ):
        once = aq.quantize({"a": array}, **before).quantized
        with pytest.warns(aq.QuantizationWarning, match="quantized already"):
            (row,) = aq.quantize(once, **after).quantized.to_pylist()
        assert (row["search"] == "kept") == kept
        assert (row["data"] == once["data"][0].as_py()) == kept
        assert kept or min(row["scales"]) > 0
        # A relation without the column, as earlier builds wrote it.
        earlier = once.drop_columns("signed_scales")
        with pytest.warns(aq.QuantizationWarning, match="quantized already"):
            (row,) = aq.quantize(earlier, **after).quantized.to_pylist()
        assert row["search"] == "kept"
        assert row["signed_scales"] is None


@pytest.fixture
def model(rng: np.random.Generator, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}')
    save_file(
        {
            f"model.layers.{at}.mlp.{name}_proj.weight": rng.standard_normal((128, 128)).astype(
                np.float16
            )
            for at in range(2)
            for name in ("up", "gate")
        },
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def test_vllm_gets_positive_ones(model: Path, tmp_path: Path) -> None:
    done = run(
        "quantize", model, "-o", tmp_path / "out", "--for", "vllm", "--signed-scales", status=2
    )
    assert "it has signed_scales" in done.stderr
    assert "--no-signed-scales" in done.stderr
    assert not (tmp_path / "out").exists()
    run("quantize", model, "-o", tmp_path / "out", "--for", "vllm")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    scales = [tensor for name, tensor in tensors.items() if name.endswith("weight_scale")]
    assert len(scales) == 4
    assert min(scale.min() for scale in scales) > 0


@pytest.mark.parametrize("is_first", [True, False])
def test_a_job_that_an_earlier_build_began(is_first: bool, model: Path, tmp_path: Path) -> None:
    """Its files have no such column, and neither has its plan."""
    options: dict[str, Any] = {"scheme": "int4", "symmetric": True, "part_bytes": 1 << 15}
    whole = aq.quantize_checkpoint(model, tmp_path / "d", **options)
    before = pa.table(whole)
    assert set(before["signed_scales"].to_pylist()) == {False}
    path = tmp_path / "d" / "manifest.json"
    manifest = json.loads(path.read_text())
    for row in manifest["plan"]:
        del row["signed_scales"]
    parts = sorted((tmp_path / "d" / "layers").glob("*.parquet"))
    assert len(parts) > 2
    earlier = parts[0] if is_first else parts[-1]
    table = pq.read_table(earlier)
    pq.write_table(table.drop_columns("signed_scales"), earlier, compression="none")
    written = {f"layers/{earlier.name}": earlier.read_bytes()}
    for file in (file for part in manifest["parts"] for file in part["layers"]):
        if file["path"] in written:
            file["bytes"] = len(written[file["path"]])
            file["sha256"] = hashlib.sha256(written[file["path"]]).hexdigest()
    # One unit is still to be done.
    done = manifest["parts"].pop(1)
    for file in done["layers"]:
        (tmp_path / "d" / file["path"]).unlink()
    path.write_text(json.dumps(manifest))
    found = pa.table(aq.quantize_checkpoint(model, tmp_path / "d", **options))
    assert found.select(before.schema.names).drop_columns("signed_scales") == before.drop_columns(
        "signed_scales"
    )
    said = [False] * (before.num_rows - table.num_rows)
    nothing = [None] * table.num_rows
    both = nothing + said if is_first else said + nothing
    assert found["signed_scales"].to_pylist() == both
    decoded = aq.to_numpy(aq.dequantize(whole))
    for name, array in aq.to_numpy(aq.dequantize(aq.scan(tmp_path / "d"))).items():
        assert np.array_equal(array, decoded[name])
    out = tmp_path / "out"
    aq.export(tmp_path / "d", out, to="compressed-tensors", source=model)
    assert len(load_file(out / "model.safetensors")) == 12
    assert "4 layers" in run("inspect", tmp_path / "d").stdout
    assert len(json.loads(run("inspect", tmp_path / "d", "--json").stdout)["layers"]) == 4
