"""`aq.verify`: what is damaged is found, and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

import arrowquant as aq


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "model.safetensors"
    tensors: dict[str, Any] = {
        f"l{i}.weight": rng.normal(size=(64, 64)).astype(np.float32) for i in range(8)
    }
    tensors["l0.weight"][0, 0] = np.inf
    save_file(tensors | {"bias": np.ones(5, np.float16), "ids": np.arange(4)}, path)
    return path


@pytest.fixture
def dataset(model: Path, tmp_path: Path) -> Path:
    aq.quantize_checkpoint(model, tmp_path / "out", part_bytes=40_000, continue_on_error=True)
    return tmp_path / "out"


def test_all_is_well(dataset: Path, model: Path) -> None:
    alone, against = aq.verify(dataset), aq.verify(dataset, model)
    assert alone.ok
    assert against.ok
    assert (alone.rows, alone.failed_rows, alone.compared) == (9, 1, 0)
    assert (against.rows, against.failed_rows, against.compared) == (9, 1, 9)
    assert against.files == 2 * len(list((dataset / "layers").iterdir()))
    assert against.problems.num_rows == 0


def _edit(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a part's rows and correct the manifest, as only a liar or a fault would."""
    import hashlib

    pq.write_table(change(pq.read_table(path)), path)
    manifest = path.parent.parent / "manifest.json"
    said = json.loads(manifest.read_text())
    for part in said["parts"]:
        for file in [*part["layers"], part["failed"]]:
            if file["path"] == f"{path.parent.name}/{path.name}":
                raw = path.read_bytes()
                file["bytes"], file["rows"] = len(raw), pq.read_metadata(path).num_rows
                file["sha256"] = hashlib.sha256(raw).hexdigest()
    manifest.write_text(json.dumps(said))


def _set(table: pa.Table, column: str, values: list[Any]) -> pa.Table:
    at = table.schema.get_field_index(column)
    return table.set_column(
        at, table.schema.field(at), pa.array(values, table.schema.field(at).type)
    )


def _flipped(table: pa.Table) -> pa.Table:
    data = [bytearray(value) for value in table["data"].to_pylist()]
    data[-1][3] ^= 0x10
    return _set(table, "data", [bytes(value) for value in data])


EDITS: dict[str, tuple[Callable[[pa.Table], pa.Table], str, bool]] = {
    "a code is another": (_flipped, "mse is stored as", True),
    "a metric is another": (
        lambda table: _set(table, "snr_db", [1.0] * len(table)),
        "snr_db is stored as 1.0, measured",
        True,
    ),
    "a row is lost": (lambda table: table.slice(1), "a row of the source is missing", False),
    "a row is there twice": (
        lambda table: pa.concat_tables([table, table.slice(0, 1)]),
        "a row of the source is there 2 times",
        False,
    ),
    "a row can't be decoded": (
        lambda table: _set(table, "group_size", [0] * len(table)),
        "can't be decoded: invalid group_size",
        False,
    ),
    "a name is another": (
        lambda table: _set(table, "layer_name", ["x"] * len(table)),
        "layer_name is 'x', the source's is 'l",
        True,
    ),
}


@pytest.mark.parametrize(("change", "problem", "needs_source"), EDITS.values(), ids=EDITS)
def test_what_the_manifest_does_not_tell(
    dataset: Path,
    model: Path,
    change: Callable[[pa.Table], pa.Table],
    problem: str,
    needs_source: bool,
) -> None:
    _edit(dataset / "layers/part-00001.parquet", change)
    assert aq.verify(dataset).ok == needs_source
    found = aq.verify(dataset, model)
    assert not found.ok
    rows = found.problems.to_pylist()
    assert any(problem in row["problem"] for row in rows), rows
    assert {row["file"] for row in rows} == {"layers/part-00001.parquet"}


def test_damaged_files_are_named(dataset: Path, model: Path) -> None:
    first, second, third = sorted((dataset / "layers").iterdir())[:3]
    raw = bytearray(first.read_bytes())
    raw[len(raw) // 2] ^= 1
    first.write_bytes(raw)
    second.write_bytes(second.read_bytes()[:-1])
    third.unlink()
    (dataset / "layers/part-99999.parquet").write_bytes(b"")
    problems = {
        row["file"]: row["problem"] for row in aq.verify(dataset, model).problems.to_pylist()
    }
    assert "SHA-256" in problems[f"layers/{first.name}"]
    assert "bytes, the manifest says" in problems[f"layers/{second.name}"]
    assert problems[f"layers/{third.name}"] == "is missing"
    assert problems["layers/part-99999.parquet"] == "the manifest does not know this file"


def test_a_kept_layer_must_hold_the_same_bytes(dataset: Path, model: Path) -> None:
    tensors = load_file(model)
    tensors["ids"][2] += 1
    save_file(tensors, model)
    (row,) = aq.verify(dataset, model).problems.to_pylist()
    assert (row["layer_name"], row["problem"]) == (
        "ids",
        "a kept layer whose bytes are not the source's",
    )


def test_an_unfinished_dataset_is_not_well(model: Path, tmp_path: Path) -> None:
    with pytest.raises(aq.CheckpointStoppedError):
        aq.quantize_checkpoint(model, tmp_path / "out", part_bytes=40_000)
    found = aq.verify(tmp_path / "out", model)
    assert any("is not finished" in text for text in found.problems["problem"].to_pylist())


def test_another_source_is_told(dataset: Path, tmp_path: Path) -> None:
    save_file({"other": np.ones((4, 64), np.float32)}, tmp_path / "other.safetensors")
    found = aq.verify(dataset, tmp_path / "other.safetensors")
    problems = found.problems
    assert pc.any(pc.match_substring(problems["problem"], "the source has 1 rows")).as_py()
    with pytest.raises(FileNotFoundError):
        aq.verify(dataset, tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="is no dataset"):
        aq.verify(tmp_path)
