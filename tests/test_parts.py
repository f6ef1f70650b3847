"""Layers in parts: cut by `aq.scan`, one layer to whatever puts them together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import arrowquant as aq


@pytest.fixture
def tensors(rng: np.random.Generator) -> dict[str, Any]:
    def floats(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    return {
        "experts": floats(3, 20, 64),
        "flat": floats(5000),
        "ids": np.arange(3000),
        "matrix": floats(50, 64).astype(ml_dtypes.bfloat16),
        "small": floats(2, 64),
        "wide": floats(2, 4000),
    }


@pytest.fixture
def model(tensors: dict[str, Any], tmp_path: Path) -> Path:
    save_file(tensors, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def literal(model: Path, part_bytes: int) -> pa.Table:
    """A checkpoint's rows without their roles: all of them are to be quantized."""
    return pa.table(aq.scan(model, part_bytes=part_bytes)).drop_columns(["role"])


def test_a_scan_cuts_on_rows(model: Path, tensors: dict[str, Any]) -> None:
    scan = aq.scan(model, part_bytes=4096)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in pa.table(scan).to_pylist():
        rows.setdefault(row["layer_name"], []).append(row)
    assert scan.row_count == sum(map(len, rows.values()))
    assert scan.layers == len(tensors)
    for name, array in tensors.items():
        own = rows[name]
        assert b"".join(row["data"] for row in own) == array.tobytes()
        assert [row["part_index"] for row in own] == list(range(len(own)))
        assert {row["part_count"] for row in own} == {len(own)}
        assert {tuple(row["layer_shape"]) for row in own} == {array.shape}
        starts = np.cumsum([0, *(np.prod(row["shape"]) for row in own)])[:-1]
        assert [row["part_offset"] for row in own] == starts.tolist()
        assert all(len(row["data"]) <= 4096 for row in own)
    # A part counts its float32 numbers, and never crosses from one matrix into the next.
    assert [row["shape"] for row in rows["matrix"]] == [[16, 64]] * 3 + [[2, 64]]
    assert [row["shape"] for row in rows["experts"]] == [[16, 64], [4, 64]] * 3
    assert [row["shape"] for row in rows["wide"]][:4] == [[1, 1024]] * 3 + [[1, 928]]
    assert [row["shape"] for row in rows["small"]] == [[2, 64]]


def test_parts_quantize_as_the_whole_does(model: Path) -> None:
    names = ["experts", "flat", "matrix", "small", "wide"]
    whole, parts = (
        # Rows of a table know their own columns only, where a search weighs them.
        pa.table(aq.quantize(literal(model, size), search="none", continue_on_error=True).succeeded)
        for size in (1 << 30, 4096)
    )
    for column in ("data", "scales", "zero_points"):
        joined: dict[str, Any] = {}
        for row in parts.select(["layer_name", column]).to_pylist():
            joined[row["layer_name"]] = (
                joined.get(row["layer_name"], type(row[column])()) + row[column]
            )
        expected = {row["layer_name"]: row[column] for row in whole.to_pylist()}
        assert {name: joined[name] for name in names} == {name: expected[name] for name in names}


def test_groups_must_end_where_rows_are_cut(model: Path) -> None:
    scan = literal(model, 4096)
    bad = {
        (row["layer_name"], row["error_code"]): row["error_message"]
        for row in aq.quantize(scan, group_size=96, continue_on_error=True).failed.to_pylist()
    }
    assert set(bad) == {
        ("wide", "too_large"),
        ("flat", "too_large"),
        ("ids", "unsupported_dtype"),
    }
    message = bad["wide", "too_large"]
    assert "one row of 4000 elements exceeds the size of a part" in message
    assert "groups of 96" in message
    whole_row = aq.quantize(scan, group_size=-1, continue_on_error=True).failed
    assert set(whole_row["error_code"].to_pylist()) == {"too_large", "unsupported_dtype"}
    kept = aq.quantize(scan, scheme="none")
    assert kept.failed.num_rows == 0


def test_positions_are_in_the_whole_layer(model: Path, tensors: dict[str, Any]) -> None:
    tensors["experts"][2, 3, 5] = np.nan
    save_file(tensors, model)
    failed = aq.quantize(aq.scan(model, part_bytes=4096), continue_on_error=True).failed.to_pylist()
    (row,) = (row for row in failed if row["error_code"] == "non_finite")
    at = (2 * 20 + 3) * 64 + 5
    assert row["error_element"] == at
    assert f"NaN or Inf at element {at} (1 in all)" in row["error_message"]
    assert "The first is at [2, 3, 5]." in row["error_message"]
    assert row["part_index"] == 4


def test_a_plan_has_a_row_a_layer(model: Path) -> None:
    whole = aq.plan(aq.scan(model))
    parts = aq.plan(aq.scan(model, part_bytes=4096))
    assert parts == whole


def test_there_and_back(model: Path, tensors: dict[str, Any], tmp_path: Path) -> None:
    scan = aq.scan(model, part_bytes=4096)
    # A piece of a row does not know all of it, by whose size a search weighs.
    plan = aq.plan(scan, search="none")
    whole = aq.to_numpy(aq.dequantize(aq.quantize(aq.scan(model), plan=plan)))
    restored = aq.dequantize(aq.quantize(scan, plan=plan))
    arrays = aq.to_numpy(restored)
    assert list(arrays) == list(whole)
    assert all(arrays[name].tobytes() == whole[name].tobytes() for name in tensors)
    assert all(arrays[name].shape == array.shape for name, array in tensors.items())
    aq.write_safetensors(restored, tmp_path / "back.safetensors")
    back = load_file(tmp_path / "back.safetensors")
    assert all(back[name].tobytes() == whole[name].tobytes() for name in tensors)
    assert all(back[name].shape == array.shape for name, array in tensors.items())


def test_a_layer_that_lacks_a_part_is_not_put_together(model: Path, tmp_path: Path) -> None:
    table = pa.table(aq.scan(model, part_bytes=4096))
    gap = pa.compute.and_(
        pa.compute.equal(table["layer_name"], "experts"), pa.compute.equal(table["part_index"], 2)
    )
    lacking = table.filter(pa.compute.invert(gap))
    with pytest.raises(ValueError, match=r"layers that lack parts can't be written: 'experts'"):
        aq.write_safetensors(lacking, tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match=r"layer 'experts' lacks a part"):
        aq.to_numpy(lacking)
    twice = pa.concat_tables([table, table.filter(gap)])
    with pytest.raises(ValueError, match=r"comes twice"):
        aq.to_numpy(twice)
    with pytest.raises((ValueError, OSError), match=r"lack parts|comes twice"):
        aq.write_safetensors(twice, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_dequantize_leaves_a_broken_layer_out(
    model: Path, tensors: dict[str, Any], tmp_path: Path
) -> None:
    tensors["experts"][2, 3, 5] = np.nan
    save_file(tensors, model)
    scan = aq.scan(model, part_bytes=4096)
    stream = aq.quantize_stream(scan, plan=aq.plan(scan), continue_on_error=True)
    aq.write_parquet(stream, tmp_path / "q.parquet")
    command = [sys.executable, "-m", "arrowquant", "dequantize", str(tmp_path / "q.parquet")]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "b.safetensors")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "NaN or Inf at element" in done.stdout
    assert "only 5 of its 6 parts are good" in done.stdout
    assert load_file(tmp_path / "b.safetensors").keys() == tensors.keys() - {"experts"}


@pytest.mark.parametrize("kind", ["large_list", "list", "binary", "binary_view"])
def test_tables_are_cut_as_files_are(model: Path, tmp_path: Path, kind: str) -> None:
    names = ["experts", "flat", "small", "wide"]
    plain = pa.table(aq.scan(model)).select(["layer_name", "dtype", "shape", "data"])
    plain = plain.filter(pa.compute.is_in(plain["layer_name"], pa.array(names)))
    if "list" in kind:
        value = pa.large_list(pa.float32()) if kind == "large_list" else pa.list_(pa.float32())
        floats = [np.frombuffer(data, np.float32) for data in plain["data"].to_pylist()]
        plain = plain.drop_columns(["data", "dtype"]).append_column("data", pa.array(floats, value))
    else:
        plain = plain.set_column(3, "data", plain["data"].cast(getattr(pa, kind)()))
    path = tmp_path / "w.arrow"
    with pa.ipc.new_file(path, plain.schema) as writer:
        writer.write_table(plain)
    scan, direct = aq.scan(path, part_bytes=4096), aq.scan(model, part_bytes=4096)
    columns = ["layer_name", "shape", "part_index", "part_count", "part_offset", "layer_shape"]
    expected = pa.table(direct)
    expected = expected.filter(pa.compute.is_in(expected["layer_name"], pa.array(names)))
    assert pa.table(scan).select(columns).to_pylist() == expected.select(columns).to_pylist()
    got = aq.quantize(scan, search="none").quantized
    want = aq.quantize(expected, search="none").quantized
    assert got["data"].to_pylist() == want["data"].to_pylist()
    pieces = scan.pieces()
    assert sum(piece.rows for piece in pieces) == expected.num_rows
    assert sum(piece.layers for piece in pieces) == len(names)


@given(
    shape=st.lists(st.integers(0, 12), max_size=3),
    part_bytes=st.integers(1, 200),
    missing=st.integers(0, 3),
)
def test_no_row_is_lost_however_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], part_bytes: int, missing: int
) -> None:
    count = int(np.prod(shape)) if shape else 1
    data = np.arange(max(count - missing, 0), dtype=np.float32).tobytes()
    table = pa.table(
        {
            "layer_name": ["a", None],
            "dtype": ["F32", "F32"],
            "shape": pa.array([shape, shape], pa.list_(pa.int64())),
            "data": pa.array([data, None], pa.large_binary()),
        }
    )
    path = tmp_path_factory.mktemp("cut") / "w.parquet"
    pq.write_table(table, path)
    scan = aq.scan(path, part_bytes=part_bytes)
    rows = pa.table(scan).to_pylist()
    assert len(rows) == sum(piece.rows for piece in scan.pieces())
    assert b"".join(row["data"] for row in rows if row["layer_name"]) == data
    result = aq.quantize(scan, scheme="none", continue_on_error=True)
    assert len(result) == len(rows)
    codes = [row["error_code"] for row in result.errors.to_pylist() if row["layer_name"]]
    assert any(codes) == (missing > 0 and count > 0)
