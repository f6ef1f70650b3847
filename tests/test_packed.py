"""Rows whose data are codes: what they decode to does not depend on parts, files or columns beside
them, and what they can't mean is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

import arrowquant as aq
from arrowquant import _core
from conftest import float_row, run

NAME = "model.layers.0.self_attn.q_proj.weight"


def fp8_model(
    folder: Path, shape: tuple[int, int], block: Sequence[int], *, seed: int = 0, **said: Any
) -> Any:
    """A model of one FP8 weight with its scales; what that decodes to."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=shape).astype(ml_dtypes.float8_e4m3fn)
    grid = (-(-shape[0] // block[0]), -(-shape[1] // block[1]))
    scales = rng.uniform(0.5, 2, grid).astype(np.float32)
    save_file({NAME: codes, f"{NAME}_scale_inv": scales}, folder / "model.safetensors")
    quantization = {"quant_method": "fp8", "weight_block_size": list(block)} | said
    config = {"model_type": "qwen3", "quantization_config": quantization, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    full = np.repeat(np.repeat(scales, block[0], 0)[: shape[0]], block[1], 1)[:, : shape[1]]
    return codes.astype(np.float32) * full


def packed_row(name: str, values: Any, scheme: str, **settings: Any) -> tuple[dict[str, Any], Any]:
    """A packed row of codes that `scheme` makes of the values; what it decodes to."""
    result = aq.quantize({name: values}, scheme=scheme, **settings)
    (row,) = pa.table(result.quantized).to_pylist()
    fields = ("scheme", "group_size", "group_rows", "is_symmetric", "scales", "zero_points")
    packed = {field: row[field] for field in fields}
    given = {"layer_name": name, "dtype": "F32", "shape": row["shape"], "data": row["data"]}
    return given | {"packed": packed}, aq.to_numpy(aq.dequantize(result))[name]


PACKED = pa.struct(
    {
        "scheme": pa.string(),
        "group_size": pa.int64(),
        "group_rows": pa.int64(),
        "is_symmetric": pa.bool_(),
        "scales": pa.large_list(pa.float32()),
        "zero_points": pa.large_list(pa.uint8()),
        "biases": pa.large_list(pa.float32()),
        "tensor_scale": pa.float32(),
    }
)


def table(rows: Sequence[dict[str, Any]], **more: Sequence[Any]) -> pa.Table:
    """Weights with a column of packed ones."""
    columns: dict[str, Any] = {
        "layer_name": pa.array([row["layer_name"] for row in rows]),
        "dtype": pa.array([row["dtype"] for row in rows]),
        "shape": pa.array([row["shape"] for row in rows], pa.large_list(pa.int64())),
        "data": pa.array([row["data"] for row in rows], pa.large_binary()),
        "packed": pa.array([row.get("packed") for row in rows], PACKED),
    }
    return pa.table(columns | {name: pa.array(values) for name, values in more.items()})


@pytest.mark.parametrize(
    ("shape", "block", "part_bytes"),
    [
        ((1024, 256), (192, 128), 256 * 256 * 4),
        ((1024, 256), (192, 128), 128 * 256 * 4),
        ((1024, 256), (96, 128), 128 * 256 * 4),
        ((1024, 256), (256, 128), 384 * 256 * 4),
        ((4, 65536), (128, 96), 512),
        ((4, 65536), (2, 96), 128),
        ((300, 1000), (7, 33), 10_000),
    ],
)
def test_parts_end_where_blocks_do(
    shape: tuple[int, int], block: tuple[int, int], part_bytes: int, tmp_path: Path
) -> None:
    decoded = fp8_model(tmp_path / "m", shape, block)
    scan = aq.scan(tmp_path / "m", part_bytes=part_bytes)
    assert scan.row_count is not None
    assert scan.row_count > 1
    assert np.array_equal(scan[NAME], decoded)
    assert np.array_equal(aq.to_numpy(scan)[NAME], decoded)


def test_what_rows_ask_for_does_not_change_what_they_decode_to(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes, decoded = packed_row("a", rng.normal(size=(8, 64)).astype(np.float32), "q8_0")
    plain = rng.normal(size=(8, 64)).astype(np.float32)
    weights = table([codes, float_row("b", plain)], scheme=["int2", "int2"], group_size=[32, 32])
    pq.write_table(weights, tmp_path / "w.parquet")
    aq.write_safetensors(weights, tmp_path / "w.safetensors")
    scan = aq.scan(tmp_path / "w.parquet")
    found = (aq.to_numpy(weights), load_file(tmp_path / "w.safetensors"), scan)
    for arrays in found:
        assert np.array_equal(arrays["a"], decoded)
        assert np.array_equal(arrays["b"], plain)


def test_files_with_the_same_names_have_their_own_scales(tmp_path: Path) -> None:
    paths, decoded = [], []
    for seed in range(2):
        folder = tmp_path / str(seed)
        decoded.append(fp8_model(folder, (256, 256), (128, 128), seed=seed))
        paths.append((folder / "model.safetensors").rename(folder / f"{seed}.safetensors"))
    read = aq.quantize(aq.scan(paths), scheme="none")
    rows = pa.table(aq.dequantize(read)).to_pylist()
    for row, values in zip(rows, decoded, strict=True):
        assert row["data"] == values.astype(np.float32).tobytes()


def test_packed_rows_of_a_table_stay_whole(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(256, 512)).astype(np.float32)
    rows, expected = zip(
        *(packed_row(name, values, name) for name in ("q8_0", "int4", "fp8_e4m3")), strict=True
    )
    pq.write_table(table(rows), tmp_path / "w.parquet")
    scan = aq.scan(tmp_path / "w.parquet", part_bytes=8192)
    arrays = aq.to_numpy(scan)
    for row, decoded in zip(rows, expected, strict=True):
        assert np.array_equal(arrays[row["layer_name"]], decoded)


@pytest.mark.parametrize("lost", [{"biases": [1.0]}, {"tensor_scale": 0.5}])
def test_parameters_that_the_scheme_lacks_are_refused(lost: dict[str, Any]) -> None:
    row, _ = packed_row("a", np.ones((4, 64), np.float32), "int8", group_size=64)
    row["packed"] |= lost
    result = aq.quantize(table([row]), scheme="int4", continue_on_error=True)
    (failed,) = result.errors.to_pylist()
    assert failed["error_code"] == "invalid_quantized"
    assert f"{next(iter(lost))} is given, but scheme 'int8' has none" in failed["error_message"]


def test_rows_are_told_apart_by_all_that_they_decode_with() -> None:
    values = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    row, _ = packed_row("a", values, "fp8_e4m3", group_size=64, group_rows=1)
    other = row | {"packed": row["packed"] | {"group_size": 32, "group_rows": 2}}
    aq.quantize(table([other]), scheme="none")
    first, second = _core.content_hashes(table([row, other]).to_batches()[0], None)
    assert first != second


def test_another_shape_of_as_many_elements_is_no_comparison() -> None:
    values = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    row, _ = packed_row("a", values, "int8", group_size=16)
    batch = table([row | {"shape": [16, 32]}]).to_batches()[0]
    other = aq.quantize({"a": values}, scheme="int4").quantized
    assert _core.compare(batch, pa.table(other).to_batches()[0], None) == [
        (False, None, None, None, None)
    ]


@pytest.mark.parametrize("block", [[0, 128], ["a", 128], [None, None], [128.0, 128], [128], 128])
def test_a_block_size_that_is_none_keeps_the_codes(block: Any, tmp_path: Path) -> None:
    fp8_model(tmp_path / "m", (300, 256), (128, 128), weight_block_size=block)
    plan = aq.plan(aq.scan(tmp_path / "m"), scheme="int4").to_pylist()
    assert {row["reason"] for row in plan} == {"already_quantized (fp8)"}


@pytest.mark.parametrize("scheme", ["int4", None])
def test_decoded_codes_are_no_longer_in_config_json(scheme: str | None, tmp_path: Path) -> None:
    decoded = fp8_model(tmp_path / "m", (256, 256), (128, 128))
    dataset = tmp_path / "dataset"
    aq.quantize_checkpoint(tmp_path / "m", dataset, scheme=scheme)
    out = aq.export(dataset, tmp_path / "out", to="safetensors")
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    if scheme is None:
        assert np.array_equal(load_file(out / "model.safetensors")[NAME], decoded)


def test_codes_that_are_kept_stay_in_config_json(tmp_path: Path) -> None:
    fp8_model(tmp_path / "m", (300, 256), (128, 128), weight_block_size=[64, 64])
    aq.quantize_checkpoint(tmp_path / "m", tmp_path / "dataset")
    out = aq.export(tmp_path / "dataset", tmp_path / "out", to="safetensors")
    assert "quantization_config" in json.loads((out / "config.json").read_text())


def test_a_retry_of_codes_is_tried_as_before(tmp_path: Path) -> None:
    fp8_model(tmp_path / "m", (256, 256), (128, 128))
    path, name = tmp_path / "m" / "more.safetensors", "model.layers.1.mlp.up_proj.weight"
    weight = np.full((256, 256), np.nan, np.float32)
    save_file({name: weight}, path)
    command = ("quantize", tmp_path / "m", "-o", tmp_path / "d", "--quiet")
    run(*command, "--scheme", "int2", "--group-size", "64", "--continue-on-error", status=1)
    save_file({name: np.ones_like(weight)}, path)
    run(*command, "--retry-failed")
    rows = pa.table(aq.scan(tmp_path / "d")).to_pylist()
    assert {(row["scheme"], row["group_size"]) for row in rows} == {("int2", 64)}


@pytest.mark.parametrize("settings", [{"group_rows": 0}, {"group_rows": -5}])
def test_settings_that_can_not_be_are_refused(settings: dict[str, int], tmp_path: Path) -> None:
    weight = np.ones((256, 256), np.float32)
    save_file({NAME: weight}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="group_rows must be a positive number of rows"):
        aq.quantize(tmp_path / "w.safetensors", scheme="fp8_e4m3", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"scale_dtype": "bogus"}, "invalid_setting"),
        ({"group_size": 0}, "invalid_group_size"),
        ({"is_symmetric": True}, "invalid_setting"),
        ({"group_rows": 0}, "invalid_setting"),
    ],
)
def test_a_role_does_not_hide_settings_that_can_not_be(asked: dict[str, Any], code: str) -> None:
    row = float_row("a", np.ones((256, 256), np.float32))
    weights = pa.table(
        {name: pa.array([value]) for name, value in (row | asked | {"role": "weight"}).items()}
    )
    result = aq.quantize(weights, scheme="fp8_e4m3", continue_on_error=True)
    assert [error["error_code"] for error in result.errors.to_pylist()] == [code]


def test_a_shape_that_a_scheme_does_not_take_is_kept_and_said(tmp_path: Path) -> None:
    save_file({NAME: np.ones((256, 80), np.float32)}, tmp_path / "w.safetensors")
    (row,) = aq.plan(tmp_path / "w.safetensors", scheme="q4_0").to_pylist()
    assert (row["scheme"], row["reason"]) == ("none", "unsupported_shape")


@pytest.mark.parametrize(
    "settings",
    [
        {"group_rows": -1, "group_size": 128},
        {"group_rows": 256, "group_size": 128},
        {"group_rows": 512},
    ],
)
def test_scales_do_not_depend_on_parts(settings: dict[str, int], tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(1024, 256)).astype(np.float32)
    save_file({NAME: weight}, tmp_path / "w.safetensors")
    parts = aq.scan(tmp_path / "w.safetensors", part_bytes=128 * 256 * 4)
    result = aq.quantize(parts, scheme="fp8_e4m3", continue_on_error=True, **settings)  # type: ignore[arg-type]
    errors = result.errors.to_pylist()
    assert len(errors) == 8
    assert {error["error_code"] for error in errors} == {"too_large"}
    parts = aq.scan(tmp_path / "w.safetensors", part_bytes=512 * 256 * 4)
    small = {"group_rows": 256, "group_size": 128}
    result = aq.quantize(parts, scheme="fp8_e4m3", **small)  # type: ignore[arg-type]
    whole = aq.quantize(tmp_path / "w.safetensors", scheme="fp8_e4m3", **small)  # type: ignore[arg-type]
    scales = [pa.table(one.quantized)["scales"].to_pylist() for one in (result, whole)]
    assert [scale for part in scales[0] for scale in part] == scales[1][0]


def test_a_part_of_one_row_has_its_layers_scale() -> None:
    rows = np.array([[1] * 64, [2] * 64, [100] * 64], np.float32)
    weights = pa.table(
        {
            "layer_name": ["a"] * 3,
            "dtype": ["F32"] * 3,
            "shape": [[1, 64]] * 3,
            "data": pa.array([row.tobytes() for row in rows], pa.large_binary()),
            "part_index": [0, 1, 2],
            "part_count": [3] * 3,
            "part_offset": [0, 64, 128],
            "layer_shape": [[3, 64]] * 3,
            "tensor_absmax": [100.0, 100.0, 0.5],
        }
    )
    result = aq.quantize(
        weights, scheme="fp8_e4m3", group_rows=-1, group_size=-1, continue_on_error=True
    )
    assert pa.table(result.quantized)["scales"].to_pylist()[:2] == [[np.float32(100 / 448)]] * 2
    codes = [error["error_code"] for error in result.errors.to_pylist()]
    assert codes == [None, None, "invalid_fact"]


def test_a_plan_of_a_quantized_file_says_what_it_is(tmp_path: Path) -> None:
    result = aq.quantize({"a": np.ones((4, 64), np.float32)}, scheme="int4")
    aq.write_parquet(result, tmp_path / "q.parquet")
    for call in (aq.plan, lambda source: aq.quantize_checkpoint(source, tmp_path / "out")):
        with pytest.raises(ValueError, match="is quantized already"):
            call(aq.scan(tmp_path / "q.parquet"))
