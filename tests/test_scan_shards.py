"""`aq.scan` of checkpoints in several files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

import arrowquant as aq

INDEX = "model.safetensors.index.json"


def write(folder: Path, shards: dict[str, dict[str, Any]], weight_map: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    if weight_map is None:
        weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


@pytest.fixture
def shards() -> dict[str, dict[str, Any]]:
    ones = np.ones((2, 64), np.float32)
    return {
        "model-00001-of-00002.safetensors": {"b.weight": ones, "a.weight": 2 * ones},
        "model-00002-of-00002.safetensors": {"c.weight": 3 * ones, "ids": np.arange(3)},
    }


@pytest.mark.parametrize("path", ["", INDEX])
def test_an_index_is_followed(tmp_path: Path, shards: dict[str, dict[str, Any]], path: str) -> None:
    first, second = shards
    weight_map = {"c.weight": second, "a.weight": first, "b.weight": first, "ids": second}
    folder = write(tmp_path / "m", shards, weight_map)
    scan = aq.scan(folder / path)
    table = pa.table(scan)
    assert table["source_file"].to_pylist() == [second] * 2 + [first] * 2, "in the index's order"
    assert (scan.layers, scan.data_bytes) == (4, 3 * 512 + 24)
    assert "error_code" not in table.schema.names
    arrays = aq.to_numpy(scan)
    assert {name: array.flat[0] for name, array in arrays.items()} == {
        "a.weight": 2,
        "b.weight": 1,
        "c.weight": 3,
        "ids": 0,
    }
    plan = aq.plan(folder / path)
    assert dict(zip(plan["layer_name"].to_pylist(), plan["scheme"].to_pylist(), strict=True)) == {
        "a.weight": "int4",
        "b.weight": "int4",
        "c.weight": "int4",
        "ids": "none",
    }


def test_what_is_missing_is_rows(tmp_path: Path, shards: dict[str, dict[str, Any]]) -> None:
    first, second = shards
    del shards[first]["a.weight"]
    weight_map = {"b.weight": first, "a.weight": first, "c.weight": second, "ids": second}
    folder = write(tmp_path / "m", shards, weight_map)
    (folder / second).unlink()
    scan = aq.scan(folder)
    result = aq.quantize(scan, continue_on_error=True)
    assert result.succeeded["layer_name"].to_pylist() == ["b.weight"]
    failed = {row["layer_name"]: row["error_message"] for row in result.failed.to_pylist()}
    assert failed == {
        "a.weight": f"layer 'a.weight' ({first}): the index names it, but the file does not hold "
        "it. Fetch the file anew, and start afresh (overwrite=True, --overwrite).",
        "c.weight": f"layer 'c.weight' ({second}): the file is not there. Fetch it, and run again.",
        "ids": f"layer 'ids' ({second}): the file is not there. Fetch it, and run again.",
    }
    assert set(result.failed["error_code"].to_pylist()) == {"source_unreadable"}
    with pytest.raises(aq.QuantizationError, match=r"^source_unreadable: layer 'a.weight'"):
        aq.quantize(scan)
    plan = aq.plan(scan)
    assert plan.num_rows == 4
    (folder / first).unlink()
    with pytest.raises(FileNotFoundError, match="none of its 2 files is there"):
        aq.scan(folder)


def test_a_directory_without_an_index(tmp_path: Path, shards: dict[str, dict[str, Any]]) -> None:
    folder = write(tmp_path / "m", shards)
    (folder / INDEX).unlink()
    (folder / "config.json").write_text("{}")
    names = pa.table(aq.scan(folder))["layer_name"].to_pylist()
    assert sorted(names) == ["a.weight", "b.weight", "c.weight", "ids"]
    table = pa.table(aq.scan(folder)).select(["layer_name", "dtype", "shape", "data"])
    (tmp_path / "p").mkdir()
    for part in range(2):
        pq.write_table(table.slice(2 * part, 2), tmp_path / f"p/part-{part}.parquet")
    scan = aq.scan(tmp_path / "p")
    assert pa.table(scan)["layer_name"].to_pylist() == names
    assert len(scan.files()) == 2
    pq.write_table(table.drop_columns(["dtype"]), tmp_path / "p/part-2.parquet")
    with pytest.raises(ValueError, match=r"part-2.parquet has other columns than part-0.parquet"):
        aq.scan(tmp_path / "p")


def test_wrong_directories(tmp_path: Path, shards: dict[str, dict[str, Any]]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no file that aq.scan reads"):
        aq.scan(tmp_path / "empty")
    folder = write(tmp_path / "m", shards)
    (folder / INDEX).rename(folder / "other.safetensors.index.json")
    (folder / INDEX).write_text("{}")
    with pytest.raises(ValueError, match=r"holds 2 checkpoints: 'model' .*; 'other'"):
        aq.scan(folder)
    (folder / INDEX).unlink()
    (folder / "other.safetensors.index.json").unlink()
    (folder / "w.parquet").touch()
    with pytest.raises(ValueError, match=r"holds files of several kinds"):
        aq.scan(folder)


HOSTILE = {
    "no JSON": "{nonsense",
    "no object": "[]",
    "no map": '{"metadata": {}}',
    "a map that is a list": '{"weight_map": ["a"]}',
    "deep JSON": '{"weight_map":' + "[" * 100_000,
    "empty": '{"weight_map": {}}',
    "a name twice": '{"weight_map": {"a": "model-00001-of-00002.safetensors", "a": "b"}}',
    "a number for a file": '{"weight_map": {"a": 1}}',
    "up and away": '{"weight_map": {"a": "../secret.safetensors"}}',
    "an absolute path": '{"weight_map": {"a": "/etc/passwd"}}',
    "a directory": '{"weight_map": {"a": ".."}}',
    "no UTF-8": b'{"weight_map": {"\xff": "a"}}',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_indices(
    tmp_path: Path, shards: dict[str, dict[str, Any]], content: str | bytes
) -> None:
    folder = write(tmp_path / "m", shards)
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / INDEX).write_bytes(raw)
    with pytest.raises(ValueError, match=re.escape(f"{folder / INDEX}: ")):
        aq.scan(folder)


def test_an_index_that_contradicts_its_files(
    tmp_path: Path, shards: dict[str, dict[str, Any]]
) -> None:
    first, second = shards
    weight_map = {"a.weight": second, "b.weight": first, "c.weight": second, "ids": second}
    folder = write(tmp_path / "m", shards, weight_map)
    with pytest.raises(ValueError, match=r"'a.weight' is in model-00001.*has it in model-00002"):
        aq.scan(folder)


def test_a_broken_shard_is_named(tmp_path: Path, shards: dict[str, dict[str, Any]]) -> None:
    folder = write(tmp_path / "m", shards)
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"\0" * 7)
    rows = pa.table(aq.scan(folder)).to_pylist()
    bad = {row["layer_name"]: row["error_message"] for row in rows if row["error_code"]}
    assert set(bad) == {"c.weight", "ids"}
    assert "model-00002-of-00002.safetensors" in bad["ids"]
    assert "copied whole" in bad["ids"]
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"\0" * 7)
    with pytest.raises(OSError, match=r"model-00001-of-00002.safetensors: .* copied whole"):
        aq.scan(folder)
