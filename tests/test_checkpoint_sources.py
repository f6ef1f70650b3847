"""Checkpoint jobs whose sources are incomplete, damaged, or say things of their own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

import arrowquant as aq

PART = 8192


def write(folder: Path, shards: dict[str, dict[str, Any]], index: Any = None) -> Path:
    folder.mkdir()
    weight_map = index or {t: name for name, tensors in shards.items() for t in tensors}
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.fixture
def shards(rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    def floats(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    return {
        "a.safetensors": {
            "a.weight": floats(40, 64),
            "a.norm": floats(64),
            "a2.weight": floats(8, 64),
        },
        "b.safetensors": {"b.weight": floats(40, 64), "b.norm": floats(64)},
    }


def rows_of(dataset: aq.Dataset) -> dict[str, list[tuple[Any, ...]]]:
    """What became of each layer, part by part."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for row in pa.table(dataset).sort_by("part_index").to_pylist():
        what = tuple(row[name] for name in ("scheme", "group_size", "part_index", "data", "scales"))
        found.setdefault(row["layer_name"], []).append(what)
    return found


def quantize(model: Path, out: Path, **options: Any) -> aq.Dataset:
    return aq.quantize_checkpoint(model, out, part_bytes=PART, **options)


@pytest.mark.parametrize("spoiled", [False, True])
@pytest.mark.parametrize("retry", [True, False])
def test_a_shard_that_comes_later_is_as_if_it_had_been_there(
    shards: dict[str, dict[str, Any]], tmp_path: Path, spoiled: bool, retry: bool
) -> None:
    if spoiled:
        shards["b.safetensors"]["b.weight"][3, 4] = np.nan
    model = write(tmp_path / "m", shards)
    options: dict[str, Any] = {"scheme": "int8", "group_size": 32, "keep": ["a2*"]}
    (model / "a.safetensors").rename(tmp_path / "away")
    first = quantize(model, tmp_path / "out", continue_on_error=True, **options)
    assert first.failed.num_rows == 3 + (2 if spoiled else 0)
    (tmp_path / "away").rename(model / "a.safetensors")
    if retry:  # Nothing is said: what could not be read is done as it was asked for at first.
        second = quantize(model, tmp_path / "out", continue_on_error=True, retry_failed=True)
    else:
        second = quantize(model, tmp_path / "out", continue_on_error=True, **options)
    whole = quantize(model, tmp_path / "whole", continue_on_error=True, **options)
    assert rows_of(second) == rows_of(whole)
    assert rows_of(whole)["a2.weight"][0][0] == "none"
    names = ("layer_name", "error_code", "error_element")
    failures = [
        sorted(tuple(row[n] for n in names) for row in dataset.failed.to_pylist())
        for dataset in (second, whole)
    ]
    assert failures[0] == failures[1]
    found = aq.verify(tmp_path / "out", model)
    assert found.ok, found.problems.to_pylist()
    # From here on it is the source that the dataset is of: its contents count, not its time.
    os.utime(model / "a.safetensors", ns=(1, 1))
    with pytest.warns(aq.QuantizationWarning, match=r"a.safetensors: changed since the job"):
        quantize(model, tmp_path / "out", retry_failed=True, continue_on_error=True)
    shards["a.safetensors"]["a2.weight"][0, 0] += 1
    save_file(shards["a.safetensors"], model / "a.safetensors")
    with (
        pytest.warns(aq.QuantizationWarning, match=r"a.safetensors"),
        pytest.raises(ValueError, match=r"layer 'a2.weight' of a.safetensors is not as"),
    ):
        quantize(model, tmp_path / "out", retry_failed=True, continue_on_error=True)


def test_members_that_come_do_not_move_others(
    shards: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    shards["b.safetensors"]["b.weight"][3, 4] = np.nan
    index = {t: name for name, tensors in shards.items() for t in tensors}
    a2 = shards["a.safetensors"].pop("a2.weight")
    assert a2.size
    model = write(tmp_path / "m", shards, index)
    (model / "a.safetensors").rename(tmp_path / "away")
    quantize(model, tmp_path / "out", continue_on_error=True)
    (tmp_path / "away").rename(model / "a.safetensors")
    dataset = quantize(model, tmp_path / "out", continue_on_error=True, retry_failed=True)
    failed = {row["layer_name"]: row["error_code"] for row in dataset.failed.to_pylist()}
    assert failed.keys() == {"b.weight", "a2.weight"}
    assert failed["a2.weight"] == "source_unreadable"
    assert aq.verify(tmp_path / "out", model).ok


def test_a_retry_overrides_what_it_says_and_no_more(
    shards: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    shards["b.safetensors"]["b.weight"][3, 4] = np.nan
    model = write(tmp_path / "m", shards)
    (model / "a.safetensors").rename(tmp_path / "away")
    options: dict[str, Any] = {"scheme": "int8", "keep": ["a2*"]}
    quantize(model, tmp_path / "out", continue_on_error=True, **options)
    (tmp_path / "away").rename(model / "a.safetensors")
    dataset = quantize(
        model, tmp_path / "out", continue_on_error=True, retry_failed=True, group_size=16
    )
    kinds = {name: {row[:2] for row in rows} for name, rows in rows_of(dataset).items()}
    assert kinds == {
        "a.weight": {("int8", 16)},
        "a.norm": {("none", None)},
        "a2.weight": {("none", None)},
        "b.norm": {("none", None)},
    }
    assert set(dataset.failed["group_size"].to_pylist()) == {16}


def test_plan_columns_of_the_source_are_followed_and_can_be_overridden(tmp_path: Path) -> None:
    ones = np.ones((4, 64), np.float32)
    bad = ones.copy()
    bad[0, 0] = np.inf
    rows = {"a.weight": ones, "b.weight": ones, "c.norm": ones[0], "d.weight": bad}
    table = pa.table(aq.quantize(rows, scheme="none").quantized).select(
        ["layer_name", "dtype", "shape", "data"]
    )
    table = table.append_column("scheme", pa.array(["int4", None, "int8", "int8"]))
    pq.write_table(table, tmp_path / "w.parquet")
    plan = aq.plan(tmp_path / "w.parquet", keep=["a.*", "b.*"])
    planned = dict(zip(plan["layer_name"].to_pylist(), plan["scheme"].to_pylist(), strict=True))
    assert planned == {"a.weight": "int4", "b.weight": "none", "c.norm": "int8", "d.weight": "int8"}
    source = tmp_path / "w.parquet"
    dataset = quantize(source, tmp_path / "out", continue_on_error=True, keep=["a.*", "b.*"])
    kinds = {name: rows[0][0] for name, rows in rows_of(dataset).items()}
    assert kinds == {name: planned[name] for name in kinds}
    again = quantize(source, tmp_path / "out", retry_failed=True, scheme="none")
    assert rows_of(again)["d.weight"][0][0] == "none"
    assert aq.verify(tmp_path / "out", source).ok


def test_scales_of_a_layers_parts_are_of_one_type(tmp_path: Path) -> None:
    weights = np.ones((64, 64), np.float32)
    weights[40:] *= 1e9  # Its scales do not fit F16; those of the first part do.
    save_file({"w.weight": weights, "v.weight": weights[:8]}, tmp_path / "m.safetensors")
    dataset = quantize(tmp_path / "m.safetensors", tmp_path / "out", scale_dtype="F16")
    rows = pa.table(dataset).to_pylist()
    kinds = {(row["layer_name"], row["scale_dtype"]) for row in rows}
    assert kinds == {("w.weight", "F32"), ("v.weight", "F16")}
    whole = aq.quantize({"w.weight": weights}, scale_dtype="F16").quantized.to_pylist()[0]
    parts = [row for row in rows if row["layer_name"] == "w.weight"]
    assert len(parts) > 1
    assert [scale for row in parts for scale in row["scales"]] == whole["scales"]
    assert b"".join(row["data"] for row in parts) == whole["data"]
    assert aq.verify(tmp_path / "out", tmp_path / "m.safetensors").ok


def test_a_call_that_is_wrong_leaves_nothing(
    shards: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    model = write(tmp_path / "m", shards)
    with pytest.raises(FileNotFoundError):
        quantize(model, tmp_path / "out", plan=tmp_path / "none.csv")
    assert not (tmp_path / "out").exists()
    # What a job leaves that is killed before its manifest is written is no obstacle.
    for name in ("layers", "failed", ".receipts"):
        (tmp_path / "out" / name).mkdir(parents=True)
    assert quantize(model, tmp_path / "out").failed.num_rows == 0
    one = np.ones((4, 64), np.float32)
    twice = pa.table(aq.quantize({"x": one, "y": one}, scheme="none").quantized)
    twice = twice.select(["layer_name", "dtype", "shape", "data"])
    twice = twice.set_column(0, "layer_name", pa.array(["x", "x"]))
    twice = twice.append_column("scheme", pa.array(["int4", "int8"]))
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match="the plan says two things of layer 'x'"):
        quantize(tmp_path / "twice.parquet", tmp_path / "twice")
    assert not (tmp_path / "twice/manifest.json").exists()


def test_columns_that_have_the_names_of_parts(tmp_path: Path) -> None:
    table = pa.table(aq.quantize({"x": np.ones((4, 64), np.float32)}, scheme="none").quantized)
    table = table.select(["layer_name", "dtype", "shape", "data"])
    for column in ("part_index", "layer_shape"):
        path = tmp_path / f"{column}.parquet"
        pq.write_table(table.append_column(column, pa.array(["mine"])), path)
        dataset = quantize(path, tmp_path / column)
        assert pa.table(dataset)[column].to_pylist() == ["mine"]
    assert quantize(path, tmp_path / "layer_shape").failed.num_rows == 0


def _edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(dataset: Path) -> None:
        path = dataset / "manifest.json"
        said = json.loads(path.read_text())
        change(said)
        path.write_text(json.dumps(said))

    return edit


def _set(said: dict[str, Any], *keys: Any, to: Any) -> None:
    for key in keys[:-1]:
        said = said[key]
    said[keys[-1]] = to


HOSTILE: dict[str, Callable[[Path], None]] = {
    "no JSON": lambda d: (d / "manifest.json").write_text('{"kind": "arrowquant dataset"') and None,
    "no settings": _edited(lambda said: _set(said, "settings", to={})),
    "a part without files": _edited(lambda said: _set(said, "parts", 0, "layers", to=[])),
    "bytes that are text": _edited(lambda said: _set(said, "units", 0, 7, to="x")),
    "negative rows": _edited(lambda said: _set(said, "units", 0, 5, to=-1)),
    "a plan without names": _edited(lambda said: _set(said, "plan", to=[{}])),
    "a file elsewhere": _edited(
        lambda said: _set(said, "parts", 0, "failed", "path", to="/etc/passwd")
    ),
    "a file up and away": _edited(
        lambda said: _set(said, "parts", 0, "layers", 0, "path", to="layers/../../victim.parquet")
    ),
    "a part of no unit": _edited(lambda said: _set(said, "parts", 0, "unit", to=99)),
    "a broken receipt": lambda d: (d / ".receipts/part-00000.json").write_text("{") and None,
}


@pytest.mark.parametrize("damage", HOSTILE.values(), ids=HOSTILE)
def test_hostile_manifests(
    shards: dict[str, dict[str, Any]], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    model = write(tmp_path / "m", shards)
    victim = tmp_path / "victim.parquet"
    victim.write_text("precious")
    quantize(model, tmp_path / "out")
    damage(tmp_path / "out")
    calls: list[Callable[[], Any]] = [
        lambda: aq.scan(tmp_path / "out"),
        lambda: aq.verify(tmp_path / "out"),
        lambda: quantize(model, tmp_path / "out"),
        lambda: quantize(model, tmp_path / "out", retry_failed=True),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="is no manifest of a dataset") as caught:
            call()
        assert str(tmp_path / "out") in str(caught.value)
    assert victim.read_text() == "precious"


def test_a_manifest_that_lost_a_unit(shards: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    model = write(tmp_path / "m", shards)
    quantize(model, tmp_path / "out")
    path = tmp_path / "out/manifest.json"
    said = json.loads(path.read_text())
    lost = said["units"].pop()[0]
    said["parts"] = [part for part in said["parts"] if part["unit"] != lost]
    path.write_text(json.dumps(said))
    for folder in ("layers", "failed"):
        (tmp_path / "out" / folder / f"part-{lost:05}.parquet").unlink()
    assert "units account for" in aq.verify(tmp_path / "out").problems["problem"][0].as_py()
    with pytest.raises(ValueError, match="does not account for the source"):
        quantize(model, tmp_path / "out")


def test_a_copy_without_empty_directories(
    shards: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """As object stores and git make it."""
    shards["b.safetensors"]["b.weight"][3, 4] = np.nan
    model = write(tmp_path / "m", shards)
    quantize(model, tmp_path / "out", continue_on_error=True)
    (tmp_path / "out/.receipts").rmdir()
    (tmp_path / "out/.lock").unlink()
    healed = quantize(model, tmp_path / "out", retry_failed=True, scheme="none")
    assert healed.failed.num_rows == 0
    assert aq.verify(tmp_path / "out", model).ok
    restored = aq.to_numpy(aq.dequantize(healed))["b.weight"]
    assert np.array_equal(restored, load_file(model / "b.safetensors")["b.weight"], equal_nan=True)


def test_a_retry_that_stops_goes_on_with_what_came(
    shards: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    shards["b.safetensors"]["b.weight"][3, 4] = np.nan
    model = write(tmp_path / "m", shards)
    (model / "a.safetensors").rename(tmp_path / "away")
    quantize(model, tmp_path / "out", continue_on_error=True)
    (tmp_path / "away").rename(model / "a.safetensors")
    with pytest.raises(aq.CheckpointStoppedError, match="b"):
        quantize(model, tmp_path / "out", retry_failed=True, scheme="int8")
    dataset = quantize(
        model, tmp_path / "out", retry_failed=True, scheme="int8", continue_on_error=True
    )
    assert set(dataset.failed["layer_name"].to_pylist()) == {"b.weight"}
    assert {row[0] for row in rows_of(dataset)["a.weight"]} == {"int8"}
    assert aq.verify(tmp_path / "out", model).ok


def test_an_interrupted_retry_keeps_what_it_committed(
    shards: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the main thread waits for a commit that then comes to its end."""
    from arrowquant._checkpoint import job, manifest

    for tensors in shards.values():
        for name in tensors:
            tensors[name].reshape(-1)[0] = np.nan
    model = write(tmp_path / "m", shards)
    quantize(model, tmp_path / "out", continue_on_error=True)
    settle, calls = job._settle, []

    def interrupted(pending: Any, parts: Any) -> None:
        calls.append(pending)
        if len(calls) == 2:
            raise KeyboardInterrupt
        settle(pending, parts)

    monkeypatch.setattr(job, "_settle", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantize(model, tmp_path / "out", retry_failed=True, scheme="none")
    monkeypatch.undo()
    kept = manifest.load(tmp_path / "out")
    assert any(part.attempt == 2 for part in kept.parts)
    assert aq.scan(tmp_path / "out").failed is not None
    healed = quantize(model, tmp_path / "out", retry_failed=True, scheme="none")
    assert healed.failed.num_rows == 0
    assert aq.verify(tmp_path / "out", model).ok


def test_a_receipt_that_is_a_dangling_link_is_no_endless_loop(
    shards: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    quantize(write(tmp_path / "m", shards), tmp_path / "out")
    (tmp_path / "out/.receipts/part-00000.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="a receipt can't be read"):
        aq.scan(tmp_path / "out")
