"""`aq.quantize_checkpoint`: any size, stopped anywhere, and gone on with."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

import arrowquant as aq

PART = 64 << 10
"""Small, so that a small checkpoint has many units."""


@pytest.fixture
def model(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Three shards of BF16 and F32, a bias and integers, and one layer of several parts."""
    folder = tmp_path / "model"
    folder.mkdir()

    def floats(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    shards = [
        {f"layers.{i}.a.weight": floats(64, 128).astype(ml_dtypes.bfloat16) for i in range(6)},
        {"big.weight": floats(400, 128), "norm.bias": floats(128), "ids": np.arange(50)},
        {f"layers.{i}.b.weight": floats(96, 100) for i in range(5)},
    ]
    names = [f"model-0000{i + 1}-of-00003.safetensors" for i in range(3)]
    weight_map = {}
    for name, tensors in zip(names, shards, strict=True):
        save_file(tensors, folder / name)
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    return folder


def spoil(model: Path, shard: int, layer: str, at: int = 7) -> None:
    """Put a NaN into a layer."""
    path = model / f"model-0000{shard}-of-00003.safetensors"
    tensors = load_file(path)
    tensors[layer].reshape(-1)[at] = np.nan
    save_file(tensors, path)


def quantize(model: Path, out: Path, **options: Any) -> aq.Dataset:
    return aq.quantize_checkpoint(model, out, part_bytes=PART, **options)


def contents(dataset: Path) -> dict[str, str]:
    """The checksum of every file but the manifest and the lock, which tell of times."""
    return {
        path.relative_to(dataset).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in dataset.rglob("*")
        if path.is_file() and path.name not in {"manifest.json", ".lock"}
    }


def manifest(dataset: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((dataset / "manifest.json").read_text())
    return value


def codes(failed: pa.Table) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in failed.sort_by("row_index").to_pylist():
        found.setdefault(row["layer_name"], []).append(row["error_code"])
    return found


def test_a_dataset_holds_what_one_call_would_give(model: Path, tmp_path: Path) -> None:
    dataset = quantize(model, tmp_path / "out")
    scan = aq.scan(model, part_bytes=PART)
    whole = aq.quantize(scan, plan=aq.plan(scan)).quantized
    assert pa.table(dataset).combine_chunks() == whole.combine_chunks()
    assert dataset.failed.num_rows == 0
    listed = sorted(path.name for path in (tmp_path / "out/layers").iterdir())
    assert listed == [f"part-{unit:05}.parquet" for unit in range(len(listed))]
    assert len(listed) > 5
    assert sorted(p.name for p in (tmp_path / "out/failed").iterdir()) == listed
    said = manifest(tmp_path / "out")
    assert said["library"] == aq.__version__
    assert [name for name, _, _ in said["files"]] == [
        "model.safetensors.index.json",
        *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
    ]
    assert [attempt["outcome"] for attempt in said["attempts"]] == ["finished"]
    assert not list((tmp_path / "out/.receipts").iterdir())
    assert (
        said["parts"][0]["layers"][0]["sha256"]
        == contents(tmp_path / "out")["layers/part-00000.parquet"]
    )


def test_any_engine_reads_the_directory(model: Path, tmp_path: Path) -> None:
    spoil(model, 3, "layers.2.b.weight")
    quantize(model, tmp_path / "out", continue_on_error=True)
    layers, failed = (f"'{tmp_path}/out/{name}/*.parquet'" for name in ("layers", "failed"))
    good = duckdb.sql(f"select count(distinct layer_name) from {layers}").fetchall()
    bad = duckdb.sql(f"select layer_name, error_code, error_element from {failed}").fetchall()
    assert good == [(13,)]
    assert bad == [("layers.2.b.weight", "non_finite", 7)]


def test_fail_fast_keeps_what_is_finished(model: Path, tmp_path: Path) -> None:
    spoil(model, 3, "layers.2.b.weight")
    with pytest.raises(aq.CheckpointStoppedError) as caught:
        quantize(model, tmp_path / "out")
    error = caught.value
    assert isinstance(error, aq.QuantizationError)
    assert (error.layers, error.failed["layer_name"].to_pylist()) == (14, ["layers.2.b.weight"])
    assert 9 <= error.finished < 14
    assert str(error).startswith(
        f"stopped at layer layers.2.b.weight (non_finite): {error.finished} of 14 layers are "
        f"finished and kept in {tmp_path}/out; run again with continue_on_error=True to go on."
    )
    kept = contents(tmp_path / "out")
    finished = aq.scan(tmp_path / "out")
    assert isinstance(finished, aq.Dataset)
    assert finished.finished_layers == error.finished
    changed = {path: (tmp_path / "out" / path).stat().st_mtime_ns for path in kept}
    quantize(model, tmp_path / "out", continue_on_error=True)
    assert {p: (tmp_path / "out" / p).stat().st_mtime_ns for p in kept} == changed
    quantize(model, tmp_path / "whole", continue_on_error=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    first, second = manifest(tmp_path / "out")["attempts"]
    assert first["outcome"].startswith("stopped: non_finite: layer 'layers.2.b.weight'")
    assert first["layers"] == error.finished
    assert second["layers"] == 14 - error.finished


def test_a_layer_in_parts_fails_as_one(model: Path, tmp_path: Path) -> None:
    # In the last part, when the earlier ones are written already.
    spoil(model, 2, "big.weight", at=-1)
    dataset = quantize(model, tmp_path / "out", continue_on_error=True)
    parts = dataset.failed.num_rows
    assert parts > 2
    assert codes(dataset.failed) == {
        "big.weight": ["incomplete_layer"] * (parts - 1) + ["non_finite"]
    }
    assert dataset.failed["error_element"].to_pylist()[-1] == 400 * 128 - 1
    message = dataset.failed["error_message"][0].as_py()
    assert "part 1 of" in message
    assert "another part of the layer failed" in message
    assert "big.weight" not in pa.table(dataset)["layer_name"].to_pylist()
    assert aq.verify(tmp_path / "out", model).ok
    again = quantize(
        model, tmp_path / "out", continue_on_error=True, retry_failed=True, scheme="none"
    )
    assert again.failed.num_rows == 0
    restored = aq.to_numpy(aq.dequantize(again))["big.weight"]
    original = load_file(model / "model-00002-of-00003.safetensors")["big.weight"]
    assert np.array_equal(restored, original, equal_nan=True)
    assert aq.verify(tmp_path / "out", model).ok


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "int8"}, "layer 'layers.0.a.weight': int4, group_size 128, is_symmetric False"),
        (
            {"group_size": 32},
            "scale_dtype source, signed_scales False, search none there, int4, group_size 32",
        ),
        ({"symmetric": True}, "there, int4, group_size 128, is_symmetric True"),
        (
            {"scale_dtype": "F32"},
            "search none there, int4, group_size 128, is_symmetric False, scale_dtype F32",
        ),
        ({"keep": ["big*"]}, "search none there, kept here"),
        ({"part_bytes": 2 * PART}, f"part_bytes: {PART} there, {2 * PART} here"),
    ],
)
def test_what_changes_bytes_must_agree(
    model: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    quantize(model, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match=r"another call began") as caught:
        aq.quantize_checkpoint(model, tmp_path / "out", **({"part_bytes": PART} | options))
    assert message in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert contents(tmp_path / "out") == before
    afresh = {"part_bytes": PART, "overwrite": True} | options
    aq.quantize_checkpoint(model, tmp_path / "out", **afresh)
    aq.quantize_checkpoint(model, tmp_path / "other", **(afresh | {"overwrite": False}))
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


def test_what_does_not_change_bytes_may_differ(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "out", threads=1)
    before = contents(tmp_path / "out")
    aq.quantize_checkpoint(model, tmp_path / "out", threads=2, mmap=False, continue_on_error=True)
    assert contents(tmp_path / "out") == before


def test_another_source_is_refused(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "out")
    spoil(model, 1, "layers.0.a.weight")
    for retry_failed in (False, True):
        with (
            pytest.warns(aq.QuantizationWarning, match=r"model-00001-of-00003.* changed"),
            pytest.raises(ValueError, match=r"layer 'layers.0.a.weight' of model-00001-of-00003"),
        ):
            quantize(model, tmp_path / "out", retry_failed=retry_failed)


def test_retrying_does_only_what_failed(model: Path, tmp_path: Path) -> None:
    spoil(model, 1, "layers.3.a.weight")
    spoil(model, 3, "layers.2.b.weight")
    first = quantize(model, tmp_path / "out", continue_on_error=True).failed
    assert first.num_rows == 2
    before = contents(tmp_path / "out")
    # As before, it fails as before.
    again = quantize(model, tmp_path / "out", continue_on_error=True, retry_failed=True)
    assert again.failed.to_pylist() == first.to_pylist()
    plan = pa.table({"layer_name": ["layers.?.a.*"], "scheme": ["none"]})
    some = quantize(
        model, tmp_path / "out", continue_on_error=True, retry_failed=True, scheme="int8", plan=plan
    )
    assert codes(some.failed) == {"layers.2.b.weight": ["non_finite"]}
    assert some.failed["scheme"].to_pylist() == ["int8"]
    after = contents(tmp_path / "out")
    kept = [path for path in before if path.startswith("layers/")]
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}
    rows = pa.table(some)
    assert sorted(rows["row_index"].to_pylist() + some.failed["row_index"].to_pylist()) == list(
        range(some.manifest.units[-1].first_row + some.manifest.units[-1].rows)
    )
    by_name = dict(zip(rows["layer_name"].to_pylist(), rows["scheme"].to_pylist(), strict=True))
    assert by_name["layers.3.a.weight"] == "none"
    assert aq.verify(tmp_path / "out", model).ok
    attempts = manifest(tmp_path / "out")["attempts"]
    assert [attempt["retried_failed"] for attempt in attempts] == [False, True, True]
    assert attempts[2]["options"]["scheme"] == "int8"
    # The first call is still the dataset's own.
    quantize(model, tmp_path / "out", continue_on_error=True)


def test_a_missing_shard_is_rows_not_an_exception(model: Path, tmp_path: Path) -> None:
    shard = model / "model-00003-of-00003.safetensors"
    shard.rename(tmp_path / "away")
    dataset = quantize(model, tmp_path / "out", continue_on_error=True)
    assert codes(dataset.failed) == {
        f"layers.{i}.b.weight": ["source_unreadable"] for i in range(5)
    }
    assert "the file is not there" in dataset.failed["error_message"][0].as_py()
    assert aq.verify(tmp_path / "out", model).ok
    with pytest.raises(aq.CheckpointStoppedError, match="source_unreadable"):
        quantize(model, tmp_path / "fast")
    (tmp_path / "away").rename(shard)
    healed = quantize(model, tmp_path / "out", retry_failed=True)
    assert healed.failed.num_rows == 0
    assert aq.verify(tmp_path / "out", model).ok


def test_a_source_that_changes_during_the_run_is_noticed(model: Path, tmp_path: Path) -> None:
    shard = model / "model-00001-of-00003.safetensors"

    def touch(_name: str | None, fraction: float | None) -> None:
        if fraction is not None and fraction > 0.2:
            os.utime(shard, ns=(1, 1))

    options: dict[str, Any] = {"continue_on_error": True, "progress": touch}
    dataset = quantize(model, tmp_path / "out", **options)
    assert set(dataset.failed["error_code"].to_pylist()) == {"source_unreadable"}
    assert dataset.failed.num_rows > 1
    assert "changed while it was read" in dataset.failed["error_message"][0].as_py()
    listed = pa.table(dataset)["row_index"].to_pylist() + dataset.failed["row_index"].to_pylist()
    units = dataset.manifest.units
    assert sorted(listed) == list(range(units[-1].first_row + units[-1].rows))


def test_progress_is_of_the_whole_job(model: Path, tmp_path: Path) -> None:
    heard: list[float | None] = []
    quantize(model, tmp_path / "out", progress=lambda _name, fraction: heard.append(fraction))
    assert heard == sorted(heard, key=lambda fraction: fraction or 0)
    assert heard[-1] == 1.0


def test_what_a_callback_raises_stops_the_job(model: Path, tmp_path: Path) -> None:
    calls = []

    def stop(name: str | None, _fraction: float | None) -> None:
        calls.append(name)
        if len(calls) == 9:
            raise KeyError(name)

    with pytest.raises(KeyError):
        quantize(model, tmp_path / "out", progress=stop)
    dataset = aq.scan(tmp_path / "out")
    assert isinstance(dataset, aq.Dataset)
    assert 0 < dataset.finished_layers < 14
    quantize(model, tmp_path / "out")
    quantize(model, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_tables_are_sources_too(model: Path, tmp_path: Path, kind: str) -> None:
    weights = pa.table(aq.scan(model, part_bytes=1 << 40))
    plain = weights.select(["layer_name", "dtype", "shape", "data"])
    path = tmp_path / f"weights.{kind}"
    if kind == "parquet":
        pq.write_table(plain, path, row_group_size=4)
    else:
        with pa.ipc.new_file(path, plain.schema) as writer:
            writer.write_table(plain, max_chunksize=4)
    dataset = quantize(path, tmp_path / "out")
    direct = quantize(model, tmp_path / "direct")
    same = ["layer_name", "data", "scales", "snr_db", "part_index", "part_offset", "layer_shape"]
    assert pa.table(dataset).select(same).to_pylist() == pa.table(direct).select(same).to_pylist()
    assert aq.verify(tmp_path / "out", path).ok


def test_wrong_destinations(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        quantize(model, tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds thesis.tex, but no dataset"):
        quantize(model, tmp_path / "full", overwrite=True)
    assert (tmp_path / "full/thesis.tex").exists()
    with pytest.raises(FileNotFoundError, match=r"does not exist. Make it"):
        quantize(model, tmp_path / "none/out")
    with pytest.raises(FileNotFoundError, match="is no dataset"):
        quantize(model, tmp_path / "fresh", retry_failed=True)
    assert not (tmp_path / "fresh").exists()
    quantize(model, tmp_path / "out")
    with pytest.raises(ValueError, match="is quantized already"):
        quantize(tmp_path / "out", tmp_path / "twice")


_HOLD = """
import sys, time
from pathlib import Path
from arrowquant._checkpoint.place import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_two_jobs_do_not_share_a_destination(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", _HOLD, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(BlockingIOError, match="another job works on it"):
            quantize(model, tmp_path / "out")
        other.kill()
    quantize(model, tmp_path / "out")  # The dead one's lock is gone with it.


_LIMITED = """
import resource, signal, sys
import arrowquant as aq
source, out, limit = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
aq.quantize_checkpoint(source, out, part_bytes=65536)
"""


def test_a_full_disk_leaves_finished_parts(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "whole")
    layers = sorted((tmp_path / "whole/layers").iterdir(), key=lambda path: path.stat().st_size)
    limit = layers[-1].stat().st_size - 1  # The largest does not fit; most do.
    command = [sys.executable, "-c", _LIMITED, str(model), str(tmp_path / "out"), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "layers are finished and kept in" in done.stderr
    assert "File too large" in done.stderr
    dataset = aq.scan(tmp_path / "out")
    assert isinstance(dataset, aq.Dataset)
    assert dataset.finished_layers > 0
    quantize(model, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


_JOB = """
import sys
import arrowquant as aq
source, out, retry = sys.argv[1:]
print("begun", flush=True)
options = {"retry_failed": True, "scheme": "none"} if retry == "retry" else {}
aq.quantize_checkpoint(source, out, part_bytes=65536, continue_on_error=True, **options)
"""


def _killed(model: Path, out: Path, delay: float, kind: str) -> bool:
    """Run the job and kill it after `delay` seconds; False if it came to its end before."""
    command = [sys.executable, "-c", _JOB, str(model), str(out), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "begun\n"
        time.sleep(delay)
        ended = job.poll() is not None
        job.send_signal(signal.SIGKILL)
    return not ended


def _moments(count: int, most: float) -> Iterator[float]:
    chance = random.Random(20261125)
    return (chance.uniform(0, most) for _ in range(count))


def test_killed_at_any_moment_it_goes_on(model: Path, tmp_path: Path) -> None:
    spoil(model, 2, "big.weight", at=-1)
    spoil(model, 3, "layers.2.b.weight")
    started = time.monotonic()
    quantize(model, tmp_path / "whole", continue_on_error=True)
    took = time.monotonic() - started
    expected = contents(tmp_path / "whole")
    expected_rows = pa.table(aq.scan(tmp_path / "whole")).to_pylist()
    kills = 0
    # ARROWQUANT_KILLS makes it a longer run.
    for number, delay in enumerate(_moments(int(os.environ.get("ARROWQUANT_KILLS", "24")), took)):
        out = tmp_path / f"out{number % 4}"
        kills += _killed(model, out, delay, "go on")
        if number % 4 == 3:  # Killed up to six times before it may come to its end.
            resumed = quantize(model, out, continue_on_error=True)
            assert contents(out) == expected
            assert pa.table(resumed).to_pylist() == expected_rows
            assert aq.verify(out, model).ok
            assert not list(out.rglob("*.tmp"))
    assert kills > 5


def test_killed_while_it_retries(model: Path, tmp_path: Path) -> None:
    spoil(model, 1, "layers.3.a.weight")
    spoil(model, 2, "big.weight", at=-1)
    spoil(model, 3, "layers.2.b.weight")
    for number, delay in enumerate(_moments(int(os.environ.get("ARROWQUANT_KILLS", "8")), 0.1)):
        out = tmp_path / f"out{number}"
        quantize(model, out, continue_on_error=True)
        _killed(model, out, delay, "retry")
        healed = quantize(model, out, retry_failed=True, scheme="none")
        assert healed.failed.num_rows == 0
        assert aq.verify(out, model).ok
        assert not list(out.rglob("*.tmp"))


_MEASURED = """
import sys, threading
import arrowquant as aq
source, out = sys.argv[1:]
def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
before, peak, done = anonymous(), 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
aq.quantize_checkpoint(source, out, part_bytes=32 << 20)
done.set()
watcher.join()
print(peak - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_layer(tmp_path: Path) -> None:
    # One layer of 512 MB in a sparse file of zeros: 16 parts.
    size = 512 << 20
    header = {"w": {"dtype": "F32", "shape": [size // 4096, 1024], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    with (tmp_path / "m.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
    command = [
        sys.executable,
        "-c",
        _MEASURED,
        str(tmp_path / "m.safetensors"),
        str(tmp_path / "o"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200 << 20


def test_a_dataset_of_a_newer_format_is_refused(model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "out")
    path = tmp_path / "out/manifest.json"
    said = manifest(tmp_path / "out")
    path.write_text(json.dumps(said | {"format": 3}))
    with pytest.raises(ValueError, match=r"newer than the 2 .* Upgrade arrowquant"):
        aq.scan(tmp_path / "out")
    path.write_text(json.dumps(said | {"format": 1}))
    with pytest.raises(ValueError, match=r"format is 1, .* Quantize the source again"):
        aq.scan(tmp_path / "out")
    path.write_text('{"kind": "arrowquant dataset", "format": 2}')
    with pytest.raises(ValueError, match="is no manifest of a dataset"):
        aq.scan(tmp_path / "out")
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds no file"):
        aq.scan(tmp_path / "out")
